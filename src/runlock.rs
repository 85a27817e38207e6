//! `lock.yaml`: what a run was made of, enough to make it again on another machine and to say what has changed since.
//!
//! The types here are the file's format, by [`VERSION`]. They are data; what fills them is beside them: `code.rs` asks git, `data.rs` hashes
//! the data set. Both files that belong to the lock and would be too long for it lie in the record, too: the uncommitted changes
//! ([`PATCH`]) and the hash of every image and label ([`LISTING`], as `sha256sum` writes and checks it).

pub mod code;
pub mod data;
pub mod difference;
pub mod job;
pub mod listing;
pub mod secret;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the format.
pub const VERSION: u32 = 1;
/// The lock in a run's directory.
pub const FILE: &str = "lock.yaml";
/// The uncommitted changes of tracked files, as `git apply` takes them.
pub const PATCH: &str = "code.patch";
/// Hash and name of every image and label.
pub const LISTING: &str = "data.sha256";

/// What a run was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunLock {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Whether the run had ended when this was written: until then the split is what was planned.
    pub complete: bool,
    /// The run.
    pub run: RunName,
    /// The run that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduces: Option<Reproduces>,
    /// What was asked for.
    pub job: LockedJob,
    /// The image that the ranks ran in.
    pub image: LockedImage,
    /// The project that the job belongs to.
    pub code: Code,
    /// The data set; absent for a program that is told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<LockedData>,
    /// The model; absent for a program that is told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<LockedModel>,
    /// The device of each rank.
    pub devices: Vec<LockedDevice>,
    /// Versions by the name of what has them, as far as they are known.
    pub versions: BTreeMap<String, String>,
    /// How the steps were split: an entry for each image size.
    pub stages: Vec<LockedStage>,
}

/// A run by name and identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunName {
    /// Name of the experiment.
    pub name: String,
    /// The run's identifier.
    pub id: String,
}

impl std::fmt::Display for RunName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.id)
    }
}

/// Which run is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reproduces {
    /// The run.
    pub run: RunName,
    /// SHA-256 of its lock, as it was read.
    pub lock_sha256: String,
    /// Keys that were given other values.
    pub overrides: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockedJob {
    /// The job file as it was named.
    pub file: PathBuf,
    /// Its folder, absolute: volumes and builds were relative to it.
    pub folder: PathBuf,
    /// Where the command was given: data, model and runs were relative to it.
    pub called_from: PathBuf,
    /// At most so many images, in a quick look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_images: Option<u32>,
    /// Every setting by its dotted path.
    pub settings: BTreeMap<String, Setting>,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Its value.
    pub value: Value,
    /// Where it came from.
    pub origin: String,
    /// The value, or a part of it, is a secret and not here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedImage {
    /// Its name. That of an image of ours is a hash of what it is made from.
    pub name: String,
    /// The engine's identifier, a digest of its content.
    pub id: String,
    /// Digests by which registries have it, as `repository@sha256:...`.
    pub digests: Vec<String>,
    /// Whether it is one of ours.
    pub ours: bool,
}

/// The project that a job belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// What git says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// Why git says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_git: Option<String>,
    /// Files that the job names and git does not track.
    #[serde(default)]
    pub files: Vec<CodeFile>,
}

/// The state of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Git {
    /// Its folder.
    pub root: PathBuf,
    /// Where it can be fetched, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The commit; absent before the first one.
    pub commit: Option<String>,
    /// The branch; absent where none is checked out.
    pub branch: Option<String>,
    /// Whether tracked files had uncommitted changes.
    pub dirty: bool,
    /// SHA-256 of those, which are in `code.patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_sha256: Option<String>,
    /// Why they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_patch: Option<String>,
}

/// A file that is not in the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFile {
    /// The key that names it: `volumes`, or `job` for the job file itself.
    pub key: String,
    /// Where it was, absolute.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub sha256: String,
    /// A copy in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedData {
    /// Its file, absolute.
    pub yaml: PathBuf,
    /// The folder that the names in `data.sha256` begin at, where they are below it.
    pub root: PathBuf,
    /// SHA-256 of `data.sha256`.
    pub fingerprint: String,
    /// Images and label files.
    pub files: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Training images.
    pub train: u64,
    /// Validation images.
    pub val: u64,
    /// Names of the classes.
    pub names: BTreeMap<u32, String>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedModel {
    /// Its file, absolute; absent for a configuration that the trainer brings along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// SHA-256 of the file; the name of what the trainer brings along.
    pub content: String,
}

/// The device of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedDevice {
    /// Which one: a UUID, or `cpu:0`.
    pub id: String,
    /// What it is: the model of a GPU, or of the processor with its share.
    pub kind: String,
    /// Threads that the rank computes with.
    pub threads: u32,
    /// Bytes that a CPU device is held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_cap_bytes: Option<u64>,
}

