//! GPUs once a second, as NVML shows them, on a thread of their own: what hangs in a driver holds up nobody else.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Instant;

use tokio::sync::oneshot;

use super::rows::Rows;
use super::{Pod, following, now_ms, or_nothing};
use crate::inventory::Process;
use crate::inventory::nvml::{Gauges, Reading};
use crate::record::usage::{DEVICE_COLUMNS, NONE};

/// What samples the GPUs of a launch.
pub struct Devices {
    stop: Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Devices {
    /// Begins. The GPUs are named by their UUIDs; beside them stands the path of NVML where it is not in its usual place.
    pub fn start(
        (gpus, library): (Vec<String>, Option<PathBuf>),
        path: PathBuf,
        generation: u32,
        pod: Pod,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (finished, done) = oneshot::channel();
        std::thread::Builder::new().name("devices.csv".into()).spawn(move || {
            match Gauges::open(library.as_deref()) {
                Ok(gauges) => fill(&gauges, gpus, &mut Rows::new(path, DEVICE_COLUMNS), (generation, &pod), &stopped),
                Err(why) => tracing::info!("no GPU is sampled: {why}"),
            }
            // Nobody waits any more where this took too long.
            let _ = finished.send(());
        })?;
        Ok(Self { stop, done })
    }

    /// Ends it. What is returned is ready when the last row is written.
    pub fn stop(self) -> oneshot::Receiver<()> {
        let _ = self.stop.send(());
        self.done
    }
}

fn fill(
    gauges: &Gauges,
    mut gpus: Vec<String>,
    rows: &mut Rows,
    (generation, pod): (u32, &Pod),
    stopped: &Receiver<()>,
) {
    // Several ranks may share one.
    let mut met = BTreeSet::new();
    gpus.retain(|uuid| met.insert(uuid.clone()));
    let mut next = Instant::now();
    while !rows.is_over() && !gpus.is_empty() {
        match stopped.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let (time_ms, mut text) = (now_ms(), String::new());
        gpus.retain(|uuid| match gauges.read(uuid) {
            Ok(reading) => {
                text.push_str(&row(time_ms, generation, uuid, &reading, |process| owner(pod, process)));
                true
            }
            Err(error) => {
                tracing::warn!("the GPU {uuid} cannot be read: NVML says {error}; no more samples of it are taken");
                false
            }
        });
        // The launch may have ended while a driver did not answer: the table is another's by now.
        if stopped.try_recv() != Err(TryRecvError::Empty) {
            return;
        }
        rows.append(&text);
        next = following(next, Instant::now());
    }
}

fn owner(pod: &Pod, process: &Process) -> Option<String> {
    pod.owner(&std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).ok()?)
}

fn row(
    time_ms: u64,
    generation: u32,
    uuid: &str,
    reading: &Reading,
    owner: impl Fn(&Process) -> Option<String>,
) -> String {
    let (used, total) = reading.memory.unzip();
    let processes = reading.processes.as_ref().map(|list| {
        let process = |process: &Process| {
            let name = process.name.as_deref().map(named).unwrap_or_default();
            format!("{}:{name}:{}:{}", process.pid, or_nothing(process.used_bytes), or_nothing(owner(process)))
        };
        joined(list.iter().map(process).collect(), ";")
    });
    let cells = [
        time_ms.to_string(),
        generation.to_string(),
        uuid.to_owned(),
        or_nothing(used),
        or_nothing(total),
        or_nothing(reading.utilization_percent),
        or_nothing(reading.temperature_c),
        or_nothing(reading.power_mw.map(|power| format!("{:.1}", f64::from(power) / 1e3))),
        or_nothing(reading.throttling.as_ref().map(|reasons| joined(reasons.clone(), "+"))),
        or_nothing(processes),
    ];
    cells.join(",") + "\n"
}

/// A list, or the word for an empty one: an empty cell is one that could not be read.
fn joined(list: Vec<String>, by: &str) -> String {
    if list.is_empty() { NONE.to_owned() } else { list.join(by) }
}

/// A program's name without what parts the cells of a table. Programs name themselves.
fn named(name: &str) -> String {
    let parts = |letter: char| letter.is_control() || matches!(letter, ',' | ';' | ':' | '"');
    name.chars().map(|letter| if parts(letter) { '_' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::usage;

    fn process(pid: u32, name: &str, used_bytes: Option<u64>) -> Process {
        Process { pid, used_bytes, name: Some(name.into()), user: None }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let reading = Reading {
            memory: Some((5, 10)),
            utilization_percent: Some(97),
            temperature_c: Some(71),
            power_mw: Some(212_540),
            throttling: Some(vec!["sw_power_cap".into(), "hw_slowdown".into()]),
            processes: Some(vec![process(7, "python", Some(3)), process(8, "a,b;c:d\"\n", None)]),
        };
        let whose = |process: &Process| (process.pid == 8).then(|| usage::FOREIGN.to_owned());
        let full = row(1000, 2, "GPU-a", &reading, whose);
        let cells = "1000,2,GPU-a,5,10,97,71,212.5,sw_power_cap+hw_slowdown,7:python:3:;8:a_b_c_d__::foreign\n";
        assert_eq!(full, cells);
        let nothing = row(2000, 2, "GPU-a", &Reading::default(), whose);
        assert_eq!(nothing, "2000,2,GPU-a,,,,,,,\n");
        let idle = Reading { throttling: Some(Vec::new()), processes: Some(Vec::new()), ..Reading::default() };
        let idle = row(3000, 2, "GPU-a", &idle, whose);
        assert_eq!(idle, "3000,2,GPU-a,,,,,,none,none\n");
        let devices = usage::devices(format!("{DEVICE_COLUMNS}\n{full}{nothing}{idle}").as_bytes());
        assert_eq!((devices.len(), devices[0].samples, devices[0].power_w.peak), (1, 3, Some(212.5)));
        assert_eq!(devices[0].throttling.len(), 2);
        assert_eq!(devices[0].foreign.iter().map(|it| it.pid).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn a_process_is_foreign_only_where_all_containers_are_known() {
        let pod = Pod::new(2);
        pod.add("aaa".into(), 0);
        assert_eq!(pod.owner("0::/docker/aaa\n"), None);
        pod.add("bbb".into(), 1);
        let owner = |groups: &str| pod.owner(groups).expect("known");
        assert_eq!((owner("0::/docker/bbb\n"), owner("0::/user.slice\n")), ("rank-1".into(), "foreign".into()));
    }
}
