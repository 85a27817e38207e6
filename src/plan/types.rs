//! What a plan consists of.

use serde::{Deserialize, Serialize};

use super::amp::Amp;
use super::memory::MemoryParts;
use crate::job::Trainer;

/// Version of the plan's format.
pub const VERSION: u32 = 1;

/// The name of the machine that the controller runs on.
pub const LOCAL: &str = "local";

/// What would run. Serialised, it is `plan.json` and what `plan --json` prints: other tools read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// T, images per optimizer step over all ranks; absent for a program that batches as it likes.
    pub target_batch: Option<u32>,
    /// Ranks.
    pub world_size: u32,
    /// How the micro-batches relate; absent without a target.
    pub split: Option<Split>,
    /// Seconds of an optimizer step, as predicted; absent where the time of a micro-batch is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_step_seconds: Option<f64>,
    /// The type of mixed precision that every card computes natively; absent on CPU devices, for a job without mixed precision, and
    /// where a card's generation is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amp: Option<Amp>,
    /// The ranks in order.
    pub ranks: Vec<Rank>,
    /// Containers that will run: one a rank, or one that starts all ranks by itself.
    pub containers: u32,
    /// The same in yolo's own terms; absent without a target, and where yolo has no terms for it.
    pub yolo: Option<YoloTerms>,
    /// Whether the ranks check their devices and their connections before the trainer starts. Absent while the image,
    /// which holds the program for it or does not, is unknown.
    pub preflight: Option<bool>,
    /// Why it is so, one sentence each.
    pub reasons: Vec<String>,
    /// What a person should know before it starts, one sentence each.
    pub warnings: Vec<String>,
}

/// How the micro-batches of the ranks relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// All have the same number of images.
    Uniform,
    /// Those of one rank have the same number of images, those of another have another one.
    Uneven,
}

/// One rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// Its number in the job.
    pub rank: u32,
    /// Its number on its host.
    pub local_rank: u32,
    /// The host; [`LOCAL`] is this machine.
    pub host: String,
    /// The device: a GPU's UUID, or `cpu:0`.
    pub device: String,
    /// Images of each of its micro-batches of one optimizer step; empty without a target.
    pub micro_batches: Vec<u32>,
    /// Their sum; absent without a target.
    pub images_per_step: Option<u32>,
    /// Its memory.
    pub memory: Memory,
}

/// Memory of a rank in bytes. What is not known is absent, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What the rank will need.
    pub predicted_bytes: Option<u64>,
    /// What its device has for it.
    pub budget_bytes: Option<u64>,
    /// What the prediction is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<MemoryParts>,
}

/// The split as yolo names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YoloTerms {
    /// Images of one forward/backward over all ranks.
    pub batch: u32,
    /// Nominal batch: images of one optimizer step.
    pub nbs: u32,
    /// Forwards/backwards of an optimizer step, `nbs / batch`.
    pub accumulate: u32,
}

/// What a trainer can do, and what it cannot promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Ranks may run different numbers of micro-batches.
    pub uneven_counts: bool,
    /// Micro-batches may differ in size.
    pub uneven_micro: bool,
    /// Validation images of a batch for each image of a rank's own micro-batch; 0 where validation is the program's business.
    pub validation: u32,
    /// What its gradients do not keep, as a sentence.
    pub caveat: Option<&'static str>,
}

impl Abilities {
    /// What the trainer of a job can do.
    #[must_use]
    pub fn of(trainer: Trainer) -> Self {
        match trainer {
            Trainer::Native => Self { uneven_counts: true, uneven_micro: true, validation: 2, caveat: None },
            Trainer::Ultralytics => Self {
                uneven_counts: false,
                uneven_micro: false,
                validation: 2,
                caveat: Some(
                    "trainer `ultralytics` normalises the loss of each micro-batch by its own labels: gradients depend on \
                     the cut by some percent, so another number of devices takes another path",
                ),
            },
            Trainer::Command => Self { uneven_counts: false, uneven_micro: false, validation: 0, caveat: None },
        }
    }
}
