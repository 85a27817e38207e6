//! A chart of lines, as inline SVG with its labels in HTML. Pure.
//!
//! The drawing is stretched to whatever width there is, and the strokes are not (`non-scaling-stroke`); labels are HTML beside it, so that
//! they are as large on a telephone as on a wall.

use super::markup::text;
use super::series::{Point, thin};
use crate::output::chart::number;
use crate::output::words::grouped;

/// Side of the drawing in its own units.
const SIDE: f64 = 1000.0;
/// Buckets that many points are thinned to.
const BUCKETS: usize = 400;
/// Places that show their values under a pointer.
const PLACES: usize = 100;
/// Lines of a chart: as many as can be told apart.
pub const LINES: usize = 6;
/// Points that are drawn as points as well.
const DOTS: usize = 40;
/// Values further apart than this are drawn on a logarithmic scale, where that is allowed.
const FAR_APART: f64 = 100.0;
/// Whatever is greater lies at the edge, and whatever is less than one over it is 0: a float's own limits are left far away.
const HUGE: f64 = 1e100;

/// A chart.
#[derive(Default)]
pub struct Chart<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What one should know to read it.
    pub caption: String,
    /// What it goes along: `epoch`, `step`.
    pub along: &'a str,
    /// Whether the scale begins at 0.
    pub from_zero: bool,
    /// The greatest value that there can be.
    pub ceiling: Option<f64>,
    /// Whether a logarithmic scale may serve.
    pub logarithmic: bool,
    /// The lines, the most important last.
    pub lines: Vec<Line>,
    /// Places along it that are marked, with what they mean.
    pub notches: Vec<(f64, String)>,
}

/// A line.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points, along the chart.
    pub points: Vec<Point>,
    /// Whether it only stands behind another one.
    pub faint: bool,
}

/// Which value lies where.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

/// Draws it; nothing where no line has a value.
pub fn figure(chart: &Chart<'_>) -> Option<String> {
    let values = || chart.lines.iter().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
    let least = values().reduce(f64::min)?;
    let greatest = values().reduce(f64::max)?;
    let places = || chart.lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x);
    let along = Scale::along(places().reduce(f64::min)?, places().reduce(f64::max)?);
    let up = Scale::up(chart, least.clamp(-HUGE, HUGE), greatest.clamp(-HUGE, HUGE));

    let mut drawing = String::new();
    for tick in &up.ticks {
        let y = up.down(*tick);
        drawing.push_str(&format!("<path class=\"grid\" d=\"M0 {y:.0}H{SIDE:.0}\"/>"));
    }
    for (x, meaning) in &chart.notches {
        let x = along.right(*x);
        drawing.push_str(&format!(
            "<path class=\"notch\" d=\"M{x:.0} 0V{SIDE:.0}\"><title>{}</title></path>",
            text(meaning)
        ));
    }
    let mut strong = 0;
    let mut legend = String::new();
    for line in &chart.lines {
        let class = if line.faint { "faint".to_owned() } else { format!("line l{}", strong % LINES) };
        strong += usize::from(!line.faint);
        let drawn = path(&line.points, &along, &up);
        drawing.push_str(&format!("<path class=\"{class}\" d=\"{drawn}\"/>"));
        if line.points.len() <= DOTS && !line.faint {
            let dots = dots(&line.points, &along, &up);
            drawing.push_str(&format!("<path class=\"{class} dot\" d=\"{dots}\"/>"));
        }
        let last = line.points.iter().rev().find_map(|(_, value)| *value).map(number).unwrap_or_default();
        legend.push_str(&format!(
            "<li><svg class=\"key\" viewBox=\"0 0 30 10\" aria-hidden=\"true\"><path class=\"{class}\" d=\"M1 5H29\"/></svg>\
             {} <b>{last}</b></li>",
            text(&line.name)
        ));
    }
    drawing.push_str(&hits(chart, &along));

    let mut labels = String::new();
    for tick in &up.ticks {
        labels.push_str(&format!(
            "<span class=\"y\" style=\"top:{:.1}%\">{}</span>",
            up.down(*tick) / 10.0,
            up.label(*tick)
        ));
    }
    for tick in &along.ticks {
        let label = grouped_whole(*tick);
        labels.push_str(&format!("<span class=\"x\" style=\"left:{:.1}%\">{label}</span>", along.right(*tick) / 10.0));
    }
    let scale = if up.logarithmic { " The scale is logarithmic." } else { "" };
    let (title, along_name) = (text(chart.title), text(chart.along));
    let spoken = format!(
        "{title} along the {along_name}s {} to {}: from {} to {}",
        grouped_whole(along.low.ceil()),
        grouped_whole(along.high.floor()),
        number(least),
        number(greatest)
    );
    Some(format!(
        "<figure class=\"chart\"><h3>{title}</h3>\n<ul class=\"legend\">{legend}</ul>\n<div class=\"plot\">\
         <svg role=\"img\" aria-label=\"{spoken}\" viewBox=\"0 0 {SIDE:.0} {SIDE:.0}\" preserveAspectRatio=\"none\">{drawing}</svg>\
         {labels}<span class=\"along\">{along_name}</span></div>\n<figcaption>{}{scale}</figcaption></figure>\n",
        text(&chart.caption)
    ))
}

