//! What can be wrong with a job: one message, with the place, the line itself and what was expected.

use std::fmt;
use std::path::PathBuf;

use crate::error::{ExitCode, Failure};

/// Why a job was refused. Its text is the whole message, of several lines when there is a place to show.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The file cannot be read.
    #[error("failed to read job `{}`", file.display())]
    Unreadable {
        /// The job file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no job, or a value in it or in an override is wrong.
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The job file.
    pub file: PathBuf,
    /// Where in it, or in which override.
    pub place: Place,
    /// Dotted path of the key, such as `batch.target`; empty for the document.
    pub path: String,
    /// What is wrong, as a fragment.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A position in the file.
    Line {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// That line of the file.
        text: String,
    },
    /// An override, as it was given.
    Override(String),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        let hint = match &error {
            JobError::Invalid(invalid) => invalid.hint.clone(),
            JobError::Unreadable { .. } => None,
        };
        let failure = Failure::new(ExitCode::BadRequest, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
