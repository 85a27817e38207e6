//! Why a wish for devices cannot be granted, and the nearest way out.

use crate::error::{ExitCode, Failure};
use crate::inventory::lock::Holder;
use crate::inventory::{GpuName, Process, render};

/// Why a wish for devices cannot be granted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SelectError {
    /// GPUs are wanted and there is none.
    #[error("no GPU to be had: {note}")]
    NoGpus {
        /// Why there is none.
        note: String,
    },
    /// A name that no GPU bears.
    #[error("there is no GPU `{wanted}`; this machine has {}", present.join(", "))]
    NoSuchGpu {
        /// The name.
        wanted: GpuName,
        /// The GPUs that are there.
        present: Vec<String>,
    },
    /// The beginning of several UUIDs.
    #[error("`{wanted}` is the beginning of several UUIDs: {}", matches.join(", "))]
    Ambiguous {
        /// The beginning.
        wanted: GpuName,
        /// The UUIDs.
        matches: Vec<String>,
    },
    /// One device named two times.
    #[error("{label} is named twice")]
    Twice {
        /// The device.
        label: String,
    },
    /// Somebody computes on it.
    #[error("{label} is busy with {}", render::processes(by))]
    Busy {
        /// The device.
        label: String,
        /// Who computes.
        by: Vec<Process>,
    },
    /// Another run of ours has it.
    #[error("{label} is held by {by}")]
    Held {
        /// The device.
        label: String,
        /// The run.
        by: Holder,
    },
    /// The card is split, so it takes no work itself.
    #[error("{label} is split by MIG and takes no work itself")]
    Split {
        /// The card.
        label: String,
        /// UUIDs of its instances.
        instances: Vec<String>,
    },
    /// A MIG instance together with something else.
    #[error("a MIG instance cannot train together with another device: NCCL does not join them")]
    ManyInstances,
    /// A card that cannot be addressed.
    #[error("{label} cannot be used, as its UUID cannot be read: {why}")]
    NoUuid {
        /// The card.
        label: String,
        /// What NVML said.
        why: String,
    },
    /// Fewer GPUs are free than wanted.
    #[error("{wanted} GPUs are wanted and {free} can be had{}", listed(left_out))]
    NotEnough {
        /// How many are wanted.
        wanted: u32,
        /// How many are free.
        free: usize,
        /// A sentence on each of the others.
        left_out: Vec<String>,
    },
    /// There are GPUs, and none is free.
    #[error("no GPU is free{}", listed(left_out))]
    NoneFree {
        /// A sentence on each.
        left_out: Vec<String>,
    },
    /// Zero devices.
    #[error("a job needs at least one device")]
    NoDevices,
    /// A CPU device larger than the host.
    #[error("CPU device {index} wants {wanted} processors of {present}")]
    CpuTooLarge {
        /// Number of the device.
        index: usize,
        /// Processors wanted.
        wanted: f64,
        /// Processors of the host.
        present: u32,
    },
    /// CPU devices that leave nothing for one without a size.
    #[error("the CPU devices with a size leave no processor for those without")]
    CpuLeftOver,
    /// More memory than the host has.
    #[error("the CPU devices want {} of memory, the machine has {}", render::bytes(*wanted), render::bytes(*present))]
    MemoryTooLarge {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes of the host.
        present: u64,
    },
}

fn listed(left_out: &[String]) -> String {
    match left_out {
        [] => String::new(),
        _ => format!(": {}", left_out.join("; ")),
    }
}

impl SelectError {
    /// The nearest way out.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoGpus { .. } => "`device=cpu:2` trains on two CPU devices".to_owned(),
            Self::NoSuchGpu { .. } => "`evenkeel devices` lists them; `device=auto` takes every free one".to_owned(),
            Self::Ambiguous { .. } => "write more of the UUID".to_owned(),
            Self::Twice { .. } => "name each device once".to_owned(),
            Self::Busy { .. } => {
                "wait for it, or name another with `device=`; `device=auto` takes every free one".to_owned()
            }
            Self::Held { by, .. } => by.way_out(),
            Self::Split { instances, .. } => match instances.first() {
                Some(first) => format!("name one of its instances: `device={first}`"),
                None => {
                    "make an instance with `nvidia-smi mig -cgi`, or turn MIG off with `nvidia-smi -mig 0`".to_owned()
                }
            },
            Self::ManyInstances => "name one instance, or whole GPUs only".to_owned(),
            Self::NoUuid { .. } => {
                "`nvidia-smi` may say more; a card that has fallen off the bus needs a reboot".to_owned()
            }
            Self::NotEnough { free: 0, .. } | Self::NoneFree { .. } => {
                "wait, or train on `device=cpu:2`; a card about which nothing is known can be named with `device=`"
                    .to_owned()
            }
            Self::NotEnough { free, .. } => format!("`gpus={free}` runs now"),
            Self::NoDevices => "`device=auto` takes every free GPU, or the CPU".to_owned(),
            Self::CpuTooLarge { present, .. } => format!("at most {present}.0"),
            Self::CpuLeftOver => "give every CPU device its `cpu`, or make the others smaller".to_owned(),
            Self::MemoryTooLarge { .. } => "make the caps smaller, so that all fit at once".to_owned(),
        })
    }

    /// Whether the request itself is wrong, not the state of the machine.
    fn is_bad_request(&self) -> bool {
        !matches!(
            self,
            Self::NoGpus { .. }
                | Self::Busy { .. }
                | Self::Held { .. }
                | Self::NoUuid { .. }
                | Self::NotEnough { .. }
                | Self::NoneFree { .. }
        )
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Self {
        let code = match error.is_bad_request() {
            true => ExitCode::BadRequest,
            false => ExitCode::MachineNotReady,
        };
        let hint = error.hint();
        let failure = Failure::new(code, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
