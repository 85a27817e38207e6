//! Signals of the operating system, as events.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow};
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
    ///
    /// A handler is in place a moment before it knows what to do, and what came then would be lost, a Ctrl-C among them. So signals wait until all
    /// four are taken.
    pub fn take() -> io::Result<Self> {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let taken = Self::take_now();
        before.thread_set_mask()?;
        taken
    }

    fn take_now() -> io::Result<Self> {
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
