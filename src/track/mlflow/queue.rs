//! What MLflow is to be told, on disk: entries that are only added, and beside them how far they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Folder in the run's directory.
pub const FOLDER: &str = "mlflow";
const ENTRIES: &str = "queue.jsonl";
const STATE: &str = "state.json";
/// Runs of a folder of runs of which something may be left, one a line.
const UNSENT: &str = ".mlflow-unsent";

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The run.
    Run {
        /// Its name.
        name: String,
        /// Begin, in milliseconds since the Unix epoch.
        time_ms: u64,
        /// Settings.
        params: BTreeMap<String, String>,
        /// More about it.
        tags: BTreeMap<String, String>,
    },
    /// An epoch's numbers.
    Metrics {
        /// Epoch, from 1.
        epoch: u32,
        /// When it ended.
        time_ms: u64,
        /// By the names of results.csv.
        values: BTreeMap<String, f64>,
    },
    /// It is over, or goes on after that.
    Status {
        /// `FINISHED`, `FAILED`, `KILLED` or `RUNNING`.
        status: String,
        /// When.
        time_ms: u64,
        /// More about how it ended.
        tags: BTreeMap<String, String>,
    },
}

/// How far a queue was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of this file.
    pub version: u32,
    /// Address of the server.
    pub uri: String,
    /// Name of the experiment.
    pub experiment: String,
    /// By which the run is found again.
    pub key: String,
    /// The server's identifier of the run, once there is one.
    pub run_id: Option<String>,
    /// Whether a run may have been made without an answer.
    pub creating: bool,
    /// Entries that were told.
    pub sent: usize,
    /// Entries that may have been told: a request was begun, and no answer is known.
    pub trying: usize,
}

/// The queue of a run.
#[derive(Clone, Debug)]
pub struct Queue {
    folder: PathBuf,
}

/// Held by whoever sends.
#[derive(Debug)]
pub struct Sending {
    _file: File,
}

impl Queue {
    /// The queue in a run's directory.
    #[must_use]
    pub fn of(run: &Path) -> Self {
        Self { folder: run.join(FOLDER) }
    }

    /// Whether there is one.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folder.join(STATE).exists()
    }

    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn create(&self, uri: &str, experiment: &str) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut random = [0; 16];
        io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut random)?;
        let key = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (uri, experiment) = (uri.to_owned(), experiment.to_owned());
        self.keep(&State { version: 1, uri, experiment, key, ..State::default() })
    }

    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// The disk refuses; nothing was added then.
    pub fn add(&self, entry: &Entry) -> io::Result<()> {
        let path = self.folder.join(ENTRIES);
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let line = serde_json::to_string(entry)? + "\n";
        let before = file.metadata()?.len();
        file.write_all(line.as_bytes()).inspect_err(|_| {
            // A full disk may have taken a part of it.
            let _ = file.set_len(before);
        })
    }

    /// All entries, as far as they are whole.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let text = match std::fs::read_to_string(self.folder.join(ENTRIES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
    }

    /// Takes away the part of an entry that a machine which lost its power may have left at the end.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn mend(&self) -> io::Result<()> {
        let path = self.folder.join(ENTRIES);
        let bytes = std::fs::read(&path).unwrap_or_default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
        }
        Ok(())
    }

    /// Epochs that are in it.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn epochs(&self) -> io::Result<BTreeSet<u32>> {
        let epoch = |entry| match entry {
            Entry::Metrics { epoch, .. } => Some(epoch),
            _ => None,
        };
        Ok(self.entries()?.into_iter().filter_map(epoch).collect())
    }

    /// How far it was told.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is none of ours.
    pub fn state(&self) -> io::Result<State> {
        Ok(serde_json::from_slice(&std::fs::read(self.folder.join(STATE))?)?)
    }

    /// Keeps how far it was told. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn keep(&self, state: &State) -> io::Result<()> {
        let (path, part) = (self.folder.join(STATE), self.folder.join(format!(".{STATE}.part")));
        let mut file = File::create(&part)?;
        file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(part, path)
    }

    /// The right to send, if nobody has it.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn lock(&self) -> io::Result<Option<Sending>> {
        let file = OpenOptions::new().create(true).append(true).open(self.folder.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Sending { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Notes in a folder of runs that something of `run` may be left to send.
///
/// # Errors
///
/// The disk refuses.
pub fn note_unsent(runs: &Path, run: &str) -> io::Result<()> {
    change_unsent(runs, |noted| {
        noted.insert(run.to_owned());
    })
}

/// Takes runs off that list.
///
/// # Errors
///
/// The disk refuses.
pub fn note_sent(runs: &Path, sent: &[String]) -> io::Result<()> {
    change_unsent(runs, |noted| noted.retain(|run| !sent.contains(run)))
}

/// Runs of which something may be left to send, as paths below the folder of runs.
#[must_use]
pub fn unsent(runs: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(runs.join(UNSENT)).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Several controllers have one list: each changes it alone.
fn change_unsent(runs: &Path, change: impl FnOnce(&mut BTreeSet<String>)) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(runs.join(UNSENT))?;
    flock(&file, FlockOperation::LockExclusive)?;
    let mut noted = unsent(runs);
    let before = noted.clone();
    change(&mut noted);
    if noted == before {
        return Ok(());
    }
    let lines: String = noted.iter().map(|run| format!("{run}\n")).collect();
    file.set_len(0)?;
    file.write_all(lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_reads_back_and_only_one_sends() {
        let run = tempfile::tempdir().expect("a folder");
        let queue = Queue::of(run.path());
        assert!(!queue.exists());
        queue.create("http://lab", "shapes").expect("made");
        assert_eq!(queue.entries().expect("none"), []);
        let entry = |epoch| Entry::Metrics { epoch, time_ms: 1, values: [("a".to_owned(), 0.1 + 0.2)].into() };
        queue.add(&entry(1)).expect("added");
        queue.add(&entry(2)).expect("added");
        assert_eq!(queue.entries().expect("two"), [entry(1), entry(2)]);
        assert_eq!(queue.epochs().expect("two"), [1, 2].into());
        let path = run.path().join(FOLDER).join(ENTRIES);
        let mut file = OpenOptions::new().append(true).open(path).expect("a file");
        file.write_all(b"{\"entry\":\"met").expect("written");
        assert_eq!(queue.entries().expect("two").len(), 2);
        queue.mend().expect("mended");
        queue.add(&entry(3)).expect("added");
        assert_eq!(queue.epochs().expect("three"), [1, 2, 3].into());
        let state = State { sent: 1, ..queue.state().expect("kept") };
        queue.keep(&state).expect("kept");
        assert_eq!((queue.state().expect("kept"), state.key.len()), (state, 32));
        let one = queue.lock().expect("a lock");
        assert!(one.is_some() && queue.lock().expect("no failure").is_none());
        drop(one);
        assert!(queue.lock().expect("a lock").is_some());
    }

    #[test]
    fn the_list_of_what_is_left_has_each_run_once() {
        let runs = tempfile::tempdir().expect("a folder");
        for run in ["a/1", "b/2", "a/1"] {
            note_unsent(runs.path(), run).expect("noted");
        }
        note_sent(runs.path(), &["b/2".to_owned(), "c/3".to_owned()]).expect("noted");
        assert_eq!(unsent(runs.path()), ["a/1".to_owned()].into());
    }
}
