//! What can be wrong with a job: one message, with the place, the line itself and what was expected.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use unicode_width::UnicodeWidthChar as _;

use crate::error::{ExitCode, Failure};

/// Why a job was refused. Its text is the whole message, of several lines when there is a place to show.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The file cannot be read.
    #[error("failed to read job `{}`", file.display())]
    Unreadable {
        /// The job file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no job, or a value in it or in an override is wrong.
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The job file.
    pub file: PathBuf,
    /// Where in it, or in which override.
    pub place: Place,
    /// Dotted path of the key, such as `batch.target`; empty for the document.
    pub path: String,
    /// What is wrong and what was expected, as a fragment.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A position in the file.
    Line {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Characters to underline, at least 1.
        width: usize,
        /// That line of the file.
        text: String,
    },
    /// An override, as it was given.
    Override(String),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        f.write_str(&self.message)?;
        match &self.place {
            Place::File => write!(f, "\n  --> {file}"),
            Place::Override(text) => write!(f, "\n  --> override `{}` of {file}", printable(text)),
            Place::Line { line, column, width, text } => {
                let (excerpt, marks) = excerpt(text, *column, *width);
                let gutter = " ".repeat(line.to_string().len());
                write!(
                    f,
                    "\n{gutter} --> {file}:{line}:{column}\n{gutter} |\n{line} | {excerpt}\n{gutter} | {}",
                    marks.trim_end()
                )
            }
        }
    }
}

impl From<Invalid> for JobError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(Box::new(invalid))
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        let hint = match &error {
            JobError::Invalid(invalid) => invalid.hint.clone(),
            JobError::Unreadable { .. } => None,
        };
        let failure = Self::new(ExitCode::BadRequest, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Characters of a line that are shown on either side of the place.
const REACH: usize = 60;

/// The part of a line around `column` (from 1), and a line of carets that stands below it on a terminal.
fn excerpt(text: &str, column: usize, width: usize) -> (String, String) {
    let at = column.saturating_sub(1);
    let from = at.saturating_sub(REACH);
    let mut shown = String::new();
    let mut marks = String::new();
    if from > 0 {
        shown.push('…');
        marks.push(' ');
    }
    let length = text.chars().count();
    for (index, character) in text.chars().enumerate().skip(from).take(2 * REACH) {
        let character = visible(character);
        shown.push(character);
        let mark = if (at..at + width.max(1)).contains(&index) { '^' } else { ' ' };
        // A character that fills two cells takes two marks, or the caret stands beside the place.
        marks.extend(std::iter::repeat_n(mark, character.width().unwrap_or(1)));
    }
    if length > from + 2 * REACH {
        shown.push('…');
    }
    if at >= length {
        marks.push('^');
    }
    (shown, marks)
}

/// A character that does no harm on a terminal: a file must not be able to send it escape sequences.
fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        _ if character.is_control() => '\u{fffd}',
        _ => character,
    }
}

/// Foreign text for a message: on one line, without control characters, and not longer than a message bears.
pub(super) fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).map(visible).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// What a misspelt name probably meant, out of the known ones.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let word = plain(word);
    // Long names cost time and are nobody's typing error.
    if word.chars().count() > 40 {
        return None;
    }
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&word, &plain(name)), name))
        .filter(|(distance, name)| *distance <= (name.len().max(word.len()) / 3).max(1) && *distance < name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Names as a list for a message: `` `a`, `b` and `c` ``.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == names.len() => " and ",
            _ => ", ",
        };
        let _ = write!(text, "{before}`{name}`");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str, column: usize, width: usize) -> String {
        Invalid {
            file: "a.yaml".into(),
            place: Place::Line { line: 12, column, width, text: text.into() },
            path: String::new(),
            message: "wrong".into(),
            hint: None,
        }
        .to_string()
    }

    #[test]
    fn the_place_is_under_the_caret() {
        assert_eq!(message("epoch: 10", 1, 5), "wrong\n   --> a.yaml:12:1\n   |\n12 | epoch: 10\n   | ^^^^^",);
    }

    #[test]
    fn wide_characters_and_tabs_keep_the_caret_in_place() {
        assert!(message("名: x", 4, 1).ends_with("\n12 | 名: x\n   |     ^"));
        assert!(message("\tx", 2, 1).ends_with("\n12 |  x\n   |  ^"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}HERE{}", "a".repeat(5000), "b".repeat(5000));
        let text = message(&line, 5001, 4);
        assert!(text.contains("HERE") && text.contains("^^^^") && text.len() < 500, "{text}");
    }

    #[test]
    fn an_escape_sequence_does_not_reach_the_terminal() {
        assert!(!message("\u{1b}[31mred", 1, 1).contains('\u{1b}'));
    }

    #[test]
    fn a_place_behind_the_line_is_shown_behind_it() {
        assert!(message("ab", 9, 1).ends_with("\n12 | ab\n   |   ^"));
    }

    #[test]
    fn the_nearest_name_is_found_and_a_strange_one_is_not() {
        let known = ["epochs", "imgsz", "batch", "data", "shm_size"];
        assert_eq!(nearest("epoch", known), Some("epochs"));
        assert_eq!(nearest("imgs", known), Some("imgsz"));
        assert_eq!(nearest("shm-size", known), Some("shm_size"));
        assert_eq!(nearest("zebra", known), None);
    }
}
