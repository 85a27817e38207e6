//! The plan: which rank runs where, with which part of the batch, and why. Pure; it starts nothing.
//!
//! ```text
//! job, devices, what the trainer can ─▶ draw ─▶ shares of the step, reasons ─▶ Plan
//!                 what is known of them ──┘└─▶ or a refusal that names what would work
//! ```
//!
//! `batch.rs` shares a step out where nothing is known of time and memory, `cut.rs` finds the fastest cut where they are.

mod amp;
pub mod batch;
pub mod cut;
mod draw;
mod error;
mod finer;
mod knowledge;
pub mod memory;
mod render;
mod types;
mod words;

pub use amp::Amp;
pub use error::{Change, PlanError, Way};
pub use knowledge::{Knowledge, Known, Lighter, TimeModel};
pub use memory::{MemoryModel, MemoryParts};
pub use render::table;
pub use types::{Abilities, LOCAL, Memory, Plan, Rank, Split, VERSION, YoloTerms};

use crate::inventory::Device;
use crate::job::{Containers, Job, Trainer};
use draw::{Drawee, draw};
use words::counted;

/// Plans `job` on `devices`, which were selected for its request, in the order of the ranks. Of devices that the job left to us,
/// some may stay idle. Where nothing is known of time and memory, devices are taken to be alike and large enough.
///
/// # Errors
///
/// The devices do not fit the job: there are none, the target cannot be split over them exactly, memory is too small, or a
/// program that starts its own ranks starts another number of them.
pub fn plan(
    job: &Job,
    devices: &[Device],
    abilities: &Abilities,
    knowledge: Option<&Knowledge>,
) -> Result<Plan, PlanError> {
    if devices.is_empty() {
        return Err(PlanError::NoDevices);
    }
    let drawn = draw(job, devices, abilities, knowledge)?;
    let used = u32::try_from(drawn.ranks.len()).unwrap_or(u32::MAX);
    let mut reasons = drawn.reasons;
    let preflight = match job.containers {
        Containers::PerHost => Some(false),
        Containers::PerDevice => {
            (job.trainer != Trainer::Command && job.image.is_none() && job.build.is_none()).then_some(true)
        }
    };
    reasons.push(words::preflight(preflight, job.containers).into());
    // One rank has nobody to differ from.
    reasons.extend(abilities.caveat.filter(|_| used > 1).map(str::to_owned));

    let shares: Vec<cut::Share> = drawn.ranks.iter().map(|drawee| drawee.share).collect();
    let devices: Vec<&Device> = drawn.ranks.iter().map(|drawee| drawee.device).collect();
    Ok(Plan {
        version: VERSION,
        target_batch: job.batch.target,
        world_size: used,
        split: drawn.split,
        predicted_step_seconds: drawn.seconds,
        amp: amp::of(job, &devices),
        ranks: (0..used).zip(&drawn.ranks).map(|(number, drawee)| rank(number, drawee)).collect(),
        containers: match job.containers {
            Containers::PerDevice => used,
            Containers::PerHost => 1,
        },
        yolo: words::yolo_terms(&shares),
        preflight,
        reasons,
        warnings: drawn.warnings,
    })
}

fn rank(number: u32, drawee: &Drawee<'_>) -> Rank {
    let Drawee { device, share, memory } = drawee;
    Rank {
        rank: number,
        local_rank: number,
        host: LOCAL.to_owned(),
        device: device.id.to_string(),
        micro_batches: vec![share.micro; share.count as usize],
        images_per_step: (share.count > 0).then(|| share.images()),
        memory: Memory {
            predicted_bytes: memory.map(|parts| parts.peak_bytes()),
            budget_bytes: device.memory_budget_bytes,
            parts: *memory,
        },
    }
}

impl Plan {
    /// Says what is known of the preflight now that the image is.
    pub fn settle_preflight(&mut self, runs: bool) {
        // One container for all ranks keeps the reason that it has.
        if self.preflight == Some(runs) {
            return;
        }
        let before = words::preflight(self.preflight, Containers::PerDevice);
        self.preflight = Some(runs);
        for reason in self.reasons.iter_mut().filter(|reason| *reason == before) {
            *reason = words::preflight(Some(runs), Containers::PerDevice).into();
        }
    }
}

#[cfg(test)]
mod tests;
