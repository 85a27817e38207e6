//! The run that a person names, for commands that need its lock.

use std::path::{Path, PathBuf};

use crate::error::Failure;
use crate::record::find;

/// Where records are unless a job says otherwise.
const RUNS: &str = "runs";

/// The directory of a run's record. One that holds nothing but a lock is enough to repeat a run.
///
/// # Errors
///
/// There is none of this name, or more than one.
pub fn find(run: &str) -> Result<PathBuf, Failure> {
    let named = Path::new(run);
    if named.join("lock.yaml").is_file() {
        return named.canonicalize().map_err(|error| Failure::bad(format!("failed to find `{run}`: {error}")));
    }
    Ok(find::find(Path::new(RUNS), Some(run))?.path)
}

/// The latest run of an experiment that is fit for something. Identifiers sort by time.
pub fn latest(family: &Path, fit: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(family).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| !path.is_symlink() && fit(path)).max()
}
