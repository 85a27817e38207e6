//! A thread that waits for one send or receive of gloo's.
//!
//! gloo cancels a message whose work is dropped, closes the whole group when a wait for one times out, and cannot be asked
//! whether one has ended. With a thread that waits to the end, a send or receive is like any other operation: it goes on
//! when nobody holds its [`Work`](crate::Work), it can be looked at, and waiting for it in vain harms nothing.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::work::RawWork;

/// The outcome to come, for everybody who wants it.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    doing: &'static str,
}

#[derive(Debug, Default)]
struct Shared {
    outcome: Mutex<Option<Result<()>>>,
    ended: Condvar,
}

impl Waiter {
    /// Starts to wait for `work`. The handle is for whoever must not end before it.
    pub(crate) fn start(work: RawWork, doing: &'static str) -> Result<(Self, JoinHandle<()>)> {
        let waiter = Self { shared: Arc::default(), doing };
        let shared = waiter.shared.clone();
        let handle = thread::Builder::new()
            .name("tchd-p2p".into())
            .spawn(move || {
                let outcome = work.wait(0, doing);
                // What the message was in is free before anybody hears that it has ended.
                drop(work);
                *shared.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                shared.ended.notify_all();
            })
            .map_err(|error| Error::Other(format!("{doing}: failed to start a thread: {error}")))?;
        Ok((waiter, handle))
    }

    /// The outcome; waits for at most `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let outcome = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let running = |outcome: &mut Option<Result<()>>| outcome.is_none();
        let outcome = match timeout {
            None => self.shared.ended.wait_while(outcome, running).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = self.shared.ended.wait_timeout_while(outcome, timeout, running);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let early = || Err(Error::Timeout(format!("{}: it still runs after {timeout:?}", self.doing)));
        outcome.clone().unwrap_or_else(early)
    }

    /// The outcome, if it is there.
    pub(crate) fn outcome(&self) -> Option<Result<()>> {
        self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
