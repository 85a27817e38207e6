//! Writing `journal.jsonl`: intents before actions, facts after, one JSON object a line. Space for what is to come is reserved, where the file
//! system can do that: a disk that fills up takes a run's last words all the same.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock};
use serde_json::{Value, json};

use super::find::JOURNAL;
use super::{RecordError, RunDir};

/// Readers hold the lock for a moment each; who still finds it held after this long has met a controller.
const READERS: Duration = Duration::from_millis(100);
/// How long to wait before asking for the lock again.
const AGAIN: Duration = Duration::from_millis(5);

/// Bytes reserved behind the end of the file: the last entries of a run, with room to spare.
const RESERVE: u64 = 64 << 10;

/// The journal of a run, held for as long as this value lives: how others know that its controller does.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    seq: u64,
    /// Bytes of its entries, and the end of the space that is reserved for more.
    length: u64,
    reserved: u64,
    #[cfg(debug_assertions)]
    end: failpoint::End,
}

/// The journal of a run that is there cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its controller lives.
    #[error("a controller works on `{}`", path.display())]
    Held {
        /// The run's directory.
        path: PathBuf,
    },
    /// The system's trouble.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Journal {
    /// Begins the journal of a run.
    pub fn create(run: &RunDir) -> Result<Self, RecordError> {
        let path = run.path().join(JOURNAL);
        let opened = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = opened.map_err(|source| RecordError { path: path.clone(), source })?;
        // A file system without locks keeps no run from going.
        let _ = flock(&file, FlockOperation::LockExclusive);
        Ok(Self::of(file, path, 0, 0))
    }

    /// Goes on with the journal of a run that has lost its controller, or has ended.
    ///
    /// # Errors
    ///
    /// Another controller holds it, or it cannot be written.
    pub fn open(run: &RunDir) -> Result<Self, OpenError> {
        let path = run.path().join(JOURNAL);
        let failed = |source| RecordError { path: path.clone(), source };
        let mut file = OpenOptions::new().read(true).append(true).open(&path).map_err(failed)?;
        let begin = std::time::Instant::now();
        while flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            if begin.elapsed() > READERS {
                return Err(OpenError::Held { path: run.path().to_owned() });
            }
            std::thread::sleep(AGAIN);
        }
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(failed)?;
        // What was being written when its writer died is no entry: what it was to announce has not been done.
        let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(failed)?;
        }
        let entries = memchr::memchr_iter(b'\n', &bytes[..whole]).count();
        Ok(Self::of(file, path, entries as u64, whole as u64))
    }

    fn of(file: File, path: PathBuf, seq: u64, length: u64) -> Self {
        let mut journal = Self {
            file,
            path,
            seq,
            length,
            reserved: length,
            #[cfg(debug_assertions)]
            end: failpoint::End::from_environment(),
        };
        journal.reserve();
        journal
    }

    /// Reserves space, unless there is enough of it. Where that fails, entries are written as far as the disk takes them.
    fn reserve(&mut self) {
        if self.reserved < self.length + RESERVE / 2
            && fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.length, RESERVE).is_ok()
        {
            self.reserved = self.length + RESERVE;
        }
    }

    /// Appends an entry. It is in the kernel's hands when this returns: a killed controller loses none.
    pub fn append(&mut self, entry: &str, detail: Value) -> Result<(), RecordError> {
        #[cfg(debug_assertions)]
        self.end.before(self.seq);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        let value = json!({ "v": 1, "seq": self.seq, "time_ms": time, "entry": entry, "detail": detail });
        // One write for the whole line, so that a reader never sees half of one.
        let line = format!("{value}\n");
        self.file.write_all(line.as_bytes()).map_err(|source| {
            // A full disk may have taken a part of it.
            let _ = self.file.set_len(self.length);
            RecordError { path: self.path.clone(), source }
        })?;
        self.length += line.len() as u64;
        self.reserve();
        self.seq += 1;
        #[cfg(debug_assertions)]
        self.end.after(self.seq - 1);
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // What is reserved goes back.
        let _ = self.file.set_len(self.length);
    }
}

