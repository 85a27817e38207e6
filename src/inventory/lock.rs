//! One lock a GPU, so that two runs do not take the same card between looking and using it.
//!
//! A lock is a file named by the card's UUID, locked with `flock` for as long as the controller lives: the kernel frees
//! it, however the controller ends. Every user of the machine can lock it and read who holds it. CPU devices have none:
//! runs may share processors.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{DeviceId, Gpu, Inventory, Mig};
use crate::error::{ExitCode, Failure};

/// Open to every user on Debian and its kin, and never cleaned of old files while the machine runs.
const SHARED_PARENT: &str = "/run/lock";

/// What a lock file says of its holder at most.
const MOST_BYTES: u64 = 4096;

/// How often a lock is tried again, and how long after.
const PATIENCE: u32 = 40;
const PAUSE: Duration = Duration::from_millis(5);

/// Who holds a lock. The default, with pid 0, is somebody who cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process of the controller.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// That user's name, where it has one.
    pub user: Option<String>,
    /// The run, as `name/id`.
    pub run: String,
    /// When it was taken, in seconds since 1970.
    pub since: u64,
}

impl Holder {
    /// What who wants the device can do.
    #[must_use]
    pub fn way_out(&self) -> String {
        let end = match self.pid {
            0 => String::new(),
            pid => format!(", or end it with `kill -INT {pid}`"),
        };
        format!("wait for that run{end}; `device=auto` takes every free card, and `evenkeel devices` lists them")
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another run");
        }
        // The text was written by whoever held the lock: it must not steer the terminal of who reads it.
        let plain = |text: &str| text.chars().filter(|letter| !letter.is_control()).take(100).collect::<String>();
        let user = self.user.as_deref().map_or_else(|| format!("uid {}", self.uid), plain);
        write!(f, "run `{}` of {user} (pid {})", plain(&self.run), self.pid)
    }
}

/// Why a device could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another run has it.
    #[error("device `{device}` is held by {by}")]
    Held {
        /// The device.
        device: DeviceId,
        /// Who has it.
        by: Holder,
    },
    /// The folder of locks cannot be used.
    #[error("failed to use the folder of device locks `{}`", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A lock file cannot be used.
    #[error("failed to lock device `{device}` with `{}`", path.display())]
    File {
        /// The device.
        device: DeviceId,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let hint = match &error {
            LockError::Held { by, .. } => by.way_out(),
            LockError::Directory { .. } | LockError::File { .. } => {
                "the folder must be one that every user may write to (mode 1777); `EVENKEEL_LOCKS` names another"
                    .to_owned()
            }
        };
        Failure::new(ExitCode::MachineNotReady, error).hint(hint)
    }
}

/// Locks that are held until this is dropped or the process ends.
#[derive(Debug)]
#[must_use = "dropping the locks gives the devices back"]
pub struct DeviceLocks {
    #[expect(dead_code, reason = "open files are locks")]
    files: Vec<File>,
}

impl DeviceLocks {
    /// Locks every GPU among `devices`, or none: what was taken is given back when another is held.
    ///
    /// # Errors
    ///
    /// A device is held by another run, or the folder or a file in it cannot be used.
    pub fn acquire(directory: &Path, devices: &[DeviceId], holder: &Holder) -> Result<Self, LockError> {
        let mut gpus: Vec<(&DeviceId, &str)> =
            devices.iter().filter_map(|device| Some((device, device.uuid()?))).collect();
        // Two runs that want the same cards in another order must not each get one of them.
        gpus.sort_by_key(|(_, uuid)| *uuid);
        gpus.dedup_by_key(|(_, uuid)| *uuid);
        let mut files = Vec::new();
        if !gpus.is_empty() {
            let opened = open_directory(directory);
            files.push(opened.map_err(|source| LockError::Directory { path: directory.to_owned(), source })?);
        }
        for (device, uuid) in gpus {
            let path = lock_path(directory, uuid);
            let failed = |source| LockError::File { device: device.clone(), path: path.clone(), source };
            let file = match lock(&path).map_err(|error| failed(error.into()))? {
                Ok(file) => file,
                Err(by) => return Err(LockError::Held { device: device.clone(), by }),
            };
            sign(&file, holder).map_err(failed)?;
            files.push(file);
        }
        Ok(Self { files })
    }
}

