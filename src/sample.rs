//! What devices and ranks take, once a second, beside a training: `devices.csv` and `ranks.csv` of its record.
//!
//! Nothing here may delay or end a training. Whoever cannot be asked is asked no more; a row that does not fit on the disk is left out, whole.

mod cgroup;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::docker::Engine;
use crate::inventory::nvml::{Load, Loads};
use crate::record::usage::{DEVICES, RANKS};
use cgroup::{Cgroup, Taken};

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// What is to be looked at.
#[derive(Debug)]
pub struct Subjects {
    /// The launch, from 1.
    pub generation: u32,
    /// Containers by rank: names.
    pub containers: Vec<String>,
    /// GPUs of the ranks: as the plan names them, and their UUIDs.
    pub gpus: Vec<(String, String)>,
    /// NVML, where it is not in its usual place.
    pub nvml: Option<PathBuf>,
}

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    ranks: tokio::task::JoinHandle<()>,
    over: Arc<AtomicBool>,
}

impl Sampler {
    /// Begins to look, and to write into the run's directory.
    #[must_use]
    pub fn begin(engine: &Engine, run: &Path, subjects: Subjects) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let Subjects { generation, containers, gpus, nvml } = subjects;
        if !gpus.is_empty() {
            let (over, table) = (Arc::clone(&over), Table::new(run, &DEVICES));
            // A driver may hang in any call: this thread is its own, and nobody waits for it.
            let look = move || devices(&over, table, generation, &gpus, nvml.as_deref());
            if let Err(error) = std::thread::Builder::new().name("nvml".to_owned()).spawn(look) {
                tracing::info!("no thread to look at GPUs: {error}");
            }
        }
        let ranks = tokio::spawn(ranks(engine.clone(), Table::new(run, &RANKS), generation, containers));
        Self { ranks, over }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ranks.abort();
        self.over.store(true, Ordering::Relaxed);
    }
}

async fn ranks(engine: Engine, mut table: Table, generation: u32, containers: Vec<String>) {
    let mut known: BTreeMap<usize, Cgroup> = BTreeMap::new();
    let mut before: BTreeMap<usize, (u64, tokio::time::Instant)> = BTreeMap::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut rows = String::new();
        for (rank, name) in containers.iter().enumerate() {
            let Some(taken) = look(&engine, name, known.get_mut(&rank)).await else {
                // It does not run yet, or no more, or its files are not where they are looked for.
                known.remove(&rank);
                if let Some(found) = find(&engine, name).await {
                    known.insert(rank, found);
                }
                continue;
            };
            let now = tokio::time::Instant::now();
            let cpu = before.insert(rank, (taken.cpu_nanos, now)).map(|(nanos, then)| {
                taken.cpu_nanos.saturating_sub(nanos) as f64 / now.duration_since(then).as_nanos().max(1) as f64 * 100.0
            });
            let cpu = cpu.map(|percent| format!("{percent:.1}")).unwrap_or_default();
            let Taken { memory, peak, limit, .. } = taken;
            let _ = writeln!(
                rows,
                "{},{generation},{rank},{cpu},{memory},{},{}",
                now_ms(),
                optional(peak),
                optional(limit)
            );
        }
        table.append(&rows);
    }
}

/// What a rank takes now, from the kernel; where it cannot be asked, from the engine.
async fn look(engine: &Engine, name: &str, known: Option<&mut Cgroup>) -> Option<Taken> {
    match known? {
        Cgroup::Files(files) => files.read(),
        Cgroup::Engine => {
            let stats = engine.stats(name).await.ok()?;
            Some(Taken { cpu_nanos: stats.cpu_nanos, memory: stats.memory, peak: stats.peak, limit: stats.limit })
        }
    }
}

async fn find(engine: &Engine, name: &str) -> Option<Cgroup> {
    let status = engine.inspect(name).await.ok().filter(|status| status.running)?;
    Some(Cgroup::of(status.pid, &status.id))
}

fn devices(over: &AtomicBool, mut table: Table, generation: u32, gpus: &[(String, String)], library: Option<&Path>) {
    let loads = match Loads::open(library) {
        Ok(loads) => loads,
        Err(why) => return tracing::info!("GPUs are not looked at: {why}"),
    };
    let mut due = std::time::Instant::now();
    while !over.load(Ordering::Relaxed) {
        let mut rows = String::new();
        for (device, uuid) in gpus {
            let Some(Load { memory, utilization, temperature, power, throttling, processes }) = loads.of(uuid) else {
                continue;
            };
            let (used, total) = memory.unzip();
            let _ = writeln!(
                rows,
                "{},{generation},{device},{},{},{},{},{},{},{}",
                now_ms(),
                optional(used),
                optional(total),
                optional(utilization),
                optional(temperature),
                power.map(|watts| format!("{watts:.1}")).unwrap_or_default(),
                throttling.map(|reasons| reasons.join("+")).unwrap_or_default(),
                processes.map(|all| all.iter().map(process).collect::<Vec<_>>().join(";")).unwrap_or_default()
            );
        }
        // Whoever was dropped while NVML took its time has nothing to say any more.
        if !over.load(Ordering::Relaxed) {
            table.append(&rows);
        }
        due += EVERY;
        std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
    }
}

/// `4242:python:1073741824`; names are whatever their programs are called.
fn process(process: &crate::inventory::Process) -> String {
    let name = process.name.as_deref().unwrap_or_default();
    let name: String =
        name.chars().map(|it| if it.is_control() || matches!(it, ',' | ';' | ':' | '"') { '_' } else { it }).collect();
    format!("{}:{name}:{}", process.pid, optional(process.used_bytes))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// A table of the record.
struct Table {
    path: PathBuf,
    heading: String,
    failed: bool,
}

impl Table {
    fn new(run: &Path, (name, columns): &(&str, &[&str])) -> Self {
        Self { path: run.join(name), heading: format!("{}\n", columns.join(",")), failed: false }
    }

    /// Appends whole rows or none.
    fn append(&mut self, rows: &str) {
        if rows.is_empty() {
            return;
        }
        match self.try_append(rows) {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::info!("`{}` misses rows: {error}", self.path.display());
                }
            }
        }
    }

    fn try_append(&self, rows: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let mut text = String::new();
        if length == 0 {
            text.push_str(&self.heading);
        } else if !ends_a_line(&mut file)? {
            // Its writer was killed within a row.
            text.push('\n');
        }
        text.push_str(rows);
        file.write_all(text.as_bytes()).inspect_err(|_| drop(file.set_len(length)))
    }
}

fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_heading_and_whole_rows() {
        let run = tempfile::tempdir().expect("a folder");
        let mut table = Table::new(run.path(), &RANKS);
        table.append("1,1,0,,5,,\n");
        table.append("");
        let path = run.path().join(RANKS.0);
        OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"2,1")).expect("torn");
        Table::new(run.path(), &RANKS).append("3,1,0,,5,,\n");
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text, format!("{}\n1,1,0,,5,,\n2,1\n3,1,0,,5,,\n", RANKS.1.join(",")));
    }

    #[test]
    fn a_name_does_not_break_its_row() {
        let odd = crate::inventory::Process { pid: 7, used_bytes: None, name: Some("a,b;c:d\n".into()), user: None };
        assert_eq!(process(&odd), "7:a_b_c_d_:");
    }
}
