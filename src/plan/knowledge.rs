//! What is known of a job's time and memory, by kind of device. It is measured elsewhere; whatever is absent is unknown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::memory::{Images, MemoryModel};
use crate::inventory::Kind;

/// What is known of a job on the devices it could run on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Knowledge {
    /// By kind of device.
    pub kinds: BTreeMap<Kind, Known>,
    /// N: the most labels that an image can have, mosaics included.
    pub labels: u32,
    /// Images of the validation; absent: more than any batch has.
    #[serde(default)]
    pub validation_images: Option<u32>,
    /// Seconds of the all-reduce of a step.
    pub all_reduce_seconds: f64,
    /// Share of a device's memory that a plan leaves free, from 0 to 1: as far as predictions were seen to be wrong.
    #[serde(default)]
    pub reserve: f64,
    /// The same job a little lighter, the nearest first: what to propose when it does not fit.
    pub lighter: Vec<Lighter>,
}

/// What is known of one kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// How long a micro-batch takes.
    pub time: Option<TimeModel>,
    /// What a rank needs.
    pub memory: Option<MemoryModel>,
}

/// t(m) = α + β·m seconds for a micro-batch of m images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeModel {
    /// α: seconds whatever the size.
    pub overhead_seconds: f64,
    /// β: seconds for each image.
    pub seconds_per_image: f64,
}

/// The job with one change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lighter {
    /// The change as an override: `model=yolov8n.yaml`, `args.amp=true`.
    pub change: String,
    /// What a rank needs then, by kind of device.
    pub memory: BTreeMap<Kind, MemoryModel>,
}

impl Knowledge {
    /// What the job's images are like at a side of so many pixels, where a validation has `validation` of them for each of a micro-batch.
    #[must_use]
    pub fn images(&self, side: u32, validation: u32) -> Images {
        Images { side, labels: self.labels, validation, validation_most: self.validation_images.unwrap_or(u32::MAX) }
    }

    /// Of a device's memory what a plan may use.
    #[must_use]
    pub fn usable(&self, budget: u64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most the budget"
        )]
        let reserved = (budget as f64 * self.reserve.clamp(0.0, 1.0)) as u64;
        budget.saturating_sub(reserved)
    }

    /// What is known of a kind; of one that was never seen: nothing.
    #[must_use]
    pub fn of(&self, kind: &Kind) -> Known {
        self.kinds.get(kind).copied().unwrap_or_default()
    }
}
