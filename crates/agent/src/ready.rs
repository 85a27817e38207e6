//! Waiting for descriptors.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Blocks until one of the descriptors that are given can be read, or has been closed at its other end, and says which.
/// None is ready after the timeout, and sometimes before it: callers look again.
pub fn wait<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], timeout: Option<Duration>) -> [bool; N] {
    let mut polled: Vec<_> = fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    // A timeout that fits no `Timespec` is longer than any run.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    // An error is an interruption, or a kernel short of memory.
    if poll(&mut polled, timeout.as_ref()).is_err() {
        return [false; N];
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    fds.map(|fd| fd.is_some() && ready.next().unwrap_or(false))
}
