//! What trials found, kept in files for the next run of the same job: one file for what decides it, named by its hash.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::inventory::Kind;
use crate::plan::Known;

/// Version of the files; of another one nothing is known.
const VERSION: u32 = 1;

/// Settings that change neither memory nor time: a sweep over them is one fit. All others are part of the key, so that one that nobody thought
/// of costs a fit and not a training.
const WITHOUT_EFFECT: &[&str] = &[
    "angle",
    "box",
    "clip",
    "close_mosaic",
    "cls",
    "cls_pw",
    "conf",
    "cos_lr",
    "degrees",
    "deterministic",
    "dfl",
    "fliplr",
    "flipud",
    "hsv_h",
    "hsv_s",
    "hsv_v",
    "iou",
    "lr0",
    "lrf",
    "momentum",
    "patience",
    "plots",
    "save",
    "save_every",
    "save_period",
    "shear",
    "translate",
    "verbose",
    "warmup_bias_lr",
    "warmup_epochs",
    "warmup_momentum",
    "weight_decay",
];

/// What decides how much memory and time a micro-batch takes on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The trainer's name.
    pub trainer: String,
    /// The model's name, or what names the content of its weights.
    pub model: String,
    /// Side of the square image in pixels.
    pub imgsz: u32,
    /// Classes.
    pub classes: usize,
    /// The image, whose name is that of its content: it holds one version of the trainer and of torch.
    pub image: String,
    /// Type of mixed precision.
    pub amp: Option<String>,
    /// Whether several ranks train together.
    pub distributed: bool,
    /// The data, by place, number of images and times of its folders: its labels and shapes decide.
    pub data: String,
    /// Whether any epoch has mosaics, which gather the labels of four images.
    pub mosaics: bool,
    /// Whether the training has so many steps that another optimizer is chosen, where that is the trainer's choice.
    pub long: bool,
    /// Settings of the trainer that may matter.
    pub args: BTreeMap<String, Value>,
}

impl Key {
    /// Leaves out settings that change nothing here.
    #[must_use]
    pub fn settings_that_matter(args: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        let matters = |name: &&String| !WITHOUT_EFFECT.contains(&name.as_str());
        args.keys().filter(matters).map(|name| (name.clone(), args[name].clone())).collect()
    }
}

/// What was found for a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// By kind of device.
    pub kinds: BTreeMap<Kind, Of>,
}

/// What was found for a kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Of {
    /// Time and memory.
    pub known: Known,
    /// The most labels in an image.
    pub labels: u32,
    /// Images of the largest micro-batch that was tried. Of much larger ones little is known.
    pub tried: u32,
    /// Seconds of a step beside its micro-batches.
    pub all_reduce_seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    key: Key,
    found: Found,
}

/// What was found before; nothing where there is no file, or one that is of no use.
#[must_use]
pub fn read(cache: &Path, key: &Key) -> Found {
    let read = || -> Option<Found> {
        let file: File = serde_json::from_slice(&std::fs::read(path(cache, key)).ok()?).ok()?;
        // The name is short; the content says whose it is.
        (file.version == VERSION && file.key == *key).then_some(file.found)
    };
    read().unwrap_or_default()
}

/// Adds to what was found before. Two that write at once leave one's findings, whole.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(cache: &Path, key: &Key, new: Found) -> io::Result<PathBuf> {
    let mut found = read(cache, key);
    found.kinds.extend(new.kinds);
    let path = path(cache, key);
    let folder = path.parent().unwrap_or(cache);
    std::fs::create_dir_all(folder)?;
    let file = File { version: VERSION, key: key.clone(), found };
    let text = serde_json::to_vec_pretty(&file).expect("plain data");
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, &path)?;
    Ok(path)
}

fn path(cache: &Path, key: &Key) -> PathBuf {
    let digest = Sha256::digest(serde_json::to_vec(key).expect("plain data"));
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    cache.join("fits").join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(imgsz: u32) -> Key {
        Key {
            trainer: "native".into(),
            model: "yolov8n.yaml".into(),
            imgsz,
            classes: 3,
            image: "evenkeel/worker:0".into(),
            amp: None,
            distributed: true,
            data: "there 64".into(),
            mosaics: true,
            long: false,
            args: BTreeMap::new(),
        }
    }

    fn found(kind: &str) -> Found {
        let of = Of { known: Known::default(), labels: 3, tried: 16, all_reduce_seconds: 0.1 };
        Found { kinds: [(Kind(kind.into()), of)].into() }
    }

    #[test]
    fn what_was_found_is_found_again_and_added_to() {
        let cache = tempfile::tempdir().expect("a folder");
        assert_eq!(read(cache.path(), &key(160)), Found::default());
        write(cache.path(), &key(160), found("a")).expect("written");
        write(cache.path(), &key(160), found("b")).expect("written");
        let both = read(cache.path(), &key(160));
        assert_eq!(both.kinds.len(), 2);
        assert_eq!(read(cache.path(), &key(192)), Found::default());
    }

    #[test]
    fn a_file_that_is_none_is_of_no_use() {
        let cache = tempfile::tempdir().expect("a folder");
        let path = write(cache.path(), &key(160), found("a")).expect("written");
        std::fs::write(&path, "{").expect("written");
        assert_eq!(read(cache.path(), &key(160)), Found::default());
    }

    #[test]
    fn a_learning_rate_makes_no_other_fit() {
        let args = BTreeMap::from([("lr0".to_owned(), Value::from(0.1)), ("overlap".to_owned(), Value::from(true))]);
        assert_eq!(Key::settings_that_matter(&args).keys().collect::<Vec<_>>(), ["overlap"]);
    }
}
