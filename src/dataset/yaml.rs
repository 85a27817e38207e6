//! What a `data.yaml` says, before any folder is looked at.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

/// Most classes that are taken for real; a larger `nc` is a slip.
const MOST_CLASSES: u64 = 100_000;

/// A `data.yaml` in which everything that is needed was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataYaml {
    /// `path:`, as written.
    pub path: Option<String>,
    /// `train:` folders or lists, as written.
    pub train: Vec<String>,
    /// `val:` (or `validation:`) folders or lists, as written.
    pub val: Vec<String>,
    /// Class names by index, without gaps.
    pub names: BTreeMap<u32, String>,
    /// Whether the names are made up because the file has only `nc:`.
    pub nameless: bool,
    /// `download:`, as written. Never executed.
    pub download: Option<String>,
}

/// What is wrong with the file's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// Not YAML.
    #[error("it is no valid YAML: {0}")]
    Syntax(String),
    /// YAML, but not `key: value` pairs.
    #[error("it holds no `key: value` pairs")]
    NotAMap,
    /// A key that must be there.
    #[error("the key `{0}:` is missing")]
    Missing(&'static str),
    /// A value of the wrong kind.
    #[error("`{key}:` must be {expected}, not {found}")]
    Kind {
        /// The key.
        key: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The class numbers are not 0, 1, 2 and so on.
    #[error("`names:` has {count} classes, but no class {missing}: classes are numbered from 0 without gaps")]
    Gap {
        /// Number of names.
        count: usize,
        /// First number that is missing.
        missing: u32,
    },
    /// `nc` and `names` disagree.
    #[error("`nc: {nc}` and the {names} entries of `names:` disagree")]
    Count {
        /// `nc`.
        nc: u64,
        /// Number of names.
        names: usize,
    },
}

/// Reads the text of a `data.yaml`.
///
/// # Errors
/// When it is no YAML, or `train`, `val` or the classes are missing or of the wrong kind.
pub fn parse(text: &str) -> Result<DataYaml, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value: Value = serde_yaml::from_str(text).map_err(|error| YamlError::Syntax(error.to_string()))?;
    let Value::Mapping(map) = value else { return Err(YamlError::NotAMap) };
    let (names, nameless) = names(&map)?;
    Ok(DataYaml {
        path: text_of(&map, "path")?,
        train: sources(&map, "train")?.ok_or(YamlError::Missing("train"))?,
        val: match sources(&map, "val")? {
            Some(val) => val,
            None => sources(&map, "validation")?.ok_or(YamlError::Missing("val"))?,
        },
        names,
        nameless,
        download: text_of(&map, "download")?,
    })
}

/// The value of a key, unless it is empty or null.
fn get<'a>(map: &'a Mapping, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        _ => true,
    })
}

fn text_of(map: &Mapping, key: &'static str) -> Result<Option<String>, YamlError> {
    let Some(value) = get(map, key) else { return Ok(None) };
    // A folder may be called `2024`.
    scalar(value).map(Some).ok_or_else(|| YamlError::Kind { key, expected: "text", found: kind(value) })
}

fn sources(map: &Mapping, key: &'static str) -> Result<Option<Vec<String>>, YamlError> {
    let wrong = |value: &Value| YamlError::Kind {
        key,
        expected: "a folder, a list file or a list of those",
        found: kind(value),
    };
    let Some(value) = get(map, key) else { return Ok(None) };
    let all: Vec<&Value> = match value {
        Value::Sequence(all) => all.iter().collect(),
        one => vec![one],
    };
    let texts = all.iter().map(|one| scalar(one).filter(|text| !text.is_empty()).ok_or_else(|| wrong(one)));
    let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
    Ok(Some(texts).filter(|texts| !texts.is_empty()))
}

