//! Why there is no plan, and what would work instead.

use super::batch::{Alternatives, Demand};
use super::counted;
use super::memory::MemoryParts;
use crate::error::{ExitCode, Failure};
use crate::inventory::render::bytes;

/// Why a job cannot be planned on the devices it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing to run on.
    #[error("there is no device to run on")]
    NoDevices,
    /// The target batch cannot be split exactly.
    #[error("{}", misfit(*target, *micro, *ranks))]
    DoesNotSplit {
        /// The target batch.
        target: u32,
        /// The micro-batch, if one is asked for.
        micro: Option<u32>,
        /// Devices to split over.
        ranks: u32,
        /// What is near and works.
        near: Alternatives,
        /// Whether the devices are CPU devices.
        cpu: bool,
    },
    /// The trainer has micro-batches of one size.
    #[error("`batch.split: uneven` needs micro-batches of several sizes, and this trainer has those of one")]
    CannotDiffer,
    /// Even the largest micro-batches, as many as a rank may run, are fewer images than the target.
    #[error("{}", too_few(*target, *micro, *max_accumulation, *ranks, *capacity))]
    TooFewMicroBatches {
        /// The target batch.
        target: u32,
        /// The micro-batch, if one is asked for.
        micro: Option<u32>,
        /// Micro-batches of one rank at most.
        max_accumulation: u32,
        /// Devices of the job.
        ranks: u32,
        /// Images that they compute in a step at most.
        capacity: u64,
        /// What is near and works.
        near: Alternatives,
        /// Micro-batches of one rank that would be enough.
        needed: Option<u32>,
    },
    /// Not even one image fits, or not the micro-batch that is asked for.
    #[error("{}", too_large(*micro, *imgsz, device, *budget_bytes, parts))]
    DoesNotFit {
        /// Images of the micro-batch.
        micro: u32,
        /// Side of an image in pixels.
        imgsz: u32,
        /// The device that is too small, as a person calls it.
        device: String,
        /// What it has.
        budget_bytes: u64,
        /// What would be needed.
        parts: MemoryParts,
        /// Whether a single image would fit.
        one_fits: bool,
        /// Changes with which it fits.
        ways: Vec<Way>,
    },
    /// A program starts another number of ranks than it has devices.
    #[error("`nproc_per_node` is {ranks}, but the job has {}", counted(*devices, "device"))]
    OtherRanks {
        /// Ranks that the program starts.
        ranks: u32,
        /// Devices of the job.
        devices: u32,
    },
}

/// A change with which a job fits into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The change.
    pub change: Change,
    /// What a rank needs then, as predicted.
    pub needs_bytes: u64,
}

/// What could be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An override in backticks, or words.
    Words(String),
    /// The side of an image, in pixels.
    ImageSize(u32),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::ImageSize(side) => write!(f, "`imgsz={side}`"),
        }
    }
}

impl PlanError {
    pub(super) fn does_not_split(demand: &Demand, ranks: u32, cpu: bool) -> Self {
        Self::DoesNotSplit { target: demand.target, micro: demand.micro, ranks, near: demand.alternatives(ranks), cpu }
    }

    /// What works instead, as overrides to type.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoDevices => Some("write `device: cpu` to train without a GPU".into()),
            Self::CannotDiffer => Some("leave `batch.split` out".into()),
            Self::OtherRanks { ranks, .. } => {
                Some(format!("give it as many: `gpus={ranks}`, or `device=cpu:{ranks}` without GPUs"))
            }
            Self::DoesNotSplit { near, cpu, .. } => {
                let ways = ways_to_split(near, None, *cpu);
                (!ways.is_empty()).then(|| format!("the nearest that work: {}", ways.join("; or ")))
            }
            Self::TooFewMicroBatches { near, needed, .. } => {
                let ways = ways_to_split(near, *needed, false);
                (!ways.is_empty()).then(|| format!("the nearest that work: {}", ways.join("; or ")))
            }
            Self::DoesNotFit { ways, .. } => {
                let ways: Vec<String> =
                    ways.iter().map(|way| format!("{} (needs {})", way.change, bytes(way.needs_bytes))).collect();
                (!ways.is_empty()).then(|| format!("what would fit: {}", ways.join("; or ")))
            }
        }
    }

    /// The same of one stage of several: a smaller image there is another schedule, as `schedule` writes it for a side.
    #[must_use]
    pub fn of_stage(mut self, schedule: impl Fn(u32) -> String) -> Self {
        if let Self::DoesNotFit { ways, .. } = &mut self {
            for way in ways {
                if let Change::ImageSize(side) = way.change {
                    way.change = Change::Words(format!("`imgsz={}`", schedule(side)));
                }
            }
        }
        self
    }

    fn code(&self) -> ExitCode {
        match self {
            // A micro-batch that somebody asked for is a matter of the job; a device too small for one image is not.
            Self::DoesNotFit { one_fits: false, .. } => ExitCode::OutOfMemory,
            _ => ExitCode::BadRequest,
        }
    }
}

