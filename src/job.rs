//! The job: what the user asks for. A YAML file and `key=value` overrides become a [`Job`] in which every field has a
//! value, and a table that says where each value came from.
//!
//! ```text
//! text ─▶ document (values and where they stand) ─▶ overrides ─▶ read (checks, defaults) ─▶ Job, origins, notes
//! ```
//!
//! [`load`] alone touches the world: it reads the file, and the home folder from the environment. [`parse`] is a function
//! of its arguments.

mod compose;
mod cursor;
mod device;
mod document;
mod error;
mod file;
mod image_sizes;
mod overrides;
mod read;
mod report;
mod resolved;
mod settings;
mod types;
mod units;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use compose::Bases;
pub use error::{Invalid, JobError, Place};
pub use file::schema;
pub use image_sizes::{ImageSizes, Stage};
pub use report::{MlflowWish, Moment, Service, Source, Track, Webhook};
pub use types::{Batch, Build, Containers, Job, Micro, Network, OnOom, SplitWish, Trainer, Volume};
pub use units::parse_size;

use document::{Document, LARGEST};

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
    let unreadable = |source| JobError::Unreadable { file: path.to_owned(), source };
    let source = read(path)?;
    // Absolute, so that the resolved job means the same wherever its record lies.
    let folder = std::path::absolute(path).map_err(unreadable)?.parent().map(Path::to_owned).unwrap_or_default();
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    parse(path, source, overrides, &Bases { folder, home })
}

/// Understands the text of the job file `path`, with `overrides` applied.
///
/// # Errors
///
/// Whatever is wrong with the text or an override.
pub fn parse(path: &Path, source: String, overrides: &[String], bases: &Bases) -> Result<ResolvedJob, JobError> {
    let mut document = Document::parse(path.to_owned(), source.clone())?;
    overrides::apply(&mut document, overrides)?;
    let mut notes = Vec::new();
    let job = read::job(&document, bases, &mut notes)?;
    let origins = resolved::origins(&job, &document).into_iter().collect();
    Ok(ResolvedJob { job, origins, file: document.file, source, notes })
}

/// The text of a job file, of a size that a job may have.
fn read(path: &Path) -> Result<String, JobError> {
    let unreadable = |source| JobError::Unreadable { file: path.to_owned(), source };
    let refuse = |message: String| Invalid {
        file: path.to_owned(),
        place: Place::File,
        path: String::new(),
        message,
        hint: None,
    };
    // A pipe or a device would be waited for; `/dev/stdin` and `<(...)` are pipes that people mean.
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(refuse("a folder is no job, expected a YAML file".into()).into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(refuse(format!("the file is larger than {} KiB; no job is", LARGEST / 1024)).into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        refuse(format!("the file is not text in UTF-8: line {line} holds something else")).into()
    })
}
