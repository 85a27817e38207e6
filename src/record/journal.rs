//! Reading `journal.jsonl`: all of it, or as little as tells how a run ended.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::find::JOURNAL;
use crate::error::{ExitCode, Failure};

/// Version of the entries.
pub const VERSION: u32 = 1;
/// Bytes that are read to see a journal's two ends; those of most runs are no longer.
const ENDS: u64 = 8 << 10;

/// One line of the journal.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Entry {
    /// Version of the writer.
    pub v: u32,
    /// Milliseconds since the Unix epoch by the controller's clock.
    pub time_ms: u64,
    /// What was intended, done or seen.
    pub entry: String,
    /// More of it, by entry.
    pub detail: Value,
}

/// The journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system's trouble.
    #[error("failed to read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line is none of ours.
    #[error("line {line} of `{}` is no entry of a journal", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A later Evenkeel wrote it.
    #[error("`{}` is of version {version}, and this Evenkeel reads up to {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        match &error {
            JournalError::Io { .. } => Self::new(ExitCode::MachineNotReady, error),
            JournalError::Line { .. } => Self::new(ExitCode::CorruptState, error)
                .hint("the logs and events beside it may still be whole: `logs/`, `events/`"),
            JournalError::Newer { .. } => {
                Self::new(ExitCode::CorruptState, error).hint("use the Evenkeel that wrote it")
            }
        }
    }
}

/// All entries of a run's journal, in order. A last line that was being written when its writer died is passed over.
///
/// # Errors
///
/// The file cannot be read, or holds what is no entry.
pub fn read(run: &Path) -> Result<Vec<Entry>, JournalError> {
    let path = run.join(JOURNAL);
    let bytes = std::fs::read(&path).map_err(|source| JournalError::Io { path: path.clone(), source })?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
    let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate();
    lines.map(|(at, line)| parse(&path, at, line)).collect()
}

/// What the two ends of a journal tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// When the first entry was written.
    pub begun_ms: Option<u64>,
    /// The entry that ends the run, if nothing was begun after it.
    pub end: Option<Entry>,
}

/// The first entry's time and the entry that ends the run, without reading what is between them.
///
/// # Errors
///
/// The file cannot be read, or its ends hold what is no entry.
pub fn ends(run: &Path) -> Result<Ends, JournalError> {
    let path = run.join(JOURNAL);
    let failed = |source| JournalError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(failed)?;
    let head = piece(&file, 0, ENDS).map_err(failed)?;
    // Most journals are no longer than that, and need not be asked how long they are.
    let whole = (head.len() as u64) < ENDS;
    let length = if whole { head.len() as u64 } else { file.metadata().map_err(failed)?.len() };
    let mut tail = Vec::new();
    if !whole {
        tail = piece(&file, length.saturating_sub(ENDS), ENDS).map_err(failed)?;
    }
    let first = memchr::memchr(b'\n', &head).map(|end| begun(&path, &head[..end])).transpose()?;
    let mut last = last_turn(if whole { &head } else { &tail });
    // Neither in what was read: an end with a message that is longer than that, or a journal that says much.
    if last.is_none() && !whole {
        tail = piece(&file, 0, length).map_err(failed)?;
        last = last_turn(&tail);
    }
    let end = last.filter(|line| is_kind(line, "end")).map(|line| parse(&path, 0, line)).transpose();
    // Which line it is that cannot be read, only the whole journal tells.
    let end = end.or_else(|error| read(run).and(Err(error)))?;
    Ok(Ends { begun_ms: first, end })
}

/// The last whole line that ends the run or begins something.
fn last_turn(tail: &[u8]) -> Option<&[u8]> {
    let whole = memchr::memrchr(b'\n', tail).map_or(0, |end| end + 1);
    // What else follows an end (a message that was sent) is no turn.
    let turns = |line: &&[u8]| is_kind(line, "end") || BEGINNINGS.iter().any(|kind| is_kind(line, kind));
    tail[..whole].rsplit(|byte| *byte == b'\n').find(turns)
}

