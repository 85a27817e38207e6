//! A run's summary as a person reads it: one screen, with small charts. Pure.

mod usage;

use jiff::tz::TimeZone;

use super::chart::{beside, chart};
use super::look::Look;
use super::plain;
use super::runs::{colour, epochs, state};
use super::words::{columns, entry, grouped, human_seconds, micro_batches, moment, time_of_day};
use crate::inventory::render::bytes;
use crate::record::read::Summary;
use crate::record::summary::{Failure, Generation, Log, State};
use crate::record::told::Epoch;

/// Columns of the keys.
const MARGIN: usize = 11;
/// No chart is wider: one of two hundred epochs can be read at that.
const WIDEST_CHART: usize = 100;

/// The summary as text.
#[must_use]
pub fn summary(it: &Summary, look: Look, zone: &TimeZone) -> String {
    let mut lines = head(it, look, zone);
    let mut part = |more: Vec<String>| {
        if !more.is_empty() {
            lines.push(String::new());
            lines.extend(more);
        }
    };
    part(outcome(it, look));
    part(course(it, look));
    part(charts(&it.course, look));
    part(generations(it, look, zone));
    part(ranks(it));
    part(usage::lines(&it.usage, &it.ranks, look));
    lines.join("\n")
}

fn head(it: &Summary, look: Look, zone: &TimeZone) -> Vec<String> {
    let run = &it.run;
    let how = state(run.state, run.class.as_deref());
    let time = run.seconds.map(|seconds| match run.state {
        State::Running => format!(" for {}", human_seconds(seconds)),
        _ => format!(" after {}", human_seconds(seconds)),
    });
    let begun = run.begun_ms.map(|ms| format!(", begun {}", moment(ms, zone)));
    let name = plain(&format!("{}/{}", run.name, run.id));
    let more = format!("{}{}", time.unwrap_or_default(), begun.unwrap_or_default());
    let mut lines = vec![format!("{name}  {}{more}", look.paint(colour(run.state), &how))];
    let mut add = |key: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            lines.extend(entry(key, &plain(&text), MARGIN, look));
        }
    };
    add("record", Some(run.path.display().to_string()));
    let model = it.model.as_ref().map(|model| format!(": {model}")).unwrap_or_default();
    let data = it.data.as_ref().map(|data| format!(" on {data}")).unwrap_or_default();
    add("job", it.trainer.as_ref().map(|trainer| format!("{trainer}{model}{data}")));
    add("image", it.image.clone());
    add(
        "batch",
        it.target_batch.map(|target| {
            let split = it.split.as_ref().map(|split| format!(", {split}")).unwrap_or_default();
            format!("{target} images an optimizer step{split}")
        }),
    );
    add("devices", Some(run.devices.join(" ")));
    lines
}

fn outcome(it: &Summary, look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(failure) = &it.failure {
        lines.extend(entry("failed", &told(failure), MARGIN, look));
        if let Some(advice) = &failure.advice {
            lines.extend(entry("advice", &plain(advice), MARGIN, look));
        }
    }
    if it.run.state == State::Unknown {
        let text = "its record has no end, and nobody works on it here: its controller died, or this is a copy";
        lines.extend(entry("unknown", text, MARGIN, look));
    }
    lines
}

/// `rank 1: out of memory (out_of_memory.device)`.
fn told(failure: &Failure) -> String {
    let rank = failure.rank.map(|rank| format!("rank {rank}: ")).unwrap_or_default();
    let class = failure.class.as_ref().map(|class| format!(" ({})", plain(class))).unwrap_or_default();
    format!("{rank}{}{class}", plain(&failure.message))
}

fn course(it: &Summary, look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |key: &str, text: String| {
        if !text.is_empty() {
            lines.extend(entry(key, &text, MARGIN, look));
        }
    };
    add("epochs", epochs(it.run.epochs_done, it.run.epochs));
    add("last", it.course.last().map(numbers).unwrap_or_default());
    add("best", it.best.as_ref().map(numbers).unwrap_or_default());
    // Not the last epoch's, but that of the best weights.
    let end = it.run.map50.filter(|map| it.course.last().is_none_or(|last| last.map50 != Some(*map)));
    add("in the end", end.map(|map| format!("mAP50 {map:.3}")).unwrap_or_default());
    add("images/s", it.images_per_second.map(|speed| format!("{speed:.1}")).unwrap_or_default());
    add("weights", it.weights.as_ref().map(|path| path.display().to_string()).unwrap_or_default());
    lines
}

fn numbers(epoch: &Epoch) -> String {
    let loss = epoch.loss.map(|loss| format!("loss {loss:.3}"));
    let map = epoch.map50.map(|map| format!("mAP50 {map:.3}"));
    let all: Vec<String> = loss.into_iter().chain(map).collect();
    format!("epoch {}: {}", epoch.epoch, all.join(", "))
}

