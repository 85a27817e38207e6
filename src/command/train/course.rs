//! A run as it stands when a controller begins with it: a new one, or one that another controller began.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Ready;
use crate::command::live::is_ours;
use crate::command::locking::{Gathered, Launched};
use crate::docker::Engine;
use crate::error::Failure;
use crate::event::{Event, Signal};
use crate::job::Job;
use crate::launch::label;
use crate::plan::Plan;
use crate::record::past::{Generation, Past};
use crate::record::{Journal, RunDir};
use crate::watch::spool::Spools;

/// After this long an engine has made whatever a dead controller asked of it.
const LATE: Duration = Duration::from_secs(15);
/// How long to wait before asking again what the engine has.
const AGAIN: Duration = Duration::from_millis(200);

/// A run in the hands of this controller.
pub struct Course {
    pub run: RunDir,
    pub journal: Journal,
    /// What the journal said of it.
    pub past: Past,
    pub how: How,
    /// Whether its split may stay as it was: nothing was asked of it since.
    pub keeps_split: bool,
}

/// How a controller came to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It made it.
    Begun,
    /// It took it over from one that died.
    Attached,
    /// It goes on with what had ended.
    Resumed,
}

/// What comes first.
#[derive(Debug)]
pub enum Opening {
    /// A launch with the plan of the stage, or with another one.
    Launch(Option<Box<Plan>>),
    /// A launch whose trainers another controller started.
    TakeUp(Box<Generation>),
    /// Nothing: the end was asked for before any trainer started.
    Stopped(Signal, Box<Plan>),
}