/// Entries that begin something: a run in whose journal one of them follows the end has gone on.
const BEGINNINGS: [&str; 4] = ["create", "go", "attach", "resume"];

/// Whether `entry` says that an ended run goes on.
#[must_use]
pub fn begins(entry: &Entry) -> bool {
    BEGINNINGS.contains(&entry.entry.as_str())
}

/// Whether a line is an entry of this kind, told without reading it: a key is never written with spaces, and a quote within a value always
/// behind a backslash.
fn is_kind(line: &[u8], kind: &str) -> bool {
    let name = format!("\"entry\":\"{kind}\"");
    let head = &line[..line.len().min(128)];
    memchr::memmem::find(head, name.as_bytes()).is_some()
}

fn piece(file: &File, from: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let mut read = 0;
    while read < piece.len() {
        match file.read_at(&mut piece[read..], from + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    piece.truncate(read);
    Ok(piece)
}

/// When the first entry was written; nothing else of it is looked at.
fn begun(path: &Path, line: &[u8]) -> Result<u64, JournalError> {
    #[derive(Deserialize)]
    struct First {
        v: u32,
        time_ms: u64,
    }
    let first = serde_json::from_slice::<First>(line);
    let first = first.map_err(|source| JournalError::Line { path: path.into(), line: 1, source })?;
    if first.v > VERSION {
        return Err(JournalError::Newer { path: path.into(), version: first.v });
    }
    Ok(first.time_ms)
}

fn parse(path: &Path, at: usize, line: &[u8]) -> Result<Entry, JournalError> {
    let entry: Entry = serde_json::from_slice(line).map_err(|source| JournalError::Line {
        path: path.into(),
        line: at + 1,
        source,
    })?;
    if entry.v > VERSION {
        return Err(JournalError::Newer { path: path.into(), version: entry.v });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(text: &str) -> tempfile::TempDir {
        let run = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(run.path().join(JOURNAL), text).expect("written");
        run
    }

    fn line(time: u64, entry: &str, detail: &str) -> String {
        format!("{{\"v\":1,\"seq\":0,\"time_ms\":{time},\"entry\":\"{entry}\",\"detail\":{detail}}}\n")
    }

    #[test]
    fn the_ends_of_a_journal_are_those_of_the_whole() {
        let filler = line(2, "ended", "{}").repeat(1000);
        let long = format!("{{\"message\":\"{}\"}}", "x".repeat(20_000));
        for middle in ["", &filler] {
            for (end, ended) in [
                (line(9, "end", "{\"exit_code\":0}"), Some(9)),
                (line(9, "end", &long), Some(9)),
                (line(9, "end", "{}") + &line(10, "notified", "{\"text\":\"\\\"entry\\\":\\\"go\\\"\"}"), Some(9)),
                (line(9, "end", "{}") + &line(10, "create", "{}"), None),
                (line(9, "end", "{}") + "{\"v\":1,\"se", Some(9)),
                (String::new(), None),
            ] {
                let run = journal(&(line(1, "run", "{}") + middle + &end));
                let ends = ends(run.path()).expect("read");
                assert_eq!((ends.begun_ms, ends.end.map(|end| end.time_ms)), (Some(1), ended), "{:.99}", end);
            }
        }
        let empty = ends(journal("").path()).expect("read");
        assert_eq!((empty.begun_ms, empty.end), (None, None));
    }

    #[test]
    fn what_is_no_journal_is_named() {
        let torn = journal(&(line(1, "run", "{}") + "{\"v\":1,"));
        assert_eq!(read(torn.path()).expect("the torn line is passed over").len(), 1);
        let broken = journal(&(line(1, "run", "{}") + "rubbish\n"));
        assert!(matches!(read(broken.path()), Err(JournalError::Line { line: 2, .. })));
        let newer = journal("{\"v\":2,\"time_ms\":1,\"entry\":\"run\",\"detail\":null}\n");
        assert!(matches!(read(newer.path()), Err(JournalError::Newer { version: 2, .. })));
        assert!(matches!(ends(newer.path()), Err(JournalError::Newer { version: 2, .. })));
    }
}
