//! The page: its head and its sections in order. Pure.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::markup::{table, text};
use super::{Report, bars, course, pictures, used};
use crate::inventory::render::bytes;
use crate::output::chart::number;
use crate::output::runs::{epochs, state};
use crate::output::show::{log_of, predicted};
use crate::output::words::{grouped, human_seconds, micro_batches, moment};
use crate::record::summary::State;

/// Nothing from anywhere: not a script, not a picture that is no part of the file.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// How it looks.
const STYLE: &str = include_str!("style.css");
/// Rows of the table of epochs, at most; of more, some in between are left out.
const ROWS: usize = 100;
/// Columns of it.
const COLUMNS: usize = 24;

/// The report as one HTML file.
#[must_use]
pub fn html(report: &Report, zone: &TimeZone) -> String {
    let run = &report.summary.run;
    let name = text(&format!("{}/{}", run.name, run.id));
    let charts = course::charts(report);
    let charts = if charts.is_empty() {
        "<p class=\"none\">The trainer told of no step and no validation.</p>\n".to_owned()
    } else {
        side_by_side(&charts.concat())
    };
    let used = used::figures(&report.summary.usage);
    let used = if used.is_empty() { used } else { side_by_side(&used) };
    let memory = bars::memory(report).unwrap_or_default();
    let timeline =
        bars::timeline(report, zone).unwrap_or_else(|| "<p class=\"none\">No container was made.</p>\n".to_owned());
    let sections = [
        ("what", "What it was", what(report)),
        ("course", "How it went", charts + &course_table(report)),
        ("launches", "Launches and failures", timeline),
        ("ranks", "Ranks and memory", memory + &used + &ranks(report)),
        ("pictures", "Sample predictions", pictures::gallery(report)),
    ];
    let mut body = String::new();
    for (id, title, content) in sections {
        let _ = write!(
            body,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{content}</section>\n"
        );
    }
    let gaps: String = report.gaps.iter().map(|gap| format!("<p class=\"note\">{}</p>\n", text(gap))).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<title>{name}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}{gaps}{body}</main>\n\
         <footer><p>Made by Evenkeel {} from the run's record at {}. Times are those of {}.</p></footer>\n</body>\n</html>\n",
        head(report, zone, &name),
        env!("CARGO_PKG_VERSION"),
        moment(report.made_ms, zone),
        text(&offset(report.made_ms, zone)),
    )
}

/// The offset from UTC that times are shown with.
fn offset(ms: u64, zone: &TimeZone) -> String {
    let moment = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(
        || "UTC".to_owned(),
        |moment| match zone.to_offset(moment) {
            offset if offset.is_zero() => "UTC".to_owned(),
            offset => format!("UTC{offset}"),
        },
    )
}

fn head(report: &Report, zone: &TimeZone, name: &str) -> String {
    let summary = &report.summary;
    let run = &summary.run;
    let how = text(&state(run.state, run.class.as_deref()));
    let time = run.seconds.map(human_seconds).map(|time| match run.state {
        State::Running => format!(" for {time}"),
        _ => format!(" after {time}"),
    });
    let begun = run.begun_ms.map(|ms| format!(", begun {}", moment(ms, zone))).unwrap_or_default();
    let mut html = format!(
        "<header>\n<p class=\"kind\">Report of a training</p>\n<h1>{name}</h1>\n\
         <p><span class=\"state {}\">{how}</span>{}<span class=\"quiet\">{begun}</span></p>\n</header>\n",
        run.state.name(),
        time.unwrap_or_default(),
    );
    if let Some(failure) = &summary.failure {
        let rank = failure.rank.map(|rank| format!("Rank {rank} failed first. ")).unwrap_or_default();
        let class = failure.class.as_deref().map(|class| format!(" <code>{}</code>", text(class))).unwrap_or_default();
        let advice = failure.advice.as_deref().map(|advice| format!("<p><b>What to do:</b> {}</p>", text(advice)));
        let _ = writeln!(
            html,
            "<div class=\"outcome bad\" role=\"note\"><p><b>{rank}</b>{}{class}</p>{}</div>",
            text(&failure.message),
            advice.unwrap_or_default()
        );
    }
    let remark = match run.state {
        State::Unknown => {
            "Its record has no end, and nobody works on it where this was made: its controller died, or this is a copy."
        }
        State::Running => "It goes on: this is how it stood when the report was made.",
        State::Stopped => "It was stopped before its end, by somebody or by the system.",
        State::Done | State::Failed => "",
    };
    if !remark.is_empty() {
        let _ = writeln!(html, "<div class=\"outcome\" role=\"note\"><p>{remark}</p></div>");
    }
    html.push_str(&tiles(report));
    html
}

