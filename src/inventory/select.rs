//! From an inventory and a wish to devices, and the reasons why these. Pure.

mod cpu;
mod error;

use super::{
    Availability, ComputeCapability, Device, DeviceId, DeviceRequest, Gpu, GpuName, Inventory, Mig, Process, render,
};

pub use error::SelectError;

/// What else decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelectOptions<'a> {
    /// Value of the caller's `CUDA_VISIBLE_DEVICES`: what `auto` and `gpus: N` may choose from, in its order. Its
    /// numbers are read as nvidia-smi's.
    pub cuda_visible_devices: Option<&'a str>,
    /// The oldest cards that the image has code for: `auto` and `gpus: N` leave older ones out.
    pub oldest: Option<ComputeCapability>,
}

/// Devices for a job, in rank order.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// At least one.
    pub devices: Vec<Device>,
    /// Why these and no others, a sentence each.
    pub reasons: Vec<String>,
}

/// Chooses the devices that `request` asks for.
///
/// # Errors
///
/// They are not there, taken, or cannot be used together.
pub fn select(
    inventory: &Inventory,
    request: &DeviceRequest,
    options: &SelectOptions<'_>,
) -> Result<Selection, SelectError> {
    match request {
        DeviceRequest::Auto => auto(inventory, options),
        DeviceRequest::Count(count) => any(inventory, *count, options),
        DeviceRequest::Gpus(wanted) => named(inventory, wanted),
        DeviceRequest::Cpus(sizes) => cpu::devices(&inventory.host, sizes),
    }
}

/// Whether work can be put on `gpu`.
///
/// A program that draws, even one that computes for it as browsers and desktops do, only takes memory. One that only
/// computes makes the card busy.
#[must_use]
pub fn availability(gpu: &Gpu) -> Availability {
    // First of all: its instances are devices of their own, whatever is true of the card.
    if let Some(Mig::Enabled { instances }) = &gpu.mig {
        return Availability::Split { instances: instances.len() };
    }
    if gpu.uuid.is_none() {
        return unknown(gpu, "uuid");
    }
    if let Some(holder) = &gpu.held_by {
        return Availability::Held { by: holder.clone() };
    }
    if gpu.mig.is_none() {
        return unknown(gpu, "mig");
    }
    let Some(computing) = &gpu.compute_processes else {
        return by_memory(gpu);
    };
    let drawing = gpu.graphics_processes.as_deref().unwrap_or_default();
    let by: Vec<Process> =
        computing.iter().filter(|process| drawing.iter().all(|other| other.pid != process.pid)).cloned().collect();
    if !by.is_empty() {
        return Availability::Busy { by };
    }
    let display = (!drawing.is_empty() || gpu.display_active == Some(true)).then(|| match gpu.memory {
        Some(memory) => format!(
            "it drives a display, {} of its {} are free",
            render::bytes(memory.free_bytes),
            render::bytes(memory.total_bytes)
        ),
        None => "it drives a display".to_owned(),
    });
    Availability::Free { note: display }
}

/// Where the driver does not list programs, as under WSL, an almost empty memory shows that nobody computes.
fn by_memory(gpu: &Gpu) -> Availability {
    match gpu.memory {
        Some(memory) if memory.free_bytes / 9 >= memory.total_bytes / 10 => Availability::Free {
            note: Some(format!(
                "its programs cannot be read, but {} of its {} are free",
                render::bytes(memory.free_bytes),
                render::bytes(memory.total_bytes)
            )),
        },
        _ => unknown(gpu, "compute_processes"),
    }
}

fn unknown(gpu: &Gpu, field: &str) -> Availability {
    let what = match field {
        "uuid" => "its UUID",
        "mig" => "whether MIG has split it",
        _ => "who computes on it",
    };
    let why = gpu.unreadable.get(field).map_or("nothing was said of it", String::as_str);
    Availability::Unknown { why: format!("{what} cannot be read: {why}") }
}

/// Something that work could be put on: a card, or an instance of one.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    card: &'a Gpu,
    instance: Option<&'a Gpu>,
}

impl<'a> Candidate<'a> {
    fn gpu(&self) -> &'a Gpu {
        self.instance.unwrap_or(self.card)
    }

    fn label(&self) -> String {
        match self.instance {
            Some(instance) => format!("MIG instance {} of {}", instance.index, self.card.label()),
            None => self.card.label(),
        }
    }

    fn has_display(&self) -> bool {
        let drawing = self.gpu().graphics_processes.as_ref().is_some_and(|list| !list.is_empty());
        drawing || self.gpu().display_active == Some(true)
    }

    fn device(&self) -> Result<Device, SelectError> {
        let gpu = self.gpu();
        let Some(uuid) = gpu.uuid.clone() else {
            let why = gpu.unreadable.get("uuid").cloned().unwrap_or_else(|| "it has none".to_owned());
            return Err(SelectError::NoUuid { label: self.label(), why });
        };
        Ok(Device {
            id: DeviceId::Gpu { index: self.card.index, uuid },
            name: self.label(),
            model: gpu.name.clone(),
            memory_budget_bytes: gpu.memory.map(|memory| memory.free_bytes),
            memory_cap_bytes: None,
            cpus: None,
            compute_capability: gpu.compute_capability.or(self.card.compute_capability),
        })
    }
}