impl Scale {
    fn along(low: f64, high: f64) -> Self {
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, high + 0.5) };
        let step = nice((high - low) / 5.0).max(1.0);
        Self { low, high, logarithmic: false, ticks: multiples(step, low, high) }
    }

    fn up(chart: &Chart<'_>, least: f64, greatest: f64) -> Self {
        if chart.logarithmic && least > 0.0 && greatest / least > FAR_APART {
            let (low, high) = (least.log10().floor(), greatest.log10().ceil());
            let every = ((high - low) / 5.0).ceil().max(1.0);
            let ticks = multiples(every, low, high).into_iter().map(|power| 10_f64.powf(power)).collect();
            return Self { low, high, logarithmic: true, ticks };
        }
        let mut low = if chart.from_zero { least.min(0.0) } else { least };
        let mut high = greatest;
        if low >= high {
            // A flat line lies in the middle, or at the bottom of a scale from 0.
            let room = if high.abs() < 1.0 / HUGE { 1.0 } else { high.abs() * 0.1 };
            (low, high) = (if chart.from_zero { low } else { low - room }, high + room);
        }
        let step = nice((high - low) / 4.0);
        low = (low / step).floor() * step;
        high = (high / step).ceil() * step;
        if let Some(ceiling) = chart.ceiling.filter(|ceiling| greatest <= *ceiling) {
            high = high.min(ceiling);
        }
        Self { low, high, logarithmic: false, ticks: multiples(step, low, high) }
    }

    fn share(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }

    fn right(&self, x: f64) -> f64 {
        self.share(x).clamp(0.0, 1.0) * SIDE
    }

    fn down(&self, y: f64) -> f64 {
        (1.0 - self.share(y).clamp(0.0, 1.0)) * SIDE
    }

    fn label(&self, tick: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if self.logarithmic || tick == 0.0 {
            return if tick == 0.0 { "0".to_owned() } else { plainly(tick) };
        }
        if !(1e-3..1e5).contains(&largest) {
            return format!("{tick:.1e}");
        }
        let decimals = match self.ticks[..] {
            [one, next, ..] => decimals(next - one),
            _ => usize::from(tick.fract().abs() > 1e-6),
        };
        format!("{tick:.decimals$}")
    }
}

/// Digits behind the point that tell multiples of a step apart.
fn decimals(step: f64) -> usize {
    (0..8).find(|digits| step * 10_f64.powi(*digits) >= 0.99).map_or(8, |digits| digits.unsigned_abs() as usize)
}

/// A power of ten.
fn plainly(value: f64) -> String {
    if (0.001..100_000.0).contains(&value) { format!("{value}") } else { format!("{value:.0e}") }
}

fn grouped_whole(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "epochs and steps, saturating")]
    grouped(value.round() as u64)
}

/// 1, 2 or 5 times a power of ten, near `step`.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let times = match step / power {
        ..1.5 => 1.0,
        ..3.5 => 2.0,
        ..7.5 => 5.0,
        _ => 10.0,
    };
    times * power
}

fn multiples(step: f64, low: f64, high: f64) -> Vec<f64> {
    let first = (low / step - 1e-6).ceil();
    let ticks = (0..32).map(|number| (first + f64::from(number)) * step);
    ticks.take_while(|tick| *tick <= high + step * 1e-6).collect()
}

/// The line as SVG has it: gaps where values are missing, and a point where one stands alone.
fn path(points: &[Point], along: &Scale, up: &Scale) -> String {
    let mut drawn = String::new();
    let mut begun = false;
    for (x, value) in thin(points, BUCKETS) {
        match value {
            Some(value) => {
                let (x, y) = (along.right(x), up.down(value));
                drawn.push_str(&if begun { format!("L{x:.1} {y:.1}") } else { format!("M{x:.1} {y:.1}h0") });
                begun = true;
            }
            None => begun = false,
        }
    }
    drawn
}

fn dots(points: &[Point], along: &Scale, up: &Scale) -> String {
    let some = points.iter().filter_map(|(x, value)| Some((along.right(*x), up.down((*value)?))));
    some.map(|(x, y)| format!("M{x:.1} {y:.1}h0")).collect()
}

