//! The NVML functions that Evenkeel calls through nvml-wrapper, answered from a JSON file: NVIDIA's library for tests
//! on machines without NVIDIA.
//!
//! The file is named by the environment variable `EVENKEEL_NVML_STUB` and read once, at `nvmlInit_v2`:
//!
//! ```json
//! {
//!   "init": {"error": 9},
//!   "driver": "580.95.05",
//!   "nvml": "13.580.95.05",
//!   "cuda": 13000,
//!   "process_names": {"5000001": "python"},
//!   "device_count": {"error": 999},
//!   "devices": [
//!     {
//!       "handle": {"error": 15},
//!       "uuid": "GPU-…",
//!       "name": "NVIDIA …",
//!       "memory": {"total": 25757220864, "free": 25000000000},
//!       "compute_capability": [8, 6],
//!       "mig_mode": 1,
//!       "mig_devices": [null, {"uuid": "MIG-…"}],
//!       "compute_processes": [{"pid": 5000001, "used": 1073741824}, {"pid": 5000002}],
//!       "graphics_processes": [],
//!       "display_active": true,
//!       "utilization": 97,
//!       "temperature": 71,
//!       "power": 212500,
//!       "throttling": 4,
//!       "hang": "utilization"
//!     }
//!   ]
//! }
//! ```
//!
//! Everything may be left out. Wherever a value can stand, `{"error": CODE}` makes that call answer with an error of NVML's;
//! a value that is not there answers 3, not supported, as real cards do. `device_count` and `handle` are there for their
//! errors: the count is that of `devices`. A `null` among `mig_devices` is a number that no instance bears. A process
//! without `used` has memory that the driver does not tell. `power` is in milliwatts, `throttling` NVML's bits of reasons. The call that
//! `hang` names never answers. A process with `"once": PATH` is there once that file is.

mod answer;

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};
use std::sync::Mutex;

use serde_json::Value;

use answer::{Code, array, error_of, field, integer, text};

const SUCCESS: Code = 0;
const UNINITIALIZED: Code = 1;
const INVALID_ARGUMENT: Code = 2;
const NOT_SUPPORTED: Code = 3;
const NOT_FOUND: Code = 6;
const INSUFFICIENT_SIZE: Code = 7;
const VERSION_MISMATCH: Code = 25;
const UNKNOWN: Code = 999;

/// What NVML writes where it cannot tell how much memory a program uses.
const NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;

/// The document, while the library is initialised. It is leaked, as handles point into it.
static DOCUMENT: Mutex<Option<&'static Value>> = Mutex::new(None);

/// What a device handle points to: that device's object in the document.
type Handle = *const Value;

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlProcessInfo_v2_t`, which the third version of its functions fills.
#[repr(C)]
pub struct ProcessInfo {
    pid: c_uint,
    used: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

fn document() -> Result<&'static Value, Code> {
    let guard = DOCUMENT.lock().map_err(|_| UNKNOWN)?;
    guard.ok_or(UNINITIALIZED)
}

/// The device behind a handle, as long as the library is initialised.
fn device(handle: Handle) -> Result<&'static Value, Code> {
    document()?;
    // SAFETY: the only handles given out are null, which `as_ref` knows, and references into a document that is leaked.
    unsafe { handle.as_ref() }.ok_or(INVALID_ARGUMENT)
}

/// Stores a value for the caller.
///
/// # Safety
///
/// `place` is null or valid for writing a `T`.
unsafe fn store<T>(place: *mut T, value: T) -> Result<(), Code> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and so valid, as the caller promises.
    unsafe { place.write(value) };
    Ok(())
}

/// Stores a text with its end mark.
///
/// # Safety
///
/// `place` is null or valid for writing `length` bytes.
unsafe fn store_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), Code> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its end mark are at most `length` bytes, for which the place is valid, as the caller
    // promises; the text is ours and does not overlap it.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

fn init() -> Result<(), Code> {
    let path = std::env::var_os("EVENKEEL_NVML_STUB").ok_or(UNKNOWN)?;
    let file = std::fs::read_to_string(&path).map_err(|_| UNKNOWN)?;
    let document: Value = serde_json::from_str(&file).map_err(|error| {
        eprintln!("nvml-stub: `{}`: {error}", path.to_string_lossy());
        UNKNOWN
    })?;
    if let Some(error) = document.get("init").and_then(error_of) {
        return Err(error);
    }
    *DOCUMENT.lock().map_err(|_| UNKNOWN)? = Some(Box::leak(Box::new(document)));
    Ok(())
}

/// Reads the document.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Code {
    code(init())
}

/// Ends what `nvmlInit_v2` began.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Code {
    match DOCUMENT.lock() {
        Ok(mut document) => document.take().map_or(UNINITIALIZED, |_| SUCCESS),
        Err(_) => UNKNOWN,
    }
}

/// `driver`.
///
/// # Safety
///
/// As NVML demands: `version` takes `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller promises what `store_text` needs.
    code(
        document()
            .and_then(|document| text(document, "driver"))
            .and_then(|text| unsafe { store_text(version, length, text) }),
    )
}

