//! The file as a tree of values, and where each of them stands in it.
//!
//! The values are read by `serde_yaml`. It does not tell where a value stood, so a second parser walks the same text
//! first: it finds the positions, and refuses what would take the other one long (deep nesting) or what it lets pass
//! (a second document).

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_yaml::{Mapping, Value};

use super::error::{Invalid, JobError, Place, printable};

/// Bytes of a job file at most. Real ones have a hundredth of it.
pub(super) const LARGEST: u64 = 256 * 1024;
/// Levels of nesting at most.
const DEEPEST: usize = 32;

/// A parsed file with the overrides applied.
#[derive(Debug)]
pub(super) struct Document {
    /// The file, for messages.
    pub file: PathBuf,
    /// Its text, without a byte order mark.
    pub source: String,
    /// Its values.
    pub value: Value,
    /// Where the values stand, by dotted path.
    pub spots: HashMap<String, Spot>,
    /// Overrides by the dotted path they set, as they were given.
    pub overrides: BTreeMap<String, String>,
}

/// Where a key and its value stand.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// The key, or the item of a list.
    pub key: Range,
    /// The value.
    pub value: Range,
    /// Text of a scalar that was written without quotes: `1.10` is a number, and yet a version to some.
    pub raw: Option<String>,
}

/// A stretch of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters.
    pub width: usize,
}

impl From<Span> for Range {
    fn from(span: Span) -> Self {
        let width =
            if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
        Self { line: span.start.line(), column: span.start.col() + 1, width: width.max(1) }
    }
}

/// The dotted path of `key` inside `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an item of the list at `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// The key of `map` that is written so: YAML takes `50` for a number.
pub(super) fn written(map: &Mapping, key: &str) -> Value {
    let number = key.parse().ok().filter(|number: &u64| number.to_string() == key).map(Value::from);
    number.filter(|number| map.contains_key(number)).unwrap_or_else(|| key.into())
}

impl Document {
    /// Parses the text of a job file.
    pub fn parse(file: PathBuf, source: String) -> Result<Self, JobError> {
        // libyaml counts the mark as a column of the first line, which then seems indented.
        let source = source.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(source);
        let mut document = Self { file, source, value: Value::Null, spots: HashMap::new(), overrides: BTreeMap::new() };
        document.spots = Walk::over(&document)?;
        let value = serde_yaml::from_str(&document.source).map_err(|error| document.unreadable(&error))?;
        document.value = value;
        Ok(document)
    }

    /// A refusal that points at the value at `path`.
    pub fn wrong_value(&self, path: &str, message: impl Into<String>) -> Invalid {
        self.wrong(path, |spot| spot.value, message.into())
    }

    /// A refusal that points at the key at `path`.
    pub fn wrong_key(&self, path: &str, message: impl Into<String>) -> Invalid {
        self.wrong(path, |spot| spot.key, message.into())
    }

    /// The override that set the value at `path`, if one did.
    pub fn override_of(&self, path: &str) -> Option<&str> {
        ancestors(path).find_map(|path| self.overrides.get(path)).map(String::as_str)
    }

    /// The override that named the key at `path`, or a key inside of it that made it.
    fn override_within(&self, path: &str) -> Option<&str> {
        let inside = format!("{path}.");
        let within = || self.overrides.iter().find(|(set, _)| !path.is_empty() && set.starts_with(&inside));
        self.override_of(path).or_else(|| within().map(|(_, given)| given.as_str()))
    }

    /// Where the value at `path` stands, or what holds it.
    pub fn spot_of(&self, path: &str) -> Option<&Spot> {
        ancestors(path).find_map(|path| self.spots.get(path))
    }

    fn wrong(&self, path: &str, range: impl Fn(&Spot) -> Range, message: String) -> Invalid {
        let place = match (self.override_of(path), self.spots.get(path), self.override_within(path)) {
            (Some(text), _, _) | (None, None, Some(text)) => Place::Override(text.to_owned()),
            _ => self.spot_of(path).map_or(Place::File, |spot| self.place(range(spot))),
        };
        Invalid { file: self.file.clone(), place, path: path.to_owned(), message, hint: None }
    }

    fn place(&self, range: Range) -> Place {
        let text = self.source.lines().nth(range.line.saturating_sub(1)).unwrap_or_default();
        Place::Line { line: range.line, column: range.column, width: range.width, text: text.to_owned() }
    }

    fn at(&self, range: Range, message: String) -> Invalid {
        Invalid { file: self.file.clone(), place: self.place(range), path: String::new(), message, hint: None }
    }