/// Columns that show the values under a pointer.
fn hits(chart: &Chart<'_>, along: &Scale) -> String {
    let longest = chart.lines.iter().map(|line| line.points.len()).max().unwrap_or(0);
    let count = longest.clamp(1, PLACES);
    let width = SIDE / count as f64;
    let mut columns = String::new();
    for place in 0..count {
        let (left, right) = (place as f64 * width, (place + 1) as f64 * width);
        let within = |x: f64| {
            let at = along.right(x);
            (left <= at && at < right) || (place + 1 == count && at >= right)
        };
        let mut told = Vec::new();
        let (mut first, mut last) = (f64::INFINITY, f64::NEG_INFINITY);
        for line in &chart.lines {
            let begin = line.points.partition_point(|(x, _)| along.right(*x) < left);
            let here = || line.points[begin..].iter().take_while(|(x, _)| within(*x));
            for (x, _) in here() {
                (first, last) = (first.min(*x), last.max(*x));
            }
            let least = here().filter_map(|(_, value)| *value).reduce(f64::min);
            let greatest = here().filter_map(|(_, value)| *value).reduce(f64::max);
            if let (Some(least), Some(greatest)) = (least, greatest) {
                let (least, greatest) = (number(least), number(greatest));
                let values = if least == greatest { least } else { format!("{least} to {greatest}") };
                told.push(format!("{}: {values}", text(&line.name)));
            }
        }
        if told.is_empty() {
            continue;
        }
        let which = if first < last {
            format!("{}s {} to {}", chart.along, grouped_whole(first), grouped_whole(last))
        } else {
            format!("{} {}", chart.along, grouped_whole(first))
        };
        columns.push_str(&format!(
            "<rect class=\"hit\" x=\"{left:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{SIDE:.0}\"><title>{which}\n{}</title></rect>",
            told.join("\n")
        ));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[Option<f64>]) -> Line {
        let points = values.iter().enumerate().map(|(at, value)| (at as f64 + 1.0, *value)).collect();
        Line { name: "<b>".to_owned(), points, faint: false }
    }

    fn chart(values: &[Option<f64>]) -> Chart<'static> {
        Chart { title: "loss", along: "epoch", logarithmic: true, lines: vec![line(values)], ..Chart::default() }
    }

    #[test]
    fn a_line_lies_between_its_extremes_with_gaps_where_values_are_missing() {
        let drawn = figure(&chart(&[Some(4.0), Some(2.0), None, Some(3.0)])).expect("drawn");
        assert!(drawn.contains("d=\"M0.0 0.0h0L333.3 1000.0M1000.0 500.0h0\""), "{drawn}");
        assert!(drawn.contains("<title>epoch 2\n&lt;b&gt;: 2.000</title>"), "{drawn}");
        assert!(drawn.contains("top:0.0%\">4.0</span>"), "{drawn}");
        assert!(figure(&chart(&[None, None])).is_none() && figure(&chart(&[])).is_none());
    }

    #[test]
    fn values_far_apart_get_a_logarithmic_scale() {
        let drawn = figure(&chart(&[Some(1.0), Some(1000.0)])).expect("drawn");
        assert!(drawn.contains("logarithmic") && drawn.contains(">100</span>"), "{drawn}");
        // Nothing below 0 lies on one.
        let drawn = figure(&chart(&[Some(-1.0), Some(1000.0)])).expect("drawn");
        assert!(!drawn.contains("logarithmic"), "{drawn}");
    }

    #[test]
    fn flat_huge_and_tiny_values_are_drawn() {
        for value in [0.0, 1.0, -3.0, 1e-300, 1e300, f64::MAX, f64::MIN_POSITIVE] {
            let drawn = figure(&chart(&[Some(value), Some(value)])).expect("drawn");
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{value}: {drawn}");
            assert!(drawn.len() < 10_000, "{value}");
        }
        let ends = figure(&chart(&[Some(f64::MIN), Some(f64::MAX)])).expect("drawn");
        assert!(ends.len() < 10_000 && !ends.contains("NaN"), "{ends}");
    }

    #[test]
    fn steps_of_a_scale_are_round() {
        assert_eq!([0.3, 1.0, 1.6, 7.0, 40.0].map(nice), [0.2, 1.0, 2.0, 5.0, 50.0]);
        assert_eq!(multiples(0.5, 0.9, 2.1), [1.0, 1.5, 2.0]);
        assert_eq!([5.0, 0.5, 0.01, 0.002].map(decimals), [0, 1, 2, 3]);
    }
}
