//! How every subcommand begins: the environment, the way to the agent, and a word where one of them makes no sense.

use std::process::ExitCode;
use std::sync::Arc;

use evenkeel_wire::{Event, FailureClass};
use tch_distributed::LogLevel;

use crate::environment::{self, Environment};
use crate::events::Events;

/// The value of a variable of this process.
pub fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The environment and the way to the agent. `who` begins the line that is told where there is none.
///
/// # Errors
///
/// The exit code of a process whose environment makes no sense, which was told.
pub fn begin(who: &str) -> Result<(Environment, Arc<Events>), ExitCode> {
    let environment = Environment::read(lookup).map_err(|error| {
        let events = environment::events_fd(lookup).ok().and_then(|fd| Events::new(fd).ok());
        refuse(who, events.as_ref(), &error.to_string())
    })?;
    let events = Events::new(environment.events_fd)
        .map_err(|error| refuse(who, None, &format!("`EVENKEEL_EVENTS_FD` cannot be written to: {error}")))?;
    if lookup("TORCH_CPP_LOG_LEVEL").is_none() {
        // Every failure is told in one line; libtorch would add a page to it.
        tch_distributed::set_log_level(LogLevel::Fatal);
    }
    Ok((environment, Arc::new(events)))
}

/// Tells that the process was started wrongly, and gives its exit code.
pub fn refuse(who: &str, events: Option<&Events>, message: &str) -> ExitCode {
    eprintln!("{who}: {message}");
    if let Some(events) = events {
        events.emit(&Event::Failure { class: FailureClass::Code, message: message.into(), retry_below: None });
    }
    ExitCode::from(2)
}