/// `nvml`.
///
/// # Safety
///
/// As NVML demands: `version` takes `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller promises what `store_text` needs.
    code(
        document()
            .and_then(|document| text(document, "nvml"))
            .and_then(|text| unsafe { store_text(version, length, text) }),
    )
}

/// `cuda`.
///
/// # Safety
///
/// As NVML demands: `version` takes an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Code {
    let cuda = document().and_then(|document| integer(field(document, "cuda")?));
    // SAFETY: the caller promises what `store` needs.
    code(cuda.and_then(|cuda| unsafe { store(version, cuda) }))
}

/// `process_names`.
///
/// # Safety
///
/// As NVML demands: `name` takes `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) -> Code {
    let found = document().and_then(|document| {
        let names = field(document, "process_names")?;
        names.get(pid.to_string()).and_then(Value::as_str).ok_or(NOT_FOUND)
    });
    // SAFETY: the caller promises what `store_text` needs.
    code(found.and_then(|found| unsafe { store_text(name, length, found) }))
}

fn devices() -> Result<&'static [Value], Code> {
    let document = document()?;
    match document.get("device_count").and_then(error_of) {
        Some(error) => Err(error),
        None => Ok(document.get("devices").and_then(Value::as_array).map_or(&[], Vec::as_slice)),
    }
}

/// How many `devices` there are.
///
/// # Safety
///
/// As NVML demands: `count` takes an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Code {
    // SAFETY: the caller promises what `store` needs.
    code(devices().and_then(|devices| unsafe { store(count, devices.len() as c_uint) }))
}

/// `handle`.
///
/// # Safety
///
/// As NVML demands: `handle` takes a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut Handle) -> Code {
    let found = devices().and_then(|devices| {
        let device = devices.get(index as usize).ok_or(INVALID_ARGUMENT)?;
        device.get("handle").and_then(error_of).map_or(Ok(device), Err)
    });
    // SAFETY: the caller promises what `store` needs.
    code(found.and_then(|device| unsafe { store(handle, std::ptr::from_ref(device)) }))
}

/// The device, or MIG instance, of a `uuid`.
///
/// # Safety
///
/// As NVML demands: `uuid` is a text with its end mark, `handle` takes a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, handle: *mut Handle) -> Code {
    let find = || {
        if uuid.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and so a text with its end mark, as the caller promises.
        let uuid = unsafe { std::ffi::CStr::from_ptr(uuid) }.to_str().map_err(|_| INVALID_ARGUMENT)?;
        let mut all =
            devices()?.iter().flat_map(|card| std::iter::once(card).chain(array(card, "mig_devices").unwrap_or(&[])));
        let found = all.find(|device| text(device, "uuid") == Ok(uuid)).ok_or(NOT_FOUND)?;
        found.get("handle").and_then(error_of).map_or(Ok(found), Err)
    };
    // SAFETY: the caller promises what `store` needs.
    code(find().and_then(|device| unsafe { store(handle, std::ptr::from_ref(device)) }))
}

/// A number that a device tells; never, where it is to hang.
fn gauge<T: TryFrom<u64>>(handle: Handle, name: &str) -> Result<T, Code> {
    let device = device(handle)?;
    while device.get("hang").and_then(Value::as_str) == Some(name) {
        std::thread::park();
    }
    integer(field(device, name)?)
}

