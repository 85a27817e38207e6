//! A run's record, read: [`glance`] for a list of many, [`summary`] for one. Files of the run's directory are all that is asked, so a
//! record is read the same while it is written, afterwards, and on another machine.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::find::Found;
use super::journal::{self, JournalError};
use super::summary::{Attempt, End, Failure, Generation, Log, Replayed, State, replay};
use super::told::{self, Epoch, Told};
use super::usage::{self, Usage};
use super::{last_bytes, live, regular};

/// Bytes of a rank's events that are looked at for where it stands.
const RECENT: u64 = 512 << 10;
/// Bytes of the first rank's events that are looked at for a training's whole course, where no table tells it.
const COURSE: u64 = 32 << 20;
/// Bytes of results.csv, at most: fifty thousand epochs have fewer.
const TABLE: u64 = 16 << 20;

/// What a list of runs says of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Glance {
    /// Identifier.
    pub id: String,
    /// Name of the experiment.
    pub name: String,
    /// The run's directory.
    pub path: PathBuf,
    /// Where it stands.
    pub state: State,
    /// Class of its failure.
    pub class: Option<String>,
    /// When it began, in milliseconds since the Unix epoch.
    pub begun_ms: Option<u64>,
    /// From its beginning to its end, or until now.
    pub seconds: Option<f64>,
    /// Epochs that are over.
    pub epochs_done: Option<u64>,
    /// Epochs that were asked for.
    pub epochs: Option<u64>,
    /// The last validation's mAP at an overlap of one half.
    pub map50: Option<f64>,
    /// Devices by rank.
    pub devices: Vec<String>,
}

/// What `show` tells of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What a list says of it.
    pub run: Glance,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// What computed.
    pub trainer: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The data set.
    pub data: Option<String>,
    /// The image.
    pub image: Option<String>,
    /// Images of an optimizer step.
    pub target_batch: Option<u64>,
    /// `uniform` or `uneven`.
    pub split: Option<String>,
    /// Images a second, of the last launch that told.
    pub images_per_second: Option<f64>,
    /// The launches.
    pub generations: Vec<Generation>,
    /// What each rank was given and took, last.
    pub ranks: Vec<Attempt>,
    /// What the log of each rank holds.
    pub logs: Vec<Log>,
    /// The epochs that are over.
    pub course: Vec<Epoch>,
    /// The one with the highest mAP.
    pub best: Option<Epoch>,
    /// The best weights, relative to the run's directory.
    pub weights: Option<PathBuf>,
    /// What ranks and devices were seen to use.
    pub usage: Usage,
}

/// What is known of a run by little reading: an ended one costs its journal's two ends. `now_ms` is the time, for runs that go on.
///
/// # Errors
///
/// The journal cannot be read.
pub fn glance(found: &Found, now_ms: u64) -> Result<Glance, JournalError> {
    let ends = journal::ends(&found.path)?;
    // What an earlier Evenkeel wrote does not say everything in its end.
    let end = ends.end.as_ref().map(End::of);
    match end {
        Some(end) if end.devices.is_some() => Ok(glance_of(found, ends.begun_ms, Some(end), now_ms)),
        _ => Ok(standing(found, now_ms)?.run),
    }
}

fn glance_of(found: &Found, begun_ms: Option<u64>, end: Option<End>, now_ms: u64) -> Glance {
    let mut glance = Glance {
        id: found.id.clone(),
        name: found.name.clone(),
        path: found.path.clone(),
        state: State::Unknown,
        class: None,
        begun_ms,
        seconds: None,
        epochs_done: None,
        epochs: None,
        map50: None,
        devices: Vec::new(),
    };
    let until = match end {
        Some(end) => {
            glance.state = end.state;
            glance.class = end.failure.and_then(|failure| failure.class);
            (glance.epochs_done, glance.epochs, glance.map50) = (end.epochs_done, end.epochs, end.map50);
            glance.devices = end.devices.unwrap_or_default();
            Some(end.time_ms)
        }
        None if live::is_live(&found.path) => {
            glance.state = State::Running;
            Some(now_ms)
        }
        None => None,
    };
    glance.seconds = seconds(begun_ms, until);
    glance
}

fn seconds(from_ms: Option<u64>, until_ms: Option<u64>) -> Option<f64> {
    Some(until_ms?.saturating_sub(from_ms?) as f64 / 1e3)
}

