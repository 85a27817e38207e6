//! The report of a run: one HTML file that needs nothing else, no script and no other host. Pure, but for `gather.rs`, which reads a record.
//!
//! ```text
//! record ─▶ gather ─▶ Material ─▶ html ─▶ report.html
//!                                  ├─ chart.rs     lines over epochs and steps
//!                                  ├─ memory.rs    seen against predicted, a bar a rank
//!                                  └─ timeline.rs  launches, failures
//! ```

mod chart;
pub mod gather;
mod memory;
mod page;
mod timeline;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::output::words::{grouped, human_seconds, micro_batches, moment};
use crate::record::read::Summary;
use crate::record::summary::State;
use crate::runlock::RunLock;
use chart::{Chart, Series};
use page::{escaped, fact};

/// All that a report is made from.
#[derive(Debug)]
pub struct Material {
    /// What the record says.
    pub summary: Summary,
    /// results.csv by column: epoch and value.
    pub table: Vec<(String, Points)>,
    /// By optimizer step, from 1: mean loss of all ranks.
    pub loss: Points,
    /// Learning rate.
    pub rate: Points,
    /// Images a second, of all ranks together.
    pub speed: Points,
    /// What the run was made from, where that is known.
    pub lock: Option<RunLock>,
    /// What the trainer drew.
    pub pictures: Vec<Picture>,
    /// Pictures that are too large for a report.
    pub left_out: Vec<String>,
    /// Where the one who reads it keeps time.
    pub zone: jiff::tz::TimeZone,
}

/// Values over something that grows.
pub type Points = Vec<(f64, f64)>;

/// A picture of the trainer's.
#[derive(Debug)]
pub struct Picture {
    /// Name of its file.
    pub name: String,
    /// Its media type, such as `image/jpeg`.
    pub media: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

/// The whole report.
#[must_use]
pub fn html(it: &Material) -> String {
    let run = &it.summary.run;
    let name = format!("{}/{}", run.name, run.id);
    let mut body = head(it, &name);
    body.push_str(&course(it));
    body.push_str(&memory::section(&it.summary));
    body.push_str(&timeline::section(&it.summary, &it.zone));
    body.push_str(&ranks(it));
    body.push_str(&pictures(it));
    body.push_str(&again(it, &name));
    page::page(&name, &body)
}

fn head(it: &Material, name: &str) -> String {
    let Summary { run, failure, .. } = &it.summary;
    let state = crate::output::runs::state(run.state, run.class.as_deref());
    let class = match run.state {
        State::Done => "good",
        State::Failed => "bad",
        State::Running => "now",
        State::Stopped | State::Unknown => "mixed",
    };
    let of = [it.summary.trainer.as_deref(), it.summary.model.as_deref(), it.summary.data.as_deref()];
    let of: Vec<String> = of.into_iter().flatten().map(escaped).collect();
    let mut text = format!(
        "<header><p class=\"state {class}\">{}</p><h1>{}</h1><p class=\"of\">{}</p></header>\n",
        escaped(&state),
        escaped(name),
        of.join(" · ")
    );
    if let Some(failure) = failure {
        let rank = failure.rank.map_or_else(String::new, |rank| format!("rank {rank}: "));
        let _ =
            writeln!(text, "<section class=\"failure\"><h2>What failed</h2><p>{rank}{}</p>", escaped(&failure.message));
        if let Some(advice) = failure.advice.as_deref().filter(|advice| !advice.is_empty()) {
            let _ = writeln!(text, "<p class=\"advice\">{}</p>", escaped(advice));
        }
        text.push_str("</section>\n");
    }
    let number = |value: f64| format!("{value:.1}");
    let facts = [
        fact("epochs", &crate::output::runs::epochs(run.epochs_done, run.epochs)),
        fact("best mAP50", &it.summary.best.as_ref().and_then(best).unwrap_or_default()),
        fact("time", &run.seconds.map(human_seconds).unwrap_or_default()),
        fact("images a second", &it.summary.images_per_second.map(number).unwrap_or_default()),
        fact("images a step", &it.summary.target_batch.map(grouped).unwrap_or_default()),
        fact("devices", &crate::output::words::devices(&run.devices)),
        fact("begun", &run.begun_ms.map(|ms| moment(ms, &it.zone)).unwrap_or_default()),
    ];
    let _ = writeln!(text, "<dl class=\"facts\">{}</dl>", facts.concat());
    text
}

fn best(epoch: &crate::record::told::Epoch) -> Option<String> {
    Some(format!("{:.3} in epoch {}", epoch.map50?, epoch.epoch))
}

const MIB: f64 = (1 << 20) as f64;

/// Values by seconds since the first.
fn over_time(name: &str, points: &[(u64, f64)], unit: f64) -> Series {
    let first = points.first().map_or(0, |(ms, _)| *ms);
    let seconds = |ms: u64| ms.saturating_sub(first) as f64 / 1e3;
    Series::new(name, points.iter().map(|(ms, value)| (seconds(*ms).round(), value / unit)).collect())
}

/// Loss, mAP, learning rate and speed, and what the machine did meanwhile.
fn course(it: &Material) -> String {
    let column = |name: &str| it.table.iter().find(|(column, _)| column == name).map(|(_, points)| points.clone());
    let of = |prefix: &str, ends: &str| -> Vec<Series> {
        let columns = it.table.iter().filter(|(name, _)| name.starts_with(prefix) && name.ends_with(ends));
        columns.map(|(name, points)| Series::new(&name[prefix.len()..], points.clone())).collect()
    };
    let known = |series: Vec<(&str, Option<Points>)>| -> Vec<Series> {
        series.into_iter().filter_map(|(name, points)| Some(Series::new(name, points?))).collect()
    };
    let smooth = chart::smooth(&it.loss);
    let rate = if it.rate.is_empty() { column("lr/pg0").unwrap_or_default() } else { it.rate.clone() };
    let by_step = if it.rate.is_empty() { "epoch" } else { "step" };
    let charts = [
        Chart { title: "Loss by epoch", x: "epoch", series: of("train/", "loss") },
        Chart { title: "Loss of the validation", x: "epoch", series: of("val/", "loss") },
        Chart {
            title: "mAP of the validation",
            x: "epoch",
            series: known(vec![("mAP50", column("metrics/mAP50(B)")), ("mAP50-95", column("metrics/mAP50-95(B)"))]),
        },
        Chart {
            title: "Precision and recall",
            x: "epoch",
            series: known(vec![("precision", column("metrics/precision(B)")), ("recall", column("metrics/recall(B)"))]),
        },
        Chart {
            title: "Loss by step",
            x: "step",
            series: vec![Series::new("smoothed", smooth), Series::faint("each step", it.loss.clone())],
        },
        Chart { title: "Learning rate", x: by_step, series: vec![Series::new("learning rate", rate)] },
        Chart {
            title: "Images a second, all ranks",
            x: "step",
            series: vec![Series::new("images a second", it.speed.clone())],
        },
        Chart {
            title: "Utilisation of the GPUs, percent",
            x: "second",
            series: it
                .summary
                .usage
                .devices
                .iter()
                .map(|gpu| over_time(&format!("gpu {}", gpu.device), &gpu.utilization, 1.0))
                .collect(),
        },
        Chart {
            title: "Memory of the host, MiB",
            x: "second",
            series: it
                .summary
                .usage
                .ranks
                .iter()
                .map(|rank| over_time(&format!("rank {}", rank.rank), &rank.memory, MIB))
                .collect(),
        },
    ];
    let drawn: String = charts.into_iter().filter_map(|chart| chart.figure()).collect();
    let drawn = if drawn.is_empty() {
        "<p>The trainer told neither epochs nor steps.</p>".to_owned()
    } else {
        format!("<div class=\"charts\">{drawn}</div>")
    };
    format!("<section><h2>Course</h2>{drawn}</section>\n")
}

fn ranks(it: &Material) -> String {
    if it.summary.ranks.is_empty() {
        return String::new();
    }
    let bytes = |bytes: Option<u64>| bytes.map(crate::inventory::render::bytes).unwrap_or_default();
    let lines = |rank: u64| {
        let log = it.summary.logs.iter().find(|log| log.rank == rank);
        log.map_or_else(String::new, |log| {
            let lines = log.lines.map(grouped).unwrap_or_default();
            let dropped = if log.dropped > 0 { format!(", {} dropped", grouped(log.dropped)) } else { String::new() };
            let whole = if log.complete == Some(false) { " (not whole)" } else { "" };
            format!("{lines}{dropped}{whole}")
        })
    };
    let rows: String = it
        .summary
        .ranks
        .iter()
        .map(|rank| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                rank.rank,
                escaped(&rank.device),
                micro_batches(&rank.micro_batches),
                bytes(rank.predicted_bytes),
                bytes(rank.measured_bytes),
                lines(rank.rank),
            )
        })
        .collect();
    format!(
        "<section><h2>Ranks</h2><div class=\"wide\"><table><thead><tr><th scope=\"col\">rank</th><th scope=\"col\">device</th>\
         <th scope=\"col\">micro-batches</th><th scope=\"col\">predicted</th><th scope=\"col\">seen</th><th scope=\"col\">lines of log</th>\
         </tr></thead><tbody>{rows}</tbody></table></div></section>\n"
    )
}

