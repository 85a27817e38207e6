//! The type of mixed precision.

use serde::{Deserialize, Serialize};

use crate::inventory::{ComputeCapability, Device};
use crate::job::Job;

/// The oldest generation that computes in bfloat16 natively.
const NATIVE_BF16: ComputeCapability = ComputeCapability { major: 8, minor: 0 };

/// A type of mixed precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// IEEE half floats, with a scaled loss.
    Fp16,
    /// Half floats with the range of whole ones.
    Bf16,
}

impl Amp {
    /// Name as trainers are told it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }
}

/// The type for all ranks: gradients that are added up must have been rounded alike, so the oldest card decides.
pub(super) fn of(job: &Job, devices: &[&Device]) -> Option<Amp> {
    if job.args.get("amp").is_some_and(|amp| amp == &serde_json::Value::Bool(false)) {
        return None;
    }
    let oldest = devices.iter().map(|device| device.compute_capability).min()??;
    Some(if oldest >= NATIVE_BF16 { Amp::Bf16 } else { Amp::Fp16 })
}