/// All that the record says of a run at once. `now_ms` is the time, for a run that goes on.
///
/// # Errors
///
/// The journal cannot be read. Files that are missing beside it leave gaps in the summary.
pub fn summary(found: &Found, now_ms: u64) -> Result<Summary, JournalError> {
    Ok(Summary { usage: used(&found.path), ..standing(found, now_ms)? })
}

/// The same without what was seen to be used, for those who list: the tables of a training of weeks are hundreds of megabytes.
///
/// # Errors
///
/// The journal cannot be read.
pub fn standing(found: &Found, now_ms: u64) -> Result<Summary, JournalError> {
    let path = &found.path;
    let replayed = replay(&journal::read(path)?);
    let mut run = glance_of(found, replayed.begun_ms, replayed.end.clone(), now_ms);
    if run.state == State::Unknown {
        run.seconds = seconds(replayed.begun_ms, replayed.last_ms);
    }
    let json = |name: &str| -> Value {
        std::fs::read(path.join(name)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    };
    let (job, plan) = (Job::read(path), json("plan.json"));
    let devices = plan["ranks"].as_array().map_or(0, Vec::len);
    let told: Vec<Told> = (0..u32::try_from(devices).unwrap_or(u32::MAX)).map(|rank| recent(path, rank)).collect();

    // A copied record lies where it lies; what it is called stands in it.
    run.id = replayed.run.clone().unwrap_or(run.id);
    run.name = job.text("name").unwrap_or(run.name);
    if run.devices.is_empty() {
        let names = plan["ranks"].as_array().into_iter().flatten();
        run.devices = names.map(|rank| rank["device"].as_str().unwrap_or_default().to_owned()).collect();
    }
    let course = course(path);
    let batches = job.text("trainer").is_none_or(|trainer| trainer != "command");
    run.epochs_done = run.epochs_done.or(course.last().map(|last| last.epoch));
    run.epochs =
        run.epochs.or(told.iter().find_map(|told| told.epochs)).or_else(|| job.number("epochs").filter(|_| batches));
    run.map50 = run.map50.or(course.iter().rev().find_map(|epoch| epoch.map50));
    let best = course.iter().filter(|epoch| epoch.map50.is_some_and(f64::is_finite));
    let best =
        best.max_by(|one, other| one.map50.partial_cmp(&other.map50).unwrap_or(std::cmp::Ordering::Equal)).cloned();
    let weights =
        ["weights/best.safetensors", "weights/best.pt", "output/weights/best.safetensors", "output/weights/best.pt"];
    Ok(Summary {
        failure: replayed.end.as_ref().and_then(|end| end.failure.clone()),
        trainer: job.text("trainer"),
        model: job.text("model").filter(|_| batches),
        data: job.text("data"),
        image: replayed.image.clone(),
        target_batch: plan["target_batch"].as_u64(),
        split: plan["split"].as_str().map(str::to_owned),
        // Of one that goes on, what its ranks tell now.
        images_per_second: speed(&told)
            .filter(|_| run.state == State::Running)
            .or_else(|| replayed.images_per_second())
            .or_else(|| speed(&told)),
        ranks: ranks(&replayed, &plan, &told),
        logs: logs(path, &replayed, devices),
        generations: replayed.generations,
        course,
        best,
        weights: weights.into_iter().map(PathBuf::from).find(|name| path.join(name).is_file()),
        usage: Usage::default(),
        run,
    })
}

/// The job as it was understood, where it is there.
struct Job(serde_yaml::Value);

impl Job {
    fn read(run: &Path) -> Self {
        let text = std::fs::read_to_string(run.join("resolved.yaml")).unwrap_or_default();
        Self(serde_yaml::from_str(&text).unwrap_or_default())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).and_then(serde_yaml::Value::as_str).map(str::to_owned)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(serde_yaml::Value::as_u64)
    }
}

fn used(run: &Path) -> Usage {
    let table = |name: &str| regular::open(&run.join(name)).map(|file| BufReader::with_capacity(1 << 20, file)).ok();
    Usage {
        ranks: table(usage::RANKS).map(usage::ranks).unwrap_or_default(),
        devices: table(usage::DEVICES).map(usage::devices).unwrap_or_default(),
    }
}

fn recent(run: &Path, rank: u32) -> Told {
    told::events(&events(run, rank, RECENT).unwrap_or_default())
}

fn events(run: &Path, rank: u32, bytes: u64) -> io::Result<Vec<u8>> {
    last_bytes(&run.join("events").join(evenkeel_wire::path::events(rank)), bytes)
}

