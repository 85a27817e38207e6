//! The plan: which rank runs where, with which part of the batch, and why. Pure; it starts nothing.

pub mod batch;
mod error;
mod finer;
mod render;

use serde::{Deserialize, Serialize};

pub use error::PlanError;
pub use render::table;

use crate::inventory::{CpuShare, Device, DeviceRequest};
use crate::job::{Containers, Job, Micro, Trainer};
use batch::Demand;

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
    /// What its gradients do not keep, as a sentence.
    pub caveat: Option<&'static str>,
}

impl Abilities {
    /// What the trainer of a job can do.
    #[must_use]
    pub fn of(trainer: Trainer) -> Self {
        match trainer {
            Trainer::Native => Self { uneven_counts: true, uneven_micro: true, caveat: None },
            Trainer::Ultralytics => Self {
                uneven_counts: false,
                uneven_micro: false,
                caveat: Some(
                    "trainer `ultralytics` normalises the loss of each micro-batch by its own labels: gradients depend on \
                     the cut by some percent, so another number of devices takes another path",
                ),
            },
            Trainer::Command => Self { uneven_counts: false, uneven_micro: false, caveat: None },
        }
    }
}

/// Plans `job` on `devices`, which were selected for its request, in the order of the ranks.
///
/// # Errors
///
/// The devices do not fit the job: there are none, the target cannot be split over them exactly, or a program that starts
/// its own ranks starts another number of them.
pub fn plan(job: &Job, devices: &[Device], abilities: &Abilities) -> Result<Plan, PlanError> {
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    let given = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    if given == 0 {
        return Err(PlanError::NoDevices);
    }
    let demand = job.batch.target.map(|target| Demand {
        target,
        micro: match job.batch.micro {
            Micro::Auto => None,
            Micro::Fixed(micro) => Some(micro),
        },
        uneven_counts: abilities.uneven_counts,
    });

    let cpu = devices[0].id.uuid().is_none();
    let used = world_size(job, given, demand.as_ref(), cpu)?;
    let (devices, idle) = devices.split_at(used as usize);
    let of_all = if idle.is_empty() { counted(used, "device") } else { format!("{used} of {given} devices") };
    reasons.push(format!("{of_all} for {}", wish(&job.device)));
    let split = demand.map(|demand| demand.split(used).ok_or_else(|| PlanError::does_not_split(&demand, used, cpu)));
    let split = split.transpose()?;
    if !idle.is_empty() {
        let names: Vec<String> = idle.iter().map(|device| device.id.to_string()).collect();
        warnings.push(idle_sentence(job, demand.as_ref(), given, used, &names.join(", ")));
    }
    if let (Some(demand), Some(split)) = (&demand, &split) {
        let how = if demand.micro.is_some() { "as `batch.micro` says" } else { "the target over the devices" };
        let target = demand.target;
        reasons.push(format!("micro-batches of {} images, {how}: they add up to {target} exactly", split.micro));
    } else {
        reasons.push("no `batch.target`: the program batches as it likes".into());
    }
    if !alike(devices) {
        warnings.push("the devices are not alike: every step waits for the slowest of them".into());
    }
    reasons.push("memory is not predicted: what a rank will need is unknown".into());
    let preflight = match job.containers {
        Containers::PerHost => Some(false),
        Containers::PerDevice => {
            (job.trainer != Trainer::Command && job.image.is_none() && job.build.is_none()).then_some(true)
        }
    };
    reasons.push(preflight_sentence(preflight, job.containers).into());
    // One rank has nobody to differ from.
    reasons.extend(abilities.caveat.filter(|_| used > 1).map(str::to_owned));

    let micro_batches = |rank: usize| match &split {
        Some(split) => vec![split.micro; split.counts[rank] as usize],
        None => Vec::new(),
    };
    let ranks = (0..used).zip(devices).map(|(rank, device)| {
        let micro_batches = micro_batches(rank as usize);
        Rank {
            rank,
            local_rank: rank,
            host: LOCAL.to_owned(),
            device: device.id.to_string(),
            images_per_step: split.is_some().then(|| micro_batches.iter().sum()),
            micro_batches,
            memory: Memory { predicted_bytes: None, budget_bytes: device.memory_budget_bytes },
        }
    });
    Ok(Plan {
        version: VERSION,
        target_batch: job.batch.target,
        world_size: used,
        split: split.is_some().then_some(Split::Uniform),
        ranks: ranks.collect(),
        containers: match job.containers {
            Containers::PerDevice => used,
            Containers::PerHost => 1,
        },
        yolo: split.as_ref().and_then(yolo_terms),
        preflight,
        reasons,
        warnings,
    })
}