/// The numbers that are asked for first.
fn tiles(report: &Report) -> String {
    let summary = &report.summary;
    let mut html = String::new();
    let mut add = |key: &str, value: Option<String>, more: String| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(html, "<div><dt>{key}</dt><dd>{value}<small>{more}</small></dd></div>");
        }
    };
    let run = &summary.run;
    add("Epochs", Some(epochs(run.epochs_done, run.epochs)), String::new());
    let best = summary.best.as_ref();
    let map = best.and_then(|best| best.map50).or(run.map50);
    let at = best.map(|best| format!("best, of epoch {}", best.epoch)).unwrap_or_default();
    add("mAP50", map.map(|map| format!("{map:.3}")), at);
    let strict = report.table.points("metrics/mAP50-95(B)");
    // Of equal ones the first.
    let strict = strict.iter().rev().filter_map(|(epoch, value)| Some((*epoch, (*value)?)));
    let strict = strict.max_by(|one, other| one.1.total_cmp(&other.1));
    let at = strict.map(|(epoch, _)| format!("best, of epoch {epoch:.0}")).unwrap_or_default();
    add("mAP50-95", strict.map(|(_, map)| format!("{map:.3}")), at);
    let last = summary.course.last();
    add("Loss", last.and_then(|last| last.loss).map(number), "of the last epoch".to_owned());
    add("Images/s", summary.images_per_second.map(|speed| format!("{speed:.1}")), "all ranks".to_owned());
    let launches = summary.generations.len();
    add("Launches", (launches > 1).then(|| launches.to_string()), String::new());
    if html.is_empty() { html } else { format!("<dl class=\"tiles\">{html}</dl>\n") }
}

fn what(report: &Report) -> String {
    let summary = &report.summary;
    let mut html = String::from("<dl class=\"facts\">\n");
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(html, "<dt>{key}</dt><dd>{value}</dd>");
        }
    };
    let code = |value: &str| format!("<code>{}</code>", text(value));
    add("Trainer", summary.trainer.as_deref().map(text));
    add("Model", summary.model.as_deref().map(text));
    let files = report
        .data
        .as_ref()
        .map(|(hash, files)| format!("<br><small>{} files, hashes {}</small>", grouped(*files), code(hash)));
    add("Data", summary.data.as_deref().map(|data| text(data) + &files.unwrap_or_default()));
    add("Code", report.commit.as_deref().map(code));
    let digests: String = report.digests.iter().map(|digest| format!("<br><small>{}</small>", code(digest))).collect();
    add("Image", summary.image.as_deref().map(|image| text(image) + &digests));
    add("Batch", split(report));
    add("Record", Some(code(&summary.run.path.display().to_string())));
    html + "</dl>\n"
}

/// How a step's images come together: exactly, since nothing is rounded.
fn split(report: &Report) -> Option<String> {
    let target = report.summary.target_batch?;
    let first = report.shares.first().map(|share| &share.micro_batches);
    let alike = report.shares.iter().all(|share| Some(&share.micro_batches) == first);
    let sum = match (first.map(Vec::as_slice), report.shares.len()) {
        (Some([one, rest @ ..]), ranks) if alike && rest.iter().all(|size| size == one) => {
            let count = rest.len() + 1;
            let plural =
                |count: usize, word: &str| if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") };
            let micro = if count == 1 { "1 micro-batch".to_owned() } else { format!("{count} micro-batches") };
            format!(" = {} × {micro} × {one} images", plural(ranks, "rank"))
        }
        (Some([_, ..]), _) => {
            let shares: Vec<String> =
                report.shares.iter().map(|share| share.micro_batches.iter().sum::<u64>().to_string()).collect();
            format!(" = {}, by rank", shares.join(" + "))
        }
        _ => String::new(),
    };
    let kind = report.summary.split.as_deref().map(|split| format!(" ({})", text(split))).unwrap_or_default();
    Some(format!("{target} images an optimizer step{sum}{kind}"))
}

