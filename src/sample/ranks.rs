//! Processors and memory of each rank's container, once a second.
//!
//! A thread reads the kernel's counters and writes the rows, so that no slow disk holds up the run. Where the kernel here does not
//! count for the engine, tasks beside the loop ask the engine in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::cgroup::Cgroup;
use super::rows::Rows;
use super::{PERIOD, Pod, following, now_ms, or_nothing};
use crate::docker::{ContainerStatus, ContainerUsage, Engine};
use crate::record::usage::RANK_COLUMNS;

/// How often in a row an engine may fail to say what a container uses.
const TRIES: u32 = 30;
/// Over less than this no share of processors is told: the kernel counts in steps, and a step in a moment is many processors.
const SHORTEST: Duration = Duration::from_millis(100);

/// What samples the ranks of a launch.
pub struct Ranks {
    engine: Engine,
    containers: Vec<String>,
    /// Ranks that are looked after.
    known: BTreeSet<u32>,
    pod: Pod,
    sender: Sender<Message>,
    tasks: JoinSet<()>,
    done: oneshot::Receiver<()>,
}

enum Message {
    /// The kernel counts for this rank.
    Counted { rank: u32, cgroup: Cgroup },
    /// The engine said this of it.
    Told { rank: u32, usage: ContainerUsage },
    /// The launch is over.
    Stop,
}

impl Ranks {
    /// Begins, with no rank yet.
    pub fn start(engine: &Engine, containers: &[String], path: PathBuf, generation: u32, pod: Pod) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let (finished, done) = oneshot::channel();
        std::thread::Builder::new().name("ranks.csv".into()).spawn(move || {
            Table { rows: Rows::new(path, RANK_COLUMNS), generation, last: BTreeMap::new() }.fill(&receiver);
            // Nobody waits any more where this took too long.
            let _ = finished.send(());
        })?;
        let (engine, containers) = (engine.clone(), containers.to_vec());
        Ok(Self { engine, containers, known: BTreeSet::new(), pod, sender, tasks: JoinSet::new(), done })
    }

    /// The container of a rank runs, or did.
    pub fn started(&mut self, rank: u32) {
        let Some(name) = self.containers.get(rank as usize).cloned() else { return };
        if self.known.insert(rank) {
            self.tasks.spawn(follow(self.engine.clone(), name, rank, self.pod.clone(), self.sender.clone()));
        }
    }

    /// Ends it. What is returned is ready when the last row is written.
    pub fn stop(mut self) -> oneshot::Receiver<()> {
        self.tasks.abort_all();
        let _ = self.sender.send(Message::Stop);
        self.done
    }
}