/// What is free among what may be chosen from, and a sentence on each card that is not.
struct Free<'a> {
    cards: Vec<Candidate<'a>>,
    instances: Vec<Candidate<'a>>,
    notes: Vec<String>,
    left_out: Vec<String>,
}

fn free<'a>(visible: &[Candidate<'a>], oldest: Option<ComputeCapability>) -> Free<'a> {
    let mut found = Free { cards: Vec::new(), instances: Vec::new(), notes: Vec::new(), left_out: Vec::new() };
    for candidate in visible {
        let label = candidate.label();
        if let (Some(has), Some(oldest)) = (candidate.card.compute_capability, oldest) {
            if has < oldest {
                let why = format!("its compute capability is {has}, and the image needs {oldest} or newer");
                found.left_out.push(format!("{label} is left out: {why}"));
                continue;
            }
        }
        match availability(candidate.gpu()) {
            Availability::Free { note } => {
                found.notes.extend(note.map(|note| format!("{label}: {note}")));
                match candidate.instance {
                    Some(_) => found.instances.push(*candidate),
                    None => found.cards.push(*candidate),
                }
            }
            Availability::Split { instances: 0 } => {
                found.left_out.push(format!("{label} is left out: MIG is on, but it has no instances"));
            }
            Availability::Split { .. } => {
                let instances: Vec<_> = candidate
                    .card
                    .instances()
                    .iter()
                    .map(|instance| Candidate { card: candidate.card, instance: Some(instance) })
                    .collect();
                let inner = free(&instances, oldest);
                found.instances.extend(inner.instances);
                found.notes.extend(inner.notes);
                found.left_out.extend(inner.left_out);
            }
            Availability::Busy { by } => {
                found.left_out.push(format!("{label} is left out: busy with {}", render::processes(&by)));
            }
            Availability::Held { by } => found.left_out.push(format!("{label} is left out: held by {by}")),
            Availability::Unknown { why } => found.left_out.push(format!("{label} is left out: {why}")),
        }
    }
    found
}

/// What the caller's `CUDA_VISIBLE_DEVICES` leaves. As in CUDA, what follows an entry that names nothing is not seen.
fn visible<'a>(inventory: &'a Inventory, variable: Option<&str>) -> (Vec<Candidate<'a>>, Vec<String>) {
    let Some(variable) = variable else {
        return (inventory.gpus.iter().map(|card| Candidate { card, instance: None }).collect(), Vec::new());
    };
    let mut seen: Vec<Candidate<'a>> = Vec::new();
    let mut reasons = vec![format!("`CUDA_VISIBLE_DEVICES={variable}` says which GPUs to choose from")];
    for entry in variable.split(',').map(str::trim) {
        let found = entry_name(entry).and_then(|wanted| resolve(inventory, &wanted).ok());
        let Some(candidate) = found else {
            if !variable.trim().is_empty() {
                reasons.push(format!("`{entry}` in `CUDA_VISIBLE_DEVICES` names no GPU: what follows it is not seen"));
            }
            break;
        };
        if seen.iter().all(|other| !std::ptr::eq(other.gpu(), candidate.gpu())) {
            seen.push(candidate);
        }
    }
    (seen, reasons)
}

fn entry_name(entry: &str) -> Option<GpuName> {
    if let Ok(index) = entry.parse() {
        return Some(GpuName::Index(index));
    }
    let is_uuid = entry.starts_with("GPU-") || entry.starts_with("MIG-");
    is_uuid.then(|| GpuName::Uuid(entry.to_owned()))
}

fn auto(inventory: &Inventory, options: &SelectOptions<'_>) -> Result<Selection, SelectError> {
    let (candidates, mut reasons) = visible(inventory, options.cuda_visible_devices);
    if candidates.is_empty() {
        if inventory.gpus.is_empty() {
            reasons.clear();
            reasons.push(inventory.note.clone().unwrap_or_else(|| "this machine has no GPU".to_owned()));
        }
        let mut selection = cpu::auto(&inventory.host)?;
        reasons.append(&mut selection.reasons);
        return Ok(Selection { devices: selection.devices, reasons });
    }
    let found = free(&candidates, options.oldest);
    let chosen = match found.cards.is_empty() {
        false => found.cards,
        true => largest_instance(&found.instances, &mut reasons).into_iter().collect(),
    };
    if chosen.is_empty() {
        return Err(SelectError::NoneFree { left_out: found.left_out });
    }
    reasons.extend(found.notes);
    reasons.extend(found.left_out);
    let devices = chosen.iter().map(Candidate::device).collect::<Result<_, _>>()?;
    Ok(Selection { devices, reasons })
}

