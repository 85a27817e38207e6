//! The job file: all that a trainer must know beyond torchrun's environment. The controller writes it once a
//! generation; every rank reads the same one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a trainer is to do. Paths are those inside the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerJob {
    /// [`crate::VERSION`] of the writer.
    pub version: u32,
    /// Identifier of the run.
    pub run: String,
    /// Launch within the run, from 1.
    pub generation: u32,
    /// `cuda` or `cpu`.
    pub device: String,
    /// Model: a configuration (`yolov8n.yaml`) or the path of weights.
    pub model: String,
    /// Data set.
    pub data: DataSet,
    /// Epochs in all. Whatever depends on the whole training goes by this.
    pub epochs: u32,
    /// End before this epoch, counted from 0, with a state to go on from; absent: at the end of the training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_epoch: Option<u32>,
    /// Side of the square training image in pixels.
    pub imgsz: u32,
    /// Seed of every random choice.
    pub seed: u64,
    /// Images per optimizer step over all ranks, T.
    pub target_batch: u32,
    /// Micro-batches of one optimizer step, by rank: Σ over all is T.
    pub micro_batches: Vec<Vec<u32>>,
    /// From these optimizer steps on, micro-batches of at most so many images: how a run that stepped down is repeated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub micro_from_step: BTreeMap<u64, u32>,
    /// Whether a trainer that runs out of memory may go on with smaller micro-batches.
    #[serde(default = "yes")]
    pub step_down: bool,
    /// Folder for what the trainer leaves behind.
    pub output: String,
    /// Folder of this data set's own for what a trainer finds of its files, for the next training on it; absent: nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_cache: Option<String>,
    /// Type of mixed precision for all ranks, `bf16` or `fp16`; absent: the trainer's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amp: Option<String>,
    /// At most this many training and validation images; absent: all (a quick look uses few).
    pub max_images: Option<u32>,
    /// Trial steps in place of a training; absent: a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// The trainer's own settings (`lr0`, `mosaic`, `amp`, ...), as JSON values.
    pub args: BTreeMap<String, Value>,
}

fn yes() -> bool {
    true
}

/// What to find out before a training: how much memory micro-batches need on each rank, and how long they take. All ranks take part, as in
/// the training; each tells what it finds in events, and leaves nothing behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Images of the micro-batch to try, by rank. Empty: every rank tries one image, then twice as many each time.
    pub sizes: Vec<u32>,
    /// Bytes that a rank which looks for sizes may be expected to need for the next one, by rank; absent: as many as there are.
    pub limits: Vec<Option<u64>>,
    /// Images of the largest micro-batch worth a try.
    pub most: u32,
}

/// A YOLO-format data set, resolved by the controller: folders, image files or lists of image files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSet {
    /// Root that relative entries of lists refer to.
    pub path: String,
    /// Training images.
    pub train: Vec<String>,
    /// Validation images.
    pub val: Vec<String>,
    /// Class names by index.
    pub names: BTreeMap<u32, String>,
}
