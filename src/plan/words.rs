//! Sentences and terms of a plan.

use super::cut::Share;
use super::types::YoloTerms;
use crate::inventory::{CpuShare, Device, DeviceRequest};
use crate::job::Containers;

/// `1 device`, `2 devices`.
pub(super) fn counted(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

pub(super) fn wish(request: &DeviceRequest) -> String {
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

/// Whether the devices are of one kind, as far as that is known.
pub(super) fn alike(devices: &[Device]) -> bool {
    devices.windows(2).all(|pair| (&pair[0].model, pair[0].cpus) == (&pair[1].model, pair[1].cpus))
}

/// The step in yolo's words, which it has only for ranks that all do the same.
pub(super) fn yolo_terms(shares: &[Share]) -> Option<YoloTerms> {
    let first = shares.first().filter(|first| first.count > 0)?;
    let batch = first.micro * u32::try_from(shares.len()).ok()?;
    shares.iter().all(|share| share == first).then_some(YoloTerms {
        batch,
        nbs: batch * first.count,
        accumulate: first.count,
    })
}

pub(super) fn preflight(runs: Option<bool>, containers: Containers) -> &'static str {
    match (runs, containers) {
        (Some(true), _) => "preflight: the ranks meet, add known numbers and check the sum before the trainer starts",
        (Some(false), Containers::PerHost) => "preflight is skipped: the program starts its ranks by itself",
        (Some(false), Containers::PerDevice) => "preflight is skipped: the program is not in this image",
        (None, _) => "preflight: where the image holds the program for it, the ranks check each other first",
    }
}