fn any(inventory: &Inventory, count: u32, options: &SelectOptions<'_>) -> Result<Selection, SelectError> {
    if count == 0 {
        return Err(SelectError::NoDevices);
    }
    if inventory.gpus.is_empty() {
        return Err(no_gpus(inventory));
    }
    let (candidates, mut reasons) = visible(inventory, options.cuda_visible_devices);
    let mut found = free(&candidates, options.oldest);
    let wanted = count as usize;
    let chosen: Vec<Candidate<'_>> = if wanted == 1 && found.cards.is_empty() && !found.instances.is_empty() {
        largest_instance(&found.instances, &mut reasons).into_iter().collect()
    } else {
        // A card that drives a display has less memory to give, so it comes last.
        found.cards.sort_by_key(Candidate::has_display);
        found.cards.into_iter().take(wanted).collect()
    };
    if chosen.len() < wanted {
        return Err(SelectError::NotEnough { wanted: count, free: chosen.len(), left_out: found.left_out });
    }
    reasons.extend(found.notes);
    reasons.extend(found.left_out);
    let devices = chosen.iter().map(Candidate::device).collect::<Result<_, _>>()?;
    Ok(Selection { devices, reasons })
}

/// The free instance with the most memory. One only: CUDA shows a program a single instance, and NCCL joins none.
fn largest_instance<'a>(instances: &[Candidate<'a>], reasons: &mut Vec<String>) -> Option<Candidate<'a>> {
    let free_bytes = |candidate: &Candidate<'_>| candidate.gpu().memory.map(|memory| memory.free_bytes);
    // Of equals the first, so that the choice is the same every time: `max_by_key` gives the last.
    let best = instances.iter().rev().max_by_key(|candidate| free_bytes(candidate)).copied()?;
    if instances.len() > 1 {
        reasons.push(format!(
            "{} is used alone, as NCCL cannot join MIG instances; {} more are free for other runs",
            best.label(),
            instances.len() - 1
        ));
    }
    Some(best)
}

fn named(inventory: &Inventory, wanted: &[GpuName]) -> Result<Selection, SelectError> {
    if wanted.is_empty() {
        return Err(SelectError::NoDevices);
    }
    if inventory.gpus.is_empty() {
        return Err(no_gpus(inventory));
    }
    let mut chosen: Vec<Candidate<'_>> = Vec::new();
    let mut reasons = Vec::new();
    for name in wanted {
        let candidate = resolve(inventory, name)?;
        let label = candidate.label();
        if chosen.iter().any(|other| std::ptr::eq(other.gpu(), candidate.gpu())) {
            return Err(SelectError::Twice { label });
        }
        match availability(candidate.gpu()) {
            Availability::Free { note } => reasons.extend(note.map(|note| format!("{label}: {note}"))),
            Availability::Busy { by } => return Err(SelectError::Busy { label, by }),
            Availability::Held { by } => return Err(SelectError::Held { label, by }),
            Availability::Split { .. } => {
                let instances = candidate.card.instances().iter().filter_map(|one| one.uuid.clone()).collect();
                return Err(SelectError::Split { label, instances });
            }
            Availability::Unknown { why } => {
                reasons.push(format!("{label} is used because it was asked for, though {why}"))
            }
        }
        chosen.push(candidate);
    }
    if chosen.len() > 1 && chosen.iter().any(|candidate| candidate.instance.is_some()) {
        return Err(SelectError::ManyInstances);
    }
    let devices = chosen.iter().map(Candidate::device).collect::<Result<_, _>>()?;
    Ok(Selection { devices, reasons })
}

fn resolve<'a>(inventory: &'a Inventory, wanted: &GpuName) -> Result<Candidate<'a>, SelectError> {
    let all = inventory.gpus.iter().flat_map(|card| {
        let instances = card.instances().iter().map(move |one| Candidate { card, instance: Some(one) });
        std::iter::once(Candidate { card, instance: None }).chain(instances)
    });
    let matches: Vec<Candidate<'a>> = match wanted {
        GpuName::Index(index) => {
            all.filter(|candidate| candidate.instance.is_none() && candidate.card.index == *index).collect()
        }
        GpuName::Uuid(prefix) => {
            let begins = |uuid: &String| uuid.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
            all.filter(|candidate| candidate.gpu().uuid.as_ref().is_some_and(begins)).collect()
        }
    };
    match matches.as_slice() {
        [one] => Ok(*one),
        [] => Err(SelectError::NoSuchGpu {
            wanted: wanted.clone(),
            present: inventory.gpus.iter().map(Gpu::label).collect(),
        }),
        several => Err(SelectError::Ambiguous {
            wanted: wanted.clone(),
            matches: several.iter().filter_map(|candidate| candidate.gpu().uuid.clone()).collect(),
        }),
    }
}

fn no_gpus(inventory: &Inventory) -> SelectError {
    SelectError::NoGpus { note: inventory.note.clone().unwrap_or_else(|| "this machine has none".to_owned()) }
}
