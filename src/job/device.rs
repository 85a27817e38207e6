//! `device` and `gpus`: which devices a job wants, in the forms that people write.

use serde_json::{Value as Json, json};
use serde_yaml::Value;

use super::compose;
use super::cursor::Cursor;
use super::error::{JobError, printable};
use crate::inventory::{CpuShare, DeviceRequest, GpuName};

/// Devices of a job at most.
const MOST: u32 = 1024;
const EXPECTED: &str =
    "`auto`, `cpu`, `cpu:2`, an index, a UUID, a list of them, or a list of `{cpu: 1.0, memory: 2GiB}`";

/// Reads `device` or `gpus`; without either, `auto`.
pub(super) fn read(root: &Cursor<'_>) -> Result<DeviceRequest, JobError> {
    let (device, gpus) = (root.get("device"), root.get("gpus"));
    match (device, gpus) {
        (Some(device), Some(gpus)) if device.value.as_str() != Some("auto") => {
            let mut invalid = gpus.document.wrong_key(&gpus.path, "`gpus` and `device` are both given");
            invalid.hint = Some("`gpus: 2` means any two free ones; `device` names them; keep one of the two".into());
            Err(invalid.into())
        }
        (_, Some(gpus)) if gpus.value.as_str() == Some("all") => {
            let mut invalid = gpus.wrong(format!("a whole number from 1 to {MOST} (GPUs)"));
            invalid.hint = Some("`device: auto` takes every free one".into());
            Err(invalid.into())
        }
        (_, Some(gpus)) => Ok(DeviceRequest::Count(gpus.whole32(1..=MOST, "GPUs")?)),
        (Some(device), None) => request(&device),
        (None, None) => Ok(DeviceRequest::Auto),
    }
}

fn request(at: &Cursor<'_>) -> Result<DeviceRequest, JobError> {
    match at.value {
        Value::Sequence(_) => list(at),
        Value::Number(number) if number.as_i64() == Some(-1) => {
            let mut invalid = at.wrong(EXPECTED);
            invalid.hint = Some("write `gpus: 1` for any free one".into());
            Err(invalid.into())
        }
        Value::Number(_) => Ok(DeviceRequest::Gpus(vec![index(at)?])),
        Value::String(text) => word(at, text.trim()),
        _ => Err(at.wrong(EXPECTED).into()),
    }
}

fn word(at: &Cursor<'_>, text: &str) -> Result<DeviceRequest, JobError> {
    if text == "auto" {
        return Ok(DeviceRequest::Auto);
    }
    if text == "cpu" {
        return Ok(DeviceRequest::Cpus(vec![CpuShare::default()]));
    }
    if let Some(count) = text.strip_prefix("cpu:") {
        let count = count.parse().ok().filter(|count| (1..=MOST).contains(count));
        let count = count.ok_or_else(|| at.wrong(format!("`cpu:N` with N from 1 to {MOST}")))?;
        return Ok(DeviceRequest::Cpus(vec![CpuShare::default(); count as usize]));
    }
    if matches!(text, "cuda" | "gpu" | "gpus" | "all") {
        let mut invalid = at.wrong(EXPECTED);
        invalid.hint = Some("`auto` takes every free GPU, `gpus: 2` any two".into());
        return Err(invalid.into());
    }
    if matches!(text.split(':').next(), Some("mps" | "xpu" | "npu" | "tpu" | "rocm")) {
        return Err(at.refuse(format!("device `{}` is not supported, expected {EXPECTED}", printable(text))).into());
    }
    // Yolo's own way to write several, and torch's way to write one.
    let names = text.split(',').map(str::trim);
    let gpus = names
        .map(|name| match name.strip_prefix("cuda:").unwrap_or(name) {
            name if is_uuid(name) => Some(GpuName::Uuid(name.to_owned())),
            name if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                name.parse().ok().filter(|index| *index < MOST).map(GpuName::Index)
            }
            _ => None,
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| at.wrong(EXPECTED))?;
    distinct(at, gpus)
}

fn list(at: &Cursor<'_>) -> Result<DeviceRequest, JobError> {
    let items = at.items(EXPECTED)?;
    if items.is_empty() || items.len() > MOST as usize {
        return Err(at.wrong(EXPECTED).into());
    }
    let cpus = items.iter().filter(|item| item.value.is_mapping()).count();
    if cpus == items.len() {
        return items.iter().map(cpu).collect::<Result<_, _>>().map(DeviceRequest::Cpus);
    }
    if cpus > 0 {
        return Err(at.refuse(format!("`{}` mixes GPUs and CPU devices", at.path)).into());
    }
    let gpus = items
        .iter()
        .map(|item| match item.value {
            Value::Number(_) => index(item),
            Value::String(text) if is_uuid(text) => Ok(GpuName::Uuid(text.clone())),
            _ => Err(item.wrong("the index or the UUID of a GPU").into()),
        })
        .collect::<Result<_, _>>()?;
    distinct(at, gpus)
}

fn distinct(at: &Cursor<'_>, gpus: Vec<GpuName>) -> Result<DeviceRequest, JobError> {
    let twice = gpus.iter().enumerate().find(|(position, gpu)| gpus[..*position].contains(gpu));
    if let Some((_, gpu)) = twice {
        return Err(at.refuse(format!("GPU `{}` is named twice", printable(&gpu.to_string()))).into());
    }
    Ok(DeviceRequest::Gpus(gpus))
}

fn index(at: &Cursor<'_>) -> Result<GpuName, JobError> {
    at.whole32(0..=MOST - 1, "the index of a GPU in nvidia-smi's order").map(GpuName::Index)
}

fn cpu(at: &Cursor<'_>) -> Result<CpuShare, JobError> {
    at.only("a CPU device", &["cpu", "memory"], |_, _| None)?;
    let cpus = match at.get("cpu") {
        Some(share) => {
            let fits = share.value.as_f64().filter(|cpus| (0.01..=1024.0).contains(cpus));
            Some(fits.ok_or_else(|| share.wrong("a number of processors from 0.01 to 1024"))?)
        }
        None => None,
    };
    let memory = at.get("memory").map(|memory| compose::size(&memory)).transpose()?;
    Ok(CpuShare { cpus, memory })
}

fn is_uuid(text: &str) -> bool {
    let rest = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && rest.len() <= 100
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/".contains(&byte))
    })
}

/// The request as a job writes it: the key and its value.
pub(super) fn write(request: &DeviceRequest) -> (&'static str, Json) {
    let value = match request {
        DeviceRequest::Auto => json!("auto"),
        DeviceRequest::Count(count) => return ("gpus", json!(count)),
        DeviceRequest::Gpus(gpus) => gpus
            .iter()
            .map(|gpu| match gpu {
                GpuName::Index(index) => json!(index),
                GpuName::Uuid(uuid) => json!(uuid),
            })
            .collect(),
        DeviceRequest::Cpus(cpus) if cpus.iter().all(|share| *share == CpuShare::default()) => {
            json!(format!("cpu:{}", cpus.len()))
        }
        DeviceRequest::Cpus(cpus) => {
            cpus.iter().map(|share| json!({"cpu": share.cpus, "memory": share.memory})).collect()
        }
    };
    ("device", value)
}
