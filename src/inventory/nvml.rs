//! GPUs as NVIDIA's management library tells them. The only file that knows nvml-wrapper.
//!
//! Every call can fail by itself: then its field is absent and the inventory says why.

use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};

use super::{ComputeCapability, CudaVersion, Gpu, Host, Inventory, Memory, Mig, Process, Unreadable, VERSION, host};

/// Names under which the loader knows the library: the driver's packages bring the first, developers' the second.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Takes the inventory of this machine. `library` is a path to NVML where it is not in its usual place.
///
/// This does not fail: where there is nothing to ask, the inventory has no GPUs and says why.
#[must_use]
pub fn inventory(library: Option<&Path>) -> Inventory {
    let mut host = host::read();
    let nvml = match open(library) {
        Ok(nvml) => nvml,
        Err(note) => return Inventory::without_gpus(host, note),
    };
    read_host(&nvml, &mut host);
    let count = match nvml.device_count() {
        Ok(0) => return Inventory::without_gpus(host, "NVIDIA's driver sees no GPU in this machine"),
        Ok(count) => count,
        Err(error) => {
            let note = format!("the GPUs of this machine cannot be counted: NVML says {error}");
            return Inventory::without_gpus(host, note);
        }
    };
    let gpus = (0..count).map(|index| read_card(&nvml, index)).collect();
    Inventory { version: VERSION, host, gpus, note: None }
}

/// NVML, held open to look at some GPUs again and again.
pub struct Gauges {
    nvml: Nvml,
}

/// What a GPU shows at one moment. What cannot be read is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Memory in use and all that there is, bytes.
    pub memory: Option<(u64, u64)>,
    /// Share of the last moments in which it computed.
    pub utilization_percent: Option<u32>,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Milliwatts.
    pub power_mw: Option<u32>,
    /// What holds its clocks back, by name. Having nothing to do is no reason.
    pub throttling: Option<Vec<String>>,
    /// Programs that compute on it.
    pub processes: Option<Vec<Process>>,
}

impl Gauges {
    /// Opens NVML; `library` is its path where it is not in its usual place.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, as a sentence.
    pub fn open(library: Option<&Path>) -> Result<Self, String> {
        open(library).map(|nvml| Self { nvml })
    }

    /// Reads a GPU, or a MIG instance of one, by its UUID. This call can hang where a driver does.
    ///
    /// # Errors
    ///
    /// NVML does not know it, or has lost it.
    pub fn read(&self, uuid: &str) -> Result<Reading, String> {
        let device = self.nvml.device_by_uuid(uuid).map_err(|error| error.to_string())?;
        // Heat, power and clocks are the card's.
        let card = device.mig_parent_device().ok();
        let card = card.as_ref().unwrap_or(&device);
        let processes = device.running_compute_processes().ok();
        Ok(Reading {
            memory: device.memory_info().ok().filter(|info| info.total > 0).map(|info| (info.used, info.total)),
            utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            temperature_c: card.temperature(TemperatureSensor::Gpu).ok(),
            power_mw: card.power_usage().ok(),
            throttling: card.current_throttle_reasons().ok().map(reasons),
            processes: processes.map(|list| list.iter().map(|info| read_process(&self.nvml, info)).collect()),
        })
    }
}

fn reasons(reasons: ThrottleReasons) -> Vec<String> {
    // A bit that has an older name as well comes once.
    (reasons - ThrottleReasons::GPU_IDLE).iter_names().map(|(name, _)| name.to_lowercase()).collect()
}

fn open(library: Option<&Path>) -> Result<Nvml, String> {
    let names: Vec<&OsStr> = match library {
        Some(path) => vec![path.as_os_str()],
        None => NAMES.iter().map(OsStr::new).collect(),
    };
    let mut last = None;
    for name in names {
        match Nvml::builder().lib_path(name).init() {
            Ok(nvml) => return Ok(nvml),
            Err(error @ NvmlError::LibloadingError(_)) => last = Some(error),
            Err(error) => {
                return Err(format!("the GPUs of this machine cannot be used: NVML says {}", explained(&error)));
            }
        }
    }
    Err(match (library, last) {
        (Some(path), Some(error)) => format!("NVML at `{}` cannot be loaded: {error}", path.display()),
        _ => "this machine has no NVIDIA driver (its library NVML is not there), so no GPU can be used".to_owned(),
    })
}

/// What NVML says at its start, and what that means where people meet it often.
fn explained(error: &NvmlError) -> String {
    match error {
        NvmlError::DriverNotLoaded => {
            format!("{error}: the kernel module is missing, as after a kernel update; `sudo modprobe nvidia` says why")
        }
        NvmlError::LibRmVersionMismatch => {
            format!("{error}: the driver was updated under the running kernel module; a reboot puts it right")
        }
        _ => error.to_string(),
    }
}

