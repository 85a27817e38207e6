//! How an inventory looks to a person and to a program. Pure.

use serde::Serialize;

use super::lock::Holder;
use super::{Availability, DeviceRequest, Gpu, Host, Inventory, Process, SelectOptions, availability, select};

/// Bytes as a person reads them: `23.7 GiB`, `512 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    const MIB: f64 = (1_u64 << 20) as f64;
    // No machine has so much memory that the rounding of a float shows in one decimal.
    let value = bytes as f64;
    match bytes {
        0..0x4000_0000 => format!("{:.0} MiB", value / MIB),
        _ => format!("{:.1} GiB", value / GIB),
    }
}

/// Programs in one line.
#[must_use]
pub fn processes(list: &[Process]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What `evenkeel devices --json` prints: an [`Inventory`], which reads this as well, and what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report<'a> {
    /// As in [`Inventory`].
    pub version: u32,
    /// As in [`Inventory`].
    pub host: &'a Host,
    /// As in [`Inventory`].
    pub gpus: &'a [Gpu],
    /// As in [`Inventory`].
    pub note: Option<&'a str>,
    /// Whether work can be put on each device; the instances of a split card follow it.
    pub availability: Vec<Entry<'a>>,
}

/// One device of a [`Report`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry<'a> {
    /// Number of the card in the order of nvidia-smi.
    pub index: u32,
    /// Number of the instance on a card that MIG has split.
    pub instance: Option<u32>,
    /// `GPU-…` or `MIG-…`.
    pub uuid: Option<&'a str>,
    /// Whether work can be put on it.
    pub availability: Availability,
}

/// Puts together what `evenkeel devices --json` prints.
#[must_use]
pub fn report(inventory: &Inventory) -> Report<'_> {
    let mut entries = Vec::new();
    for card in &inventory.gpus {
        let instances = card.instances().iter().map(|one| (one, Some(one.index)));
        for (gpu, instance) in std::iter::once((card, None)).chain(instances) {
            let uuid = gpu.uuid.as_deref();
            entries.push(Entry { index: card.index, instance, uuid, availability: availability(gpu) });
        }
    }
    Report {
        version: inventory.version,
        host: &inventory.host,
        gpus: &inventory.gpus,
        note: inventory.note.as_deref(),
        availability: entries,
    }
}

/// What `evenkeel devices` prints: the host in a line, a row for each device, and what could not be read.
#[must_use]
pub fn table(inventory: &Inventory) -> String {
    let mut text = host_line(&inventory.host);
    text.push('\n');
    if let Some(note) = &inventory.note {
        text.push_str(note);
        text.push('\n');
    }
    if inventory.gpus.is_empty() {
        if let Ok(cpus) = select(inventory, &DeviceRequest::Auto, &SelectOptions::default()) {
            let count = cpus.devices.len();
            text.push_str(&format!(
                "the CPU serves instead: `device: auto` makes it {count} device{}\n",
                if count == 1 { "" } else { "s" }
            ));
        }
    }
    if !inventory.gpus.is_empty() {
        let mut rows = vec![["GPU", "NAME", "UUID", "FREE", "TOTAL", "CC", "STATE"].map(str::to_owned)];
        for card in &inventory.gpus {
            rows.push(row(card.index.to_string(), card));
            rows.extend(card.instances().iter().map(|one| row(format!("{}:{}", card.index, one.index), one)));
        }
        text.push('\n');
        text.push_str(&columns(&rows));
    }
    let unreadable: Vec<String> = unreadable(inventory);
    if !unreadable.is_empty() {
        text.push_str("\ncould not be read:\n");
        for line in unreadable {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

fn host_line(host: &Host) -> String {
    let mut parts = vec![host.name.clone().unwrap_or_else(|| "this machine".to_owned())];
    parts.push(match host.cpus {
        1 => "1 processor".to_owned(),
        cpus => format!("{cpus} processors"),
    });
    parts.extend(host.memory_bytes.map(bytes));
    parts.extend(host.driver.as_ref().map(|driver| format!("NVIDIA driver {driver}")));
    parts.extend(host.cuda_driver.map(|cuda| format!("CUDA up to {cuda}")));
    parts.join(", ")
}

fn row(index: String, gpu: &Gpu) -> [String; 7] {
    let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
    [
        index,
        or_unknown(gpu.name.clone()),
        or_unknown(gpu.uuid.as_deref().map(short)),
        or_unknown(gpu.memory.map(|memory| bytes(memory.free_bytes))),
        or_unknown(gpu.memory.map(|memory| bytes(memory.total_bytes))),
        or_unknown(gpu.compute_capability.map(|capability| capability.to_string())),
        state(&availability(gpu)),
    ]
}

fn state(availability: &Availability) -> String {
    let held = |by: &Holder| format!("held by {by}");
    match availability {
        Availability::Free { note: None } => "free".to_owned(),
        Availability::Free { note: Some(note) } => format!("free ({note})"),
        Availability::Busy { by } => format!("busy: {}", processes(by)),
        Availability::Held { by } => held(by),
        Availability::Split { instances: 0 } => "MIG without instances".to_owned(),
        Availability::Split { .. } => "split by MIG".to_owned(),
        Availability::Unknown { why } => format!("unknown: {why}"),
    }
}

/// The beginning of a UUID, enough to name it: `GPU-8932f937`.
#[must_use]
pub fn short(uuid: &str) -> String {
    uuid.chars().take(12).collect()
}

fn unreadable(inventory: &Inventory) -> Vec<String> {
    let mut lines: Vec<String> =
        inventory.host.unreadable.iter().map(|(field, why)| format!("host: {field}: {why}")).collect();
    for card in &inventory.gpus {
        lines.extend(card.unreadable.iter().map(|(field, why)| format!("GPU {}: {field}: {why}", card.index)));
        for one in card.instances() {
            let index = format!("GPU {}:{}", card.index, one.index);
            lines.extend(one.unreadable.iter().map(|(field, why)| format!("{index}: {field}: {why}")));
        }
    }
    lines
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
