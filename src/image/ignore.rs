//! .dockerignore, as Docker reads it: the last pattern that fits decides, and `!` makes an exception.

use std::fs;
use std::io;
use std::path::Path;

use super::error::ImageError;

/// The patterns of a context.
#[derive(Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    parts: Vec<String>,
    exception: bool,
}

impl Ignore {
    /// Reads the patterns of a context: those of its Dockerfile (`<Dockerfile>.dockerignore`) if there are any, else
    /// those of the folder.
    pub fn read(context: &Path, dockerfile: &str) -> Result<Self, ImageError> {
        for path in [context.join(format!("{dockerfile}.dockerignore")), context.join(".dockerignore")] {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    return Self::parse(&text).map_err(|(line, pattern)| ImageError::Pattern { path, line, pattern });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ImageError::File { what: "read", path, source }),
            }
        }
        Ok(Self::default())
    }

    /// Reads patterns; a bad one is returned with its line.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut rules = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (exception, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let bad = || (index + 1, line.to_owned());
            // `.` and `/` are the whole context, which Docker does not take for a pattern that fits a file.
            let parts = clean(pattern);
            if pattern.is_empty() || parts.iter().any(|part| !is_pattern(part)) {
                return Err(bad());
            }
            if !parts.is_empty() {
                rules.push(Rule { parts, exception });
            }
        }
        Ok(Self { rules })
    }

    /// Whether a path (with `/`, relative to the context) stays at home. A folder's pattern fits what is in it.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let mut ignored = false;
        for rule in &self.rules {
            if rule.exception == ignored && (1..=parts.len()).any(|count| fits(&rule.parts, &parts[..count])) {
                ignored = !rule.exception;
            }
        }
        ignored
    }

    /// Whether something below an ignored folder may be excepted, so that it has to be looked into.
    #[must_use]
    pub fn may_except_below(&self, _folder: &str) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }
}

/// The parts of a pattern, with `.` and `..` resolved and slashes at either end gone.
fn clean(pattern: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

fn fits(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        // Any number of folders, also none.
        (Some((first, rest)), _) if first == "**" => (0..=path.len()).any(|count| fits(rest, &path[count..])),
        (Some((first, rest)), Some((part, path))) => part_fits(first, part) && fits(rest, path),
        _ => false,
    }
}

/// Whether one part of a pattern (`*`, `?`, `[a-z]`, `\x`) fits one part of a path.
fn part_fits(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    chars_fit(&pattern, &text)
}

fn chars_fit(pattern: &[char], text: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
    match (first, text.split_first()) {
        ('*', _) => (0..=text.len()).any(|count| chars_fit(rest, &text[count..])),
        ('?', Some((_, text))) => chars_fit(rest, text),
        ('[', Some((c, text))) => match class(rest) {
            Some((class, rest)) => class.holds(*c) && chars_fit(rest, text),
            None => false,
        },
        ('\\', Some((c, text))) => {
            rest.split_first().is_some_and(|(escaped, rest)| escaped == c && chars_fit(rest, text))
        }
        (first, Some((c, text))) => first == c && chars_fit(rest, text),
        (_, None) => false,
    }
}

struct Class {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Class {
    fn holds(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

/// A class after its `[`, and what follows its `]`.
fn class(pattern: &[char]) -> Option<(Class, &[char])> {
    let negated = pattern.first() == Some(&'^');
    let mut rest = if negated { &pattern[1..] } else { pattern };
    let mut ranges = Vec::new();
    let one = |rest: &mut &[char]| -> Option<char> {
        let (first, tail) = rest.split_first()?;
        let (c, tail) = if *first == '\\' { tail.split_first()? } else { (first, tail) };
        *rest = tail;
        Some(*c)
    };
    while *rest.first()? != ']' || ranges.is_empty() {
        let low = one(&mut rest)?;
        let high = if rest.first() == Some(&'-') && rest.get(1) != Some(&']') {
            rest = &rest[1..];
            one(&mut rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
    Some((Class { ranges, negated }, &rest[1..]))
}

fn is_pattern(part: &str) -> bool {
    let chars: Vec<char> = part.chars().collect();
    let mut rest = &chars[..];
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            '[' => match class(tail) {
                Some((_, tail)) => tail,
                None => return false,
            },
            '\\' if tail.is_empty() => return false,
            '\\' => &tail[1..],
            _ => tail,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored<'a>(patterns: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let ignore = Ignore::parse(patterns).expect("patterns");
        paths.iter().copied().filter(|path| ignore.ignores(path)).collect()
    }

    #[test]
    fn a_pattern_is_anchored_at_the_context() {
        let paths = ["data", "data/x", "src/data", "data.txt"];
        assert_eq!(ignored("data", &paths), ["data", "data/x"]);
        assert_eq!(ignored("/data/", &paths), ["data", "data/x"]);
        assert_eq!(ignored("./src/../data", &paths), ["data", "data/x"]);
        assert_eq!(ignored("**/data", &paths), ["data", "data/x", "src/data"]);
    }

    #[test]
    fn wild_cards_stay_within_a_part() {
        let paths = ["a.pt", "runs/a.pt", "runs/x/a.pt", "a.py"];
        assert_eq!(ignored("*.pt", &paths), ["a.pt"]);
        assert_eq!(ignored("*/*.pt", &paths), ["runs/a.pt"]);
        assert_eq!(ignored("**/*.pt", &paths), ["a.pt", "runs/a.pt", "runs/x/a.pt"]);
        assert_eq!(ignored("runs/**", &paths), ["runs/a.pt", "runs/x/a.pt"]);
        assert_eq!(ignored("?.p[a-t]", &paths), ["a.pt"]);
        assert_eq!(ignored("a.p[^t]", &paths), ["a.py"]);
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let paths = ["README.md", "docs/a.md", "docs/keep.md"];
        assert_eq!(ignored("**/*.md\n!docs/keep.md", &paths), ["README.md", "docs/a.md"]);
        assert_eq!(ignored("!docs/keep.md\n**/*.md", &paths), paths);
        assert_eq!(ignored("docs\n!docs\ndocs/a.md", &paths), ["docs/a.md"]);
    }

    #[test]
    fn comments_and_empty_lines_are_none() {
        assert_eq!(ignored("# data\n\n   \n.\n", &["data", "# data"]), Vec::<&str>::new());
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_line() {
        assert_eq!(Ignore::parse("ok\n[a").expect_err("bad"), (2, "[a".into()));
        assert_eq!(Ignore::parse("!").expect_err("bad"), (1, "!".into()));
    }
}
