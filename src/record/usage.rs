//! What ranks and devices were seen to use, of the tables that were sampled once a second. Pure.
//!
//! A table may end in a part of a row, hold one where its writer died, and be of a launch that was taken up: every row stands for itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{BufRead, Read as _};

use serde::Serialize;

mod series;

pub use series::Series;

/// Name of the table of ranks.
pub const RANKS: &str = "ranks.csv";
/// Its columns.
pub const RANK_COLUMNS: &str = "time_ms,generation,rank,cpu_percent,memory_bytes,memory_peak_bytes,memory_limit_bytes";
/// Name of the table of GPUs.
pub const DEVICES: &str = "devices.csv";
/// Its columns.
pub const DEVICE_COLUMNS: &str = "time_ms,generation,device,memory_used_bytes,memory_total_bytes,utilization_percent,temperature_c,power_w,throttling,processes";
/// What stands where nothing throttles a device, and where no process is on it.
pub const NONE: &str = "none";
/// Owner of a process that is not of this run.
pub const FOREIGN: &str = "foreign";

/// A sample stands for the time since the one before, but for no more than this: beyond, nobody looked.
const LONGEST_MS: u64 = 5000;
/// Processes of others that are told of a GPU, at most.
const FOREIGN_TOLD: usize = 100;
/// And that are kept in mind while its rows are read: where many come and go, in a week there are hundreds of thousands.
const FOREIGN_KEPT: usize = 1000;
/// Bytes of a row, at most: a GPU with a thousand processes has fewer.
const LONGEST_ROW: u64 = 256 << 10;
/// For how long one stands that has none before.
const PERIOD_MS: u64 = 1000;

/// What a run was seen to use.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Each rank, by rank.
    pub ranks: Vec<RankUsage>,
    /// Each GPU, in the order in which they were met.
    pub devices: Vec<DeviceUsage>,
}

/// What was seen of one quantity.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gauge {
    /// The most.
    pub peak: Option<f64>,
    /// The mean of all samples.
    pub mean: Option<f64>,
    /// Its course.
    pub course: Series,
    #[serde(skip)]
    sum: f64,
    #[serde(skip)]
    count: u64,
}

/// What a rank's container was seen to use, over all launches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RankUsage {
    /// The rank.
    pub rank: u64,
    /// Samples.
    pub samples: u64,
    /// Work of processors; 100 is one.
    pub cpu_percent: Gauge,
    /// Memory in bytes, without cached files that nobody has used for long.
    pub memory_bytes: Gauge,
    /// The most that the kernel counted at any time, with cached files.
    pub memory_peak_bytes: Option<u64>,
    /// What its container may have, where it has a limit; the last.
    pub memory_limit_bytes: Option<u64>,
}

/// What was seen of a GPU, over all launches.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceUsage {
    /// Its UUID.
    pub device: String,
    /// Samples.
    pub samples: u64,
    /// Memory in use, of all processes, in bytes.
    pub memory_used_bytes: Gauge,
    /// Memory that it has, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Share of the time in which it computed.
    pub utilization_percent: Gauge,
    /// Degrees Celsius.
    pub temperature_c: Gauge,
    /// Watts.
    pub power_w: Gauge,
    /// What held its clocks back and for how many seconds, the longest first.
    pub throttling: Vec<Throttling>,
    /// Processes on it that were none of the run's, those that were there for longest first, as far as they are told of.
    pub foreign: Vec<Foreign>,
    /// How many more there were.
    pub foreign_more: u64,
}

/// A reason that held a GPU's clocks back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Throttling {
    /// Its name, as `sw_power_cap`.
    pub reason: String,
    /// For how long.
    pub seconds: f64,
}

/// A process on a GPU that was none of the run's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Foreign {
    /// Its number.
    pub pid: u64,
    /// Its name, where it was known.
    pub name: String,
    /// For how long it was seen.
    pub seconds: f64,
    /// The most memory that it had, in bytes.
    pub peak_bytes: Option<u64>,
}

impl Gauge {
    /// The most, of bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a machine, saturating")]
        self.peak.map(|peak| peak as u64)
    }

    fn add(&mut self, time_ms: u64, value: Option<f64>) {
        let value = value.filter(|value| value.is_finite());
        self.course.add(time_ms, value);
        if let Some(value) = value {
            self.peak = Some(self.peak.map_or(value, |peak| peak.max(value)));
            self.sum += value;
            self.count += 1;
            self.mean = Some(self.sum / self.count as f64);
        }
    }
}