fn charts(course: &[Epoch], look: Look) -> Vec<String> {
    // One epoch is no course.
    if course.len() < 2 {
        return Vec::new();
    }
    let points =
        |value: fn(&Epoch) -> Option<f64>| course.iter().map(|epoch| (epoch.epoch, value(epoch))).collect::<Vec<_>>();
    let (loss, map) = (points(|epoch| epoch.loss), points(|epoch| epoch.map50));
    // Two beside each other where each has some room.
    const NARROWEST: usize = 34;
    let half = look.width.saturating_sub(4) / 2;
    let width = if half >= NARROWEST { half } else { look.width }.min(WIDEST_CHART);
    let draw = |title, points: &[_]| chart(title, points, width, look.unicode);
    beside(draw("loss", &loss), draw("mAP50", &map), look.width)
}

fn generations(it: &Summary, look: Look, zone: &TimeZone) -> Vec<String> {
    let mut lines = Vec::new();
    let last = it.generations.len().saturating_sub(1);
    for (at, generation) in it.generations.iter().enumerate() {
        lines.extend(entry(
            &format!("launch {}", generation.number),
            &launch(it, generation, at == last, zone),
            MARGIN,
            look,
        ));
        for down in &generation.step_downs {
            let text = format!(
                "rank {} ran out of memory in step {}: micro-batches of {} became {}",
                down.rank,
                down.step.saturating_add(1),
                down.from,
                down.to
            );
            lines.extend(entry("", &text, MARGIN, look));
        }
        // How the run ended stands above.
        let failures = generation.failures.iter().filter(|_| at != last || it.failure.is_none());
        for failure in failures {
            lines.extend(entry("", &told(failure), MARGIN, look));
        }
    }
    lines
}

/// What a launch was, in one line.
pub(crate) fn launch(it: &Summary, generation: &Generation, last: bool, zone: &TimeZone) -> String {
    let mut parts = vec![time_of_day(generation.begun_ms, zone)];
    if let Some(ended) = generation.ended_ms {
        parts.push(human_seconds(ended.saturating_sub(generation.begun_ms) as f64 / 1e3));
    }
    let mut sizes: Vec<String> = generation.ranks.iter().map(|rank| micro_batches(&rank.micro_batches)).collect();
    if sizes.windows(2).all(|pair| pair[0] == pair[1]) {
        sizes.truncate(1);
    }
    if sizes.iter().any(|size| !size.is_empty()) {
        parts.push(format!("micro-batches {}", sizes.join(" | ")));
        parts.extend(generation.imgsz.map(|imgsz| format!("{imgsz} px")));
    }
    parts.extend(generation.last_step.map(|step| format!("until step {}", grouped(step.saturating_add(1)))));
    parts.push(match (&generation.signal, last) {
        (Some(signal), _) => format!("stopped by {}", plain(signal).to_lowercase()),
        (None, true) => it.run.state.name().to_owned(),
        (None, false) if generation.failures.is_empty() => "ended".to_owned(),
        (None, false) => "failed, started again".to_owned(),
    });
    parts.join(", ")
}

fn ranks(it: &Summary) -> Vec<String> {
    let numbers = it.ranks.iter().map(|rank| rank.rank).chain(it.logs.iter().map(|log| log.rank));
    let numbers: std::collections::BTreeSet<u64> = numbers.collect();
    if numbers.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![["rank", "device", "micro-batches", "memory", "predicted", "budget", "log"].map(str::to_owned)];
    for number in numbers {
        let rank = it.ranks.iter().find(|rank| rank.rank == number);
        let log = it.logs.iter().find(|log| log.rank == number);
        let size = |size: Option<u64>| size.map(bytes).unwrap_or_default();
        rows.push([
            number.to_string(),
            rank.map(|rank| plain(&rank.device)).unwrap_or_default(),
            rank.map(|rank| micro_batches(&rank.micro_batches)).unwrap_or_default(),
            size(rank.and_then(|rank| rank.measured_bytes)),
            rank.map(|rank| predicted(rank.predicted_bytes, rank.measured_bytes)).unwrap_or_default(),
            size(rank.and_then(|rank| rank.budget_bytes)),
            log.map(log_of).unwrap_or_default(),
        ]);
    }
    columns(&rows)
}

/// What was predicted, and how far off that was.
pub(crate) fn predicted(predicted: Option<u64>, measured: Option<u64>) -> String {
    match (predicted, measured) {
        (None, _) => String::new(),
        (Some(predicted), Some(measured)) if measured > 0 => {
            let off = (predicted as f64 / measured as f64 - 1.0) * 100.0;
            format!("{} ({off:+.1} %)", bytes(predicted))
        }
        (Some(predicted), _) => bytes(predicted),
    }
}

pub(crate) fn log_of(log: &Log) -> String {
    let lines = log.lines.map(|lines| format!("{} lines", grouped(lines)));
    let size = log.bytes.map(|size| if size < 1 << 20 { format!("{} bytes", grouped(size)) } else { bytes(size) });
    let whole = match (log.complete, log.dropped, log.lines) {
        (Some(true), ..) => Some("complete".to_owned()),
        (Some(false), 1.., _) => Some(format!("{} lines did not fit on the disk", grouped(log.dropped))),
        (Some(false), 0, Some(_)) => Some("differs from what was written".to_owned()),
        (Some(false), 0, None) => Some("unsealed: the last lines may be missing".to_owned()),
        (None, ..) => None,
    };
    [lines, size, whole].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
