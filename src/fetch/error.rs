//! Why a file could not be had, and how to get it by hand.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{ExitCode, Failure};

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No source had it.
    #[error("failed to fetch `{file}`{}", tried(attempts))]
    Unavailable {
        /// The file's name.
        file: String,
        /// Each source with what went wrong there.
        attempts: Vec<(String, String)>,
        /// Where the file can be placed by hand.
        place: PathBuf,
        /// What its sha256 must be, where that is known.
        sha256: Option<String>,
    },
    /// The file in the cache is another one than it should be.
    #[error("`{}` is not the file it should be: its sha256 is {found}, expected {expected}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Hash of what is there.
        found: String,
        /// Hash as pinned, or as recorded when it was first fetched.
        expected: String,
    },
    /// Not enough room for the file.
    #[error("`{}` needs {} MB, and {} MB are free there", path.display(), needed / 1_000_000, free / 1_000_000)]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// An archive that must not or cannot be unpacked.
    #[error("archive `{}` cannot be unpacked: {problem}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What was unpacked is not what was expected.
    #[error("`{set}` cannot be prepared: {problem}")]
    Prepare {
        /// The data set.
        set: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The disk said no.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No HTTP client could be made.
    #[error("failed to set up HTTPS")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FetchError {
    /// What the person can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unavailable { place, sha256, .. } => {
                let hash = sha256.as_ref().map_or_else(String::new, |sha256| format!(" (sha256 {sha256})"));
                format!(
                    "fetch it on another machine and place it at `{}`{hash}, or name a mirror or a folder that has it in `EVENKEEL_MIRRORS`",
                    place.display()
                )
            }
            Self::Changed { path, .. } => format!("remove `{}`, and it is fetched again", path.display()),
            Self::NoRoom { .. } => "free some space, or set XDG_CACHE_HOME to a folder on a larger disk".to_owned(),
            Self::Archive { path, .. } => format!("remove `{}`, and it is fetched again", path.display()),
            Self::Prepare { .. } | Self::Io { .. } | Self::Client(_) => return None,
        })
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let hint = error.hint();
        let code = match error {
            FetchError::Changed { .. } => ExitCode::CorruptState,
            _ => ExitCode::MachineNotReady,
        };
        let failure = Self::new(code, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn tried(attempts: &[(String, String)]) -> String {
    let mut text = if attempts.is_empty() { ": no source is known".to_owned() } else { String::new() };
    for (source, reason) in attempts {
        let _ = write!(text, "\n  {source}: {reason}");
    }
    text
}

pub(crate) fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FetchError + use<'a> {
    move |source| FetchError::Io { what, path: path.to_owned(), source }
}
