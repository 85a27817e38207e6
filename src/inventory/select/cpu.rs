//! CPU devices: shares of the host's processors.

use super::{SelectError, Selection};
use crate::inventory::{CpuShare, Device, DeviceId, Host, render};

/// The processors of two: enough for a real process group.
const AUTO_DEVICES: u32 = 2;

/// What `auto` gives where there is no GPU.
pub(super) fn auto(host: &Host) -> Result<Selection, SelectError> {
    let count = AUTO_DEVICES.min(host.cpus).max(1);
    let mut selection = devices(host, &vec![CpuShare::default(); count as usize])?;
    selection.reasons.insert(
        0,
        match count {
            1 => "the CPU trains, as one device, because there is one processor".to_owned(),
            _ => format!("the CPU trains, as {count} devices that share {} processors", host.cpus),
        },
    );
    Ok(selection)
}

/// Devices of the sizes given; those without one share what the others leave.
pub(super) fn devices(host: &Host, list: &[CpuShare]) -> Result<Selection, SelectError> {
    if list.is_empty() {
        return Err(SelectError::NoDevices);
    }
    let present = f64::from(host.cpus);
    if let Some((index, wanted)) = list
        .iter()
        .enumerate()
        .find_map(|(index, one)| one.cpus.filter(|cpus| *cpus > present).map(|cpus| (index, cpus)))
    {
        return Err(SelectError::CpuTooLarge { index, wanted, present: host.cpus });
    }
    let caps: u64 = list.iter().filter_map(|one| one.memory).fold(0, u64::saturating_add);
    if let Some(memory) = host.memory_bytes.filter(|memory| caps > *memory) {
        return Err(SelectError::MemoryTooLarge { wanted: caps, present: memory });
    }
    let sized: f64 = list.iter().filter_map(|one| one.cpus).sum();
    let unsized_count = list.iter().filter(|one| one.cpus.is_none()).count() as u32;
    if unsized_count > 0 && sized >= present {
        return Err(SelectError::CpuLeftOver);
    }
    let share = (present - sized) / f64::from(unsized_count.max(1));
    let uncapped = list.iter().filter(|one| one.memory.is_none()).count() as u64;
    let devices = list.iter().zip(0..).map(|(one, index)| Device {
        id: DeviceId::Cpu { index },
        name: format!("CPU device {index}"),
        model: None,
        memory_budget_bytes: one.memory.or_else(|| host.memory_bytes.map(|memory| (memory - caps) / uncapped.max(1))),
        memory_cap_bytes: one.memory,
        cpus: Some(one.cpus.unwrap_or(share)),
        compute_capability: None,
    });
    let devices: Vec<Device> = devices.collect();
    let wanted: f64 = devices.iter().filter_map(|device| device.cpus).sum();
    let mut reasons = Vec::new();
    // A share is a quotient, so the sum of all may miss the whole by a rounding.
    if wanted > present + 1e-6 {
        reasons.push(format!("the CPU devices want {wanted} processors of {present}: they slow each other down"));
    }
    if let Some(least) = devices.iter().filter_map(|device| device.cpus).find(|cpus| *cpus < 1.0) {
        reasons.push(format!("a CPU device has {least:.2} of a processor"));
    }
    if let (Some(memory), true) = (host.memory_bytes, caps > 0) {
        reasons.push(format!("the memory caps take {} of {}", render::bytes(caps), render::bytes(memory)));
    }
    Ok(Selection { devices, reasons })
}