fn course(run: &Path) -> Vec<Epoch> {
    let table = ["results.csv", "output/results.csv"].iter().find_map(|name| {
        // A trainer may have left anything under this name; where it is too large the events tell the course.
        String::from_utf8(regular::whole(&run.join(name), TABLE).ok()?).ok()
    });
    match table.map(|text| told::table(&text)) {
        Some(course) if !course.is_empty() => course,
        _ => told::events(&events(run, 0, COURSE).unwrap_or_default()).course,
    }
}

fn speed(told: &[Told]) -> Option<f64> {
    let speed = |told: &Told| (told.seconds > 0.0).then(|| told.images as f64 / told.seconds);
    let speeds: Vec<f64> = told.iter().filter_map(speed).collect();
    (!speeds.is_empty()).then(|| speeds.iter().sum())
}

/// The ranks of the last launch that is over, or as they are planned.
fn ranks(replayed: &Replayed, plan: &Value, told: &[Told]) -> Vec<Attempt> {
    let last = replayed.generations.last();
    if let Some(over) = last.filter(|last| !last.ranks.is_empty()) {
        return over.ranks.clone();
    }
    let planned = plan["ranks"].as_array().into_iter().flatten().enumerate();
    planned
        .map(|(at, rank)| Attempt {
            rank: rank["rank"].as_u64().unwrap_or_default(),
            device: rank["device"].as_str().unwrap_or_default().to_owned(),
            micro_batches: rank["micro_batches"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect(),
            predicted_bytes: rank["memory"]["predicted_bytes"].as_u64(),
            measured_bytes: told.get(at).and_then(|told| told.peak_bytes),
            budget_bytes: rank["memory"]["budget_bytes"].as_u64(),
        })
        .collect()
}

/// The logs as their launches' ends proved them; where no launch is over, what lies there.
fn logs(run: &Path, replayed: &Replayed, ranks: usize) -> Vec<Log> {
    let proven = replayed.logs();
    let over = replayed.generations.last().is_some_and(|last| !last.logs.is_empty());
    let length = |rank: u64| {
        let name = evenkeel_wire::path::log(u32::try_from(rank).unwrap_or(u32::MAX));
        std::fs::metadata(run.join("logs").join(name)).ok().map(|found| found.len())
    };
    if over {
        // A seal that is missing leaves what is there.
        return proven.into_iter().map(|log| Log { bytes: log.bytes.or(length(log.rank)), ..log }).collect();
    }
    let there = (0..ranks as u64).filter_map(|rank| Some((rank, length(rank)?)));
    there.map(|(rank, bytes)| Log { rank, bytes: Some(bytes), ..Log::default() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trainer_that_leaves_pipes_and_floods_holds_up_nobody() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        let pipe = |name: &str| rustix::fs::mkfifoat(rustix::fs::CWD, path(name), rustix::fs::Mode::RWXU);
        for folder in ["events", "output"] {
            std::fs::create_dir(path(folder)).expect("a folder");
        }
        for name in ["events/rank-0.events.jsonl", "results.csv", "output/results.csv", usage::RANKS, usage::DEVICES] {
            pipe(name).expect("a pipe");
        }
        assert_eq!((recent(place.path(), 0), course(place.path())), (Told::default(), Vec::new()));
        assert_eq!(used(place.path()), Usage::default());
        // A table has an end, whatever its trainer writes.
        let mut table = b"epoch,loss\n1,2\n".to_vec();
        std::fs::remove_file(path("results.csv")).expect("the pipe");
        std::fs::write(path("results.csv"), &table).expect("written");
        assert_eq!(course(place.path()).len(), 1);
        table.resize(usize::try_from(TABLE).expect("not so large") + 1, b'\n');
        std::fs::write(path("results.csv"), table).expect("written");
        assert_eq!(course(place.path()), []);
    }

    #[test]
    fn who_lists_runs_reads_no_samples() {
        let place = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(place.path().join(super::super::find::JOURNAL), "").expect("written");
        std::fs::write(place.path().join(usage::RANKS), "1000,1,0,,100,150,\n").expect("written");
        let found = Found { name: "shapes".into(), id: "20261124-034501".into(), path: place.path().into() };
        assert_eq!(standing(&found, 0).expect("read").usage, Usage::default());
        assert_eq!(summary(&found, 0).expect("read").usage.ranks.len(), 1);
    }
}