/// How the steps of a stage were split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedStage {
    /// Its first epoch, from 0.
    pub from_epoch: u32,
    /// Side of its images in pixels.
    pub imgsz: u32,
    /// Images of an optimizer step over all ranks; absent for a program that batches as it likes.
    pub target: Option<u32>,
    /// Micro-batches of a step by rank, as the stage began.
    pub micro_batches: Vec<Vec<u32>>,
    /// From these optimizer steps on, micro-batches of at most so many images: memory ran out there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub micro_from_step: BTreeMap<u64, u32>,
    /// Type of mixed precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amp: Option<String>,
}

impl LockedStage {
    /// Images of every micro-batch, if all have as many.
    #[must_use]
    pub fn micro(&self) -> Option<u32> {
        let mut all = self.micro_batches.iter().flatten();
        let first = *all.next()?;
        all.all(|micro| *micro == first).then_some(first)
    }
}

/// Why a text is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is not YAML, or lacks something.
    #[error("not a lock")]
    Invalid(#[from] serde_yaml::Error),
    /// Another version wrote it.
    #[error("a lock of version {0}, where version {VERSION} is understood")]
    Version(u64),
}

impl RunLock {
    /// Reads the text of a lock.
    ///
    /// # Errors
    ///
    /// It is none, or one of another version.
    pub fn from_yaml(text: &str) -> Result<Self, LockError> {
        // The version first: what else a later one says, this one need not understand.
        let value: serde_yaml::Value = serde_yaml::from_str(text)?;
        match value.get("version").and_then(serde_yaml::Value::as_u64) {
            Some(version) if version != u64::from(VERSION) => Err(LockError::Version(version)),
            _ => Ok(serde_yaml::from_value(value)?),
        }
    }

    /// The text of the lock.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let head = "# What this run was made of. `evenkeel reproduce` repeats it, `evenkeel train --locked` compares with it.\n";
        head.to_owned() + &serde_yaml::to_string(self).expect("plain data")
    }
}

/// A lock with what belongs to it, as it lies in a run's directory or in memory before one exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Locked {
    /// The lock.
    pub lock: RunLock,
    /// The text of [`LISTING`], where there is one.
    pub listing: Option<String>,
    /// The text of [`PATCH`], where there is one.
    pub patch: Option<String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A lock of a small native run.
    pub(crate) fn small() -> RunLock {
        let setting = |value: Value| Setting { value, origin: "default".into(), withheld: false };
        let settings = [
            ("name", json!("t")),
            ("trainer", json!("native")),
            ("data", json!("data.yaml")),
            ("epochs", json!(3)),
            ("imgsz", json!(64)),
            ("batch.target", json!(32)),
            ("batch.micro", json!("auto")),
            ("device", json!("cpu:2")),
            ("seed", json!(0)),
            ("args", json!({})),
            ("environment.A.B", json!("c")),
            ("volumes", json!([{ "source": "/home/a/jobs/code", "target": "/code" }])),
        ];
        RunLock {
            version: VERSION,
            complete: false,
            run: RunName { name: "t".into(), id: "20260101-000000".into() },
            reproduces: None,
            job: LockedJob {
                file: "job.yaml".into(),
                folder: "/home/a/jobs".into(),
                called_from: "/home/a".into(),
                max_images: None,
                settings: settings.into_iter().map(|(key, value)| (key.to_owned(), setting(value))).collect(),
            },
            image: LockedImage {
                name: "evenkeel/worker:1".into(),
                id: "sha256:1".into(),
                digests: Vec::new(),
                ours: true,
            },
            code: Code { git: None, without_git: Some("no repository".into()), files: Vec::new() },
            data: None,
            model: Some(LockedModel { path: None, content: "yolov8n.yaml".into() }),
            devices: vec![LockedDevice { id: "cpu:0".into(), kind: "CPU".into(), threads: 1, memory_cap_bytes: None }],
            versions: [("evenkeel".to_owned(), "0.1.0".to_owned())].into(),
            stages: vec![LockedStage {
                from_epoch: 0,
                imgsz: 64,
                target: Some(32),
                micro_batches: vec![vec![16], vec![16]],
                micro_from_step: [(7, 8)].into(),
                amp: None,
            }],
        }
    }

    #[test]
    fn a_lock_reads_back_as_written() {
        let lock = small();
        assert_eq!(RunLock::from_yaml(&lock.to_yaml()).expect("what we wrote"), lock);
    }

    #[test]
    fn another_version_is_told_whatever_else_it_says() {
        let error = RunLock::from_yaml("version: 2\nnew: thing\n").expect_err("another version");
        assert!(error.to_string().contains("a lock of version 2"), "{error}");
        assert!(RunLock::from_yaml("complete: true\n").is_err());
    }

    #[test]
    fn a_split_has_one_size_or_none() {
        let stage = |cut: Vec<Vec<u32>>| LockedStage { micro_batches: cut, ..small().stages[0].clone() };
        assert_eq!(stage(vec![vec![8, 8], vec![8]]).micro(), Some(8));
        assert_eq!(stage(vec![vec![8], vec![4]]).micro(), None);
        assert_eq!(stage(vec![vec![]]).micro(), None);
    }
}
