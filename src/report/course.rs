//! Which charts a training has. Pure.

use super::Report;
use super::chart::{Chart, LINES, Line, figure};
use super::series::{Point, Step, Table, smooth};

/// Steps over which the loss is smoothed, at most.
const SMOOTHED: usize = 500;
/// Fewer steps are not smoothed.
const FEW: usize = 20;

/// The charts, in order, as HTML.
pub fn charts(report: &Report) -> Vec<String> {
    let table = &report.table;
    let losses = |of: &str| -> Vec<&str> {
        let names = table.columns.iter().map(|(name, _)| name.as_str());
        names.filter(|name| name.strip_prefix(of).is_some_and(|term| term.ends_with("loss"))).collect()
    };
    let by_epoch = |title, caption: &str, names: &[&str]| {
        let left = names.len().saturating_sub(LINES);
        let left = if left > 0 { format!(" {left} more are in the table below.") } else { String::new() };
        let lines = names.iter().take(LINES).map(|name| column(table, name)).collect();
        let caption = format!("{caption}{left}");
        Chart { title, caption, along: "epoch", logarithmic: true, lines, ..Chart::default() }
    };
    let share = |title, caption: &str, names: &[&str]| Chart {
        from_zero: true,
        logarithmic: false,
        ceiling: Some(1.0),
        ..by_epoch(title, caption, names)
    };
    let maps = ["metrics/mAP50(B)", "metrics/mAP50-95(B)"];
    let found = ["metrics/precision(B)", "metrics/recall(B)"];
    let all = [
        share(
            "Mean average precision",
            "Of the validation after each epoch: at an overlap of one half, and the mean of overlaps from 0.5 to 0.95.",
            &maps,
        ),
        by_epoch("Loss of the training", "The mean of each term over the epoch's steps.", &losses("train/")),
        by_epoch(
            "Loss of the validation",
            "Of images that are not trained on. Where it rises while the training's falls, the model learns the images by heart.",
            &losses("val/"),
        ),
        share(
            "Precision and recall",
            "Of the validation: the share of what was found that is right, and of what is there that was found.",
            &found,
        ),
        step_loss(report),
        learning_rate(report),
        speed(report),
    ];
    all.iter().filter_map(figure).collect()
}

fn column(table: &Table, name: &str) -> Line {
    let known = [("metrics/mAP50(B)", "mAP50"), ("metrics/mAP50-95(B)", "mAP50-95")];
    let short = known.iter().find(|(long, _)| *long == name).map(|(_, short)| *short);
    let bare = || name.trim_start_matches("train/").trim_start_matches("val/").trim_start_matches("metrics/");
    let shown = short.unwrap_or_else(|| bare().trim_end_matches("(B)").trim_end_matches("_loss"));
    Line { name: shown.to_owned(), points: table.points(name), faint: false }
}

fn points(steps: &[Step], value: fn(&Step) -> Option<f64>) -> Vec<Point> {
    // Steps count from 0 in the record, and from 1 for people.
    steps.iter().map(|step| ((step.step + 1) as f64, value(step).filter(|value| value.is_finite()))).collect()
}

fn notches(report: &Report) -> Vec<(f64, String)> {
    let later = report.first_steps.iter().skip(1);
    later.map(|(launch, step)| ((step + 1) as f64, format!("launch {launch} begins"))).collect()
}

fn step_loss(report: &Report) -> Chart<'_> {
    let points = points(&report.steps, |step| step.loss);
    let mut caption = "The mean over all images of a step, whichever rank had them.".to_owned();
    let missing = points.iter().filter(|(_, value)| value.is_none()).count();
    if missing > 0 {
        let steps = if missing == 1 { "1 step".to_owned() } else { format!("{missing} steps") };
        caption.push_str(&format!(" In {steps} it was not finite."));
    }
    let over = (points.len() / 50).clamp(5, SMOOTHED);
    let smoothed = (points.len() > FEW).then(|| smooth(&points, over));
    if smoothed.is_some() {
        caption.push_str(&format!(" The strong line is its exponential mean over about {over} steps."));
    }
    if !notches(report).is_empty() {
        caption.push_str(" Where a launch begins there is a dotted line.");
    }
    let alone = smoothed.is_none();
    let line = |name: &str, points, faint| Line { name: name.to_owned(), points, faint };
    let lines = std::iter::once(line("each step", points, !alone))
        .chain(smoothed.map(|points| line("smoothed", points, false)))
        .collect();
    let notches = notches(report);
    Chart { title: "Loss of each step", caption, along: "step", logarithmic: true, lines, notches, ..Chart::default() }
}

fn learning_rate(report: &Report) -> Chart<'_> {
    let base = Chart { title: "Learning rate", from_zero: true, ..Chart::default() };
    if report.steps.is_empty() {
        let names = report.table.columns.iter().map(|(name, _)| name.as_str());
        let names = names.filter(|name| name.starts_with("lr/")).take(LINES);
        let lines = names.map(|name| column(&report.table, name)).collect();
        let caption = "Of each group of parameters, as results.csv has it.".to_owned();
        return Chart { along: "epoch", caption, lines, ..base };
    }
    let points = points(&report.steps, |step| Some(step.lr));
    let lines = vec![Line { name: "first group of parameters".to_owned(), points, faint: false }];
    Chart { along: "step", caption: "As the optimizer had it in each step.".to_owned(), lines, ..base }
}

fn speed(report: &Report) -> Chart<'_> {
    let points = points(&report.steps, |step| step.images_per_second);
    let over = (points.len() / 100).clamp(3, SMOOTHED);
    let smoothed = (points.len() > FEW).then(|| smooth(&points, over));
    let alone = smoothed.is_none();
    let line = |name: &str, points, faint| Line { name: name.to_owned(), points, faint };
    let lines = std::iter::once(line("each step", points, !alone))
        .chain(smoothed.map(|points| line("smoothed", points, false)))
        .collect();
    let caption = "The images of all ranks over the time of the slowest, while steps are made: neither validations nor starts are in it.";
    Chart {
        title: "Images a second",
        caption: caption.to_owned(),
        along: "step",
        from_zero: true,
        lines,
        notches: notches(report),
        ..Chart::default()
    }
}
