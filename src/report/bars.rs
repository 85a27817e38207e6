//! Memory of the ranks, and the launches in time, as bars. Pure.

use jiff::tz::TimeZone;

use super::Report;
use super::markup::text;
use crate::inventory::render::bytes;
use crate::output::show::launch;
use crate::output::words::{human_seconds, time_of_day};
use crate::record::summary::{Attempt, Generation, State};

/// Width of a drawing in its own units.
const WIDE: f64 = 1000.0;

/// Memory seen beside what was predicted, a bar a rank; nothing where neither is known.
pub fn memory(report: &Report) -> Option<String> {
    let ranks: Vec<&Attempt> = report
        .summary
        .ranks
        .iter()
        .filter(|rank| rank.measured_bytes.is_some() || rank.predicted_bytes.is_some())
        .collect();
    let all = |rank: &&Attempt| [rank.measured_bytes, rank.predicted_bytes, rank.budget_bytes];
    let most = ranks.iter().flat_map(all).flatten().max().filter(|most| *most > 0)?;
    let bars: String = ranks.iter().map(|rank| bar(rank, most)).collect();
    Some(format!(
        "<figure class=\"chart wide\"><h3>Memory against the prediction</h3>\n\
         <ul class=\"legend\"><li><span class=\"swatch seen\"></span>seen</li><li><span class=\"swatch predicted\"></span>predicted</li>\
         <li><span class=\"swatch cap\"></span>what the device has for it</li></ul>\n{bars}\
         <figcaption>The most that each rank of the last launch told of. All bars have one scale.</figcaption></figure>\n"
    ))
}

fn bar(rank: &Attempt, most: u64) -> String {
    let across = |size: u64| size as f64 / most as f64 * WIDE;
    let mut drawing = String::from("<rect class=\"ground\" x=\"0\" y=\"4\" width=\"1000\" height=\"22\"/>");
    let mut words = Vec::new();
    if let Some(seen) = rank.measured_bytes {
        drawing
            .push_str(&format!("<rect class=\"seen\" x=\"0\" y=\"4\" width=\"{:.1}\" height=\"22\"/>", across(seen)));
        words.push(format!("seen {}", bytes(seen)));
    }
    if let Some(predicted) = rank.predicted_bytes {
        drawing.push_str(&format!(
            "<rect class=\"predicted\" x=\"0\" y=\"4\" width=\"{:.1}\" height=\"22\"/>",
            across(predicted)
        ));
        let off =
            rank.measured_bytes.filter(|seen| *seen > 0).map(|seen| predicted as f64 / seen as f64 * 100.0 - 100.0);
        let off = off.map(|off| format!(" ({off:+.1} %)")).unwrap_or_default();
        words.push(format!("predicted {}{off}", bytes(predicted)));
    }
    if let Some(budget) = rank.budget_bytes {
        let x = across(budget);
        drawing.push_str(&format!("<path class=\"cap\" d=\"M{x:.1} 0V30\"/>"));
        words.push(format!("of {}", bytes(budget)));
    }
    let name = format!("rank {} on {}", rank.rank, text(&rank.device));
    let words = words.join(", ");
    format!(
        "<div class=\"bar\"><p><b>{name}</b> {words}</p><svg role=\"img\" aria-label=\"{name}: {words}\" viewBox=\"0 0 1000 30\" \
         preserveAspectRatio=\"none\"><title>{name}: {words}</title>{drawing}</svg></div>\n"
    )
}