impl Plan {
    /// Says what is known of the preflight now that the image is.
    pub fn settle_preflight(&mut self, runs: bool) {
        // One container for all ranks keeps the reason that it has.
        if self.preflight == Some(runs) {
            return;
        }
        let before = preflight_sentence(self.preflight, Containers::PerDevice);
        self.preflight = Some(runs);
        for reason in self.reasons.iter_mut().filter(|reason| *reason == before) {
            *reason = preflight_sentence(Some(runs), Containers::PerDevice).into();
        }
    }
}

fn preflight_sentence(runs: Option<bool>, containers: Containers) -> &'static str {
    match (runs, containers) {
        (Some(true), _) => "preflight: the ranks meet, add known numbers and check the sum before the trainer starts",
        (Some(false), Containers::PerHost) => "preflight is skipped: the program starts its ranks by itself",
        (Some(false), Containers::PerDevice) => "preflight is skipped: the program is not in this image",
        (None, _) => "preflight: where the image holds the program for it, the ranks check each other first",
    }
}

/// How many of the devices are used.
fn world_size(job: &Job, given: u32, demand: Option<&Demand>, cpu: bool) -> Result<u32, PlanError> {
    // Only who left the choice to us can be given less than was found.
    let ours = job.device == DeviceRequest::Auto;
    if let Some(ranks) = job.nproc_per_node {
        return if ranks == given || (ranks < given && ours) {
            Ok(ranks)
        } else {
            Err(PlanError::OtherRanks { ranks, devices: given })
        };
    }
    let Some((demand, fewer)) = demand.filter(|_| ours).and_then(|demand| Some((demand, demand.most_ranks(given)?)))
    else {
        return Ok(given);
    };
    // A device or two may stay idle for the sake of the target. Most of a machine may not: whoever asks for 61 images on 4
    // cards wants to hear that 60 would use them all.
    if fewer * 2 < given.min(demand.target) {
        return Err(PlanError::does_not_split(demand, given, cpu));
    }
    Ok(fewer)
}

fn idle_sentence(job: &Job, demand: Option<&Demand>, given: u32, used: u32, names: &str) -> String {
    let idle = counted(given - used, "device");
    if let Some(ranks) = job.nproc_per_node {
        return format!("{idle} idle ({names}): the program starts {}", counted(ranks, "rank"));
    }
    let mut sentence = format!("{idle} idle ({names}): the target batch does not split over {given}");
    if let Some(demand) = demand {
        let near = demand.alternatives(given);
        let targets: Vec<String> =
            [near.target_below, near.target_above].into_iter().flatten().map(|target| target.to_string()).collect();
        if !targets.is_empty() {
            sentence.push_str(&format!("; a target of {} does", targets.join(" or ")));
        }
    }
    sentence
}

/// Whether the devices are of one kind.
fn alike(devices: &[Device]) -> bool {
    let kind = |device: &Device| match device.id.uuid() {
        // By model: `GPU 0 (NVIDIA RTX A5000)` is like `GPU 1 (NVIDIA RTX A5000)`. What others left of a card's memory does
        // not make it unlike.
        Some(_) => (device.name.split_once('(').map(|(_, model)| model.to_owned()), None),
        None => (None, device.cpus),
    };
    devices.windows(2).all(|pair| kind(&pair[0]) == kind(&pair[1]))
}

fn yolo_terms(split: &batch::Uniform) -> Option<YoloTerms> {
    let accumulate = split.counts[0];
    let ranks = u32::try_from(split.counts.len()).ok()?;
    let batch = split.micro * ranks;
    split.counts.iter().all(|count| *count == accumulate).then_some(YoloTerms {
        batch,
        nbs: batch * accumulate,
        accumulate,
    })
}

fn wish(request: &DeviceRequest) -> String {
    match request {
        DeviceRequest::Auto => "`device: auto`".into(),
        DeviceRequest::Count(count) => format!("`gpus: {count}`, any that are free"),
        DeviceRequest::Gpus(_) => "`device`, the GPUs it names".into(),
        DeviceRequest::Cpus(shares) if shares.iter().all(|share| *share == CpuShare::default()) => {
            format!("`device: cpu:{}`, equal shares of the processors", shares.len())
        }
        DeviceRequest::Cpus(_) => "`device`, the CPU devices it describes".into(),
    }
}

/// `1 device`, `2 devices`.
fn counted(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests;
