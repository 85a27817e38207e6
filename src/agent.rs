//! The agent's program: carried inside the controller, laid down in the cache where containers can be given it.

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The static program that build.rs compiled.
static PROGRAM: &[u8] = include_bytes!(env!("EVENKEEL_AGENT"));

/// The agent could not be laid down.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the agent to `{}`", path.display())]
pub struct AgentError {
    /// Where it was to be.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Path of the agent's program on this machine, written there first if need be.
pub fn path(cache: &Path) -> Result<PathBuf, AgentError> {
    let hash: String = Sha256::digest(PROGRAM).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = cache.join(format!("agent-{hash}"));
    lay_down(cache, &path).map_err(|source| AgentError { path: path.clone(), source })?;
    Ok(path)
}

fn lay_down(folder: &Path, path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if foreign(folder)? {
        let message = "somebody else made its folder where anybody can, and could replace the program";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    // Compared whole, which takes a millisecond: a name and a length say little of a file on a disk that failed.
    if std::fs::read(path).is_ok_and(|found| found == PROGRAM) {
        return Ok(());
    }
    let part = folder.join(format!(".agent-{}.part", std::process::id()));
    let mut file = std::fs::File::create(&part)?;
    file.write_all(PROGRAM)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    drop(file);
    std::fs::rename(part, path)
}

/// Whether a folder lies where anybody can make one (as in /tmp) and was made by another user.
fn foreign(folder: &Path) -> io::Result<bool> {
    const WRITABLE_BY_ALL: u32 = 0o002;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let open = std::fs::metadata(parent)?.permissions().mode() & WRITABLE_BY_ALL != 0;
    Ok(open && std::fs::metadata(folder)?.uid() != rustix::process::getuid().as_raw())
}