fn read_host(nvml: &Nvml, host: &mut Host) {
    host.driver = keep(&mut host.unreadable, "driver", nvml.sys_driver_version());
    host.nvml = keep(&mut host.unreadable, "nvml", nvml.sys_nvml_version());
    let cuda = keep(&mut host.unreadable, "cuda_driver", nvml.sys_cuda_driver_version());
    host.cuda_driver = cuda.and_then(|version| {
        Some(CudaVersion {
            major: cuda_driver_version_major(version).try_into().ok()?,
            minor: cuda_driver_version_minor(version).try_into().ok()?,
        })
    });
}

fn read_card(nvml: &Nvml, index: u32) -> Gpu {
    match nvml.device_by_index(index) {
        Ok(device) => {
            let mut gpu = read_device(nvml, &device, index);
            gpu.mig = read_mig(nvml, &device, &mut gpu);
            gpu
        }
        Err(error) => {
            let fields = [
                "uuid",
                "name",
                "memory",
                "compute_capability",
                "mig",
                "compute_processes",
                "graphics_processes",
                "display_active",
            ];
            let unreadable = fields.iter().map(|field| ((*field).to_owned(), error.to_string())).collect();
            Gpu { index, unreadable, ..Gpu::default() }
        }
    }
}

/// What is read alike of a card and of an instance of one.
fn read_device(nvml: &Nvml, device: &Device<'_>, index: u32) -> Gpu {
    let mut unreadable = Unreadable::new();
    let memory = keep(&mut unreadable, "memory", device.memory_info());
    let memory = match memory {
        // A card without memory, or with more free than there is, is a reading that went wrong.
        Some(info) if info.total == 0 || info.free > info.total => {
            unreadable.insert("memory".into(), format!("NVML says {} bytes free of {}", info.free, info.total));
            None
        }
        Some(info) => Some(Memory { total_bytes: info.total, free_bytes: info.free }),
        None => None,
    };
    let capability = keep(&mut unreadable, "compute_capability", device.cuda_compute_capability());
    let compute = keep(&mut unreadable, "compute_processes", device.running_compute_processes());
    let graphics = keep(&mut unreadable, "graphics_processes", device.running_graphics_processes());
    Gpu {
        index,
        uuid: keep(&mut unreadable, "uuid", device.uuid()),
        name: keep(&mut unreadable, "name", device.name()),
        memory,
        compute_capability: capability.and_then(|found| {
            Some(ComputeCapability { major: found.major.try_into().ok()?, minor: found.minor.try_into().ok()? })
        }),
        mig: None,
        compute_processes: compute.map(|list| list.iter().map(|info| read_process(nvml, info)).collect()),
        graphics_processes: graphics.map(|list| list.iter().map(|info| read_process(nvml, info)).collect()),
        display_active: keep(&mut unreadable, "display_active", device.is_display_active()),
        held_by: None,
        unreadable,
    }
}

fn read_mig(nvml: &Nvml, device: &Device<'_>, card: &mut Gpu) -> Option<Mig> {
    let unreadable = &mut card.unreadable;
    let mode = match device.mig_mode() {
        // Cards and drivers from before MIG say so in these two ways.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => {
            return Some(Mig::NotSupported);
        }
        mode => keep(unreadable, "mig", mode)?,
    };
    if mode.current == 0 {
        return Some(Mig::Disabled);
    }
    let most = keep(unreadable, "mig", device.mig_device_count())?;
    let mut instances = Vec::new();
    for index in 0..most {
        match device.mig_device_by_index(index) {
            Ok(instance) => {
                let mut instance = read_instance(nvml, &instance, index);
                instance.compute_capability = card.compute_capability;
                instances.push(instance);
            }
            // Numbers that no instance bears.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
            Err(error) => {
                unreadable.insert(format!("mig instance {index}"), error.to_string());
            }
        }
    }
    Some(Mig::Enabled { instances })
}

fn read_instance(nvml: &Nvml, instance: &Device<'_>, index: u32) -> Gpu {
    let mut gpu = read_device(nvml, instance, index);
    gpu.mig = Some(Mig::NotSupported);
    // These two belong to the card; NVML may refuse to say them of an instance.
    gpu.display_active = None;
    for field in ["display_active", "compute_capability"] {
        gpu.unreadable.remove(field);
    }
    gpu
}

fn read_process(nvml: &Nvml, info: &ProcessInfo) -> Process {
    let (name, user) = host::process(info.pid);
    let used_bytes = match info.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    // NVML may know a program that the kernel hides from this user.
    let name = name.or_else(|| nvml.sys_process_name(info.pid, 64).ok().filter(|name| !name.is_empty()));
    Process { pid: info.pid, used_bytes, name, user }
}

fn keep<T>(unreadable: &mut Unreadable, field: &str, result: Result<T, NvmlError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            unreadable.insert(field.to_owned(), error.to_string());
            None
        }
    }
}
