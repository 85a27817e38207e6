//! What ranks and devices were seen to use: a table each, a chart a row, and what a person should know of. Pure.

use super::{MARGIN, plain, predicted};
use crate::inventory::render::{bytes, short};
use crate::output::chart::spark;
use crate::output::look::Look;
use crate::output::words::{columns, entry, human_seconds};
use crate::record::summary::Attempt;
use crate::record::usage::{DeviceUsage, Gauge, RankUsage, Usage};

/// Columns of a chart, where the terminal is narrow and where it is wide.
const CHART: [usize; 2] = [12, 24];
/// Columns from which on a terminal is wide.
const WIDE: usize = 110;
/// Processes of others that are named of a device, at most.
const FOREIGN: usize = 5;

/// The lines of it.
pub fn lines(usage: &Usage, planned: &[Attempt], look: Look) -> Vec<String> {
    let mut lines = ranks(&usage.ranks, planned, look);
    if !lines.is_empty() && !usage.devices.is_empty() {
        lines.push(String::new());
    }
    lines.extend(devices(&usage.devices, look));
    for device in &usage.devices {
        lines.extend(remarks(device, look));
    }
    lines
}

fn ranks(ranks: &[RankUsage], planned: &[Attempt], look: Look) -> Vec<String> {
    if ranks.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![["rank", "CPU", "at most", "", "memory", "", "predicted", "limit"].map(str::to_owned)];
    for rank in ranks {
        let plan = planned.iter().find(|plan| plan.rank == rank.rank);
        let peak = rank.memory_bytes.peak_bytes();
        // What is predicted for a rank on a GPU is the GPU's memory.
        let plan = plan.filter(|plan| plan.device.starts_with("cpu"));
        rows.push([
            rank.rank.to_string(),
            percent(rank.cpu_percent.mean),
            percent(rank.cpu_percent.peak),
            chart(&rank.cpu_percent, look),
            peak.map(bytes).unwrap_or_default(),
            chart(&rank.memory_bytes, look),
            plan.map(|plan| predicted(plan.predicted_bytes, peak)).unwrap_or_default(),
            rank.memory_limit_bytes.map(bytes).unwrap_or_default(),
        ]);
    }
    columns(&rows)
}

fn devices(devices: &[DeviceUsage], look: Look) -> Vec<String> {
    if devices.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![["device", "memory", "of", "", "use", "", "hottest", "power"].map(str::to_owned)];
    for device in devices {
        let temperature = device.temperature_c.peak.map(|peak| format!("{peak:.0} °C"));
        let degrees = if look.unicode { temperature } else { temperature.map(|text| text.replace('°', "")) };
        rows.push([
            plain(&short(&device.device)),
            device.memory_used_bytes.peak_bytes().map(bytes).unwrap_or_default(),
            device.memory_total_bytes.map(bytes).unwrap_or_default(),
            chart(&device.memory_used_bytes, look),
            percent(device.utilization_percent.mean),
            chart(&device.utilization_percent, look),
            degrees.unwrap_or_default(),
            device.power_w.peak.map(|peak| format!("{peak:.0} W")).unwrap_or_default(),
        ]);
    }
    columns(&rows)
}

/// What held a device back, and who else was on it.
fn remarks(device: &DeviceUsage, look: Look) -> Vec<String> {
    let name = plain(&short(&device.device));
    let mut lines = Vec::new();
    if !device.throttling.is_empty() {
        let each =
            device.throttling.iter().map(|it| format!("{} for {}", plain(&it.reason), human_seconds(it.seconds)));
        let text = format!("{name}: {}", each.collect::<Vec<_>>().join(", "));
        lines.extend(entry("throttled", &text, MARGIN, look));
    }
    for foreign in device.foreign.iter().take(FOREIGN) {
        let name_of = if foreign.name.is_empty() { "a process".to_owned() } else { plain(&foreign.name) };
        let peak = foreign.peak_bytes.map(|peak| format!(", {} at most", bytes(peak))).unwrap_or_default();
        let text = format!("{name}: {name_of} (process {}) for {}{peak}", foreign.pid, human_seconds(foreign.seconds));
        lines.extend(entry("foreign", &text, MARGIN, look));
    }
    let more = device.foreign.len().saturating_sub(FOREIGN) as u64 + device.foreign_more;
    if more > 0 {
        lines.extend(entry("foreign", &format!("{name}: {more} more"), MARGIN, look));
    }
    lines
}

fn chart(gauge: &Gauge, look: Look) -> String {
    let points: Vec<_> = gauge.course.points().collect();
    // One sample is no course.
    if points.len() < 2 {
        return String::new();
    }
    spark(&points, CHART[usize::from(look.width >= WIDE)], look.unicode)
}

fn percent(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.0} %")).unwrap_or_default()
}
