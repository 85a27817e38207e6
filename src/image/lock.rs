//! One build of an image at a time, among all processes of this user.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::ImageError;

/// A lock that is held until it is dropped, or its process ends however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a name; calls `waiting` once when another process holds it.
///
/// # Errors
/// If the folder or the file cannot be made.
pub async fn lock(folder: &Path, name: &str, waiting: impl FnOnce()) -> Result<Lock, ImageError> {
    const PAUSE: Duration = Duration::from_millis(200);
    let fail = |what| move |source| ImageError::File { what, path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(fail("create the folder"))?;
    let file = File::create(folder.join(format!("{name}.lock"))).map_err(fail("create a lock in"))?;
    let mut waiting = Some(waiting);
    // Asked again and again rather than waited for: a thread that waits could not be taken back.
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(fail("lock a file in")(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = lock(folder.path(), "base", || panic!("nobody holds it")).await.expect("free");
        let other = lock(folder.path(), "worker", || panic!("nobody holds it")).await;
        assert!(other.is_ok(), "another name is another lock");
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let mut second = Box::pin(lock(folder.path(), "base", move || told.send(()).expect("heard")));
        tokio::select! {
            _ = &mut second => panic!("two hold it"),
            heard = hears.recv() => assert_eq!(heard, Some(())),
        }
        drop(first);
        second.await.expect("free again");
    }
}