fn pictures(it: &Material) -> String {
    let shown: String = it
        .pictures
        .iter()
        .map(|picture| {
            let name = escaped(&picture.name);
            format!(
                "<figure class=\"picture\"><img alt=\"{name}, as the trainer drew it\" src=\"data:{};base64,{}\"><figcaption>{name}</figcaption></figure>",
                picture.media,
                STANDARD.encode(&picture.bytes)
            )
        })
        .collect();
    let mut text = "<section><h2>Sample predictions</h2>".to_owned();
    text.push_str(if shown.is_empty() { "<p>The trainer left no pictures.</p>" } else { &shown });
    if !it.left_out.is_empty() {
        let _ = write!(text, "<p>Too large for this file: {}.</p>", escaped(&it.left_out.join(", ")));
    }
    text.push_str("</section>\n");
    text
}

/// What it was made from, and how it is run once more.
fn again(it: &Material, name: &str) -> String {
    let mut rows = String::new();
    let mut row = |key: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(
                rows,
                "<tr><th scope=\"row\">{}</th><td><code>{}</code></td></tr>",
                escaped(key),
                escaped(value)
            );
        }
    };
    if let Some(lock) = &it.lock {
        row("image", &lock.image.name);
        row("image's digest", lock.image.digests.first().unwrap_or(&lock.image.id));
        if let Some(git) = &lock.code.git {
            let dirty = if git.dirty { ", with changes that were not committed" } else { "" };
            row("commit", &format!("{}{dirty}", git.commit.as_deref().unwrap_or("none yet")));
        }
        if let Some(data) = &lock.data {
            row("data", &format!("{} files, {}", grouped(data.files), data.fingerprint));
        }
        for (what, version) in &lock.versions {
            row(what, version);
        }
    } else {
        row("image", it.summary.image.as_deref().unwrap_or_default());
    }
    format!(
        "<section><h2>Once more</h2><p>The record's <code>lock.yaml</code> holds every setting with its origin. \
         <code>evenkeel reproduce {}</code> runs it again.</p><div class=\"wide\"><table><tbody>{rows}</tbody></table></div></section>\n",
        escaped(name)
    )
}

#[cfg(test)]
mod tests;
