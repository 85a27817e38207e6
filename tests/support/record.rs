//! Records made up for a test, as a controller and its agents would have left them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use evenkeel_wire::Stamp;
use serde_json::{Value, json};

/// When made-up runs begin: 2026-11-24 03:45:01 UTC, in milliseconds.
pub const BEGUN: u64 = 1_795_491_901_000;

/// A run's directory that a test makes up.
pub struct Made {
    path: PathBuf,
    seq: u64,
}

impl Made {
    /// Begins the record of run `id` of experiment `name` in the folder `runs`.
    pub fn new(runs: &Path, name: &str, id: &str) -> Self {
        let path = runs.join(name).join(id);
        for folder in ["logs", "events", "control", "output"] {
            fs::create_dir_all(path.join(folder)).expect("a folder");
        }
        let mut made = Self { path, seq: 0 };
        made.entry(BEGUN, "run", json!({ "run": id, "image": "debian", "image_id": "sha256:0" }));
        made
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends to the journal.
    pub fn entry(&mut self, time_ms: u64, entry: &str, detail: Value) -> &mut Self {
        let value = json!({ "v": 1, "seq": self.seq, "time_ms": time_ms, "entry": entry, "detail": detail });
        self.seq += 1;
        self.append("journal.jsonl", format!("{value}\n").as_bytes())
    }

    /// Appends to a file of the record.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        let file = File::options().create(true).append(true).open(self.path.join(name));
        file.and_then(|mut file| file.write_all(bytes)).expect("written");
        self
    }

    /// Appends to the log of a rank what it wrote at a time.
    pub fn wrote(&mut self, rank: u32, time_ms: u64, bytes: &[u8]) -> &mut Self {
        let log = format!("logs/rank-{rank}.log");
        let offset = fs::metadata(self.path.join(&log)).map_or(0, |found| found.len());
        // In the order in which an agent does.
        self.append(&format!("logs/rank-{rank}.times"), &Stamp { time_ms, offset }.to_bytes());
        self.append(&log, bytes)
    }

    /// Ends it well, a minute after it began.
    pub fn done(&mut self) -> &mut Self {
        self.end(json!({
            "exit_code": 0, "state": "done", "failure": null, "generations": 1, "devices": ["cpu:0", "cpu:1"],
            "epochs_done": 3, "epochs": 3, "metrics": { "metrics/mAP50(B)": 0.9 }, "outcome": "Done",
        }))
    }

    /// Ends it with a rank that failed.
    pub fn failed(&mut self, class: &str, message: &str) -> &mut Self {
        self.end(json!({
            "exit_code": 1, "state": "failed", "generations": 1, "devices": ["cpu:0", "cpu:1"], "epochs_done": 1,
            "epochs": 3, "metrics": {}, "outcome": "Failed",
            "failure": { "rank": 1, "class": class, "message": message, "advice": "mend it" },
        }))
    }

    pub fn end(&mut self, detail: Value) -> &mut Self {
        self.entry(BEGUN + 60_000, "end", detail)
    }

    /// Makes it a run that a controller works on, until what is returned is dropped.
    pub fn hold(&self) -> File {
        let journal = File::open(self.path.join("journal.jsonl")).expect("a journal");
        rustix::fs::flock(&journal, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("nobody holds it");
        journal
    }
}
