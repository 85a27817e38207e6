//! The job file as this trainer understands it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use evenkeel_wire::{TrainerJob, env, path};
use evenkeel_yolo::checkpoint::{self, CheckpointError};
use evenkeel_yolo::precision::Half;
use evenkeel_yolo::scale::{Scale, UnknownScale};
use evenkeel_yolo::settings::{Settings, SettingsError};
use evenkeel_yolo::step::Cut;

use super::failing::Faults;
use crate::environment::{Device, Environment, EnvironmentError};

/// What is to be trained.
#[derive(Debug)]
pub struct Job {
    /// As the controller wrote it.
    pub told: TrainerJob,
    /// The trainer's settings.
    pub settings: Settings,
    /// The model's size.
    pub scale: Scale,
    /// Weights to start from.
    pub weights: Option<checkpoint::Checkpoint>,
    /// Names of the classes, in their order.
    pub names: Vec<String>,
    /// Images of every micro-batch, by rank.
    pub cut: Cut,
    /// The type of mixed precision, where the job asks for it; on a CPU device only where the job names one.
    pub half: Option<Half>,
    /// Most bytes of tensors on a CPU device.
    pub memory: Option<u64>,
    /// Where memory is to run out, for tests.
    pub faults: Rc<RefCell<Faults>>,
}

/// A job that this trainer cannot do.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("failed to read the job file `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is no job file", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("the job file is of version {0}, this trainer knows {known}", known = evenkeel_wire::VERSION)]
    Version(u32),
    #[error("in `args`: {0}")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("the job splits its step over {ranks} ranks, but there are {world}")]
    World { ranks: usize, world: u32 },
    #[error("the micro-batches of a step have {sum} images, not {target}")]
    Target { sum: u32, target: u32 },
    #[error("`imgsz: {0}` is no multiple of 32")]
    Side(u32),
    #[error("the classes are numbered from 0 without a gap, not {0:?}")]
    Classes(Vec<u32>),
    #[error("there is no mixed precision in `{0}`, only in bf16 and fp16")]
    Half(String),
    #[error(transparent)]
    Model(#[from] UnknownScale),
    #[error("failed to load the model's weights")]
    Weights(#[from] CheckpointError),
    #[error(
        "`{0}` is a PyTorch file, which this trainer does not read; `evenkeel weights import {0}` makes safetensors of it"
    )]
    Pickled(String),
    #[error("`{0}` holds no YOLOv8 detection model")]
    Unknown(String),
}

impl Job {
    /// Reads and checks the job of this rank's environment.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit.
    pub fn read(lookup: impl Fn(&str) -> Option<String>, environment: &Environment) -> Result<Self, JobError> {
        let file = lookup(env::JOB).map_or_else(|| PathBuf::from(path::JOB), PathBuf::from);
        let bytes = std::fs::read(&file).map_err(|source| JobError::Read { path: file.clone(), source })?;
        let told: TrainerJob =
            serde_json::from_slice(&bytes).map_err(|source| JobError::Parse { path: file, source })?;
        if told.version > evenkeel_wire::VERSION {
            return Err(JobError::Version(told.version));
        }
        let settings = Settings::read(&told.args.clone().into_iter().collect())?;
        let cut = Cut(told.micro_batches.clone());
        if cut.0.len() != environment.world_size as usize {
            return Err(JobError::World { ranks: cut.0.len(), world: environment.world_size });
        }
        if cut.target() != told.target_batch {
            return Err(JobError::Target { sum: cut.target(), target: told.target_batch });
        }
        if told.imgsz == 0 || told.imgsz % 32 != 0 {
            return Err(JobError::Side(told.imgsz));
        }
        let indices: Vec<u32> = told.data.names.keys().copied().collect();
        if indices.is_empty() || (0..).zip(&indices).any(|(expected, index)| expected != *index) {
            return Err(JobError::Classes(indices));
        }
        let names =
            if settings.single_cls { vec!["item".to_owned()] } else { told.data.names.values().cloned().collect() };
        let (scale, weights) = model(&told.model)?;
        let half = match told.amp.as_deref() {
            _ if !settings.amp => None,
            None => (environment.device == Device::Cuda).then_some(Half::Fp16),
            Some("bf16") => Some(Half::Bf16),
            Some("fp16") => Some(Half::Fp16),
            Some(other) => return Err(JobError::Half(other.to_owned())),
        };
        let memory = match lookup(env::MEMORY) {
            None => None,
            Some(value) => match value.parse() {
                Ok(bytes) => Some(bytes),
                Err(_) => {
                    return Err(
                        EnvironmentError::Unfit { name: env::MEMORY, value, expected: "a number of bytes" }.into()
                    );
                }
            },
        };
        let faults = Rc::new(RefCell::new(Faults::read(&lookup, environment.rank)?));
        Ok(Self { told, settings, scale, weights, names, cut, half, memory, faults })
    }
}

/// A size by name, or weights, whose first layer tells the size.
fn model(model: &str) -> Result<(Scale, Option<checkpoint::Checkpoint>), JobError> {
    match Path::new(model).extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => {
            let weights = checkpoint::read(Path::new(model))?;
            let width = weights.tensors.get("model.0.conv.weight").map(|kernel| kernel.size()[0]);
            let scale = Scale::ALL.into_iter().find(|scale| Some(scale.channels(64)) == width);
            Ok((scale.ok_or_else(|| JobError::Unknown(model.to_owned()))?, Some(weights)))
        }
        Some("pt") => Err(JobError::Pickled(model.to_owned())),
        _ => Ok((model.parse()?, None)),
    }
}
