//! Signals of the operating system, as events.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::event::Signal;

/// Signals for the controller from now on; the default actions (to die) no longer apply.
#[derive(Debug)]
pub struct Signals {
    interrupt: Stream,
    terminate: Stream,
    quit: Stream,
    hangup: Stream,
}

impl Signals {
    /// Takes over SIGINT, SIGTERM, SIGQUIT and SIGHUP. Needs a tokio runtime.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.quit.recv() => Signal::Quit,
            _ = self.hangup.recv() => Signal::Hangup,
        }
    }
}
