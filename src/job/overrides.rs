//! Overrides: `key=value` on the command line, the value in YAML, set into the document before it is read.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::document::{Document, join, written};
use super::error::{Invalid, JobError, Place, printable};

/// Sets every override into the document; the last of two for one key wins.
pub(super) fn apply(document: &mut Document, overrides: &[String]) -> Result<(), JobError> {
    for given in overrides {
        let refuse = |message: String| refusal(&document.file, given, message);
        let (path, text) =
            given.split_once('=').ok_or_else(|| refuse("an override is `key=value`, such as `epochs=3`".into()))?;
        let path = path.trim();
        let keys: Vec<&str> = path.split('.').collect();
        if keys.iter().any(|key| key.is_empty() || key.contains(char::is_whitespace)) {
            return Err(refuse(format!("`{}` is no key, expected one such as `batch.target`", printable(path))).into());
        }
        if let Some(list) = keys.iter().find(|key| key.contains(['[', ']'])) {
            let list = printable(list.split('[').next().unwrap_or_default());
            return Err(refuse(format!("items of a list cannot be set one by one; write `{list}=[...]`")).into());
        }
        if keys.len() > 8 {
            return Err(refuse("no key of a job is that deep".into()).into());
        }
        // The same limits and words as for the file, and the override as the place.
        let value = Document::parse(document.file.clone(), text.to_owned())
            .map_err(|error| match error {
                JobError::Invalid(invalid) => {
                    JobError::from(Invalid { place: Place::Override(given.clone()), ..*invalid })
                }
                other => other,
            })?
            .value;
        if document.value.is_null() {
            document.value = Value::Mapping(Mapping::new());
        }
        // What an earlier override said about this key, or inside it, is gone.
        let inside = format!("{path}.");
        document.overrides.retain(|other, _| other != path && !other.starts_with(&inside));
        let set = set(&mut document.value, &keys, value).map_err(|depth| {
            let holder = keys[..depth].join(".");
            refusal(&document.file, given, format!("`{}` is not a mapping, so it has no keys", printable(&holder)))
        })?;
        document.overrides.insert(set, given.clone());
        // Two ways to say one thing: who types one of them does not mean the other any more.
        let other = match path {
            "gpus" => "device",
            "device" => "gpus",
            _ => continue,
        };
        document.overrides.remove(other);
        if let Some(map) = document.value.as_mapping_mut() {
            map.remove(other);
        }
    }
    Ok(())
}

/// Sets a value and returns its path; the error is how many keys deep something that is no mapping stands in the way.
fn set(root: &mut Value, keys: &[&str], value: Value) -> Result<String, usize> {
    let mut at = root;
    let mut path = String::new();
    for (depth, key) in keys.iter().enumerate() {
        widen(at, &path);
        let map = at.as_mapping_mut().ok_or(depth)?;
        path = join(&path, key);
        at = map.entry(written(map, key)).or_insert(Value::Null);
    }
    // `batch=32` is short for the target alone: a micro-batch in the file stands.
    match (at.as_mapping_mut(), path.as_str()) {
        (Some(batch), "batch") if value.is_number() => {
            let key = if value.as_i64() == Some(-1) { "micro" } else { "target" };
            batch.insert(key.into(), value);
            path = join(&path, key);
        }
        _ => *at = value,
    }
    Ok(path)
}

/// Turns the short form of a key into the mapping that it is short for, so that a key can be set inside of it.
fn widen(value: &mut Value, path: &str) {
    let wide = match (path, &*value) {
        (_, Value::Null) => Mapping::new(),
        ("batch", Value::Number(number)) => {
            let key = if number.as_i64() == Some(-1) { "micro" } else { "target" };
            Mapping::from_iter([(key.into(), value.clone())])
        }
        ("imgsz", Value::Number(_)) => Mapping::from_iter([(0.into(), value.clone())]),
        ("build", Value::String(_)) => Mapping::from_iter([("context".into(), value.clone())]),
        ("environment" | "build.args", Value::Sequence(list)) => {
            let pair = |entry: &Value| match entry.as_str()?.split_once('=') {
                Some((key, value)) => Some((key.into(), value.into())),
                None => Some((entry.clone(), Value::Null)),
            };
            match list.iter().map(pair).collect() {
                Some(map) => map,
                None => return,
            }
        }
        _ => return,
    };
    *value = Value::Mapping(wide);
}

fn refusal(file: &Path, given: &str, message: String) -> Invalid {
    Invalid {
        file: file.to_owned(),
        place: Place::Override(given.to_owned()),
        path: given.split('=').next().unwrap_or_default().trim().to_owned(),
        message,
        hint: None,
    }
}
