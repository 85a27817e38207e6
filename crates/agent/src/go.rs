//! Waiting for a file to appear in the folder in which controller and agents meet.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;

use crate::ready;

/// How long to trust a notification before looking anyway: file systems shared with a virtual machine or over a network
/// do not always tell.
const TRUST: Duration = Duration::from_secs(1);
/// How often to look where the kernel gives no watch (the number of watches of a user is limited).
const WITHOUT_WATCH: Duration = Duration::from_millis(20);

/// A watch on a folder, armed before the caller looks into it.
#[derive(Debug)]
pub struct Watch(Option<OwnedFd>);

impl Watch {
    /// Arms the watch.
    pub fn new(folder: &Path) -> Self {
        let arm = || -> rustix::io::Result<OwnedFd> {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
            Ok(fd)
        };
        Self(arm().ok())
    }

    /// Returns when something may have appeared, or the other descriptor is readable.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>) {
        let timeout = if self.0.is_some() { TRUST } else { WITHOUT_WATCH };
        ready::wait([self.0.as_ref().map(AsFd::as_fd), other], Some(timeout));
        // What appeared does not matter: the caller looks for itself.
        if let Some(fd) = &self.0 {
            while rustix::io::read(fd, &mut [0; 4096]).is_ok_and(|read| read > 0) {}
        }
    }
}
