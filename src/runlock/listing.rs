//! `data.sha256`: the hash and the name of every file of a data set, a line each, as `sha256sum --check` reads it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The text of a listing. `files` are names with hashes, in any order.
#[must_use]
pub fn write(files: &BTreeMap<String, [u8; 32]>) -> String {
    let mut text = String::with_capacity(files.len() * 112);
    for (name, hash) in files {
        let special = name.contains(['\\', '\n', '\r']);
        if special {
            text.push('\\');
        }
        for byte in hash {
            let _ = write!(text, "{byte:02x}");
        }
        text.push_str("  ");
        if special {
            text.push_str(&name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r"));
        } else {
            text.push_str(name);
        }
        text.push('\n');
    }
    text
}

/// Hashes by name. Lines that are none are left out.
#[must_use]
pub fn read(text: &str) -> BTreeMap<String, &str> {
    text.lines()
        .filter_map(|line| {
            let (special, line) = line.strip_prefix('\\').map_or((false, line), |line| (true, line));
            let (hash, name) = line.split_once("  ")?;
            Some((if special { unescaped(name) } else { name.to_owned() }, hash))
        })
        .collect()
}

fn unescaped(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some(other) => plain.push(other),
                None => {}
            },
            other => plain.push(other),
        }
    }
    plain
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its content is another.
    Changed,
    /// It is gone.
    Gone,
    /// It was not there.
    New,
}

/// Every file that differs between two listings, in the order of the names.
#[must_use]
pub fn changes(before: &str, after: &str) -> Vec<(String, Change)> {
    let (before, mut after) = (read(before), read(after));
    let mut changes: Vec<(String, Change)> = Vec::new();
    for (name, hash) in before {
        match after.remove(&name) {
            Some(other) if other == hash => {}
            Some(_) => changes.push((name, Change::Changed)),
            None => changes.push((name, Change::Gone)),
        }
    }
    changes.extend(after.into_keys().map(|name| (name, Change::New)));
    changes.sort_by(|one, other| one.0.cmp(&other.0));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind_come_back() {
        let names = ["images/a.png", "a b/  c.txt", "back\\slash", "two\nlines\r", "ünïcode"];
        let files: BTreeMap<String, [u8; 32]> = (0..).zip(names).map(|(n, name)| (name.to_owned(), [n; 32])).collect();
        let text = write(&files);
        let back = read(&text);
        assert_eq!(back.len(), names.len());
        assert_eq!(back["two\nlines\r"], "03".repeat(32));
        assert!(text.contains("\\0303") && text.contains("two\\nlines"), "{text}");
    }

    #[test]
    fn what_differs_is_named() {
        let before = "aa  x\nbb  y\ncc  z\n";
        let after = "aa  x\nbd  y\nee  w\n";
        let expected = [("w", Change::New), ("y", Change::Changed), ("z", Change::Gone)];
        assert_eq!(changes(before, after), expected.map(|(name, change)| (name.to_owned(), change)));
        assert!(changes(before, before).is_empty());
    }
}
