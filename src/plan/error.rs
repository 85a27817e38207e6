//! Why there is no plan, and what would work instead.

use super::batch::{Alternatives, Demand};
use super::counted;
use crate::error::{ExitCode, Failure};

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
    /// A program starts another number of ranks than it has devices.
    #[error("`nproc_per_node` is {ranks}, but the job has {}", counted(*devices, "device"))]
    OtherRanks {
        /// Ranks that the program starts.
        ranks: u32,
        /// Devices of the job.
        devices: u32,
    },
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
            Self::OtherRanks { ranks, .. } => {
                Some(format!("give it as many: `gpus={ranks}`, or `device=cpu:{ranks}` without GPUs"))
            }
            Self::DoesNotSplit { near, cpu, .. } => {
                let count = |count: u32| if *cpu { format!("device=cpu:{count}") } else { format!("gpus={count}") };
                let either = |below: Option<String>, above: Option<String>| {
                    let both: Vec<String> =
                        [below, above].into_iter().flatten().map(|text| format!("`{text}`")).collect();
                    (!both.is_empty()).then(|| both.join(" or "))
                };
                let target = |target: u32| format!("batch.target={target}");
                let micro = |micro: u32| format!("batch.micro={micro}");
                let ways: Vec<String> = [
                    either(near.target_below.map(target), near.target_above.map(target)),
                    either(near.micro_below.map(micro), near.micro_above.map(micro)),
                    either(near.fewer_ranks.map(count), near.more_ranks.map(count)),
                ]
                .into_iter()
                .flatten()
                .collect();
                (!ways.is_empty()).then(|| format!("the nearest that work: {}", ways.join("; or ")))
            }
        }
    }
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

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let hint = error.hint();
        let failure = Self::new(ExitCode::BadRequest, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
