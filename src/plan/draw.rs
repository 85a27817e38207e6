//! How the step is shared out: with what is known of time and memory (`fitted.rs`), or without (`even.rs`).

use super::cut::Share;
use super::memory::MemoryParts;
use super::{Abilities, Knowledge, PlanError, Split, counted};
use crate::inventory::{Device, DeviceRequest};
use crate::job::{Job, Micro};

mod even;
mod fitted;
mod near;

/// What unequal micro-batches cost, as a sentence.
const GIVEN_UP: &str = "batch normalisation sees another number of images on each device, so a step depends on which device \
                        computed which images";

/// A step shared out.
#[derive(Debug)]
pub(super) struct Drawn<'a> {
    /// The devices that are used, in the order of the ranks.
    pub ranks: Vec<Drawee<'a>>,
    /// How the micro-batches relate; absent without a target.
    pub split: Option<Split>,
    /// Seconds of a step.
    pub seconds: Option<f64>,
    /// Why it is so.
    pub reasons: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A device and what it computes.
#[derive(Debug)]
pub(super) struct Drawee<'a> {
    pub device: &'a Device,
    /// No micro-batch at all: there is no target.
    pub share: Share,
    pub memory: Option<MemoryParts>,
}

/// Shares the step of a job out over `devices`, of which there is one at least.
pub(super) fn draw<'a>(
    job: &Job,
    devices: &'a [Device],
    abilities: &Abilities,
    knowledge: Option<&Knowledge>,
) -> Result<Drawn<'a>, PlanError> {
    let known = knowledge.filter(|knowledge| devices.iter().any(|device| knowledge.kinds.contains_key(&device.kind())));
    match (job.batch.target, known) {
        (Some(target), Some(knowledge)) => fitted::draw(job, target, devices, abilities, knowledge),
        _ => even::draw(job, devices, abilities),
    }
}

/// Who left the choice of devices to us can be given less than was found.
fn may_idle(job: &Job) -> bool {
    job.device == DeviceRequest::Auto
}

/// The ranks that a program starts by itself, if it does; there must be a device for each.
fn own_ranks(job: &Job, given: u32) -> Result<Option<u32>, PlanError> {
    match job.nproc_per_node {
        Some(ranks) if ranks == given || (ranks < given && may_idle(job)) => Ok(Some(ranks)),
        Some(ranks) => Err(PlanError::OtherRanks { ranks, devices: given }),
        None => Ok(None),
    }
}

fn pinned(job: &Job) -> Option<u32> {
    match job.batch.micro {
        Micro::Auto => None,
        Micro::Fixed(micro) => Some(micro),
    }
}

fn number(devices: &[Device]) -> u32 {
    u32::try_from(devices.len()).unwrap_or(u32::MAX)
}

/// `2 devices`, `2 of 3 devices`.
fn of_all(used: u32, given: u32) -> String {
    if used == given { counted(used, "device") } else { format!("{used} of {given} devices") }
}

fn names<'a>(devices: impl Iterator<Item = &'a Device>) -> String {
    devices.map(|device| device.id.to_string()).collect::<Vec<_>>().join(", ")
}

fn split_of(shares: &[Share]) -> Split {
    let alike = shares.windows(2).all(|pair| pair[0].micro == pair[1].micro);
    if alike { Split::Uniform } else { Split::Uneven }
}

/// `16`, `22 and 21`, `21 to 30`.
fn sizes(shares: &[Share]) -> String {
    let mut sizes: Vec<u32> = shares.iter().map(|share| share.micro).collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    sizes.dedup();
    match sizes.as_slice() {
        [] => "no".to_owned(),
        [size] => size.to_string(),
        [large, small] => format!("{large} and {small}"),
        [large, .., small] => format!("{small} to {large}"),
    }
}