fn ways_to_split(near: &Alternatives, accumulation: Option<u32>, cpu: bool) -> Vec<String> {
    let count = |count: u32| if cpu { format!("device=cpu:{count}") } else { format!("gpus={count}") };
    let either = |below: Option<String>, above: Option<String>| {
        let both: Vec<String> = [below, above].into_iter().flatten().map(|text| format!("`{text}`")).collect();
        (!both.is_empty()).then(|| both.join(" or "))
    };
    let target = |target: u32| format!("batch.target={target}");
    let micro = |micro: u32| format!("batch.micro={micro}");
    let ways = [
        either(accumulation.map(|most| format!("batch.max_accumulation={most}")), None),
        either(near.target_below.map(target), near.target_above.map(target)),
        either(near.micro_below.map(micro), near.micro_above.map(micro)),
        either(near.fewer_ranks.map(count), near.more_ranks.map(count)),
        either(near.uneven.then(|| "batch.split=uneven".to_owned()), None),
    ];
    ways.into_iter().flatten().collect()
}

fn misfit(target: u32, micro: Option<u32>, ranks: u32) -> String {
    let devices = counted(ranks, "device");
    match micro {
        None => format!("a target batch of {target} cannot be split exactly over {devices}"),
        Some(micro) => {
            format!("a target batch of {target} cannot be split exactly into micro-batches of {micro} on {devices}")
        }
    }
}

fn too_few(target: u32, micro: Option<u32>, most: u32, ranks: u32, capacity: u64) -> String {
    let of = micro.map_or("as large as memory allows".to_owned(), |micro| format!("of {micro} images"));
    let batches = if most == 1 { "1 micro-batch".to_owned() } else { format!("{most} micro-batches") };
    format!(
        "`batch.max_accumulation` is {most}: {batches} {of} on {} hold {capacity} images, fewer than the target batch of \
         {target}",
        if ranks == 1 { "1 device".to_owned() } else { format!("each of {ranks} devices") },
    )
}

fn too_large(micro: u32, imgsz: u32, device: &str, budget: u64, parts: &MemoryParts) -> String {
    let has = bytes(budget);
    let fixed = parts.fixed_bytes();
    let made_of = format!(
        "context {}, weights {}, gradients and optimizer {}",
        bytes(parts.context_bytes),
        bytes(parts.weights_bytes),
        bytes(parts.gradients_and_optimizer_bytes)
    );
    if fixed > budget {
        return format!(
            "{device} has {has} of memory for training, less than the {} that a rank needs before its first image: {made_of}",
            bytes(fixed)
        );
    }
    if parts.least_bytes > budget {
        return format!(
            "{device} has {has} of memory for training, less than the {} that a rank needs at some moment whatever its batch",
            bytes(parts.least_bytes)
        );
    }
    format!(
        "{device} has {has} of memory for training, less than the {} that a micro-batch of {} needs at `imgsz` {imgsz}: \
         {made_of}, activations {}, validation {}",
        bytes(parts.peak_bytes()),
        counted(micro, "image"),
        bytes(parts.activations_bytes),
        bytes(parts.validation_bytes)
    )
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let hint = error.hint();
        let failure = Self::new(error.code(), error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
