//! What a job may ask for, and what it gets.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ComputeCapability;

/// Which devices a job wants.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceRequest {
    /// Every free GPU; on a machine without one, CPU devices.
    Auto,
    /// Any free GPUs, this many.
    Count(u32),
    /// These GPUs, in this order; at least one.
    Gpus(Vec<GpuName>),
    /// CPU devices; at least one. `cpu` is one, `cpu:2` two without a size.
    Cpus(Vec<CpuShare>),
}

/// A GPU as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuName {
    /// Number in the order of nvidia-smi.
    Index(u32),
    /// UUID of a GPU or a MIG instance, or the beginning of one.
    Uuid(String),
}

impl fmt::Display for GpuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

/// The size of a CPU device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuShare {
    /// Processors that it may use; absent: an equal share of what the others leave.
    pub cpus: Option<f64>,
    /// Memory that it may use, in bytes; absent: no cap.
    pub memory: Option<u64>,
}

/// A device that a rank computes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Which one.
    pub id: DeviceId,
    /// What a person calls it.
    pub name: String,
    /// A GPU's model, with its profile for a MIG instance; absent on a CPU device and where it could not be read.
    #[serde(default)]
    pub model: Option<String>,
    /// Bytes that training may count on: a GPU's free memory, a CPU device's cap or else its share of the host's.
    /// Absent where it could not be read.
    pub memory_budget_bytes: Option<u64>,
    /// Bytes that a CPU device is held to; absent on a GPU and where the job set none.
    pub memory_cap_bytes: Option<u64>,
    /// Processors of a CPU device, of which it may be a fraction; absent on a GPU.
    pub cpus: Option<f64>,
    /// Generation of a GPU's processors; absent on a CPU device and where it could not be read.
    pub compute_capability: Option<ComputeCapability>,
}

/// What devices have in common that are as fast and need as much memory as each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(pub String);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Device {
    /// Its kind. What others left of a card's memory does not make it another; a card whose model is unknown is like no
    /// other.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind(match (&self.model, self.cpus) {
            (Some(model), _) => model.clone(),
            (None, Some(cpus)) => format!("CPU device of {cpus} processors"),
            (None, None) => format!("unknown model {}", self.id),
        })
    }

    /// Threads that a CPU device computes with: its whole processors, at least one. None for a GPU.
    #[must_use]
    pub fn threads(&self) -> Option<u32> {
        // A share is at most the processors of one host, far below where the conversion would cut.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        self.cpus.map(|cpus| (cpus as u32).max(1))
    }
}

/// Name of a device; as text `GPU-4f…`, `MIG-…` or `cpu:0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceId {
    /// A whole GPU, or a MIG instance of one.
    Gpu {
        /// Number of the card in the order of nvidia-smi.
        index: u32,
        /// `GPU-…`, or `MIG-…` for an instance.
        uuid: String,
    },
    /// A part of the host's processors.
    Cpu {
        /// Number within the job.
        index: u32,
    },
}

impl DeviceId {
    /// The UUID of a GPU.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        match self {
            Self::Gpu { uuid, .. } => Some(uuid),
            Self::Cpu { .. } => None,
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu { uuid, .. } => f.write_str(uuid),
            Self::Cpu { index } => write!(f, "cpu:{index}"),
        }
    }
}
