//! The lock that says an agent lives: taken before its name appears, freed by the kernel however the agent dies.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use evenkeel_wire::path;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::go::Watch;

/// Takes the lock of `rank`. It lives as long as the returned descriptor, which no program inherits.
///
/// # Errors
/// When the folder cannot be written or the file system knows no locks.
pub fn hold(control: &Path, generation: u32, rank: u32) -> io::Result<OwnedFd> {
    let name = path::alive(generation, rank);
    let hidden = control.join(format!(".{name}.{}", rustix::process::getpid().as_raw_pid()));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TRUNC;
    // Readable by everyone: the controller may run as another user than a container with a user of its own.
    let file = open(&hidden, flags, Mode::from_raw_mode(0o644))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    fs::rename(&hidden, control.join(name))?;
    Ok(file)
}

/// Blocks until the agent of `rank` has lived and ended. An agent that has not come yet is waited for.
///
/// # Errors
/// When the lock cannot be asked for.
pub fn wait_for_end(control: &Path, generation: u32, rank: u32) -> io::Result<()> {
    let file: PathBuf = control.join(path::alive(generation, rank));
    let watch = Watch::new(control);
    let file = loop {
        match open(&file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => watch.wait(None),
            result => break result?,
        }
    };
    loop {
        match flock(&file, FlockOperation::LockShared) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