/// Who holds the lock of the device `uuid` now; locks nothing for longer than the look.
///
/// None: nobody does, or the folder cannot be read, which a run that wants the device will be told.
#[must_use]
pub fn held_by(directory: &Path, uuid: &str) -> Option<Holder> {
    let file = open(&lock_path(directory, uuid), OFlags::RDONLY).ok()?;
    // A shared lock is refused exactly when somebody holds the exclusive one, and does not keep other lookers out.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Some(read_holder(&file)),
        _ => None,
    }
}

/// Writes into every GPU and instance of `inventory` who holds its lock.
pub fn mark(inventory: &mut Inventory, directory: &Path) {
    fn each(gpu: &mut Gpu, directory: &Path) {
        gpu.held_by = gpu.uuid.as_deref().and_then(|uuid| held_by(directory, uuid));
        if let Some(Mig::Enabled { instances }) = &mut gpu.mig {
            instances.iter_mut().for_each(|instance| each(instance, directory));
        }
    }
    inventory.gpus.iter_mut().for_each(|gpu| each(gpu, directory));
}

/// The folder of this machine's locks.
///
/// It depends on the machine alone: a user who cannot write where another can would lock past it.
#[must_use]
pub fn default_directory() -> PathBuf {
    let shared = rustix::fs::stat(SHARED_PARENT).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH)
    });
    match shared {
        true => Path::new(SHARED_PARENT).join("evenkeel"),
        false => PathBuf::from("/tmp/evenkeel-locks"),
    }
}

fn lock_path(directory: &Path, uuid: &str) -> PathBuf {
    // A UUID may come from a file that somebody wrote; older drivers put slashes into those of MIG instances.
    let name: String = uuid.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    directory.join(format!("{name}.lock"))
}

/// Makes the folder of locks for every user, and keeps the cleaners of old files out of it.
fn open_directory(path: &Path) -> std::io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let made = match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    if made {
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o1777))?;
    }
    // systemd-tmpfiles leaves a folder alone while somebody holds a lock on it. Without one nothing breaks before its
    // ten days are over, so a refusal does not matter.
    let _ = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared);
    Ok(directory.into())
}

/// Opens a lock file and makes sure that it is one, not a link to something of value.
fn open(path: &Path, access: OFlags) -> Result<File, Errno> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
        return Err(Errno::LOOP);
    }
    Ok(file.into())
}

/// Opens a lock file for writing; makes it when it is not there.
fn open_or_create(path: &Path) -> Result<File, Errno> {
    loop {
        // First without `O_CREAT`: in a sticky folder the kernel refuses that flag, even to root, on the file of another
        // user (`fs.protected_regular`).
        match open(path, OFlags::RDWR) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        // It gets its name only once everybody may open it; an open in between would be refused.
        let draft = path.with_extension(format!("{}.new", rustix::process::getpid().as_raw_pid()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = match rustix::fs::open(&draft, flags, Mode::RUSR | Mode::WUSR) {
            Ok(made) => made,
            Err(Errno::EXIST) => {
                // Left behind by a process of the same number that is no more.
                rustix::fs::unlink(&draft)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o666))?;
        match rustix::fs::renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(made.into()),
            // Another run was quicker: its file is the lock.
            Err(Errno::EXIST) => rustix::fs::unlink(&draft)?,
            Err(error) => {
                let _ = rustix::fs::unlink(&draft);
                return Err(error);
            }
        }
    }
}

/// Locks the file at `path`, or says who has it, as far as that can be read.
fn lock(path: &Path) -> Result<Result<File, Holder>, Errno> {
    let mut patience = PATIENCE;
    loop {
        let file = open_or_create(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if names(path, &file)? => return Ok(Ok(file)),
            // The file was removed between opening and locking it: the lock of a file without a name keeps nobody out.
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if patience == 0 => return Ok(Err(read_holder(&file))),
            Err(Errno::WOULDBLOCK) => {
                // `held_by` takes the lock for an instant; a run keeps it.
                patience -= 1;
                std::thread::sleep(PAUSE);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn names(path: &Path, file: &File) -> Result<bool, Errno> {
    let opened = rustix::fs::fstat(file)?;
    match rustix::fs::lstat(path) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn sign(file: &File, holder: &Holder) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(holder)?;
    text.push(b'\n');
    file.set_len(0)?;
    file.write_all_at(&text, 0)
}

/// What the holder wrote; who has locked and not yet written is [`Holder::default`].
fn read_holder(file: &File) -> Holder {
    let mut text = Vec::new();
    let read = file.take(MOST_BYTES).read_to_end(&mut text);
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}
