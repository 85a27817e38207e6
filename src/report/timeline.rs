//! The launches of a run over time, and what failed in them.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::output::words::{human_seconds, micro_batches, time_of_day};
use crate::record::read::Summary;
use crate::record::summary::Generation;

use super::page::escaped;

const WIDTH: f64 = 360.0;
const ROW: f64 = 26.0;

/// The section; nothing where nothing was launched.
pub fn section(summary: &Summary, zone: &TimeZone) -> String {
    let launches = &summary.generations;
    let ends = launches.iter().map(|launch| launch.ended_ms.unwrap_or(launch.begun_ms));
    let (Some(first), Some(last)) = (launches.iter().map(|launch| launch.begun_ms).min(), ends.max()) else {
        return String::new();
    };
    let span = last.saturating_sub(first).max(1) as f64;
    let across = |ms: u64| ms.saturating_sub(first) as f64 / span * WIDTH;
    let (mut drawing, mut list) = (String::new(), String::new());
    for (at, launch) in launches.iter().enumerate() {
        let top = at as f64 * ROW;
        let end = launch.ended_ms.unwrap_or(last);
        let fell = !launch.failures.is_empty() || (at + 1 == launches.len() && summary.failure.is_some());
        let class = match &launch.signal {
            Some(_) => "stop",
            None if fell => "fell",
            None => "ran",
        };
        let (from, to) = (across(launch.begun_ms), across(end));
        let _ = write!(
            drawing,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"12\" rx=\"2\"/>",
            top + 12.0,
            (to - from).max(2.0)
        );
        let anchor = if from > WIDTH / 2.0 { ("end", to.min(WIDTH)) } else { ("start", from) };
        let _ = write!(
            drawing,
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"{}\">launch {}</text>",
            anchor.1,
            top + 10.0,
            anchor.0,
            launch.number
        );
        if let Some(go) = launch.go_ms {
            let x = across(go);
            let _ = write!(
                drawing,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\"><title>trainers start</title></line>",
                top + 11.0,
                top + 25.0
            );
        }
        let _ = write!(
            list,
            "<li value=\"{}\">{}</li>",
            launch.number,
            describe(launch, summary.trainer.as_deref() != Some("command"), zone)
        );
    }
    let height = launches.len() as f64 * ROW + 4.0;
    format!(
        "<section><h2>Launches</h2><svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Launches over {}\" style=\"max-width:30rem\">{drawing}</svg><ol>{list}</ol></section>\n",
        human_seconds(span / 1e3)
    )
}

/// A program of the user's own has no image size that we knew of.
fn describe(launch: &Generation, sized: bool, zone: &TimeZone) -> String {
    let mut parts = vec![time_of_day(launch.begun_ms, zone)];
    if let Some(ended) = launch.ended_ms {
        parts.push(human_seconds(ended.saturating_sub(launch.begun_ms) as f64 / 1e3));
    }
    parts.extend(launch.imgsz.filter(|_| sized).map(|side| format!("{side} px")));
    let mut batches: Vec<String> = launch.ranks.iter().map(|rank| micro_batches(&rank.micro_batches)).collect();
    batches.dedup();
    batches.retain(|batch| !batch.is_empty());
    if !batches.is_empty() {
        parts.push(format!("micro-batches {}", batches.join(" / ")));
    }
    parts.extend(launch.images_per_second.map(|speed| format!("{speed:.1} images/s")));
    parts.extend(launch.signal.as_ref().map(|signal| format!("asked to end by {signal}")));
    let mut text = escaped(&parts.join(" · "));
    for down in &launch.step_downs {
        let _ = write!(
            text,
            "<br>step {}: rank {} ran out of memory, micro-batches of {} became {}",
            down.step + 1,
            down.rank,
            down.from,
            down.to
        );
    }
    for failure in &launch.failures {
        let rank = failure.rank.map_or_else(String::new, |rank| format!("rank {rank}: "));
        let class = failure.class.as_deref().map_or_else(String::new, |class| format!(" ({class})"));
        let _ = write!(text, "<br><span class=\"bad\">{}{}{}</span>", rank, escaped(&failure.message), escaped(&class));
    }
    text
}
