//! Reading values: a cursor knows its path, so that every refusal can say where, what was found and what was expected.

use std::ops::RangeInclusive;

use serde_yaml::Value;

use super::document::{Document, item, join};
use super::error::{Invalid, JobError, listed, nearest, printable};

/// A value of the document and the path that leads to it.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub document: &'a Document,
    pub path: String,
    pub value: &'a Value,
}

impl<'a> Cursor<'a> {
    /// The whole document.
    pub fn root(document: &'a Document) -> Self {
        Self { document, path: String::new(), value: &document.value }
    }

    /// A refusal of this value: `` `epochs` is 0, expected a whole number from 1 to 100000 ``.
    pub fn wrong(&self, expected: impl AsRef<str>) -> Invalid {
        let found = described(self.value);
        let message = if self.path.is_empty() {
            format!("the file holds {found}, expected {}", expected.as_ref())
        } else {
            format!("`{}` is {found}, expected {}", printable(&self.path), expected.as_ref())
        };
        let mut invalid = self.document.wrong_value(&self.path, message);
        if let Value::String(text) = self.value {
            invalid.hint = number_in_disguise(text);
        }
        invalid
    }

    /// A refusal of this value in words of one's own.
    pub fn refuse(&self, message: impl Into<String>) -> Invalid {
        self.document.wrong_value(&self.path, message)
    }

    /// The value of a key of this mapping; a key without a value counts as absent.
    pub fn get(&self, key: &str) -> Option<Cursor<'a>> {
        let value = self.value.as_mapping()?.get(key)?;
        (!value.is_null()).then(|| self.child(key, value))
    }

    /// The value of a key of this mapping that has a value.
    pub fn child(&self, key: &str, value: &'a Value) -> Cursor<'a> {
        Cursor { document: self.document, path: join(&self.path, key), value }
    }

    /// Keys and values of a mapping.
    pub fn entries(&self, expected: &str) -> Result<Vec<(&'a str, Cursor<'a>)>, JobError> {
        let map = self.value.as_mapping().ok_or_else(|| self.wrong(expected))?;
        map.iter()
            .map(|(key, value)| match key {
                Value::String(key) => Ok((key.as_str(), self.child(key, value))),
                other => {
                    let key = scalar(other).unwrap_or_else(|| described(other));
                    let message = format!("key `{}` is {}, expected a word", printable(&key), described(other));
                    Err(self.document.wrong_key(&join(&self.path, &key), message).into())
                }
            })
            .collect()
    }

    /// Refuses a key that is not among `known`, with the nearest that is. `explain` may know the key from elsewhere.
    pub fn only(
        &self,
        expected: &str,
        known: &[&str],
        explain: impl Fn(&Cursor<'a>, &str) -> Option<Invalid>,
    ) -> Result<(), JobError> {
        for (key, value) in self.entries(expected)? {
            if known.contains(&key) {
                continue;
            }
            if let Some(explained) = explain(&value, key) {
                return Err(explained.into());
            }
            return Err(self.unknown(key, &value.path, known).into());
        }
        Ok(())
    }

    /// The refusal of a key that nobody knows.
    pub fn unknown(&self, key: &str, path: &str, known: &[&str]) -> Invalid {
        let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", printable(&self.path)) };
        let key = printable(key);
        if key == "<<" {
            return self
                .document
                .wrong_key(path, format!("merge key `<<`{place} is not supported; write the keys out"));
        }
        match nearest(&key, known.iter().copied()) {
            Some(near) => self.document.wrong_key(path, format!("unknown key `{key}`{place}; did you mean `{near}`?")),
            None => {
                let mut invalid = self.document.wrong_key(path, format!("unknown key `{key}`{place}"));
                invalid.hint = Some(format!("known keys are {}", listed(known.iter().copied())));
                invalid
            }
        }
    }

    /// A whole number.
    pub fn whole(&self, range: RangeInclusive<u64>, unit: &str) -> Result<u64, JobError> {
        let number = self.value.as_u64().or_else(|| {
            // `1e3` is a number with a fraction to YAML, and a whole one to whoever writes it.
            let number = self.value.as_f64()?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be whole and small"
            )]
            (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
        });
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (least, most) = range.into_inner();
            let range =
                if most == u64::MAX { format!("of at least {least}") } else { format!("from {least} to {most}") };
            let unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
            self.wrong(format!("a whole number {range}{unit}")).into()
        })
    }

    /// A whole number that fits 32 bits.
    pub fn whole32(&self, range: RangeInclusive<u32>, unit: &str) -> Result<u32, JobError> {
        let number = self.whole(u64::from(*range.start())..=u64::from(*range.end()), unit)?;
        Ok(u32::try_from(number).expect("the range fits 32 bits"))
    }

    /// Text. A number stands for the text it was written as.
    pub fn text(&self, expected: &str) -> Result<String, JobError> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => {
                let given = self.document.overrides.get(&self.path).and_then(|given| given.split_once('='));
                let written = self.document.spots.get(&self.path).and_then(|spot| spot.raw.as_deref());
                let text = given.map(|(_, text)| text.trim()).or(written);
                Ok(text.map_or_else(|| number.to_string(), str::to_owned))
            }
            _ => Err(self.wrong(expected).into()),
        }
    }

    /// Text that is not empty and holds no control characters, such as a path or a name.
    pub fn word(&self, expected: &str) -> Result<String, JobError> {
        let text = self.text(expected)?;
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            return Err(self.wrong(expected).into());
        }
        Ok(text)
    }

    /// True or false.
    pub fn flag(&self) -> Result<bool, JobError> {
        self.value.as_bool().ok_or_else(|| self.wrong("`true` or `false`").into())
    }

    /// One of a few names.
    pub fn one_of<T: Copy>(&self, names: &[(&str, T)]) -> Result<T, JobError> {
        let text = self.value.as_str();
        if let Some((_, value)) = names.iter().find(|(name, _)| Some(*name) == text) {
            return Ok(*value);
        }
        let names = names.iter().map(|(name, _)| *name);
        let near = text.and_then(|text| nearest(text, names.clone()));
        let expected = match near {
            Some(near) => format!("one of {}; did you mean `{near}`?", listed(names)),
            None => format!("one of {}", listed(names)),
        };
        Err(self.wrong(expected).into())
    }

    /// The items of a list.
    pub fn items(&self, expected: &str) -> Result<Vec<Cursor<'a>>, JobError> {
        let list = self.value.as_sequence().ok_or_else(|| self.wrong(expected))?;
        let items = list.iter().enumerate();
        Ok(items.map(|(at, value)| Cursor { document: self.document, path: item(&self.path, at), value }).collect())
    }
}

/// A value in a few words, for a message.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Bool(_) | Value::Number(_) => scalar(value).unwrap_or_default(),
        Value::String(text) => format!("the text `{}`", printable(text)),
        Value::Sequence(list) if list.is_empty() => "an empty list".into(),
        Value::Sequence(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
        Value::Tagged(tagged) => format!("a value with the tag `{}`", printable(&tagged.tag.to_string())),
    }
}

/// A scalar as text.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("null".into()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// What to write when a text looks like a number that YAML does not take for one.
fn number_in_disguise(text: &str) -> Option<String> {
    let bare = text.trim().replace('_', "");
    let number: f64 = bare.parse().ok()?;
    (number.is_finite() && bare != "nan").then(|| match bare.parse::<u64>() {
        Ok(whole) => format!("write the number without quotes, underscores or leading zeros: {whole}"),
        Err(_) => format!("write the number without quotes or underscores: {bare}"),
    })
}
