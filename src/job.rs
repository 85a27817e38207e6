//! The job: what the user asks for. A YAML file and `key=value` overrides become a [`Job`] in which every field has a
//! value, and a table that says where each value came from.
//!
//! Two of the functions here touch the world: [`load`] reads the file, and the home folder from the environment.
//! Everything else is a function of its arguments.

mod error;
mod types;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use error::JobError;
pub use types::{Batch, Build, Containers, Job, Micro, Network, Trainer, Volume};

/// A job, and where each of its values came from.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedJob {
    /// The job itself.
    pub job: Job,
    /// Origin of each value by its dotted path, such as `batch.target` or `args.lr0`.
    pub origins: BTreeMap<String, Origin>,
    /// The file, as it was named on the command line.
    pub file: PathBuf,
    /// The file's text, as it was read.
    pub source: String,
    /// What the person should know about how the job was understood; one sentence each.
    pub notes: Vec<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The job file.
    File {
        /// Line of the value's key, from 1.
        line: usize,
        /// Column of the value's key in characters, from 1.
        column: usize,
    },
    /// An override on the command line.
    CommandLine,
    /// It follows from something else, which the text names.
    Derived(String),
}

/// Reads the job at `path` and applies `overrides` (`batch.target=32`), the last of which wins.
///
/// # Errors
///
/// Whatever is wrong with the file or an override, as one message that names the place.
pub fn load(path: &Path, overrides: &[String]) -> Result<ResolvedJob, JobError> {
    let _ = (path, overrides);
    Err(JobError::Unreadable { file: path.to_owned(), source: std::io::Error::other("the parser is not here yet") })
}