/// Finds out who counts for a rank; where it is the engine, asks it until the container ends.
async fn follow(engine: Engine, name: String, rank: u32, pod: Pod, sender: Sender<Message>) {
    let Some(ContainerStatus { id, pid: Some(pid), .. }) = running(&engine, &name).await else { return };
    if let Some(cgroup) = Cgroup::of(pid, &id) {
        pod.add(id, rank);
        let _ = sender.send(Message::Counted { rank, cgroup });
        return;
    }
    tracing::info!("the kernel here does not count for `{name}`: its engine is asked");
    let mut failures = 0;
    loop {
        match engine.usage(&name).await {
            Ok(Some(usage)) => {
                failures = 0;
                if sender.send(Message::Told { rank, usage }).is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                failures += 1;
                if failures == TRIES {
                    tracing::warn!("{error}; no more samples of rank {rank} are taken");
                    return;
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// How a container stands, once the engine says so; none for one that has ended.
async fn running(engine: &Engine, name: &str) -> Option<ContainerStatus> {
    for _ in 0..TRIES {
        match engine.inspect(name).await {
            Ok(status) => return status.running.then_some(status),
            Err(error) if error.is_not_found() => return None,
            Err(error) => tracing::info!("{error}"),
        }
        tokio::time::sleep(PERIOD).await;
    }
    tracing::warn!("the engine does not say which process `{name}` is: no samples of it are taken");
    None
}

/// The rows as they come.
struct Table {
    rows: Rows,
    generation: u32,
    /// Processor time of each rank, and when it was read.
    last: BTreeMap<u32, (Instant, u64)>,
}

impl Table {
    fn fill(mut self, receiver: &Receiver<Message>) {
        let mut counted: BTreeMap<u32, Cgroup> = BTreeMap::new();
        let mut next = Instant::now() + PERIOD;
        while !self.rows.is_over() {
            match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Message::Counted { rank, cgroup }) => {
                    // At once, and then with the others.
                    let mut first = BTreeMap::from([(rank, cgroup)]);
                    self.sample(&mut first);
                    counted.append(&mut first);
                }
                Ok(Message::Told { rank, usage }) => {
                    let row = self.row(now_ms(), Instant::now(), rank, usage);
                    self.rows.append(&row);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.sample(&mut counted);
                    next = following(next, Instant::now());
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A row of each rank. One that has ended has none any more.
    fn sample(&mut self, counted: &mut BTreeMap<u32, Cgroup>) {
        let (time_ms, mut rows) = (now_ms(), String::new());
        counted.retain(|rank, cgroup| match cgroup.read() {
            Ok(usage) => {
                rows.push_str(&self.row(time_ms, Instant::now(), *rank, usage));
                true
            }
            Err(error) => {
                let gone = [rustix::io::Errno::NOENT, rustix::io::Errno::NODEV].map(rustix::io::Errno::raw_os_error);
                if !error.raw_os_error().is_some_and(|number| gone.contains(&number)) {
                    tracing::warn!(
                        "the kernel's counters of rank {rank} cannot be read: {error}; no more samples of it are taken"
                    );
                }
                false
            }
        });
        self.rows.append(&rows);
    }

    fn row(&mut self, time_ms: u64, now: Instant, rank: u32, usage: ContainerUsage) -> String {
        let last = self.last.get(&rank).copied();
        // What follows too soon is left to the next one, which counts from the older reading.
        let read = usage.cpu_ns.filter(|_| last.is_none_or(|(then, _)| now - then >= SHORTEST));
        if let Some(cpu) = read {
            self.last.insert(rank, (now, cpu));
        }
        let cpu = last.zip(read).and_then(|((then, before), cpu)| percent(before, cpu, now - then));
        let mut row = format!("{time_ms},{},{rank},", self.generation);
        let _ = writeln!(
            row,
            "{},{},{},{}",
            cpu.map(|cpu| format!("{cpu:.1}")).unwrap_or_default(),
            or_nothing(usage.memory_bytes),
            or_nothing(usage.memory_peak_bytes),
            or_nothing(usage.memory_limit_bytes),
        );
        row
    }
}

/// Processor time, in nanoseconds, as a share of a time that passed; 100 is one processor.
fn percent(before: u64, after: u64, time: Duration) -> Option<f64> {
    let used = after.checked_sub(before)?;
    Some(used as f64 / time.as_nanos() as f64 * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_is_known() {
        let path = PathBuf::from("/nonexistent");
        let mut table = Table { rows: Rows::new(path, RANK_COLUMNS), generation: 2, last: BTreeMap::new() };
        let begin = Instant::now();
        let usage = |cpu_ns, memory_bytes| ContainerUsage { cpu_ns, memory_bytes, ..ContainerUsage::default() };
        let mut row = |ms, usage| table.row(ms, begin + Duration::from_millis(ms), 1, usage);
        assert_eq!(row(5, usage(Some(1_000_000_000), Some(7))), "5,2,1,,7,,\n");
        assert_eq!(row(1005, usage(Some(2_500_000_000), Some(8))), "1005,2,1,150.0,8,,\n");
        assert_eq!(row(2005, usage(None, None)), "2005,2,1,,,,\n");
        let all = ContainerUsage {
            cpu_ns: Some(2_500_000_000),
            memory_bytes: Some(1),
            memory_peak_bytes: Some(2),
            memory_limit_bytes: Some(3),
        };
        assert_eq!(row(3005, all), "3005,2,1,0.0,1,2,3\n");
        // A counter that went back, as that of another container would.
        assert_eq!(row(4005, usage(Some(5), None)), "4005,2,1,,,,\n");
        // Too soon after the last one: what it counted is told with the next.
        assert_eq!(row(4006, usage(Some(50_000_005), None)), "4006,2,1,,,,\n");
        assert_eq!(row(5005, usage(Some(1_000_000_005), None)), "5005,2,1,100.0,,,\n");
        assert_eq!(RANK_COLUMNS.split(',').count(), 7);
    }
}
