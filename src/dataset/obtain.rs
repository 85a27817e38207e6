//! What a job names, as files on this machine: a path, or something from the catalog that is fetched first.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::catalog::{self, Layout, Set};
use super::voc;
use crate::fetch::{Asset, FetchError, Fetcher, Limits, OnProgress, Progress, Stage, io_error, lock, replace, unpack};

/// What made a set's folder, kept in it.
const MARKER: &str = ".evenkeel-set.json";

/// What `data:` or `model:` of a job means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted<T> {
    /// A file of this machine, which may be missing.
    Path(PathBuf),
    /// Something from the catalog.
    Known(T),
}

/// What `data:` means: what exists is meant before what could be fetched. `base` is where relative paths start.
#[must_use]
pub fn wanted_data(data: &str, base: &Path) -> Wanted<&'static Set> {
    let path = base.join(data);
    match catalog::set(data) {
        Some(set) if !path.exists() => Wanted::Known(set),
        _ => Wanted::Path(path),
    }
}

/// What a `model:` that names weights (`.pt`, `.safetensors`) means.
#[must_use]
pub fn wanted_weights(model: &str, base: &Path) -> Wanted<&'static Asset<'static>> {
    let path = base.join(model);
    match catalog::weights(model) {
        Some(weights) if !path.exists() => Wanted::Known(weights),
        _ => Wanted::Path(path),
    }
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    set: String,
    /// Raised whenever the same archives would give other files.
    version: u32,
}

const VERSION: u32 = 1;

/// The `data.yaml` of a set, fetched and unpacked below the cache when it is not there yet.
///
/// # Errors
/// As [`Fetcher::file`], and when the archives do not hold what they should.
pub async fn obtain(fetcher: &Fetcher, set: &'static Set, on_progress: OnProgress<'_>) -> Result<PathBuf, FetchError> {
    let all = fetcher.cache().join("datasets");
    let dir = all.join(set.name);
    let told = |stage, done, total| on_progress(Progress { file: set.name, stage, done, total });
    let _lock = lock(&all, set.name, || told(Stage::Waiting, 0, None)).await?;
    let ours = Marker { set: set.name.to_owned(), version: VERSION };
    let there: Option<Marker> = fs::read(dir.join(MARKER)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if there.is_some_and(|there| there == ours) {
        return Ok(dir.join("data.yaml"));
    }
    let mut archives = Vec::new();
    for asset in set.archives {
        archives.push(fetcher.file(asset, on_progress).await?);
    }

    // Under the lock nobody else writes here: what lies here was left by a process that was killed.
    let partial = all.join(format!(".{}.partial", set.name));
    for old in [&partial, &dir] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("remove", old)(error)),
            _ => {}
        }
    }
    fs::create_dir_all(&partial).map_err(io_error("create folder", &partial))?;
    for archive in archives {
        let limits = Limits { bytes: set.unpacked_bytes.saturating_mul(4), ..Limits::default() };
        let into = partial.clone();
        let work = move |on_file: OnFile<'_>| unpack(&archive, &into, limits, on_file);
        beside(work, |done, total| told(Stage::Unpacking, done, total)).await?;
    }
    let unpacked = partial.clone();
    let root = beside(move |_| prepare(set, &unpacked), |_, _| {}).await?;
    let data = data_yaml(set);
    fs::write(root.join("data.yaml"), &data).map_err(io_error("write", &root))?;
    let marker = serde_json::to_vec(&ours).expect("text becomes JSON");
    replace(&root.join(MARKER), &marker).map_err(io_error("write", &root))?;
    fs::rename(&root, &dir).map_err(io_error("write", &dir))?;
    // What an archive held beside the set's folder.
    let _ = fs::remove_dir_all(&partial);
    Ok(dir.join("data.yaml"))
}

type OnFile<'a> = &'a dyn Fn(u64, Option<u64>);

/// Does work on files in a thread of its own, so that a signal is heard meanwhile, and passes on what it tells. Given up, the
/// thread ends with the process.
async fn beside<T: Send + 'static>(
    work: impl FnOnce(OnFile<'_>) -> Result<T, FetchError> + Send + 'static,
    told: impl Fn(u64, Option<u64>),
) -> Result<T, FetchError> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let thread = tokio::task::spawn_blocking(move || {
        work(&|done, total| {
            // Nobody listens only when the work is given up.
            let _ = sender.send((done, total));
        })
    });
    while let Some((done, total)) = receiver.recv().await {
        told(done, total);
    }
    thread.await.expect("work on files does not panic")
}

/// Brings what was unpacked into YOLO's layout and returns the set's folder.
fn prepare(set: &'static Set, unpacked: &Path) -> Result<PathBuf, FetchError> {
    let wrong = |problem: String| FetchError::Prepare { set: set.name, problem };
    match set.layout {
        Layout::Yolo { folder, train, val } => {
            let root = unpacked.join(folder);
            for part in [train, val] {
                if !root.join(part).is_dir() {
                    return Err(wrong(format!("its archive has no folder `{folder}/{part}`")));
                }
            }
            Ok(root)
        }
        Layout::Voc => {
            voc::convert(unpacked, set.names).map_err(wrong)?;
            Ok(unpacked.to_owned())
        }
    }
}

fn data_yaml(set: &Set) -> String {
    let (train, val): (Vec<&str>, Vec<&str>) = match set.layout {
        Layout::Yolo { train, val, .. } => (vec![train], vec![val]),
        Layout::Voc => (voc::TRAIN.to_vec(), voc::VAL.to_vec()),
    };
    let mut text = format!("# {}, {}.\n# Folders are relative to this file.\n", set.name, set.about);
    for (key, folders) in [("train", train), ("val", val)] {
        text.push_str(&format!("{key}: [{}]\n", folders.join(", ")));
    }
    text.push_str("names:\n");
    for (index, name) in set.names.iter().enumerate() {
        // As JSON, which YAML reads the same, whatever the name has in it.
        text.push_str(&format!("  {index}: {}\n", serde_json::Value::from(*name)));
    }
    text
}