/// `nvmlUtilization_t`.
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `utilization`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `utilization` takes an `nvmlUtilization_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(handle: Handle, utilization: *mut Utilization) -> Code {
    let told = gauge(handle, "utilization").map(|gpu| Utilization { gpu, memory: 0 });
    // SAFETY: the caller promises what `store` needs.
    code(told.and_then(|told| unsafe { store(utilization, told) }))
}

/// `temperature`, of any sensor.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `temperature` takes an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(handle: Handle, _sensor: c_uint, temperature: *mut c_uint) -> Code {
    // SAFETY: the caller promises what `store` needs.
    code(gauge(handle, "temperature").and_then(|told| unsafe { store(temperature, told) }))
}

/// `power`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `power` takes an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(handle: Handle, power: *mut c_uint) -> Code {
    // SAFETY: the caller promises what `store` needs.
    code(gauge(handle, "power").and_then(|told| unsafe { store(power, told) }))
}

/// `throttling`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `reasons` takes a long integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(handle: Handle, reasons: *mut c_ulonglong) -> Code {
    // SAFETY: the caller promises what `store` needs.
    code(gauge(handle, "throttling").and_then(|told| unsafe { store(reasons, told) }))
}

/// `memory`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `memory` takes an `nvmlMemory_v2_t` whose version is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(handle: Handle, memory: *mut MemoryV2) -> Code {
    let read = || {
        let told = field(device(handle)?, "memory")?;
        let (total, free) = (integer(field(told, "total")?)?, integer(field(told, "free")?)?);
        // SAFETY: the caller promises a null or valid place.
        let asked = unsafe { memory.as_ref() }.ok_or(INVALID_ARGUMENT)?.version;
        let version = (size_of::<MemoryV2>() | 2 << 24) as c_uint;
        if asked != version {
            return Err(VERSION_MISMATCH);
        }
        // A test may say that more is free than there is.
        let used = c_ulonglong::saturating_sub(total, free);
        // SAFETY: the caller promises what `store` needs.
        unsafe { store(memory, MemoryV2 { version, total, reserved: 0, free, used }) }
    };
    code(read())
}

/// `compute_capability`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, the others take integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    handle: Handle,
    major: *mut c_int,
    minor: *mut c_int,
) -> Code {
    let read = || {
        let told = array(device(handle)?, "compute_capability")?;
        let part = |index: usize| told.get(index).ok_or(UNKNOWN).and_then(integer);
        // SAFETY: the caller promises what `store` needs.
        unsafe { store(major, part(0)?) }?;
        // SAFETY: the caller promises what `store` needs.
        unsafe { store(minor, part(1)?) }
    };
    code(read())
}

/// `mig_mode`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, the others take integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(handle: Handle, current: *mut c_uint, pending: *mut c_uint) -> Code {
    let read = || {
        let mode: c_uint = integer(field(device(handle)?, "mig_mode")?)?;
        // SAFETY: the caller promises what `store` needs.
        unsafe { store(current, mode) }?;
        // SAFETY: the caller promises what `store` needs.
        unsafe { store(pending, mode) }
    };
    code(read())
}

/// How many `mig_devices` there could be.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `count` takes an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(handle: Handle, count: *mut c_uint) -> Code {
    let most = device(handle).and_then(|device| array(device, "mig_devices"));
    // SAFETY: the caller promises what `store` needs.
    code(most.and_then(|instances| unsafe { store(count, instances.len() as c_uint) }))
}

/// One of `mig_devices`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `instance` takes a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    handle: Handle,
    index: c_uint,
    instance: *mut Handle,
) -> Code {
    let found = device(handle).and_then(|device| match array(device, "mig_devices")?.get(index as usize) {
        None => Err(INVALID_ARGUMENT),
        Some(Value::Null) => Err(NOT_FOUND),
        Some(found) => error_of(found).map_or(Ok(found), Err),
    });
    // SAFETY: the caller promises what `store` needs.
    code(found.and_then(|found| unsafe { store(instance, std::ptr::from_ref(found)) }))
}

/// # Safety
///
/// `count` is null or valid; `infos` is null or takes as many as `count` says.
unsafe fn processes(handle: Handle, name: &str, count: *mut c_uint, infos: *mut ProcessInfo) -> Result<(), Code> {
    let there = |process: &&Value| {
        process.get("once").and_then(Value::as_str).is_none_or(|path| std::path::Path::new(path).exists())
    };
    let told: Vec<&Value> = array(device(handle)?, name)?.iter().filter(there).collect();
    // SAFETY: the caller promises a null or valid place.
    let room = *unsafe { count.as_ref() }.ok_or(INVALID_ARGUMENT)?;
    // SAFETY: the place was not null.
    unsafe { store(count, told.len() as c_uint) }?;
    if told.len() > room as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    for (index, process) in told.iter().enumerate() {
        let used = process.get("used").map_or(Ok(NOT_AVAILABLE), integer)?;
        let pid = integer(field(process, "pid")?)?;
        let info = ProcessInfo { pid, used, gpu_instance: c_uint::MAX, compute_instance: c_uint::MAX };
        if infos.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: `index` is below the number for which the caller promises room.
        unsafe { infos.add(index).write(info) };
    }
    Ok(())
}

/// `compute_processes`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `infos` takes as many as `count` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    handle: Handle,
    count: *mut c_uint,
    infos: *mut ProcessInfo,
) -> Code {
    // SAFETY: the caller promises what `processes` needs.
    code(unsafe { processes(handle, "compute_processes", count, infos) })
}

/// `graphics_processes`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `infos` takes as many as `count` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    handle: Handle,
    count: *mut c_uint,
    infos: *mut ProcessInfo,
) -> Code {
    // SAFETY: the caller promises what `processes` needs.
    code(unsafe { processes(handle, "graphics_processes", count, infos) })
}

/// `name`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `name` takes `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(handle: Handle, name: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller promises what `store_text` needs.
    code(
        device(handle)
            .and_then(|device| text(device, "name"))
            .and_then(|text| unsafe { store_text(name, length, text) }),
    )
}

/// `uuid`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `uuid` takes `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(handle: Handle, uuid: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller promises what `store_text` needs.
    code(
        device(handle)
            .and_then(|device| text(device, "uuid"))
            .and_then(|text| unsafe { store_text(uuid, length, text) }),
    )
}

/// `display_active`.
///
/// # Safety
///
/// As NVML demands: `handle` is one of this library's, `active` takes an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDisplayActive(handle: Handle, active: *mut c_uint) -> Code {
    let told = device(handle).and_then(|device| field(device, "display_active")?.as_bool().ok_or(UNKNOWN));
    // SAFETY: the caller promises what `store` needs.
    code(told.and_then(|told| unsafe { store(active, c_uint::from(told)) }))
}
