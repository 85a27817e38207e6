//! What ranks and devices took, a line each, and their course as small charts. Pure.

use super::super::chart::{beside, chart};
use super::super::look::Look;
use super::super::plain;
use super::super::words::{columns, human_seconds};
use crate::inventory::render::bytes;
use crate::record::usage::{DeviceUsage, RankUsage, Usage};

/// Ranks or devices that have a chart: more would fill the screen.
const CHARTS: usize = 2;

/// The lines; none where nobody looked.
pub fn lines(usage: &Usage, look: Look) -> Vec<String> {
    let mut lines = Vec::new();
    if !usage.ranks.is_empty() {
        let heading = ["rank", "processors", "host memory", "peak with cache"].map(str::to_owned);
        lines.extend(columns(&std::iter::once(heading).chain(usage.ranks.iter().map(rank)).collect::<Vec<_>>()));
    }
    if !usage.devices.is_empty() {
        let heading = ["gpu", "memory", "used", "hottest", "power", "slowed down"].map(str::to_owned);
        lines.extend(columns(&std::iter::once(heading).chain(usage.devices.iter().map(device)).collect::<Vec<_>>()));
    }
    lines.extend(charts(usage, look));
    lines
}

fn rank(it: &RankUsage) -> [String; 4] {
    [
        it.rank.to_string(),
        it.cpu_percent.map(|percent| format!("{percent:.0} %")).unwrap_or_default(),
        bytes(it.memory_bytes),
        it.memory_peak_bytes.map(bytes).unwrap_or_default(),
    ]
}

fn device(it: &DeviceUsage) -> [String; 6] {
    let of = it.memory_total_bytes.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
    let reasons = it.throttled_seconds.iter();
    let slowed: Vec<String> =
        reasons.map(|(reason, seconds)| format!("{} {}", plain(reason), human_seconds(*seconds as f64))).collect();
    [
        plain(&it.device),
        it.memory_bytes.map(|used| format!("{}{of}", bytes(used))).unwrap_or_default(),
        it.utilization_percent.map(|percent| format!("{percent:.0} %")).unwrap_or_default(),
        it.temperature_c.map(|degrees| format!("{degrees:.0} C")).unwrap_or_default(),
        it.power_w.map(|watts| format!("{watts:.0} W")).unwrap_or_default(),
        slowed.join(", "),
    ]
}

fn charts(usage: &Usage, look: Look) -> Vec<String> {
    const MIB: f64 = (1 << 20) as f64;
    let draw = |title: String, points: &[(u64, f64)], unit: f64| -> Vec<String> {
        let Some((first, _)) = points.first() else { return Vec::new() };
        if points.len() < 3 {
            return Vec::new();
        }
        // By seconds since the first.
        let points: Vec<(u64, Option<f64>)> =
            points.iter().map(|(ms, value)| (ms.saturating_sub(*first) / 1000, Some(value / unit))).collect();
        chart(&title, &points, look.width.saturating_sub(4) / 2, look.unicode)
    };
    let mut drawn: Vec<Vec<String>> = if usage.devices.is_empty() {
        let ranks = usage.ranks.iter().take(CHARTS);
        ranks.map(|rank| draw(format!("MiB of rank {}, by seconds", rank.rank), &rank.memory, MIB)).collect()
    } else {
        let devices = usage.devices.iter().take(CHARTS);
        devices.map(|gpu| draw(format!("% of gpu {}, by seconds", plain(&gpu.device)), &gpu.utilization, 1.0)).collect()
    };
    drawn.retain(|chart| !chart.is_empty());
    let mut drawn = drawn.into_iter();
    match (drawn.next(), drawn.next()) {
        (None, _) => Vec::new(),
        (Some(one), None) => one,
        (Some(one), Some(other)) => beside(one, other, look.width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_a_line_each() {
        let rank = RankUsage {
            rank: 1,
            cpu_percent: Some(98.7),
            memory_bytes: 1 << 30,
            memory_peak_bytes: Some(3 << 30),
            memory: vec![(1000, 1e9)],
        };
        let device = DeviceUsage {
            device: "0".into(),
            memory_bytes: Some(8 << 30),
            memory_total_bytes: Some(24 << 30),
            utilization_percent: Some(87.0),
            temperature_c: Some(71.0),
            power_w: Some(228.0),
            throttled_seconds: [("SW_POWER_CAP".to_owned(), 95)].into(),
            utilization: Vec::new(),
        };
        let look = Look { width: 80, colour: false, unicode: false };
        let lines = lines(&Usage { ranks: vec![rank], devices: vec![device] }, look);
        assert_eq!(
            lines,
            [
                "rank  processors  host memory  peak with cache",
                "1     99 %        1.0 GiB      3.0 GiB",
                "gpu  memory               used  hottest  power  slowed down",
                "0    8.0 GiB of 24.0 GiB  87 %  71 C     228 W  SW_POWER_CAP 95 s",
            ]
        );
    }
}
