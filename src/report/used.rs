//! Which charts there are of what ranks and GPUs were seen to use. Pure.

use super::chart::{Chart, LINES, Line, figure};
use super::series::Point;
use crate::inventory::render::short;
use crate::record::usage::{Gauge, Usage};

const GIB: f64 = (1_u64 << 30) as f64;
/// Units of time, the longest first: how a chart calls one, and its milliseconds.
const TIMES: [(&str, f64); 3] = [("hour", 3_600_000.0), ("minute", 60_000.0), ("second", 1000.0)];
/// A chart goes along the longest unit of which it has so many.
const ENOUGH: f64 = 10.0;

/// The charts, in order, as HTML.
pub fn figures(usage: &Usage) -> String {
    charts(usage).iter().filter_map(figure).collect()
}

fn charts(usage: &Usage) -> Vec<Chart<'static>> {
    let ranks = || usage.ranks.iter().map(|rank| (format!("rank {}", rank.rank), rank));
    let devices = || usage.devices.iter().map(|device| (short(&device.device), device));
    let memory = ranks().map(|(name, rank)| (name, &rank.memory_bytes)).collect();
    let work = ranks().map(|(name, rank)| (name, &rank.cpu_percent)).collect();
    let device_memory = devices().map(|(name, device)| (name, &device.memory_used_bytes)).collect();
    let device_work = devices().map(|(name, device)| (name, &device.utilization_percent)).collect();
    vec![
        drawn(
            "Memory of the ranks",
            "GiB of each rank's container as the kernel counts them, without cached files that nobody used for long.",
            GIB,
            memory,
        ),
        drawn("Processors of the ranks", "How many each rank's container kept busy.", 100.0, work),
        drawn("Memory of the GPUs", "GiB in use on each, of whatever process.", GIB, device_memory),
        Chart {
            ceiling: Some(100.0),
            ..drawn("Use of the GPUs", "Percent of the time in which each computed anything.", 1.0, device_work)
        },
    ]
}

fn drawn(title: &'static str, caption: &str, unit: f64, gauges: Vec<(String, &Gauge)>) -> Chart<'static> {
    let longest = gauges.iter().filter_map(|(_, gauge)| gauge.course.points().last()).map(|(ms, _)| ms).max();
    let longest = longest.unwrap_or(0) as f64;
    let (along, ms) = TIMES.into_iter().find(|(_, ms)| longest >= ENOUGH * ms).unwrap_or(TIMES[2]);
    let left = gauges.len().saturating_sub(LINES);
    let left = if left > 0 { format!(" {left} more are in the record's tables.") } else { String::new() };
    let points = |gauge: &Gauge| -> Vec<Point> {
        gauge.course.points().map(|(time, value)| (time as f64 / ms, value.map(|value| value / unit))).collect()
    };
    let line = |(name, gauge): (String, &Gauge)| Line { name, points: points(gauge), faint: false };
    Chart {
        title,
        caption: format!("{caption} Means of the samples of once a second.{left}"),
        along,
        from_zero: true,
        lines: gauges.into_iter().take(LINES).map(line).collect(),
        ..Chart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::usage;

    #[test]
    fn ranks_and_devices_are_drawn_along_the_time_that_they_took() {
        let gib = 1_u64 << 30;
        let rows: String = (0..1500_u64)
            .flat_map(|second| (0..8).map(move |rank| (second, rank)))
            .map(|(second, rank)| format!("{},1,{rank},150.0,{},,\n", second * 1000, gib * (rank + 1)))
            .collect();
        let device =
            "0,1,GPU-1a2b3c4d-5e,1073741824,,50,,,none,none\n4000,1,GPU-1a2b3c4d-5e,2147483648,,50,,,none,none\n";
        let usage = Usage { ranks: usage::ranks(rows.as_bytes()), devices: usage::devices(device.as_bytes()) };
        let [memory, work, device_memory, device_work] = &charts(&usage)[..] else { panic!("four charts") };
        assert_eq!((memory.along, memory.lines.len()), ("minute", LINES));
        assert!(memory.caption.contains("2 more"), "{}", memory.caption);
        let last = memory.lines[2].points.last().expect("points");
        assert!(last.1 == Some(3.0) && (24.0..25.0).contains(&last.0), "{last:?}");
        assert_eq!(work.lines[0].points[0].1, Some(1.5));
        assert_eq!((device_memory.along, device_memory.lines[0].name.as_str()), ("second", "GPU-1a2b3c4d"));
        assert_eq!(
            (device_memory.lines[0].points[4], device_work.lines[0].points[0].1),
            ((4.0, Some(2.0)), Some(50.0))
        );
        assert!(charts(&Usage::default()).iter().all(|chart| chart.lines.is_empty()));
    }
}
