//! What every container is given: the agent's program, carried inside the controller, and the names of a pod without a network. Both are
//! laid down in the cache, from where they are bound.

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::launch::HOST_NAME;

/// The static program that build.rs compiled.
static PROGRAM: &[u8] = include_bytes!(env!("EVENKEEL_AGENT"));

/// Something could not be laid down.
#[derive(Debug, thiserror::Error)]
#[error("failed to write what containers are given to `{}`", path.display())]
pub struct AgentError {
    /// Where it was to be.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Files of this machine that containers are given.
#[derive(Debug)]
pub struct Files {
    /// The agent's program.
    pub program: PathBuf,
    /// `/etc/hosts` of a pod without a network.
    pub hosts: PathBuf,
}

/// The files in the cache, written there first if need be.
pub fn files(cache: &Path) -> Result<Files, AgentError> {
    let file = |name: &str, content: &[u8], mode: u32| {
        let hash: String = Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let path = cache.join(format!("{name}-{hash}"));
        match lay_down(cache, &path, content, mode) {
            Ok(()) => Ok(path),
            Err(source) => Err(AgentError { path, source }),
        }
    };
    // Programs find themselves by `localhost` and by their own host name.
    let hosts = format!("127.0.0.1\tlocalhost {HOST_NAME}\n");
    Ok(Files { program: file("agent", PROGRAM, 0o755)?, hosts: file("hosts", hosts.as_bytes(), 0o644)? })
}

fn lay_down(folder: &Path, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if foreign(folder)? {
        let message = "somebody else made its folder where anybody can, and could replace the program";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    // Compared whole, which takes a millisecond: a name and a length say little of a file on a disk that failed.
    if std::fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut file = std::fs::File::create(&part)?;
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
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
