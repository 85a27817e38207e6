//! What can go wrong with an image, and what the person can do about it.

use std::path::PathBuf;

use crate::docker::DockerError;
use crate::error::{ExitCode, Failure};

use super::output::{Cause, Step};

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The engine failed.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A build failed.
    #[error("failed to build the image `{image}`{}: {message}{}", at(step.as_ref()), indented(lines))]
    Build {
        /// Its name.
        image: String,
        /// The step that failed, if one had begun.
        step: Option<Step>,
        /// What the engine said.
        message: String,
        /// The last lines of the step.
        lines: Vec<String>,
        /// What the lines point to.
        cause: Cause,
        /// Whether it is one of ours: a failure of the user's own Dockerfile is theirs.
        ours: bool,
    },
    /// The registry answered that it has no such image, or none for this caller.
    #[error("no such image `{image}`: it is not on the engine, and its registry says: {message}")]
    NoSuchImage {
        /// Its name.
        image: String,
        /// The registry's answer.
        message: String,
    },
    /// The image is not here, and its registry did not answer.
    #[error("no such image `{image}`: it is not on the engine, and its registry does not answer: {message}")]
    NoRegistry {
        /// Its name.
        image: String,
        /// The engine's words.
        message: String,
    },
    /// Not enough room.
    #[error(
        "not enough disk space for the images {images}: about {} needed, {} free at `{}`",
        gibibytes(*needed), gibibytes(*free), root.display()
    )]
    Disk {
        /// Their names.
        images: String,
        /// Bytes, about.
        needed: u64,
        /// Bytes.
        free: u64,
        /// The engine's folder.
        root: PathBuf,
    },
    /// No registry, and no program that could bootstrap Debian.
    #[error(
        "no registry has `{image}` for this machine ({reason}), and `mmdebstrap`, which could bootstrap it, is not installed"
    )]
    NeedsMmdebstrap {
        /// The registry's image.
        image: String,
        /// Why it could not be pulled.
        reason: String,
        /// What installs it here, where that is known.
        command: Option<&'static str>,
    },
    /// Bootstrapping failed.
    #[error("failed to bootstrap Debian: `{program}` ended with {status}{}", indented(lines))]
    Bootstrap {
        /// What was run.
        program: &'static str,
        /// How it ended.
        status: String,
        /// Its last lines.
        lines: Vec<String>,
        /// What the lines point to.
        cause: Cause,
    },
    /// A file.
    #[error("failed to {what} `{}`", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A folder that is to be built from has no Dockerfile.
    #[error("the build context `{}` has no Dockerfile `{dockerfile}`", context.display())]
    NoDockerfile {
        /// The folder.
        context: PathBuf,
        /// What was looked for.
        dockerfile: String,
    },
    /// A line of .dockerignore.
    #[error("line {line} of `{}`: `{pattern}` is no pattern", path.display())]
    Pattern {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The line.
        pattern: String,
    },
}

fn at(step: Option<&Step>) -> String {
    step.map(|step| format!(" at step {}/{}, `{}`", step.number, step.of, step.command)).unwrap_or_default()
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

/// A size for a person.
#[must_use]
pub fn gibibytes(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    if bytes >= GIB {
        // One digit after the point is as exact as these sizes are.
        format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else {
        format!("{} MiB", bytes.div_ceil(MIB))
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let error = match error {
            // The engine's own failures have their hints already.
            ImageError::Docker(error) => return error.into(),
            error => error,
        };
        let code = match &error {
            ImageError::Build { ours: false, cause: Cause::Step | Cause::NeedsBuildkit, .. }
            | ImageError::NoSuchImage { .. }
            | ImageError::NoDockerfile { .. }
            | ImageError::Pattern { .. } => ExitCode::BadRequest,
            ImageError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ExitCode::BadRequest,
            _ => ExitCode::MachineNotReady,
        };
        let hint = hint(&error);
        let failure = Self::new(code, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn hint(error: &ImageError) -> Option<String> {
    Some(match error {
        ImageError::Build { cause, .. } | ImageError::Bootstrap { cause, .. } => of_cause(*cause)?.to_owned(),
        ImageError::NoSuchImage { .. } => {
            "check `image:` in the job; an image of a private registry has to be pulled first: `docker pull ...`".into()
        }
        ImageError::NoRegistry { image, .. } => format!(
            "on a machine that reaches the registry: `docker save {image} | gzip > image.tar.gz`; here: \
             `evenkeel image load image.tar.gz`"
        ),
        ImageError::Disk { .. } => {
            "make room there (`docker system df` shows what Docker keeps), or move the engine's `data-root`".into()
        }
        ImageError::NeedsMmdebstrap { command: Some(command), .. } => format!("install it: `{command}`"),
        ImageError::NeedsMmdebstrap { command: None, .. } => LOAD.into(),
        _ => return None,
    })
}

const LOAD: &str = "build the images on a machine with Debian or Ubuntu, or with a registry: `evenkeel image save -o images.tar.gz`; \
                    then here: `evenkeel image load images.tar.gz`";

fn of_cause(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Certificate => {
            "the network has a certificate authority of its own: name its bundle in SSL_CERT_FILE and try again"
        }
        Cause::Network => {
            "a package source does not answer: set HTTPS_PROXY, or mirrors with PIP_INDEX_URL and DEBIAN_MIRROR, and try again; \
             what was built so far is kept"
        }
        Cause::Disk => "the engine's disk is full: `docker system df` shows what it keeps",
        Cause::Hash => "a mirror served another file than the pinned one: try another mirror",
        Cause::NeedsBuildkit => "the Dockerfile needs BuildKit: set DOCKER_BUILDKIT=1",
        Cause::NoBuilder => {
            "this engine lacks the builder: set DOCKER_BUILDKIT=1 for BuildKit, or 0 for the classic builder"
        }
        Cause::Step => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_build_is_one_message_with_its_step_its_lines_and_a_way_out() {
        let error = ImageError::Build {
            image: "evenkeel/torch:0123456789ab".into(),
            step: Some(Step { number: 4, of: 9, command: "RUN pip install".into() }),
            message: "it returned a non-zero code: 1".into(),
            lines: vec!["ERROR: Could not fetch URL".into()],
            cause: Cause::Network,
            ours: true,
        };
        let failure = Failure::from(error);
        assert_eq!(failure.code(), ExitCode::MachineNotReady);
        let text = failure.render();
        assert!(
            text.starts_with(
                "error: failed to build the image `evenkeel/torch:0123456789ab` at step 4/9, `RUN pip install`: \
             it returned a non-zero code: 1\n    ERROR: Could not fetch URL\nhint: a package source"
            ),
            "{text}"
        );
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(gibibytes(7 << 30), "7.0 GiB");
        assert_eq!(gibibytes((5 << 30) + (1 << 29)), "5.5 GiB");
        assert_eq!(gibibytes(40 << 20), "40 MiB");
    }
}