/// The process that holds the lock of a run's journal, as far as the system tells: one of another PID namespace or machine is not named. The
/// journal need not be readable, only its place.
#[must_use]
pub fn holder(run: &Path) -> Option<u32> {
    use std::os::fd::AsRawFd;
    let journal = rustix::fs::open(run.join(JOURNAL), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let inode = rustix::fs::fstat(&journal).ok()?.st_ino;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    // Locks are listed by their file system's device, which a file's own need not be (btrfs). Its mount knows it.
    let info = read(&format!("/proc/self/fdinfo/{}", journal.as_raw_fd()))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let (locks, mounts) = (read("/proc/locks")?, read("/proc/self/mountinfo")?);
    locked_by(&locks, device_of(&mounts, mount)?, inode)
}

/// Major and minor number of a mount's file system: `36 35 98:0 / /mnt rw ...`.
fn device_of(mounts: &str, mount: &str) -> Option<(u32, u32)> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Who holds the exclusive lock of a file: `1: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF`, device in hexadecimal. Whose number cannot be told
/// here has 0 or less.
fn locked_by(locks: &str, (major, minor): (u32, u32), inode: u64) -> Option<u32> {
    let name = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it =
            words.get(1) == Some(&"FLOCK") && words.get(3) == Some(&"WRITE") && words.get(5) == Some(&name.as_str());
        is_it.then(|| words.get(4)?.parse().ok().filter(|pid| *pid > 0))?
    })
}

/// Ends this process at a chosen entry, as a crash would: for tests, and only in builds for them. `EVENKEEL_DIE_AT=7` ends it when entry 7 has
/// been written, before anything that follows; `EVENKEEL_DIE_AT=-7` when what entry 7 tells of has happened, before it is written.
#[cfg(debug_assertions)]
mod failpoint {
    #[derive(Debug)]
    pub struct End {
        before: Option<u64>,
        after: Option<u64>,
    }

    impl End {
        pub fn from_environment() -> Self {
            let at = std::env::var("EVENKEEL_DIE_AT").ok();
            let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
            Self {
                before: number(at.as_deref().and_then(|at| at.strip_prefix('-'))),
                after: number(at.as_deref().filter(|at| !at.starts_with('-'))),
            }
        }

        pub fn before(&self, seq: u64) {
            die_if(self.before == Some(seq));
        }

        pub fn after(&self, seq: u64) {
            die_if(self.after == Some(seq));
        }
    }

    fn die_if(now: bool) {
        if now {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> (tempfile::TempDir, RunDir) {
        let runs = tempfile::tempdir().expect("a temporary folder");
        let run = RunDir::create(runs.path(), "shapes", UNIX_EPOCH).expect("created");
        (runs, run)
    }

    #[test]
    fn a_lock_is_found_by_its_file_systems_device() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 22 0:37 /home /home rw - btrfs /dev/sdb rw\n";
        assert_eq!((device_of(mounts, "36"), device_of(mounts, "3")), (Some((0, 37)), None));
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:25:131 0 EOF\n2: FLOCK  ADVISORY  READ 12 00:25:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 00:25:131 0 EOF\n3: FLOCK  ADVISORY  WRITE 14 00:25:131 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 00:25:132 0 EOF\n";
        assert_eq!([131, 132, 133].map(|inode| locked_by(locks, (0, 37), inode)), [Some(14), None, None]);
    }

    #[test]
    fn a_journal_is_gone_on_with_where_its_writer_died() {
        let (_runs, run) = run();
        let mut journal = Journal::create(&run).expect("begun");
        journal.append("run", json!(null)).expect("written");
        assert!(matches!(Journal::open(&run), Err(OpenError::Held { .. })), "its writer lives");
        assert_eq!(holder(run.path()), Some(std::process::id()));
        drop(journal);
        assert_eq!(holder(run.path()), None);
        let mut torn = OpenOptions::new().append(true).open(run.path().join(JOURNAL)).expect("there");
        torn.write_all(b"{\"v\":1,\"se").expect("written");
        let mut journal = Journal::open(&run).expect("free");
        journal.append("attach", json!(null)).expect("written");
        let text = std::fs::read_to_string(run.path().join(JOURNAL)).expect("text");
        let seqs: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("whole")["seq"].as_u64().expect("a number"))
            .collect();
        assert_eq!(seqs, [0, 1]);
    }
}
