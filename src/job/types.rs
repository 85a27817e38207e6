//! The job's types: resolved values only. What the file may look like is in `file.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::image_sizes::ImageSizes;
use super::report::{Track, Webhook};
use crate::inventory::DeviceRequest;

/// What the user asks for. Every field has its value; [`super::ResolvedJob::origins`] says who set it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Name of the experiment: the folder of its runs. Default: the file's name without its ending.
    pub name: String,
    /// What computes.
    pub trainer: Trainer,
    /// Model: a configuration (`yolov8n.yaml`) or weights (`yolov8n.pt`), as written.
    pub model: String,
    /// Data set as written: a file relative to the current folder, or the name of a known one. Present for every
    /// trainer but `command`.
    pub data: Option<String>,
    /// Epochs in all.
    pub epochs: u32,
    /// Side of the square training image in pixels, which may change from epoch to epoch.
    pub imgsz: ImageSizes,
    /// How many images a step takes.
    pub batch: Batch,
    /// Which devices are wanted, from `device` or `gpus`.
    pub device: DeviceRequest,
    /// Seed of every random choice.
    pub seed: u64,
    /// The trainer's own settings (`lr0`, `mosaic`, `amp`, ...), checked against the ones it knows.
    pub args: BTreeMap<String, Value>,
    /// What the containers can reach.
    pub network: Network,
    /// Whether each device has a container of its own.
    pub containers: Containers,
    /// Ranks that the program starts by itself in its one container; only with [`Containers::PerHost`].
    pub nproc_per_node: Option<u32>,
    /// Image to run instead of the trainer's own.
    pub image: Option<String>,
    /// Image to build and run instead of the trainer's own.
    pub build: Option<Build>,
    /// Program and arguments, instead of the image's; split as a shell would when written as one string.
    pub command: Option<Vec<String>>,
    /// The image's entry point replaced.
    pub entrypoint: Option<Vec<String>>,
    /// Environment of the containers. No value: that of the caller's environment, if it has one.
    pub environment: BTreeMap<String, Option<String>>,
    /// Folders and files of the host inside the containers.
    pub volumes: Vec<Volume>,
    /// Working directory, absolute inside the container; absent: the image's.
    pub working_dir: Option<String>,
    /// Size of /dev/shm in bytes; absent: the controller's choice.
    pub shm_size: Option<u64>,
    /// User inside the container as `uid`, `uid:gid` or a name of the image; absent: the caller.
    pub user: Option<String>,
    /// How long a rank waits for its peers before it gives up.
    pub timeout: Duration,
    /// How often a run is started again at most, when that can help.
    pub max_restarts: u32,
    /// How long a container has between SIGTERM and SIGKILL.
    pub stop_grace_period: Duration,
    /// Folder of run records; relative to the current folder unless absolute.
    pub runs: PathBuf,
    /// Who is told when something happens to a run.
    pub notify: Vec<Webhook>,
    /// Where it is tracked beside its record.
    pub track: Track,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trainer {
    /// Ours, on tch.
    Native,
    /// The Python package.
    Ultralytics,
    /// Any program that reads torchrun's environment.
    Command,
}

impl Trainer {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ultralytics => "ultralytics",
            Self::Command => "command",
        }
    }
}

/// How many images an optimizer step takes, and in what portions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// T, images per optimizer step over all ranks. Always present for trainers that are told it; absent for a
    /// `command` that was given none, which then batches as it likes.
    pub target: Option<u32>,
    /// Images per forward/backward on one device.
    pub micro: Micro,
    /// Micro-batches of one rank in an optimizer step at most; absent: as many as it takes.
    pub max_accumulation: Option<u32>,
    /// Whether the micro-batches of unlike devices may differ in size.
    pub split: SplitWish,
    /// What a trainer does that runs out of memory.
    pub on_oom: OnOom,
}

/// Whether the micro-batches of unlike devices may differ in size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitWish {
    /// The planner decides.
    Auto,
    /// All are of one size.
    Uniform,
    /// They may differ wherever that is faster.
    Uneven,
}

impl SplitWish {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uniform => "uniform",
            Self::Uneven => "uneven",
        }
    }
}

/// What a trainer does that runs out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOom {
    /// Goes on with smaller micro-batches; the target stays.
    StepDown,
    /// Ends.
    Fail,
}

impl OnOom {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StepDown => "step_down",
            Self::Fail => "fail",
        }
    }
}

/// Images per forward/backward on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Micro {
    /// The planner decides.
    Auto,
    /// Exactly this many.
    Fixed(u32),
}

/// What the containers can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing but each other.
    None,
    /// The outside, through a bridge of the engine.
    Bridge,
    /// The host's own network.
    Host,
}

impl Network {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bridge => "bridge",
            Self::Host => "host",
        }
    }
}

/// Whether each device has a container of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    /// One container a device.
    PerDevice,
    /// One container a host, for programs that start their own ranks.
    PerHost,
}

impl Containers {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerDevice => "per-device",
            Self::PerHost => "per-host",
        }
    }
}

/// An image to build, as in compose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Folder that is sent to the engine; absolute, or relative to the current folder.
    pub context: PathBuf,
    /// Dockerfile within the context, `Dockerfile` unless named.
    pub dockerfile: String,
    /// Stage to stop at.
    pub target: Option<String>,
    /// Build arguments. No value: that of the caller's environment, if it has one.
    pub args: BTreeMap<String, Option<String>>,
}

/// A folder or file of the host inside the containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the host: absolute, or relative to the current folder.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: String,
    /// Whether the container may not write there.
    pub read_only: bool,
}
