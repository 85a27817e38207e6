//! What fits, as a person reads it. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::inventory::Device;
use crate::inventory::render::bytes;
use crate::plan::Knowledge;
use crate::plan::batch::LARGEST_TARGET;
use crate::plan::memory::Images;

/// Sides of the images in a table, in pixels: those that YOLO's models are mostly trained at.
const SIDES: [u32; 5] = [320, 480, 640, 960, 1280];
/// Validation images of a batch for each image of a micro-batch.
const VALIDATION: u32 = 2;

/// Images of the largest micro-batch that fits into a device's memory; nothing where that is not known, or without a limit.
#[must_use]
pub fn most_images(device: &Device, knowledge: &Knowledge, images: Images) -> Option<u32> {
    let model = knowledge.of(&device.kind()).memory?;
    Some(model.most_images(knowledge.usable(device.memory_budget_bytes?), images, LARGEST_TARGET))
}

/// A line for each kind of device: the largest micro-batch that fits, its memory, and how fast it is.
#[must_use]
pub fn kinds(devices: &[Device], knowledge: &Knowledge, images: Images) -> String {
    let mut text = format!("what fits at {} px, with {} labels in an image at most:\n", images.side, images.labels);
    let mut told = Vec::new();
    for device in devices {
        let kind = (device.kind(), device.memory_budget_bytes);
        if told.contains(&kind) {
            continue;
        }
        let known = knowledge.of(&kind.0);
        let speed = known.time.map(|time| {
            let micro = f64::from(most_images(device, knowledge, images).unwrap_or(32).clamp(1, 64));
            let seconds = time.overhead_seconds + micro * time.seconds_per_image;
            format!(", {:.1} images/s", micro / seconds)
        });
        let memory = match (known.memory, device.memory_budget_bytes, most_images(device, knowledge, images)) {
            (Some(model), Some(budget), Some(most)) => {
                let needs = bytes(model.predict(most, images).peak_bytes());
                format!("micro-batches of {most} images at most, which need {needs} of {}", bytes(budget))
            }
            (Some(model), None, _) => format!("{} for a single image", bytes(model.predict(1, images).peak_bytes())),
            _ => "memory is unknown".to_owned(),
        };
        let _ = writeln!(text, "  {}: {memory}{}", kind.0, speed.unwrap_or_default());
        told.push(kind);
    }
    text
}

/// For each kind of device a table of models and image sizes: images of the largest micro-batch.
#[must_use]
pub fn table(devices: &[Device], rows: &[(String, Option<Knowledge>)]) -> String {
    let mut text = String::new();
    let width = rows.iter().map(|(model, _)| model.len()).max().unwrap_or(0);
    let mut told = Vec::new();
    for device in devices {
        let kind = (device.kind(), device.memory_budget_bytes);
        if told.contains(&kind) {
            continue;
        }
        let has = kind.1.map_or("memory of unknown size".to_owned(), bytes);
        let _ = writeln!(text, "images of the largest micro-batch on {} with {has}, by image size", kind.0);
        let heading: String = SIDES.iter().map(|side| format!("{side:>7}")).collect();
        let _ = writeln!(text, "  {:width$}{heading}", "");
        for (model, knowledge) in rows {
            let cells: String =
                SIDES.iter().map(|side| format!("{:>7}", cell(device, knowledge.as_ref(), *side))).collect();
            let _ = writeln!(text, "  {model:width$}{cells}");
        }
        text.push('\n');
        told.push(kind);
    }
    text.push_str("-: not one image fits; ?: not tried\n");
    text
}

/// The same for programs.
#[must_use]
pub fn table_json(devices: &[Device], rows: &[(String, Option<Knowledge>)]) -> Value {
    let of_device = |device: &Device| {
        let models = rows.iter().map(|(model, knowledge)| {
            let fits = SIDES
                .iter()
                .map(|side| json!({ "imgsz": side, "micro_batch": most(device, knowledge.as_ref(), *side) }));
            json!({ "model": model, "fits": fits.collect::<Vec<_>>() })
        });
        json!({
            "device": device.id.to_string(), "kind": device.kind(), "budget_bytes": device.memory_budget_bytes,
            "models": models.collect::<Vec<_>>(),
        })
    };
    json!({ "version": 1, "devices": devices.iter().map(of_device).collect::<Vec<_>>() })
}

fn most(device: &Device, knowledge: Option<&Knowledge>, side: u32) -> Option<u32> {
    let knowledge = knowledge?;
    most_images(device, knowledge, knowledge.images(side, VALIDATION))
}

fn cell(device: &Device, knowledge: Option<&Knowledge>, side: u32) -> String {
    match most(device, knowledge, side) {
        None => "?".to_owned(),
        Some(0) => "-".to_owned(),
        Some(most) => most.to_string(),
    }
}
