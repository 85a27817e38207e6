//! What a job may ask for, and what it gets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which devices a job wants.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceRequest {
    /// Every free GPU; on a machine without one, CPU devices.
    Auto,
    /// These GPUs, in this order; at least one.
    Gpus(Vec<GpuRef>),
    /// Any free GPUs, this many.
    AnyGpus(u32),
    /// CPU devices that share the host's processors equally, this many. `cpu` is one.
    Cpus(u32),
    /// CPU devices with a size each; at least one.
    CpuList(Vec<CpuRequest>),
}

/// A GPU by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuRef {
    /// Number in the order of nvidia-smi.
    Index(u32),
    /// UUID of a GPU or a MIG instance, or the beginning of one.
    Uuid(String),
}

impl fmt::Display for GpuRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

/// A CPU device of a given size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuRequest {
    /// Processors that it may use; absent: an equal share of what the others leave.
    pub cpus: Option<f64>,
    /// Memory that it may use, in bytes; absent: no cap.
    pub memory_bytes: Option<u64>,
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no device")]
pub struct ParseDeviceError(pub String);

impl ParseDeviceError {
    /// What to write instead.
    pub const HINT: &str =
        "`auto`, a GPU's number as in nvidia-smi (`0` or `0,1`), its UUID (`GPU-…`), `cpu` or `cpu:2`";
}

impl FromStr for DeviceRequest {
    type Err = ParseDeviceError;

    /// Reads `auto`, `cpu`, `cpu:2`, `0`, `0,1`, `cuda:0`, `GPU-…`; lists may be in brackets.
    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let error = || ParseDeviceError(text.to_owned());
        let trimmed = text.trim();
        match trimmed {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpus(1)),
            _ => {}
        }
        if let Some(count) = trimmed.strip_prefix("cpu:") {
            return match count.parse() {
                Ok(count) if count > 0 => Ok(Self::Cpus(count)),
                _ => Err(error()),
            };
        }
        let list = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(trimmed);
        let gpus: Option<Vec<GpuRef>> = list.split(',').map(|entry| entry.parse().ok()).collect();
        gpus.map(Self::Gpus).ok_or_else(error)
    }
}

impl FromStr for GpuRef {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let trimmed = text.trim();
        let number = trimmed.strip_prefix("cuda:").unwrap_or(trimmed);
        if let Ok(index) = number.parse() {
            return Ok(Self::Index(index));
        }
        let is_uuid = trimmed.starts_with("GPU-") || trimmed.starts_with("MIG-");
        match is_uuid && trimmed.len() > 4 {
            true => Ok(Self::Uuid(trimmed.to_owned())),
            false => Err(ParseDeviceError(text.to_owned())),
        }
    }
}

/// A device that a rank computes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Which one.
    pub id: DeviceId,
    /// What a person calls it.
    pub name: String,
    /// Bytes that training may count on: a GPU's free memory, a CPU device's cap or else its share of the host's memory.
    /// Absent where it could not be read.
    pub memory_budget_bytes: Option<u64>,
    /// Bytes that a CPU device is held to; absent on a GPU and where the job set none.
    pub memory_cap_bytes: Option<u64>,
    /// Processors of a CPU device, of which it may be a fraction; absent on a GPU.
    pub cpus: Option<f64>,
    /// Generation of a GPU's processors; absent on a CPU device and where it could not be read.
    pub compute_capability: Option<(u32, u32)>,
}

impl Device {
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
