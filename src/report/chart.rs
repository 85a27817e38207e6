//! Lines over epochs or steps, as SVG within a figure.

use std::fmt::Write as _;

use super::Points;
use super::page::escaped;

/// Units of a drawing: about as many as a phone has pixels, so that its text is as large there as anywhere.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
/// Room for the numbers beside and below.
const LEFT: f64 = 50.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 6.0;
const RIGHT: f64 = 8.0;
/// Pairs of points of a line. More could not be seen.
const MOST: usize = 360;
/// Lines of so many points at most have a dot on each, which says its value to whoever points at it.
const DOTS: usize = 120;

/// A chart.
#[derive(Debug)]
pub struct Chart {
    pub title: &'static str,
    /// What the values are over.
    pub x: &'static str,
    pub series: Vec<Series>,
}

/// A line.
#[derive(Debug)]
pub struct Series {
    name: String,
    points: Points,
    faint: bool,
}

impl Series {
    pub fn new(name: &str, points: Points) -> Self {
        Self { name: name.to_owned(), points, faint: false }
    }

    /// One that stands behind another.
    pub fn faint(name: &str, points: Points) -> Self {
        Self { faint: true, ..Self::new(name, points) }
    }

    fn class(&self, at: usize) -> String {
        if self.faint { "s faint".to_owned() } else { format!("s s{}", at % 4) }
    }
}

impl Chart {
    /// The figure; nothing where there is no value.
    pub fn figure(mut self) -> Option<String> {
        for series in &mut self.series {
            series.points.retain(|(x, y)| x.is_finite() && y.is_finite());
        }
        self.series.retain(|series| !series.points.is_empty());
        let all = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let (first, last) = range(all().map(|(x, _)| x))?;
        let (least, most) = range(all().map(|(_, y)| y))?;
        let (ticks, low, high) = nice(least, most);
        let across = |x: f64| {
            let part = if last > first { (x - first) / (last - first) } else { 0.5 };
            LEFT + part * (WIDTH - LEFT - RIGHT)
        };
        let up = |y: f64| HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - BOTTOM - TOP);
        let mut drawing = String::new();
        for tick in ticks {
            let y = up(tick);
            let _ = write!(
                drawing,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 5.0,
                y + 4.0,
                number(tick)
            );
        }
        for (x, anchor) in [(first, "start"), (last, "end")].into_iter().take(if last > first { 2 } else { 1 }) {
            let _ = write!(
                drawing,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{} {}</text>",
                across(x),
                HEIGHT - 5.0,
                self.x,
                number(x)
            );
        }
        // Faint ones lie below.
        let mut order: Vec<(usize, &Series)> = self.series.iter().enumerate().collect();
        order.sort_by_key(|(_, series)| !series.faint);
        for (at, series) in order {
            let points: Vec<String> =
                thin(&series.points).into_iter().map(|(x, y)| format!("{:.1},{:.1}", across(x), up(y))).collect();
            let class = series.class(at);
            let _ = write!(drawing, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
            if series.points.len() <= DOTS && !series.faint {
                for (x, y) in &series.points {
                    let _ = write!(
                        drawing,
                        "<circle class=\"dot s{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"><title>{} {}: {} {}</title></circle>",
                        at % 4,
                        across(*x),
                        up(*y),
                        self.x,
                        number(*x),
                        escaped(&series.name),
                        number(*y)
                    );
                }
            }
        }
        let key: String = self.series.iter().enumerate().map(|(at, series)| self.key(at, series)).collect();
        let title = escaped(self.title);
        Some(format!(
            "<figure><figcaption><b>{title}</b>{key}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}, from {} {} to {}\">{drawing}</svg></figure>",
            self.x,
            number(first),
            number(last)
        ))
    }

    /// The name of a line and its last value, beside a piece of it.
    fn key(&self, at: usize, series: &Series) -> String {
        let last = series.points.last().map(|(_, y)| number(*y)).unwrap_or_default();
        format!(
            "<span class=\"key\"><svg viewBox=\"0 0 26 10\" aria-hidden=\"true\"><line class=\"{}\" x1=\"0\" x2=\"26\" y1=\"5\" y2=\"5\"/></svg>{} {last}</span>",
            series.class(at),
            escaped(&series.name)
        )
    }
}

fn range(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    Some((values.clone().reduce(f64::min)?, values.reduce(f64::max)?))
}

/// Round numbers around these, and the least and the greatest of them.
fn nice(least: f64, most: f64) -> (Vec<f64>, f64, f64) {
    // One value alone has room of its own size.
    let spread = if most > least { most - least } else { Some(most.abs()).filter(|size| *size > 0.0).unwrap_or(1.0) };
    let rough = spread / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (low, high) = ((least / step).floor(), (most / step).ceil());
    let high = if high > low { high } else { low + 1.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a handful")]
    let count = (high - low).min(20.0) as u32;
    ((0..=count).map(|at| (low + f64::from(at)) * step).collect(), low * step, high * step)
}

/// A number in few characters.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}");
    }
    let text = match size {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Of many points the least and the greatest of each of some hundred pieces, in their order: a spike of one step stays to be seen.
fn thin(points: &[(f64, f64)]) -> Points {
    if points.len() <= 2 * MOST {
        return points.to_vec();
    }
    let size = points.len().div_ceil(MOST);
    let pair = |piece: &[(f64, f64)]| {
        let by_value = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
        let (least, most) = (piece.iter().min_by(by_value), piece.iter().max_by(by_value));
        let mut pair: Points = [least, most].into_iter().flatten().copied().collect();
        pair.sort_by(|one, other| one.0.total_cmp(&other.0));
        pair.dedup();
        pair
    };
    points.chunks(size).flat_map(pair).collect()
}

/// The mean of what came before, later values counting more: over about a fiftieth of all.
pub fn smooth(points: &[(f64, f64)]) -> Points {
    let weight = 2.0 / (points.len() as f64 / 50.0 + 1.0).max(2.0);
    let mut mean = None;
    let smoothed = points.iter().filter(|(_, y)| y.is_finite()).map(|(x, y)| {
        let next = mean.map_or(*y, |mean: f64| mean + weight * (y - mean));
        mean = Some(next);
        (*x, next)
    });
    smoothed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 1.0, 0.5, 0.01, 1e-5, 123.456, 4321.0, 12_345_678.0, -0.25].map(number);
        assert_eq!(shown, ["0", "1", "0.5", "0.01", "1.0e-5", "123.5", "4321", "1.2e7", "-0.25"]);
    }

    #[test]
    fn ticks_are_round_and_hold_all() {
        assert_eq!(nice(0.1, 0.93), (vec![0.0, 0.25, 0.5, 0.75, 1.0], 0.0, 1.0));
        let (ticks, low, high) = nice(5.0, 5.0);
        assert!(low <= 5.0 && high > 5.0 && ticks.len() >= 2, "{ticks:?}");
    }

    #[test]
    fn a_spike_stays_in_a_long_line() {
        let mut points: Points = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[54_321].1 = 99.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= 2 * MOST && thinned.contains(&(54_321.0, 99.0)));
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let chart = Chart { title: "t", x: "step", series: vec![Series::new("s", vec![(1.0, f64::NAN)])] };
        assert_eq!(chart.figure(), None);
        let points = vec![(1.0, f64::INFINITY), (2.0, 0.5)];
        let figure = Chart { title: "t", x: "step", series: vec![Series::new("s", points)] }.figure().expect("a value");
        assert!(!figure.contains("inf") && !figure.contains("NaN"), "{figure}");
    }
}