/// The launches along the run's time, with what happened in each.
pub fn timeline(report: &Report, zone: &TimeZone) -> Option<String> {
    let summary = &report.summary;
    let begin = summary.generations.first()?.begun_ms.min(summary.run.begun_ms.unwrap_or(u64::MAX));
    let lived = summary.run.seconds.map_or(0.0, |seconds| (seconds * 1e3).max(0.0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a run, saturating")]
    let lived = lived as u64;
    let times = summary.generations.iter().flat_map(|launch| [launch.go_ms, launch.ended_ms]).flatten();
    let end = times.chain([begin.saturating_add(lived)]).max().unwrap_or(begin).max(begin.saturating_add(1));
    let across = |ms: u64| (ms.clamp(begin, end) - begin) as f64 / (end - begin) as f64 * WIDE;

    let last = summary.generations.len() - 1;
    let mut lanes = String::new();
    for (at, generation) in summary.generations.iter().enumerate() {
        let until = generation.ended_ms.unwrap_or(end);
        let class = class(report, generation, at == last);
        let go = generation.go_ms.unwrap_or(until);
        let (x, trained, over) = (across(generation.begun_ms), across(go), across(until));
        let words = text(&launch(summary, generation, at == last, zone)).replace(" x ", " × ");
        let number = generation.number;
        let mut drawing = format!(
            "<rect class=\"ground\" x=\"0\" y=\"8\" width=\"1000\" height=\"14\"/>\
             <rect class=\"start\" x=\"{x:.1}\" y=\"4\" width=\"{:.1}\" height=\"22\"><title>launch {number} gets ready for {}</title></rect>\
             <rect class=\"{class}\" x=\"{trained:.1}\" y=\"4\" width=\"{:.1}\" height=\"22\"><title>launch {number}: {words}</title></rect>",
            (trained - x).max(2.0),
            human_seconds(go.saturating_sub(generation.begun_ms) as f64 / 1e3),
            (over - trained).max(2.0),
        );
        let here = || report.happened.iter().filter(|it| u64::from(it.generation) == number);
        for it in here().filter(|it| it.bad) {
            let rank = it.rank.map(|rank| format!(" rank {rank}:")).unwrap_or_default();
            let x = across(it.time_ms);
            drawing.push_str(&format!(
                "<path class=\"mark\" d=\"M{x:.1} 0V30\"><title>{}{rank} {}</title></path>",
                time_of_day(it.time_ms, zone),
                text(&it.text)
            ));
        }
        let mut told: String = here()
            .map(|it| {
                let rank = it.rank.map(|rank| format!("rank {rank}: ")).unwrap_or_default();
                format!(
                    "<li{}><time>{}</time> {rank}{}</li>",
                    if it.bad { " class=\"bad\"" } else { "" },
                    time_of_day(it.time_ms, zone),
                    text(&it.text)
                )
            })
            .collect();
        // What its ranks told stands there already; what only the controller saw does not.
        let seen = |failure: &crate::record::summary::Failure| {
            here().any(|it| it.rank.map(u64::from) == failure.rank && it.text.starts_with(failure.message.as_str()))
        };
        for failure in generation.failures.iter().filter(|failure| !seen(failure)) {
            let rank = failure.rank.map(|rank| format!("rank {rank}: ")).unwrap_or_default();
            told.push_str(&format!("<li class=\"bad\">{rank}{}</li>", text(&failure.message)));
        }
        let told = if told.is_empty() { told } else { format!("<ul class=\"told\">{told}</ul>") };
        lanes.push_str(&format!(
            "<li class=\"bar\"><p><b>Launch {number}</b> {words}</p><svg role=\"img\" aria-label=\"launch {number}: {words}\" \
             viewBox=\"0 0 1000 30\" preserveAspectRatio=\"none\">{drawing}</svg>{told}</li>\n"
        ));
    }
    let (from, to) = (time_of_day(begin, zone), time_of_day(end, zone));
    Some(format!(
        "<figure class=\"chart wide\"><h3>Launches in time</h3>\n\
         <ul class=\"legend\"><li><span class=\"swatch start\"></span>gets ready</li><li><span class=\"swatch trained\"></span>trains</li>\
         <li><span class=\"swatch failed\"></span>trains and fails</li><li><span class=\"swatch stopped\"></span>is stopped</li>\
         <li><span class=\"swatch mark\"></span>trouble</li></ul>\n<ol class=\"lanes\">\n{lanes}</ol>\n\
         <p class=\"ends\"><span>{from}</span><span>{to}</span></p>\
         <figcaption>A launch is all ranks started together. Another one follows a failure that can be helped, and a change of the image size.</figcaption></figure>\n"
    ))
}

fn class(report: &Report, generation: &Generation, last: bool) -> &'static str {
    match report.summary.run.state {
        State::Failed if last => "failed",
        _ if generation.signal.is_some() => "stopped",
        _ if !generation.failures.is_empty() => "failed",
        _ => "trained",
    }
}
