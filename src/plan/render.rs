//! The plan as a person reads it.

use std::fmt::Write as _;

use super::{Memory, MemoryParts, Plan, Rank, Split, counted};
use crate::inventory::render::bytes;

/// The plan as lines of text: a headline, a table of the ranks, yolo's terms, reasons and warnings.
#[must_use]
pub fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let ranks = counted(plan.world_size, "rank");
    let _ = match plan.target_batch {
        Some(target) => writeln!(text, "{} per optimizer step on {ranks}", counted(target, "image")),
        None => writeln!(text, "{ranks}"),
    };
    text.push('\n');
    let heading = ["rank", "device", "host", "micro-batches", "images/step", "memory"].map(str::to_owned);
    rows(&mut text, &std::iter::once(heading).chain(plan.ranks.iter().map(row)).collect::<Vec<_>>());
    text.push('\n');
    let itemised = itemised(plan);
    if itemised.len() > 1 {
        rows(&mut text, &itemised);
        text.push_str("  a validation has the place of the activations: the larger of the two counts\n\n");
    }
    if let Some(yolo) = plan.yolo {
        let _ =
            writeln!(text, "in yolo's terms: batch={} nbs={} (accumulate {})", yolo.batch, yolo.nbs, yolo.accumulate);
    } else if let (Some(target), Some(split)) = (plan.target_batch, plan.split) {
        let what = if split == Split::Uneven { "micro-batches differ" } else { "numbers of micro-batches differ" };
        let _ =
            writeln!(text, "in yolo's terms: nbs={target}; it has no `batch` and `accumulate` for ranks whose {what}");
    }
    if let Some(seconds) = plan.predicted_step_seconds {
        let images = plan.target_batch.map_or(0.0, f64::from) / seconds;
        let _ = writeln!(text, "predicted: {seconds:.3} s an optimizer step, {images:.0} images a second");
    }
    if plan.containers != plan.world_size {
        let _ = writeln!(text, "containers: {}, which starts its ranks by itself", plan.containers);
    }
    for reason in &plan.reasons {
        let _ = writeln!(text, "- {reason}");
    }
    for warning in &plan.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// Rows of cells in columns.
fn rows<const COLUMNS: usize>(text: &mut String, rows: &[[String; COLUMNS]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
}

/// The predicted memory by part, a row for all neighbours that need the same; the heading alone where nothing is predicted.
fn itemised(plan: &Plan) -> Vec<[String; 7]> {
    let heading = ["memory", "context", "weights", "gradients+optimizer", "activations", "validation", "in all"];
    let mut rows = vec![heading.map(str::to_owned)];
    let alike = |one: &Rank, other: &Rank| one.memory.parts == other.memory.parts;
    for ranks in plan.ranks.chunk_by(alike) {
        let (Some(first), Some(last)) = (ranks.first(), ranks.last()) else { continue };
        let Some(parts) = first.memory.parts else { continue };
        let name = if first.rank == last.rank {
            format!("rank {}", first.rank)
        } else {
            format!("ranks {}-{}", first.rank, last.rank)
        };
        let MemoryParts { context_bytes, weights_bytes, gradients_and_optimizer_bytes, .. } = parts;
        let peak = parts.peak_bytes();
        let figures = [
            context_bytes,
            weights_bytes,
            gradients_and_optimizer_bytes,
            parts.activations_bytes,
            parts.validation_bytes,
            peak,
        ];
        let [context, weights, optimizer, activations, validation, peak] = figures.map(bytes);
        rows.push([name, context, weights, optimizer, activations, validation, peak]);
    }
    rows
}

fn row(rank: &Rank) -> [String; 6] {
    let micro_batches = match (rank.micro_batches.first(), rank.micro_batches.len()) {
        (None, _) => "-".to_owned(),
        (Some(micro), count) if rank.micro_batches.iter().all(|other| other == micro) => format!("{count} x {micro}"),
        _ => rank.micro_batches.iter().map(u32::to_string).collect::<Vec<_>>().join(" + "),
    };
    [
        rank.rank.to_string(),
        rank.device.clone(),
        rank.host.clone(),
        micro_batches,
        rank.images_per_step.map_or("-".to_owned(), |images| images.to_string()),
        memory(&rank.memory, rank.device.starts_with("cpu")),
    ]
}

fn memory(memory: &Memory, cpu: bool) -> String {
    match (memory.predicted_bytes, memory.budget_bytes) {
        (None, None) => "unknown".to_owned(),
        (Some(need), None) => format!("needs {}", gibibytes(need)),
        // Of the machine's memory its share, whoever else uses it; of a card's what is free.
        (None, Some(budget)) if cpu => format!("{} at most", gibibytes(budget)),
        (None, Some(budget)) => format!("{} free", gibibytes(budget)),
        (Some(need), Some(budget)) => format!("{} of {}", gibibytes(need), gibibytes(budget)),
    }
}

fn gibibytes(bytes: u64) -> String {
    // One decimal, rounded down: nobody is told of memory that is not there.
    let tenths = bytes / (1 << 30) * 10 + bytes % (1 << 30) * 10 / (1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}
