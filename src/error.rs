//! How a failure reaches the person: what happened, why, what to do next, and the exit code.

use std::fmt::Write as _;

/// What ends the process, for whoever called it. The codes are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// A container of the run failed.
    TrainingFailed = 1,
    /// The job or the command line is wrong.
    BadRequest = 2,
    /// Docker, a GPU, the driver or the disk is not ready.
    MachineNotReady = 3,
    /// Out of memory after every step-down.
    OutOfMemory = 4,
    /// State on disk is lost or corrupt.
    CorruptState = 5,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl ExitCode {
    /// The one that a process of this program ended with.
    #[must_use]
    pub fn of(code: i32) -> Option<Self> {
        let all = [
            Self::Done,
            Self::TrainingFailed,
            Self::BadRequest,
            Self::MachineNotReady,
            Self::OutOfMemory,
            Self::CorruptState,
            Self::Interrupted,
            Self::Terminated,
        ];
        all.into_iter().find(|known| *known as i32 == code)
    }
}

/// An error that a module has classified: it knows its exit code and, where there is one, the way out.
///
/// Modules have error types of their own; each converts into this one at the edge of a command.
#[derive(Debug)]
pub struct Failure {
    code: ExitCode,
    source: Box<dyn std::error::Error + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    /// Wraps a module's error.
    pub fn new(code: ExitCode, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { code, source: source.into(), hint: None }
    }

    /// The job or the command line is wrong.
    pub fn bad(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ExitCode::BadRequest, source)
    }

    /// Adds what the person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        self.code
    }

    /// What the person can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The error and its causes, as one line.
    #[must_use]
    pub fn message(&self) -> String {
        chain(&*self.source)
    }

    /// The message as a person reads it: the error, its causes, the hint.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("error: {}", self.source);
        for cause in causes(&*self.source) {
            let _ = write!(text, "\n  because: {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "version": 1, "exit_code": self.code as u8, "error": chain(&*self.source), "hint": self.hint,
        })
    }
}

/// An error and its causes in one line, for what is told beside an outcome.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).into_iter().fold(error.to_string(), |text, cause| text + ": " + &cause)
}

/// The messages of an error's causes. Some libraries repeat the cause in their own message; saying it once is enough.
fn causes(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut causes = Vec::new();
    let mut last = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !last.contains(&message) {
            causes.push(message.clone());
        }
        last = message;
        cause = error.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read job `a.yaml`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_and_the_hint_are_told() {
        let failure =
            Failure::new(ExitCode::BadRequest, Outer(std::io::Error::other("no such file"))).hint("write one");
        assert_eq!(failure.render(), "error: failed to read job `a.yaml`\n  because: no such file\nhint: write one");
    }
}
