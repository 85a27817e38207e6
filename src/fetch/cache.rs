//! The folder of fetched files: names, locks, and hashes that are computed once.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{FetchError, io_error};
use crate::dataset::hex;

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// Takes the lock of `name` in `dir`, for as long as the file that is returned lives. `waiting` is called while another
/// process has it.
pub async fn lock(dir: &Path, name: &str, waiting: impl Fn()) -> Result<File, FetchError> {
    fs::create_dir_all(dir).map_err(io_error("create folder", dir))?;
    let path = dir.join(format!(".{name}.lock"));
    let file = File::options().create(true).append(true).open(&path).map_err(io_error("open lock", &path))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => waiting(),
            Err(error) => return Err(io_error("lock", &path)(error.into())),
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

/// What is known about a file that was checked, beside it as `.NAME.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    sha256: String,
    bytes: u64,
    /// Nanoseconds since 1970: a file that changed is hashed again.
    modified: u128,
}

/// Checks a file that is in the cache, and remembers its hash: without a pinned hash, the first one counts from then on.
pub fn verify(path: &Path, pinned: Option<&str>) -> Result<(), FetchError> {
    let about = fs::metadata(path).map_err(io_error("read", path))?;
    let modified =
        about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |t| t.as_nanos());
    let seal: Option<Seal> = fs::read(seal_path(path)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let known = seal.as_ref().filter(|seal| seal.bytes == about.len() && seal.modified == modified);
    let found = match known {
        Some(seal) => seal.sha256.clone(),
        None => hash(path).map_err(io_error("read", path))?,
    };
    let recorded = seal.as_ref().map(|seal| seal.sha256.as_str());
    if let Some(expected) = pinned.or(recorded).filter(|expected| *expected != found) {
        return Err(FetchError::Changed { path: path.to_owned(), found, expected: expected.to_owned() });
    }
    if known.is_none() {
        write_seal(path, &Seal { sha256: found, bytes: about.len(), modified })?;
    }
    Ok(())
}

fn write_seal(path: &Path, seal: &Seal) -> Result<(), FetchError> {
    let place = seal_path(path);
    let text = serde_json::to_vec(seal).expect("numbers and text become JSON");
    replace(&place, &text).map_err(io_error("write", &place))
}

fn seal_path(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.json", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Writes a small file so that a reader finds the old or the new one, whole.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_file_name(format!(
        "{}.{}.tmp",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}

/// The sha256 of a file, in hexadecimal.
pub fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&sum.finalize())),
            count => sum.update(&buffer[..count]),
        }
    }
}

/// Refuses what will not fit. A file system that does not say how much is free is believed to have room.
pub fn check_room(dir: &Path, needed: u64) -> Result<(), FetchError> {
    match statvfs(dir) {
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            if free < needed { Err(FetchError::NoRoom { path: dir.to_owned(), needed, free }) } else { Ok(()) }
        }
        Err(_) => Ok(()),
    }
}
