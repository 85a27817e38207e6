//! Whether somebody still works on a run, told by locks that the kernel frees when their holder dies. No engine is asked, and a copy of a
//! record is never alive.

use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::find::JOURNAL;
use super::regular;

/// Whether a controller holds the journal.
#[must_use]
pub fn has_controller(run: &Path) -> bool {
    controller(run) == Some(true)
}

/// The same, or nothing where the journal cannot be looked into from here: it is somebody else's, on another machine, or gone.
#[must_use]
pub fn controller(run: &Path) -> Option<bool> {
    is_held(&run.join(JOURNAL))
}

/// Whether the agent of any rank lives, in a container of this machine.
#[must_use]
pub fn has_agents(run: &Path) -> bool {
    let files = std::fs::read_dir(run.join("control")).into_iter().flatten().flatten();
    files
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "alive"))
        .any(|path| is_held(&path) == Some(true))
}

/// Whether a controller or an agent works on the run.
#[must_use]
pub fn is_live(run: &Path) -> bool {
    has_controller(run) || has_agents(run)
}

/// Whether somebody holds a file's lock; nothing where it cannot be opened.
fn is_held(path: &Path) -> Option<bool> {
    let file = regular::open(path).ok()?;
    // Taken for a moment where it is free; closing the file gives it back.
    Some(flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_run_lives_as_long_as_its_locks() {
        let run = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(run.path().join("control")).expect("a folder");
        assert!(!is_live(run.path()));
        let hold = |name: &str| {
            let file = File::create(run.path().join(name)).expect("a file");
            flock(&file, FlockOperation::NonBlockingLockExclusive).expect("free");
            file
        };
        let journal = hold(JOURNAL);
        assert!(has_controller(run.path()) && is_live(run.path()) && !has_agents(run.path()));
        drop(journal);
        assert!(!is_live(run.path()));
        let agent = hold("control/rank-1.g2.alive");
        assert!(!has_controller(run.path()) && is_live(run.path()));
        drop(agent);
        // A trainer made it: whoever opened it would wait for somebody who writes.
        let pipe = run.path().join("control/rank-2.g2.alive");
        rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::RWXU).expect("a pipe");
        assert!(!is_live(run.path()));
    }
}
