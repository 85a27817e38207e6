//! The way to the agent: events, one JSON object a line, on an inherited descriptor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use evenkeel_wire::Event;

/// Writes events, or swallows them where nobody listens.
#[derive(Debug)]
pub struct Events {
    sink: Mutex<Option<File>>,
}

impl Events {
    /// Events go to the inherited descriptor `fd`; with `None`, nowhere.
    ///
    /// # Errors
    ///
    /// The descriptor is not open.
    pub fn new(fd: Option<RawFd>) -> io::Result<Self> {
        let Some(fd) = fd else { return Ok(Self { sink: Mutex::new(None) }) };
        // SAFETY: setting a flag on a number; a number that is no descriptor gives an error.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open (checked above) and ours alone: our parent names it to us for this use, it is
        // none of the standard three, and this is called once, before anything else opens descriptors.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { sink: Mutex::new(Some(file)) })
    }

    /// Writes one event as one line. A rank whose listener has gone works on: the listener's end ends it anyway.
    pub fn emit(&self, event: &Event) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = sink.as_mut() else { return };
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        if let Err(error) = file.write_all(&line) {
            eprintln!("warning: failed to write an event, no more will be: {error}");
            *sink = None;
        }
    }
}
