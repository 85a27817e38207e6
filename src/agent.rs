//! The agent's program: carried inside the controller, laid down in the cache where containers can be given it.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
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
    // It is named by its content and renamed into place whole: the length tells a sound one.
    if std::fs::metadata(&path).is_ok_and(|found| found.len() == PROGRAM.len() as u64) {
        return Ok(path);
    }
    write(&path).map_err(|source| AgentError { path: path.clone(), source })?;
    Ok(path)
}

fn write(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let part = folder.join(format!(".agent-{}.part", std::process::id()));
    let mut file = std::fs::File::create(&part)?;
    file.write_all(PROGRAM)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    drop(file);
    std::fs::rename(part, path)
}
