//! The plan as a person reads it.

use std::fmt::Write as _;

use super::{Memory, Plan, Rank, counted};

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
    let rows: Vec<[String; 6]> = std::iter::once(heading).chain(plan.ranks.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
    text.push('\n');
    if let Some(yolo) = plan.yolo {
        let _ =
            writeln!(text, "in yolo's terms: batch={} nbs={} (accumulate {})", yolo.batch, yolo.nbs, yolo.accumulate);
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
