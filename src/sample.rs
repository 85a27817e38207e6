//! What a run's ranks and devices are seen to use, once a second, beside the loop that watches them: `ranks.csv` and `devices.csv`.
//!
//! Sampling neither delays nor ends a training. What cannot be read is logged once and left; a full disk loses samples.

mod cgroup;
mod devices;
mod ranks;
mod rows;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::docker::Engine;
use crate::event::Event;
use crate::record::{RunDir, usage};
use devices::Devices;
use ranks::Ranks;

/// From one sample to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the end of a launch waits for samplers. One that hangs in a driver is left behind.
const STOP: Duration = Duration::from_millis(500);

/// What is sampled.
pub struct Subject<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// Names of the containers, in rank order.
    pub containers: &'a [String],
    /// Number of the launch within the run, from 1.
    pub generation: u32,
    /// Where the tables lie.
    pub run: &'a RunDir,
    /// UUIDs of the GPUs that the ranks have.
    pub gpus: Vec<String>,
    /// NVIDIA's management library, where it is not in its usual place.
    pub nvml: Option<&'a Path>,
}

/// What samples a launch, until it is stopped.
pub struct Sampler {
    ranks: Option<Ranks>,
    devices: Option<Devices>,
}

impl Sampler {
    /// Begins. Ranks are sampled from their start on, of which [`Self::hear`] hears.
    #[must_use]
    pub fn start(subject: &Subject<'_>) -> Self {
        let pod = Pod::new(subject.containers.len());
        let path = |name: &str| subject.run.path().join(name);
        let Subject { engine, containers, generation, .. } = *subject;
        let ranks = Ranks::start(engine, containers, path(usage::RANKS), generation, pod.clone());
        let devices = (!subject.gpus.is_empty()).then(|| {
            let gpus = (subject.gpus.clone(), subject.nvml.map(Path::to_owned));
            started(Devices::start(gpus, path(usage::DEVICES), generation, pod))
        });
        Self { ranks: started(ranks), devices: devices.flatten() }
    }

    /// Hears what happens, also of what happened before this controller came.
    pub fn hear(&mut self, event: &Event) {
        if let (Event::Started { rank } | Event::Told { rank, .. }, Some(ranks)) = (event, &mut self.ranks) {
            ranks.started(*rank);
        }
    }

    /// Ends it, and waits a moment for the last rows.
    pub async fn stop(self) {
        let done = [self.ranks.map(Ranks::stop), self.devices.map(Devices::stop)];
        let all = async {
            for one in done.into_iter().flatten() {
                let _ = one.await;
            }
        };
        if tokio::time::timeout(STOP, all).await.is_err() {
            tracing::info!("a sampler does not end, and is left behind");
        }
    }
}

fn started<T>(sampler: std::io::Result<T>) -> Option<T> {
    sampler.inspect_err(|error| tracing::warn!("no samples are taken: {error}")).ok()
}

/// The containers of a launch as the kernel here knows them.
#[derive(Clone)]
struct Pod {
    ranks: usize,
    found: Arc<Mutex<Vec<(String, u32)>>>,
}

impl Pod {
    fn new(ranks: usize) -> Self {
        Self { ranks, found: Arc::default() }
    }

    /// The container of this identifier is that of a rank, and its processes have the same numbers here as on the engine's machine.
    fn add(&self, id: String, rank: u32) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push((id, rank));
    }

    /// Whose a process is, by its `/proc/PID/cgroup`: `rank-N`, or somebody else's. None while not all containers are known.
    fn owner(&self, groups: &str) -> Option<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() < self.ranks {
            return None;
        }
        let rank = found.iter().find(|(id, _)| groups.contains(id.as_str())).map(|(_, rank)| format!("rank-{rank}"));
        Some(rank.unwrap_or_else(|| usage::FOREIGN.to_owned()))
    }
}

/// When the sample after that of `last` is due. One that came late leaves out what it missed, and the next is a whole period away: nothing
/// can be measured over the moment that is left until then.
fn following(last: Instant, now: Instant) -> Instant {
    let next = last + PERIOD;
    if next > now { next } else { now + PERIOD }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn or_nothing<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_came_late_is_followed_after_a_whole_period() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(following(begin, at(3)), at(1000));
        assert_eq!(following(begin, at(999)), at(1000));
        assert_eq!(following(begin, at(1000)), at(2000));
        assert_eq!(following(begin, at(7300)), at(8300));
    }
}
