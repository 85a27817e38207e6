//! What `ranks.csv` and `devices.csv` tell: what ranks and devices took over time. Pure: text in, numbers out.

use std::collections::BTreeMap;

use serde::Serialize;

/// Name and columns of the ranks' table.
pub const RANKS: (&str, &[&str]) = (
    "ranks.csv",
    &["time_ms", "generation", "rank", "cpu_percent", "memory_bytes", "memory_peak_bytes", "memory_limit_bytes"],
);
/// Name and columns of the GPUs' table.
pub const DEVICES: (&str, &[&str]) = (
    "devices.csv",
    &[
        "time_ms",
        "generation",
        "device",
        "memory_used_bytes",
        "memory_total_bytes",
        "utilization_percent",
        "temperature_c",
        "power_w",
        "throttling",
        "processes",
    ],
);
/// Points of a series. A chart has no more columns.
const POINTS: usize = 256;
/// What slows a card down that is no more than it having nothing to do, or being told to.
const NO_THROTTLING: [&str; 2] = ["GPU_IDLE", "APPLICATIONS_CLOCKS_SETTING"];

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// By rank.
    pub ranks: Vec<RankUsage>,
    /// By GPU.
    pub devices: Vec<DeviceUsage>,
}

/// What a rank took of its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RankUsage {
    /// The rank.
    pub rank: u64,
    /// Mean use of processors in percent, 100 being one.
    pub cpu_percent: Option<f64>,
    /// The most memory at any look, in bytes.
    pub memory_bytes: u64,
    /// The most memory at all, with what the kernel would have given back, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Memory over time: milliseconds since the Unix epoch, bytes.
    pub memory: Vec<(u64, f64)>,
}

/// What a GPU was used for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceUsage {
    /// As the plan names it.
    pub device: String,
    /// The most memory in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that it has, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Mean utilisation in percent.
    pub utilization_percent: Option<f64>,
    /// The highest temperature in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Mean power in watts.
    pub power_w: Option<f64>,
    /// Seconds for which each reason slowed it down.
    pub throttled_seconds: BTreeMap<String, u64>,
    /// Utilisation over time: milliseconds since the Unix epoch, percent.
    pub utilization: Vec<(u64, f64)>,
}

/// Reads both tables; one that is not there is empty. A row that is not whole is passed over.
#[must_use]
pub fn usage(ranks: &str, devices: &str) -> Usage {
    Usage { ranks: of_ranks(ranks), devices: of_devices(devices) }
}

/// The rows of a table, as functions from a column to its text.
fn rows(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    lines.filter_map(move |line| {
        let values: Vec<&str> = line.split(',').collect();
        (values.len() == columns.len()).then(|| columns.iter().copied().zip(values).collect())
    })
}

fn of_ranks(text: &str) -> Vec<RankUsage> {
    let mut ranks: BTreeMap<u64, (RankUsage, Mean)> = BTreeMap::new();
    for row in rows(text) {
        let whole = |column: &str| row.get(column).and_then(|text| text.parse::<u64>().ok());
        let (Some(rank), Some(time), Some(memory)) = (whole("rank"), whole("time_ms"), whole("memory_bytes")) else {
            continue;
        };
        let (usage, cpu) = ranks.entry(rank).or_default();
        usage.rank = rank;
        usage.memory_bytes = usage.memory_bytes.max(memory);
        usage.memory_peak_bytes = usage.memory_peak_bytes.max(whole("memory_peak_bytes"));
        usage.memory.push((time, memory as f64));
        cpu.add(row.get("cpu_percent").and_then(|text| text.parse().ok()));
    }
    let finish = |(mut usage, cpu): (RankUsage, Mean)| {
        (usage.cpu_percent, usage.memory) = (cpu.value(), thin(&usage.memory));
        usage
    };
    ranks.into_values().map(finish).collect()
}

fn of_devices(text: &str) -> Vec<DeviceUsage> {
    let mut devices: BTreeMap<&str, (DeviceUsage, Mean, Mean)> = BTreeMap::new();
    for row in rows(text) {
        let whole = |column: &str| row.get(column).and_then(|text| text.parse::<u64>().ok());
        let number =
            |column: &str| row.get(column).and_then(|text| text.parse::<f64>().ok()).filter(|it| it.is_finite());
        let (Some(device), Some(time)) = (row.get("device"), whole("time_ms")) else { continue };
        let (usage, utilization, power) = devices.entry(device).or_default();
        usage.device = (*device).to_owned();
        usage.memory_bytes = usage.memory_bytes.max(whole("memory_used_bytes"));
        usage.memory_total_bytes = whole("memory_total_bytes").or(usage.memory_total_bytes);
        let hot = number("temperature_c");
        usage.temperature_c = hot.into_iter().chain(usage.temperature_c).reduce(f64::max);
        utilization.add(number("utilization_percent"));
        power.add(number("power_w"));
        usage.utilization.extend(number("utilization_percent").map(|percent| (time, percent)));
        let reasons = row.get("throttling").into_iter().flat_map(|text| text.split('+'));
        for reason in reasons.filter(|reason| !reason.is_empty() && !NO_THROTTLING.contains(reason)) {
            *usage.throttled_seconds.entry(reason.to_owned()).or_default() += 1;
        }
    }
    let finish = |(mut usage, utilization, power): (DeviceUsage, Mean, Mean)| {
        (usage.utilization_percent, usage.power_w) = (utilization.value(), power.value());
        usage.utilization = thin(&usage.utilization);
        usage
    };
    devices.into_values().map(finish).collect()
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value.filter(|value: &f64| value.is_finite()) {
            self.sum += value;
            self.count += 1;
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// The greatest of each stretch.
fn thin(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    points
        .chunks(size)
        .filter_map(|piece| piece.iter().copied().max_by(|one, other| one.1.total_cmp(&other.1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_means_and_peaks() {
        let text = format!(
            "{}\n1000,1,0,,500,900,\n2000,1,0,50.0,700,950,1000\n2000,1,1,10.0,5,,\n3000,1,0,150.0,600,950,1000\n4000,1,0,100",
            RANKS.1.join(",")
        );
        let usage = usage(&text, "");
        assert_eq!(usage.ranks.len(), 2);
        let rank = &usage.ranks[0];
        assert_eq!((rank.cpu_percent, rank.memory_bytes, rank.memory_peak_bytes), (Some(100.0), 700, Some(950)));
        assert_eq!(rank.memory, [(1000, 500.0), (2000, 700.0), (3000, 600.0)]);
        assert_eq!(usage.devices, []);
    }

    #[test]
    fn a_device_that_was_slowed_down_is_told_of() {
        let text = format!(
            "{}\n1000,1,0,5,10,100,60,250.0,SW_POWER_CAP,7:python:5\n2000,1,0,8,10,50,70,150.0,SW_POWER_CAP+GPU_IDLE,\n3000,1,0,,,,,,,\n",
            DEVICES.1.join(",")
        );
        let usage = usage("", &text);
        let device = &usage.devices[0];
        assert_eq!((device.memory_bytes, device.memory_total_bytes), (Some(8), Some(10)));
        assert_eq!(
            (device.utilization_percent, device.temperature_c, device.power_w),
            (Some(75.0), Some(70.0), Some(200.0))
        );
        assert_eq!(device.throttled_seconds, BTreeMap::from([("SW_POWER_CAP".to_owned(), 2)]));
    }

    #[test]
    fn a_long_series_keeps_its_peaks() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|second| (second, 1.0)).collect();
        points[77_777].1 = 5.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= POINTS && thinned.contains(&(77_777, 5.0)));
    }
}
