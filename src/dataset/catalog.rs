//! Data sets and weights that are known by name: where they are, and how to tell that they are the right ones.

use std::path::Path;

/// The names of all sets, for a message.
#[must_use]
pub fn set_names() -> String {
    SETS.iter().map(|set| set.name).collect::<Vec<_>>().join(", ")
}

/// The set that a `data.yaml` with this `download:` is, if we know it.
#[must_use]
pub fn set_for(yaml: &Path, download: &str) -> Option<&'static str> {
    let stem = yaml.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let ours = |set: &&Set| set.name == stem || set.archives.iter().any(|archive| download.contains(archive.file));
    SETS.iter().find(ours).map(|set| set.name)
}

/// A data set that can be fetched.
#[derive(Debug)]
pub struct Set {
    /// What `data:` says.
    pub name: &'static str,
    /// What it is made of.
    pub archives: &'static [Asset],
}

/// A file to fetch.
#[derive(Debug)]
pub struct Asset {
    /// Its name.
    pub file: &'static str,
}

/// All sets.
pub const SETS: &[Set] = &[];