/// The classes, and whether their names are made up.
fn names(map: &Mapping) -> Result<(BTreeMap<u32, String>, bool), YamlError> {
    let nc = match get(map, "nc") {
        None => None,
        Some(value) => {
            let number =
                scalar(value).and_then(|text| text.parse::<u64>().ok()).filter(|n| (1..=MOST_CLASSES).contains(n));
            let expected = "the number of classes";
            Some(number.ok_or_else(|| YamlError::Kind { key: "nc", expected, found: kind(value) })?)
        }
    };
    let wrong = |value: &Value| YamlError::Kind {
        key: "names",
        expected: "a list of names or a map from number to name",
        found: kind(value),
    };
    let named: BTreeMap<u32, String> = match (get(map, "names"), nc) {
        (None, None) => return Err(YamlError::Missing("names")),
        (None, Some(nc)) => {
            return Ok(((0..u32::try_from(nc).unwrap_or(0)).map(|n| (n, format!("class_{n}"))).collect(), true));
        }
        (Some(Value::Sequence(list)), _) => (0..)
            .zip(list)
            .map(|(n, name)| Ok((n, scalar(name).ok_or_else(|| wrong(name))?)))
            .collect::<Result<_, _>>()?,
        (Some(Value::Mapping(by_number)), _) => by_number
            .iter()
            .map(|(number, name)| {
                let number = scalar(number).and_then(|text| text.trim().parse().ok()).ok_or_else(|| wrong(number))?;
                Ok((number, scalar(name).ok_or_else(|| wrong(name))?))
            })
            .collect::<Result<_, _>>()?,
        (Some(value), _) => return Err(wrong(value)),
    };
    if named.is_empty() {
        return Err(YamlError::Missing("names"));
    }
    if let Some((missing, _)) = (0..).zip(named.keys()).find(|(expected, number)| expected != *number) {
        return Err(YamlError::Gap { count: named.len(), missing });
    }
    match nc {
        Some(nc) if u64::try_from(named.len()) != Ok(nc) => Err(YamlError::Count { nc, names: named.len() }),
        _ => Ok((named, false)),
    }
}

/// Text as it would be written; numbers and truth values are text, too (a class may be called `7`).
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// What a value is, in a few words.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a map".to_owned(),
        Value::Tagged(_) => "a tagged value".to_owned(),
        Value::String(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
        other => scalar(other).map_or_else(String::new, |text| format!("`{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &str) -> Result<DataYaml, YamlError> {
        parse(&format!("train: a\nval: b\n{lines}"))
    }

    #[test]
    fn names_are_a_list_or_a_map() {
        let expected: BTreeMap<u32, String> = [(0, "猫".into()), (1, "7".into()), (2, "no".into())].into();
        assert_eq!(with("names: [猫, 7, no]").expect("good").names, expected);
        assert_eq!(with("nc: 3\nnames: {0: 猫, '1': 7, 2: no}").expect("good").names, expected);
        let made_up = with("nc: 2").expect("good");
        assert!(made_up.nameless);
        assert_eq!(made_up.names[&1], "class_1");
    }

    #[test]
    fn sources_are_text_or_a_list() {
        let data = parse("path: 2024\ntrain: [a, b]\nvalidation: ./c\nnames: [x]\ndownload:\n").expect("good");
        assert_eq!((data.train, data.val), (vec!["a".into(), "b".into()], vec!["./c".into()]));
        assert_eq!((data.path.as_deref(), data.download), (Some("2024"), None));
        assert_eq!(parse("\u{feff}train: a\nval: b\nnames: [x]").expect("a byte order mark is no key").train, ["a"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (lines, expected) in [
            ("names: []", YamlError::Missing("names")),
            ("names:", YamlError::Missing("names")),
            ("", YamlError::Missing("names")),
            ("names: {0: a, 2: b}", YamlError::Gap { count: 2, missing: 1 }),
            ("names: {1: a, 2: b}", YamlError::Gap { count: 2, missing: 0 }),
            ("nc: 3\nnames: [a]", YamlError::Count { nc: 3, names: 1 }),
        ] {
            assert_eq!(with(lines).expect_err(lines), expected, "{lines}");
        }
        for lines in
            ["names: 5", "names: [[a]]", "nc: many", "nc: -1", "nc: 99999999999999", "names: {a: b}", "names: {-1: b}"]
        {
            assert!(matches!(with(lines), Err(YamlError::Kind { .. })), "{lines}");
        }
        assert_eq!(parse("val: b\nnames: [x]"), Err(YamlError::Missing("train")));
        assert_eq!(parse("train: a\nnames: [x]"), Err(YamlError::Missing("val")));
        assert_eq!(parse("train: []\nval: b\nnames: [x]"), Err(YamlError::Missing("train")));
        assert_eq!(parse("- a"), Err(YamlError::NotAMap));
        assert_eq!(parse(""), Err(YamlError::NotAMap));
        assert!(matches!(parse("a: [\n"), Err(YamlError::Syntax(_))));
    }
}