/// Reads `ranks.csv`.
#[must_use]
pub fn ranks(table: impl BufRead) -> Vec<RankUsage> {
    let mut all: BTreeMap<u64, RankUsage> = BTreeMap::new();
    let mut begin = None;
    each_row(table, |[time, _, rank, cpu, memory, peak, limit]| {
        let (Ok(time_ms), Ok(rank)) = (time.parse(), rank.parse()) else { return };
        let begin = *begin.get_or_insert(time_ms);
        let usage = all.entry(rank).or_insert_with(|| RankUsage {
            rank,
            cpu_percent: Gauge::from(begin),
            memory_bytes: Gauge::from(begin),
            ..RankUsage::default()
        });
        usage.samples += 1;
        usage.cpu_percent.add(time_ms, cpu.parse().ok());
        usage.memory_bytes.add(time_ms, memory.parse().ok());
        usage.memory_peak_bytes = usage.memory_peak_bytes.max(peak.parse().ok());
        usage.memory_limit_bytes = limit.parse().ok();
    });
    all.into_values().collect()
}

/// Reads `devices.csv`.
#[must_use]
pub fn devices(table: impl BufRead) -> Vec<DeviceUsage> {
    let mut all: Vec<Met> = Vec::new();
    let mut begin = None;
    each_row(table, |[time, _, device, used, total, utilization, temperature, power, throttling, processes]| {
        let Ok(time_ms) = time.parse::<u64>() else { return };
        let begin = *begin.get_or_insert(time_ms);
        let at = all.iter().position(|met| met.usage.device == device).unwrap_or_else(|| {
            all.push(Met::new(device, begin));
            all.len() - 1
        });
        let met = &mut all[at];
        let usage = &mut met.usage;
        usage.samples += 1;
        usage.memory_used_bytes.add(time_ms, used.parse().ok());
        usage.memory_total_bytes = total.parse().ok().or(usage.memory_total_bytes);
        usage.utilization_percent.add(time_ms, utilization.parse().ok());
        usage.temperature_c.add(time_ms, temperature.parse().ok());
        usage.power_w.add(time_ms, power.parse().ok());
        let time = met.last_ms.and_then(|last| time_ms.checked_sub(last)).unwrap_or(PERIOD_MS);
        met.last_ms = Some(time_ms);
        met.see(throttling, processes, time.min(LONGEST_MS));
    });
    all.into_iter().map(Met::told).collect()
}

impl Gauge {
    fn from(begin_ms: u64) -> Self {
        Self { course: Series::from(begin_ms), ..Self::default() }
    }
}

/// A GPU while its rows are read.
struct Met {
    usage: DeviceUsage,
    last_ms: Option<u64>,
    throttling: BTreeMap<String, u64>,
    /// By number and name: for how long, and the most memory.
    foreign: BTreeMap<(u64, String), (u64, Option<u64>)>,
}

impl Met {
    fn new(device: &str, begin_ms: u64) -> Self {
        let gauge = || Gauge::from(begin_ms);
        Self {
            usage: DeviceUsage {
                device: device.to_owned(),
                memory_used_bytes: gauge(),
                utilization_percent: gauge(),
                temperature_c: gauge(),
                power_w: gauge(),
                ..DeviceUsage::default()
            },
            last_ms: None,
            throttling: BTreeMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    fn see(&mut self, throttling: &str, processes: &str, ms: u64) {
        let some = |list: &str| !list.is_empty() && list != NONE;
        if some(throttling) {
            for reason in throttling.split('+') {
                *self.throttling.entry(reason.to_owned()).or_default() += ms;
            }
        }
        if some(processes) {
            for process in processes.split(';') {
                let parts: Vec<&str> = process.split(':').collect();
                let [pid, name, bytes, FOREIGN] = parts[..] else { continue };
                let Ok(pid) = pid.parse() else { continue };
                let (time, peak) = self.foreign.entry((pid, name.to_owned())).or_default();
                (*time, *peak) = (*time + ms, (*peak).max(bytes.parse().ok()));
                if self.foreign.len() > FOREIGN_KEPT {
                    // Half of them, so that one that has just come has time to stay.
                    self.keep_foreign(FOREIGN_KEPT / 2);
                }
            }
        }
    }

    /// Forgets all processes but those that were there for longest.
    fn keep_foreign(&mut self, most: usize) {
        let mut all: Vec<_> = std::mem::take(&mut self.foreign).into_iter().collect();
        all.sort_by_key(|(_, (ms, _))| Reverse(*ms));
        self.usage.foreign_more += all.len().saturating_sub(most) as u64;
        self.foreign = all.into_iter().take(most).collect();
    }

    fn told(mut self) -> DeviceUsage {
        self.keep_foreign(FOREIGN_TOLD);
        let seconds = |ms: u64| ms as f64 / 1e3;
        let throttling = self.throttling.into_iter().map(|(reason, ms)| Throttling { reason, seconds: seconds(ms) });
        let foreign = self.foreign.into_iter().map(|((pid, name), (ms, peak_bytes))| Foreign {
            pid,
            name,
            seconds: seconds(ms),
            peak_bytes,
        });
        let mut usage = DeviceUsage { throttling: throttling.collect(), foreign: foreign.collect(), ..self.usage };
        usage.throttling.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        usage.foreign.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        usage
    }
}

/// Hands over the whole rows of a table, one at a time as a week has millions: those with as many cells as there are columns, and an end of
/// their own. The heading is one of them. What cannot be read ends the table.
fn each_row<const COLUMNS: usize>(mut table: impl BufRead, mut row: impl FnMut([&str; COLUMNS])) {
    let mut line = Vec::new();
    while table.by_ref().take(LONGEST_ROW).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // A disk that failed may have left anything: what is no text is no row.
        if let Some(text) = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()) {
            if let Some(cells) = cells(text) {
                row(cells);
            }
        }
        line.clear();
    }
}

