//! The end of a preflight that hangs where libtorch knows no deadline, as in a read from a store whose host stands still.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use evenkeel_wire::FailureClass;

use crate::events::Events;

/// Ends the process some time after every deadline of its own must have passed.
pub struct Watchdog {
    phase: Arc<Mutex<&'static str>>,
}

impl Watchdog {
    /// Starts to count. `deadlines` is the sum of all deadlines of its own; the limit is that and a little.
    pub fn start(deadlines: Duration, events: Arc<Events>) -> Self {
        let phase = Arc::new(Mutex::new("starting"));
        let limit = deadlines + Duration::from_secs(5);
        let seen = phase.clone();
        thread::spawn(move || {
            thread::sleep(limit);
            let phase = *seen.lock().unwrap_or_else(PoisonError::into_inner);
            let message = format!("stuck while {phase} for {} s", limit.as_secs());
            super::fail(&events, FailureClass::Collective, &message);
            // SAFETY: ends the process at once. `std::process::exit` would run libtorch's destructors beside the thread
            // that hangs inside libtorch.
            unsafe { libc::_exit(1) }
        });
        Self { phase }
    }

    /// Notes what the preflight is about to do.
    pub fn enter(&self, phase: &'static str) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}
