//! The run's directory: what a team keeps of a training. Here it is written; the modules below find and read it.

pub mod find;
pub mod journal;
pub mod live;
pub mod past;
pub mod read;
pub mod regular;
pub mod stamps;
pub mod summary;
pub mod told;
pub mod usage;
mod write;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

pub use write::{Journal, OpenError, holder};

/// A run's directory, `<runs>/<name>/<id>`.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
    id: String,
}

/// What people look for of a trainer's output.
const OUTPUT: [&str; 2] = ["results.csv", "weights"];

/// The record could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the run's record `{}`", path.display())]
pub struct RecordError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl RecordError {
    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl RunDir {
    /// Makes the directory of a new run, with the folders that containers are given. `now` names it.
    pub fn create(runs: &Path, name: &str, now: SystemTime) -> Result<Self, RecordError> {
        let family = runs.join(name);
        make(&family)?;
        let family = family.canonicalize().map_err(|source| RecordError { path: family.clone(), source })?;
        let stamp = timestamp(now);
        // Two runs of one second differ by a number; creating the folder is what reserves the name.
        let mut number = 0_u32;
        let (path, id) = loop {
            let id = if number == 0 { stamp.clone() } else { format!("{stamp}-{number}") };
            let path = family.join(&id);
            match std::fs::create_dir(&path) {
                Ok(()) => break (path, id),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(RecordError { path, source }),
            }
        };
        let run = Self { path, id };
        for folder in [run.logs(), run.events(), run.control(), run.output()] {
            make(&folder)?;
        }
        run.point_latest(&family);
        Ok(run)
    }

    /// The directory of a run that is there, wherever it is, with the folders that containers are given.
    ///
    /// # Errors
    ///
    /// The folder cannot be found, or is not ours to write to.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let found = path.canonicalize().map_err(|source| RecordError { path: path.into(), source })?;
        let id = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let run = Self { path: found, id };
        for folder in [run.logs(), run.events(), run.control(), run.output()] {
            make(&folder)?;
        }
        Ok(run)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Identifier of the run, unique under its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Folder of the ranks' output.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Folder of the ranks' events.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Folder in which controller and agents meet.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// Folder of what the trainer leaves behind.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.path.join("output")
    }

    /// Writes a file of the record, whole or not at all.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, RecordError> {
        let path = self.path.join(name);
        let part = self.path.join(format!(".{name}.part"));
        let written = File::create(&part).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_data()?;
            std::fs::rename(&part, &path)
        });
        written.map(|()| path.clone()).map_err(|source| RecordError { path, source })
    }

    /// Puts what the trainer left behind where the record has it: `results.csv` and `weights` at the top.
    pub fn adopt_output(&self) -> Result<(), RecordError> {
        for name in OUTPUT {
            let (from, to) = (self.output().join(name), self.path.join(name));
            if from.exists() && !to.exists() {
                // A move within one file system, and a link for who looks where the trainer had it.
                let adopted = std::fs::rename(&from, &to)
                    .and_then(|()| std::os::unix::fs::symlink(Path::new("..").join(name), &from));
                adopted.map_err(|source| RecordError { path: to, source })?;
            }
        }
        Ok(())
    }

    /// Puts it back for a trainer that goes on: containers see the output folder and nothing above it. A copy of a record may have lost the
    /// links, or have files in their place.
    pub fn return_output(&self) -> Result<(), RecordError> {
        for name in OUTPUT {
            let (to, from) = (self.output().join(name), self.path.join(name));
            let is_link = to.symlink_metadata().is_ok_and(|found| found.is_symlink());
            let returned = match (from.exists(), to.exists()) {
                (true, _) if is_link => std::fs::remove_file(&to).and_then(|()| std::fs::rename(&from, &to)),
                (true, false) => std::fs::rename(&from, &to),
                // A copy that followed the link has both: the trainer goes on with its own, and nothing is thrown away.
                (true, true) => std::fs::rename(&from, self.path.join(format!("{name}.copy"))),
                (false, _) => Ok(()),
            };
            returned.map_err(|source| RecordError { path: to, source })?;
        }
        Ok(())
    }

    /// `latest` beside the runs, for people who type. A convenience: failing at it fails nothing.
    fn point_latest(&self, family: &Path) {
        let part = family.join(format!(".latest-{}", self.id));
        if std::os::unix::fs::symlink(&self.id, &part).is_ok() && std::fs::rename(&part, family.join("latest")).is_err()
        {
            let _ = std::fs::remove_file(part);
        }
    }
}

fn make(folder: &Path) -> Result<(), RecordError> {
    std::fs::create_dir_all(folder).map_err(|source| RecordError { path: folder.into(), source })
}

/// What a log on disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDigest {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them, in hexadecimal.
    pub sha256: String,
}

/// Bytes of a file; 0 for one that does not exist.
#[must_use]
pub fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// Reads a log through, from its byte `begin` on. One that does not exist is empty.
pub fn log_digest(path: &Path, begin: u64) -> io::Result<LogDigest> {
    let mut hasher = Sha256::new();
    let bytes = match regular::open(path) {
        Ok(mut file) => {
            file.seek(io::SeekFrom::Start(begin))?;
            io::copy(&mut file, &mut hasher)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(LogDigest { bytes, sha256: hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect() })
}

/// The last bytes of a file, at most `count`.
pub fn last_bytes(path: &Path, count: u64) -> io::Result<Vec<u8>> {
    let mut file = regular::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(count)))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `20261124-034501`, in UTC: sorts by time and needs no quoting.
fn timestamp(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Date of the day `days` after 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut rest) = (1970, days);
    while rest >= if leap(year) { 366 } else { 365 } {
        rest -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_run_is_named_by_its_second() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101-000000");
        assert_eq!(at(951_827_696), "20000229-123456");
        assert_eq!(at(1_798_761_599), "20261231-235959");
    }

    #[test]
    fn two_runs_of_one_second_have_two_directories() {
        let runs = tempfile::tempdir().expect("a temporary folder");
        let one = RunDir::create(runs.path(), "shapes", UNIX_EPOCH).expect("created");
        let two = RunDir::create(runs.path(), "shapes", UNIX_EPOCH).expect("created");
        assert_ne!(one.path(), two.path());
        let latest = runs.path().join("shapes/latest").canonicalize().expect("a link");
        assert_eq!(latest, two.path().canonicalize().expect("a folder"));
    }

    #[test]
    fn output_moves_to_the_top_and_stays_reachable() {
        let runs = tempfile::tempdir().expect("a temporary folder");
        let run = RunDir::create(runs.path(), "shapes", UNIX_EPOCH).expect("created");
        std::fs::create_dir(run.output().join("weights")).expect("created");
        std::fs::write(run.output().join("weights/best.pt"), "w").expect("written");
        run.adopt_output().expect("adopted");
        assert_eq!(std::fs::read(run.path().join("weights/best.pt")).expect("moved"), b"w");
        assert_eq!(std::fs::read(run.output().join("weights/best.pt")).expect("linked"), b"w");
        run.return_output().expect("returned");
        assert!(!run.path().join("weights").exists());
        run.adopt_output().expect("adopted again");
        // A copy that followed the links, or left them out.
        let weights = run.output().join("weights");
        std::fs::remove_file(&weights).expect("the link");
        run.return_output().expect("returned");
        assert!(weights.symlink_metadata().expect("there").is_dir());
    }
}