fn cells<const COLUMNS: usize>(line: &str) -> Option<[&str; COLUMNS]> {
    let mut cells = line.split(',');
    let mut row = [""; COLUMNS];
    for cell in &mut row {
        *cell = cells.next()?;
    }
    cells.next().is_none().then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_read_over_launches_and_torn_rows() {
        let text = format!(
            "{RANK_COLUMNS}\n1000,1,0,,100,150,\n1000,1,1,,7,7,\n2000,1,0,90.0,300,400,1000\n2000,1,1,5\n\
             3000,2,0,110.0,200,200,1000\nnonsense\n,,,,,,\n4000,2,0,999.0,9"
        );
        let ranks = ranks(text.as_bytes());
        assert_eq!(ranks.len(), 2);
        let first = &ranks[0];
        assert_eq!((first.rank, first.samples, ranks[1].samples), (0, 3, 1));
        assert_eq!((first.cpu_percent.peak, first.cpu_percent.mean), (Some(110.0), Some(100.0)));
        assert_eq!((first.memory_bytes.peak, first.memory_bytes.mean), (Some(300.0), Some(200.0)));
        assert_eq!((first.memory_peak_bytes, first.memory_limit_bytes), (Some(400), Some(1000)));
        assert_eq!((ranks[1].cpu_percent.peak, ranks[1].memory_limit_bytes), (None, None));
        assert!(super::ranks(&b""[..]).is_empty() && super::ranks(&b"time_ms,gener"[..]).is_empty());
    }

    #[test]
    fn devices_are_read_with_what_held_them_back_and_who_else_was_there() {
        let text = format!(
            "{DEVICE_COLUMNS}\n\
             1000,1,GPU-a,50,100,10,40,99.5,none,1:python:40:rank-0\n\
             2000,1,GPU-a,90,100,100,80,250.0,sw_power_cap,1:python:40:rank-0;2:game:50:foreign\n\
             2000,1,GPU-b,,,,,,,\n\
             3000,1,GPU-a,80,100,100,81,,sw_power_cap+hw_thermal_slowdown,2:game::foreign;3:x:1:\n\
             90000,2,GPU-a,60,100,90,70,200.0,hw_thermal_slowdown,none\n\
             91000,2,GPU-a,60,100,90,70,200.0,no"
        );
        let devices = devices(text.as_bytes());
        let [a, b] = &devices[..] else { panic!("{devices:?}") };
        assert_eq!((a.samples, a.memory_used_bytes.peak, a.memory_total_bytes), (4, Some(90.0), Some(100)));
        assert_eq!((a.utilization_percent.mean, a.temperature_c.peak), (Some(75.0), Some(81.0)));
        assert_eq!(a.power_w.peak, Some(250.0));
        let throttled: Vec<_> = a.throttling.iter().map(|it| (it.reason.as_str(), it.seconds)).collect();
        // What nobody saw between two launches is not counted.
        assert_eq!(throttled, [("hw_thermal_slowdown", 6.0), ("sw_power_cap", 2.0)]);
        let game = Foreign { pid: 2, name: "game".into(), seconds: 2.0, peak_bytes: Some(50) };
        assert_eq!(a.foreign, [game]);
        assert_eq!((b.samples, b.memory_used_bytes.peak, b.memory_total_bytes), (1, None, None));
        assert!(b.throttling.is_empty() && b.foreign.is_empty());
    }

    #[test]
    fn of_many_processes_those_are_told_that_were_there_for_longest() {
        let row = |second: u64| format!("{second}000,1,GPU-a,,,,,,,7:game:5:foreign;{}:x:1:foreign\n", second + 10);
        let rows: String = (0..3000).map(row).collect();
        let devices = devices(rows.as_bytes());
        let foreign = &devices[0].foreign;
        assert_eq!((foreign.len(), devices[0].foreign_more), (FOREIGN_TOLD, 3001 - FOREIGN_TOLD as u64));
        assert_eq!((foreign[0].pid, foreign[0].seconds), (7, 3000.0));
    }
}