fn side_by_side(charts: &str) -> String {
    format!("<div class=\"charts\">\n{charts}</div>\n")
}

fn ranks(report: &Report) -> String {
    let summary = &report.summary;
    let shares = report.shares.iter().map(|share| share.rank);
    let numbers =
        shares.chain(summary.ranks.iter().map(|rank| rank.rank)).chain(summary.logs.iter().map(|log| log.rank));
    let numbers: std::collections::BTreeSet<u64> = numbers.collect();
    let row = |number: u64| {
        let share = report.shares.iter().find(|share| share.rank == number);
        let rank = summary.ranks.iter().find(|rank| rank.rank == number);
        let log = summary.logs.iter().find(|log| log.rank == number);
        let sizes = rank.map(|rank| &rank.micro_batches).filter(|sizes| !sizes.is_empty());
        let sizes = sizes.or(share.map(|share| &share.micro_batches)).map(Vec::as_slice).unwrap_or_default();
        let device = rank.map(|rank| rank.device.as_str()).or(share.map(|share| share.device.as_str()));
        let model = share.and_then(|share| share.model.as_deref());
        let size = |size: Option<u64>| size.map(bytes).unwrap_or_default();
        let transport = u32::try_from(number).ok().and_then(|number| report.transports.get(&number));
        vec![
            number.to_string(),
            device.map(text).unwrap_or_default(),
            model.map(text).unwrap_or_default(),
            micro_batches(sizes).replace(" x ", " × "),
            if sizes.is_empty() { String::new() } else { sizes.iter().sum::<u64>().to_string() },
            size(rank.and_then(|rank| rank.measured_bytes)),
            rank.map(|rank| predicted(rank.predicted_bytes, rank.measured_bytes)).unwrap_or_default(),
            size(rank.and_then(|rank| rank.budget_bytes)),
            transport.map(|transport| text(transport)).unwrap_or_default(),
            log.map(log_of).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = numbers.into_iter().map(row).collect();
    if rows.is_empty() {
        return "<p class=\"none\">No rank was planned.</p>\n".to_owned();
    }
    let head = [
        "rank",
        "device",
        "model",
        "micro-batches",
        "images a step",
        "memory seen",
        "predicted",
        "limit",
        "transport",
        "log",
    ];
    table("The ranks of the last launch", &head, &rows)
}

/// All numbers of the epochs, for who wants them exactly.
fn course_table(report: &Report) -> String {
    let epochs = &report.table.epochs;
    if epochs.is_empty() {
        return String::new();
    }
    let columns: Vec<&(String, Vec<Option<f64>>)> = report.table.columns.iter().take(COLUMNS).collect();
    let every = epochs.len().div_ceil(ROWS);
    let shown = (0..epochs.len()).filter(|at| at % every == 0 || at + 1 == epochs.len());
    let cell = |value: Option<f64>| value.map(number).unwrap_or_default();
    let rows: Vec<Vec<String>> = shown
        .map(|at| {
            let values = columns.iter().map(|(_, values)| cell(values.get(at).copied().flatten()));
            std::iter::once(grouped(epochs[at])).chain(values).collect()
        })
        .collect();
    let names: Vec<String> =
        std::iter::once("epoch".to_owned()).chain(columns.iter().map(|(name, _)| text(name))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let some = if every > 1 { format!(": one of {every}, and the last") } else { String::new() };
    let table = table("Numbers of the epochs", &names, &rows);
    format!("<details><summary>Numbers of the epochs{some}</summary>\n{table}</details>\n")
}