    /// The parser's own words, placed, with what usually helps.
    fn not_yaml(&self, line: usize, column: usize, message: &str) -> JobError {
        let mut invalid = self.at(Range { line, column, width: 1 }, format!("not YAML: {message}"));
        if let Place::Line { text, .. } = &invalid.place {
            let indent: String = text.chars().take_while(|character| character.is_whitespace()).collect();
            let hint = if indent.contains('\t') {
                Some("indent with spaces; YAML has no tabs there")
            } else if message.contains("mapping values are not allowed") {
                // One colon in the line: the value is no problem, so the key must stand where none can.
                Some(if text.matches(": ").count() > 1 {
                    "put a value that holds `: ` into quotes"
                } else {
                    "keys of one level begin in the same column: compare this line with the ones above"
                })
            } else if text.trim_start().starts_with(['@', '`', '%']) || text.contains(": @") || text.contains(": `") {
                Some("put a value that begins with `@`, `` ` `` or `%` into quotes")
            } else {
                None
            };
            invalid.hint = hint.map(str::to_owned);
        }
        invalid.into()
    }

    fn unreadable(&self, error: &serde_yaml::Error) -> JobError {
        let whole = error.to_string();
        let message = printable(whole.split(" at line ").next().unwrap_or(&whole));
        let message = match &*message {
            "repetition limit exceeded" => "aliases repeat too much".to_owned(),
            _ if message.contains("invalid type: integer") => "a number that is too large".to_owned(),
            _ => message,
        };
        match error.location() {
            Some(location) => self.not_yaml(location.line(), location.column(), &message),
            None => self.wrong_value("", format!("not YAML: {message}")).into(),
        }
    }
}

/// The path itself, then what holds it, up to the document.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        if path.is_empty() { None } else { Some(path.rfind(['.', '[']).map_or("", |end| &path[..end])) }
    })
}

/// A mapping or a list that the walk is inside of.
enum Level {
    Map { path: String, key: Option<(String, Range)>, seen: HashMap<String, Range> },
    List { path: String, length: usize },
}

/// The walk over the events of the file.
#[derive(Default)]
struct Walk {
    levels: Vec<Level>,
    spots: HashMap<String, Spot>,
    documents: usize,
}

impl Walk {
    fn over(document: &Document) -> Result<HashMap<String, Spot>, JobError> {
        let mut walk = Self::default();
        for event in Parser::new_from_str(&document.source) {
            let (event, span) = event.map_err(|error| {
                let message = printable(error.info());
                document.not_yaml(error.marker().line(), error.marker().col() + 1, &message)
            })?;
            walk.event(event, span.into()).map_err(|(range, message)| document.at(range, message))?;
        }
        Ok(walk.spots)
    }

    fn event(&mut self, event: Event<'_>, range: Range) -> Result<(), (Range, String)> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err((range, "a job is one YAML document; a second one begins here".into()));
                }
            }
            Event::Scalar(text, style, _, _) => {
                let plain = (style == ScalarStyle::Plain).then(|| text.to_string());
                self.node(Some(&text), plain, range)?;
            }
            Event::Alias(_) => {
                self.node(None, None, range)?;
            }
            Event::MappingStart(..) => {
                let path = self.node(None, None, range)?;
                self.enter(Level::Map { path, key: None, seen: HashMap::new() }, range)?;
            }
            Event::SequenceStart(..) => {
                let path = self.node(None, None, range)?;
                self.enter(Level::List { path, length: 0 }, range)?;
            }
            Event::MappingEnd | Event::SequenceEnd => {
                self.levels.pop();
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, level: Level, range: Range) -> Result<(), (Range, String)> {
        if self.levels.len() >= DEEPEST {
            return Err((range, format!("nested more than {DEEPEST} levels deep; no job is")));
        }
        self.levels.push(level);
        Ok(())
    }

    /// Notes a key or a value; returns the path of a value.
    fn node(&mut self, text: Option<&str>, raw: Option<String>, range: Range) -> Result<String, (Range, String)> {
        let (path, key) = match self.levels.last_mut() {
            None => (String::new(), range),
            Some(Level::List { path, length }) => {
                *length += 1;
                (item(path, *length - 1), range)
            }
            Some(Level::Map { path, key, seen }) => match key.take() {
                Some((name, place)) => (join(path, &name), place),
                None => {
                    let Some(name) = text else {
                        return Err((range, "a key must be a word".into()));
                    };
                    if let Some(first) = seen.insert(name.to_owned(), range) {
                        let message = format!("key `{}` is given twice, first in line {}", printable(name), first.line);
                        return Err((range, message));
                    }
                    *key = Some((name.to_owned(), range));
                    return Ok(String::new());
                }
            },
        };
        self.spots.insert(path.clone(), Spot { key, value: range, raw });
        Ok(path)
    }
}
