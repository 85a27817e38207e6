//! Hosts and their devices: what was found ([`Inventory`]), what is wanted ([`DeviceRequest`]), what is taken
//! ([`select()`]).
//!
//! The types and decisions are pure. Three files below touch the world: `nvml.rs` asks NVIDIA's library, `host.rs` the
//! kernel, `lock.rs` keeps two runs from one card.

mod device;
pub mod host;
pub mod lock;
pub mod nvml;
pub mod ready;
pub mod render;
mod select;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use device::{CpuShare, Device, DeviceId, DeviceRequest, GpuName, Kind};
pub use select::{SelectError, SelectOptions, Selection, availability, select};

/// Version of the inventory's JSON.
pub const VERSION: u32 = 1;

/// Why a field has no value, by the field's name. What could not be read is absent and named here; it is never 0.
pub type Unreadable = BTreeMap<String, String>;

/// A machine and its GPUs at one moment.
///
/// `evenkeel devices --json` prints one and `evenkeel plan --inventory FILE` reads it. A field that is absent in a file
/// is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// Always [`VERSION`].
    pub version: u32,
    /// The machine.
    pub host: Host,
    /// Its GPUs, in the order of nvidia-smi.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Why there are no GPUs, as a sentence.
    #[serde(default)]
    pub note: Option<String>,
}

impl Inventory {
    /// An inventory of a machine on which no GPU was found, and the sentence that says why.
    #[must_use]
    pub fn without_gpus(host: Host, note: impl Into<String>) -> Self {
        Self { version: VERSION, host, gpus: Vec::new(), note: Some(note.into()) }
    }

    /// The same as if nobody used the cards and instances of these UUIDs: for a run whose own trainers do.
    #[must_use]
    pub fn without_users_of(mut self, uuids: &[String]) -> Self {
        fn each(gpu: &mut Gpu, uuids: &[String]) {
            if gpu.uuid.as_ref().is_some_and(|uuid| uuids.contains(uuid)) {
                gpu.compute_processes = Some(Vec::new());
                gpu.held_by = None;
                gpu.memory.iter_mut().for_each(|memory| memory.free_bytes = memory.total_bytes);
            }
            if let Some(Mig::Enabled { instances }) = &mut gpu.mig {
                instances.iter_mut().for_each(|instance| each(instance, uuids));
            }
        }
        self.gpus.iter_mut().for_each(|gpu| each(gpu, uuids));
        self
    }

    /// Reads an inventory as `evenkeel devices --json` prints it.
    ///
    /// # Errors
    ///
    /// The text is no inventory, or one of another version.
    pub fn from_json(text: &str) -> Result<Self, InventoryError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        // What `devices` adds for people is no part of a machine; anything else is a typing error.
        let known = ["version", "host", "gpus", "note", "availability"];
        let unknown = value.as_object().and_then(|map| map.keys().find(|key| !known.contains(&key.as_str())));
        if let Some(key) = unknown {
            return Err(InventoryError::Absurd(format!("unknown key `{key}`")));
        }
        let inventory: Self = serde_json::from_value(value)?;
        if inventory.version != VERSION {
            return Err(InventoryError::Version(inventory.version));
        }
        inventory.check()?;
        Ok(inventory)
    }

    /// Refuses what no machine can be: a file was perhaps written by hand.
    fn check(&self) -> Result<(), InventoryError> {
        let absurd = |message: String| Err(InventoryError::Absurd(message));
        if self.host.cpus == 0 {
            return absurd("`host.cpus` is 0".to_owned());
        }
        let mut seen = BTreeSet::new();
        for gpu in self.gpus.iter().flat_map(|card| std::iter::once(card).chain(card.instances())) {
            if let Some(uuid) = gpu.uuid.as_ref().filter(|uuid| !seen.insert((*uuid).clone())) {
                return absurd(format!("UUID `{uuid}` is given twice"));
            }
            if let Some(memory) = gpu.memory.filter(|memory| memory.free_bytes > memory.total_bytes) {
                let Memory { free_bytes, total_bytes } = memory;
                let label = gpu.label();
                return absurd(format!("{label} has {free_bytes} of {total_bytes} bytes free, more than there are"));
            }
        }
        Ok(())
    }
}