impl Course {
    /// Makes the record of a new run. Whoever finds its first entry finds all that the run is made of.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn begin(ready: &Ready, gathered: &mut Gathered, now: std::time::SystemTime) -> Result<Self, Failure> {
        let prepared = &ready.prepared;
        let Job { runs, name, .. } = prepared.job();
        let run = RunDir::create(runs, name, now)?;
        let mut journal = Journal::create(&run)?;
        prepared.write_job(&run)?;
        gathered.write(&run, prepared)?;
        let again = gathered.reproduces().map(ToString::to_string);
        let of = json!({
            "run": run.id(), "pid": std::process::id(), "image": ready.image.image, "image_id": ready.image.id, "reproduces": again,
        });
        journal.append("run", of)?;
        Ok(Self { run, journal, past: Past::default(), how: How::Begun, keeps_split: true })
    }

    /// Launches so far that followed a failure, as far as they count for what is to come.
    pub fn restarts(&self) -> u32 {
        self.past.last().filter(|_| self.how == How::Attached).map_or(0, |last| last.intent.restarts)
    }

    /// The stage that it is in, from 0.
    pub fn stage(&self, ready: &Ready) -> usize {
        let last = self.past.last().map_or(0, |last| last.intent.stage);
        last.min(ready.prepared.stages().saturating_sub(1))
    }

    /// What comes first. Containers that are in the way of it are removed.
    ///
    /// # Errors
    ///
    /// The engine does not remove them, or the record cannot be written.
    pub async fn open(&mut self, ready: &Ready) -> Result<Opening, Failure> {
        let Some(last) = self.past.last().cloned() else { return Ok(Opening::Launch(None)) };
        let plan = Box::new(last.intent.plan.clone());
        let opening = match self.how {
            How::Begun => return Ok(Opening::Launch(None)),
            // Where the devices are the same the split stays, with what was learnt of it.
            How::Resumed if self.keeps_split && fits(&last.intent.plan, &ready.prepared.plan) => {
                Opening::Launch(Some(plan))
            }
            How::Resumed => Opening::Launch(None),
            How::Attached if is_under_way(&self.run, last.number) => Opening::TakeUp(Box::new(last)),
            // No trainer has started: what is there of it is made anew.
            How::Attached => match self.past.asked {
                Some(signal) => Opening::Stopped(signal, plan),
                None => Opening::Launch(Some(plan)),
            },
        };
        let keep = match &opening {
            Opening::TakeUp(generation) => Some(generation.number),
            Opening::Launch(_) | Opening::Stopped(..) => None,
        };
        let gone = self.clear_away(&ready.engine, keep).await?;
        for generation in &mut self.past.generations {
            let Generation { intent, unsettled, .. } = generation;
            unsettled.retain(|rank| intent.containers.get(*rank as usize).is_some_and(|name| !gone.contains(name)));
        }
        Ok(opening)
    }

    /// Removes what is left once the run is over: an engine may have made a container for a controller that was dead by then. A busy one takes
    /// its time for that; so after a run that was over sooner, it is waited for.
    pub async fn sweep(&mut self, ready: &Ready, since: Instant) -> Result<(), Failure> {
        if self.how == How::Begun {
            return Ok(());
        }
        let mut awaited: Vec<String> =
            self.past.generations.iter().flat_map(Generation::unsettled).map(str::to_owned).collect();
        loop {
            for gone in self.clear_away(&ready.engine, None).await? {
                awaited.retain(|name| *name != gone);
            }
            if awaited.is_empty() || since.elapsed() > LATE {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Removes the run's containers but those of the launch that is to be kept; the names of those that are gone.
    pub async fn clear_away(&mut self, engine: &Engine, keep: Option<u32>) -> Result<Vec<String>, Failure> {
        let mut gone = Vec::new();
        for container in engine.list(label::RUN).await? {
            let number = |label: &str| container.labels.get(label).and_then(|text| text.parse::<u32>().ok());
            let here =
                container.labels.get(label::DIRECTORY).is_some_and(|folder| self.run.path() == Path::new(folder));
            let generation = number(label::GENERATION);
            if !here || !is_ours(&container) || (keep.is_some() && generation == keep) {
                continue;
            }
            engine.remove(&container.id).await?;
            let rank = number(label::RANK);
            self.journal.append("removed", json!({ "generation": generation, "rank": rank, "detail": null }))?;
            gone.push(container.name);
        }
        Ok(gone)
    }

    /// What earlier launches told, in the order in which they did.
    pub fn earlier(&self, opening: &Opening) -> Vec<Event> {
        let Some(last) = self.past.last() else { return Vec::new() };
        let until = if matches!(opening, Opening::TakeUp(_)) { last.number } else { last.number + 1 };
        let ranks = self.past.generations.iter().map(|generation| generation.intent.containers.len()).max();
        let ranks = u32::try_from(ranks.unwrap_or_default()).unwrap_or(u32::MAX);
        let (records, outcome) = Spools::of(&self.run.events(), ranks, 1..until).read_all();
        if let Err(error) = outcome {
            tracing::warn!("what earlier launches told cannot be read: {error}");
        }
        records.into_iter().map(|record| Event::Told { rank: record.rank, record: Box::new(record) }).collect()
    }

    /// What the lock says of earlier launches.
    pub fn launched(&self, ready: &Ready, opening: &Opening) -> Vec<Launched> {
        let over = self.past.generations.len() - usize::from(matches!(opening, Opening::TakeUp(_)));
        let launched = |generation: &Generation| {
            let attempt = generation.attempt.clone().unwrap_or_default();
            let step_downs = attempt.step_downs.iter().map(|down| (down.step, down.to)).collect();
            let from_epoch = ready.prepared.first_epoch(generation.intent.stage);
            Launched::new(from_epoch, &generation.intent.plan, attempt.first_step, step_downs)
        };
        self.past.generations[..over].iter().map(launched).collect()
    }
}

/// Whether the trainers of a launch were told to start.
fn is_under_way(run: &RunDir, generation: u32) -> bool {
    run.control().join(evenkeel_wire::path::go(generation)).exists()
}

/// Whether an earlier plan can be carried out in place of a new one.
fn fits(earlier: &Plan, new: &Plan) -> bool {
    let devices = |plan: &Plan| plan.ranks.iter().map(|rank| rank.device.clone()).collect::<Vec<_>>();
    devices(earlier) == devices(new) && earlier.target_batch == new.target_batch
}