/// Why a text is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// It is not JSON, or lacks a field, or has one too many.
    #[error("not an inventory")]
    Invalid(#[from] serde_json::Error),
    /// It says something that cannot be.
    #[error("not an inventory of a machine: {0}")]
    Absurd(String),
    /// It was written by another version.
    #[error("inventory of version {0}, where version {VERSION} is understood")]
    Version(u32),
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name in the network.
    #[serde(default)]
    pub name: Option<String>,
    /// Processors that programs may use; at least 1.
    pub cpus: u32,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Version of NVIDIA's kernel driver, such as `580.95.05`.
    #[serde(default)]
    pub driver: Option<String>,
    /// The newest CUDA that the driver can run.
    #[serde(default)]
    pub cuda_driver: Option<CudaVersion>,
    /// Version of NVML.
    #[serde(default)]
    pub nvml: Option<String>,
    /// Why a field above is absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreadable: Unreadable,
}

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaVersion {
    /// The 13 of 13.0.
    pub major: u32,
    /// The 0 of 13.0.
    pub minor: u32,
}

impl std::fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A GPU, or an instance of one that MIG has split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Number in the order of nvidia-smi; of a MIG instance, its number on the card.
    pub index: u32,
    /// `GPU-…` or `MIG-…`. Without it the card cannot be used.
    #[serde(default)]
    pub uuid: Option<String>,
    /// The product's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Its memory.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Generation of its processors.
    #[serde(default)]
    pub compute_capability: Option<ComputeCapability>,
    /// Whether it is split.
    #[serde(default)]
    pub mig: Option<Mig>,
    /// Programs that compute on it.
    #[serde(default)]
    pub compute_processes: Option<Vec<Process>>,
    /// Programs that draw with it.
    #[serde(default)]
    pub graphics_processes: Option<Vec<Process>>,
    /// Whether a screen is driven by it.
    #[serde(default)]
    pub display_active: Option<bool>,
    /// The run that holds its lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<lock::Holder>,
    /// Why a field above is absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreadable: Unreadable,
}

impl Gpu {
    /// How messages call it: `GPU 0 (NVIDIA A100)`.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("GPU {} ({name})", self.index),
            None => format!("GPU {}", self.index),
        }
    }

    /// Its instances, if it is split.
    #[must_use]
    pub fn instances(&self) -> &[Gpu] {
        match &self.mig {
            Some(Mig::Enabled { instances }) => instances,
            _ => &[],
        }
    }
}

/// Memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What nobody uses, in bytes.
    pub free_bytes: u64,
}

/// Generation of a GPU's processors, such as 8.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeCapability {
    /// The 8 of 8.6.
    pub major: u32,
    /// The 6 of 8.6.
    pub minor: u32,
}

impl std::fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether a GPU is split into instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mig {
    /// It cannot be.
    NotSupported,
    /// It could be.
    Disabled,
    /// It is: the card itself takes no work, each instance is a device.
    Enabled {
        /// The instances; none when MIG is on and nobody has made any.
        instances: Vec<Gpu>,
    },
}

/// A program on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number on the host.
    pub pid: u32,
    /// Memory of the GPU that it uses, in bytes, where the driver tells.
    #[serde(default)]
    pub used_bytes: Option<u64>,
    /// Its program's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Whose it is: a name, or a uid that has none.
    #[serde(default)]
    pub user: Option<String>,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}", self.pid)?;
        if let Some(name) = &self.name {
            write!(f, " `{name}`")?;
        }
        if let Some(user) = &self.user {
            write!(f, " of {user}")?;
        }
        if let Some(bytes) = self.used_bytes {
            write!(f, " with {}", render::bytes(bytes))?;
        }
        Ok(())
    }
}

/// Whether work can be put on a GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Availability {
    /// Nobody computes on it.
    Free {
        /// What is worth knowing all the same, such as a display that takes some of its memory.
        note: Option<String>,
    },
    /// Somebody computes on it.
    Busy {
        /// Who.
        by: Vec<Process>,
    },
    /// Another run of ours has taken it.
    Held {
        /// Which.
        by: lock::Holder,
    },
    /// It is split: its instances take the work.
    Split {
        /// How many there are.
        instances: usize,
    },
    /// It cannot be told.
    Unknown {
        /// What could not be read, and why.
        why: String,
    },
}
