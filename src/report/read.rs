//! A report's material out of a run's directory. What is missing or cannot be read leaves a gap, which the report names.

use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::series::{Heard, Table};
use super::{Picture, Report, Share, pictures};
use crate::record::find::Found;
use crate::record::journal::{self, JournalError};
use crate::record::{read, regular};
use crate::runlock::{self, RunLock};

/// Bytes of results.csv, of plan.json and of a lock, at most.
const TABLE: u64 = 64 << 20;
/// Bytes of the events of all ranks, at most: a hundred thousand steps of eight ranks are about half of it.
const EVENTS: u64 = 512 << 20;

/// Reads all that a report tells of a run. `now_ms` is the time, in milliseconds since the Unix epoch.
///
/// # Errors
///
/// The journal cannot be read.
pub fn report(found: &Found, now_ms: u64) -> Result<Report, JournalError> {
    let path = &found.path;
    let summary = read::summary(found, now_ms)?;
    let image_id = journal::read(path)?.iter().rev().find_map(|entry| {
        let of_image = matches!(entry.entry.as_str(), "run" | "resume");
        of_image.then(|| entry.detail["image_id"].as_str().map(str::to_owned)).flatten()
    });
    let text = |name: &str| {
        let bytes = regular::whole(&path.join(name), TABLE).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let lock = text(runlock::FILE).and_then(|text| RunLock::from_yaml(&text).ok());
    let plan: Value = text("plan.json").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();

    let mut gaps = Vec::new();
    let heard = heard(path, &mut gaps);
    let table = ["results.csv", "output/results.csv"].iter().find_map(|name| text(name));
    let table = table.map(|text| Table::parse(&text)).filter(|table| !table.epochs.is_empty());
    let (pictures, left_out) = pictures_of(path);
    gaps.extend(heard.left_out());
    let mut happened = heard.happened.clone();
    happened.sort_by_key(|it| it.time_ms);
    Ok(Report {
        digests: digests(image_id, lock.as_ref()),
        commit: lock.as_ref().and_then(commit),
        data: lock.as_ref().and_then(|lock| lock.data.as_ref()).map(|data| (data.fingerprint.clone(), data.files)),
        shares: shares(&plan, lock.as_ref()),
        table: table.unwrap_or_else(|| Table::told(&heard.metrics)),
        steps: heard.steps(),
        first_steps: heard.first_steps,
        transports: heard.transports,
        happened,
        pictures,
        left_out,
        gaps,
        summary,
        made_ms: now_ms,
    })
}

fn digests(id: Option<String>, lock: Option<&RunLock>) -> Vec<String> {
    let registries = lock.map(|lock| lock.image.digests.clone()).unwrap_or_default();
    id.or_else(|| Some(lock?.image.id.clone())).into_iter().chain(registries).collect()
}

fn commit(lock: &RunLock) -> Option<String> {
    let git = lock.code.git.as_ref()?;
    let changes = if git.dirty { ", with changes that were not committed" } else { "" };
    Some(format!("{}{changes}", git.commit.as_deref()?))
}

fn shares(plan: &Value, lock: Option<&RunLock>) -> Vec<Share> {
    let ranks = plan["ranks"].as_array().into_iter().flatten();
    let share = |(at, rank): (usize, &Value)| {
        let device = rank["device"].as_str().unwrap_or_default().to_owned();
        let locked = lock.and_then(|lock| lock.devices.get(at)).filter(|locked| locked.id == device);
        Share {
            rank: rank["rank"].as_u64().unwrap_or(at as u64),
            model: locked.map(|locked| locked.kind.clone()),
            device,
            micro_batches: rank["micro_batches"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect(),
        }
    };
    ranks.enumerate().map(share).collect()
}

/// What the ranks told, or of very long trainings what fits: a report is no reason to fill the memory.
fn heard(run: &Path, gaps: &mut Vec<String>) -> Heard {
    let path = |rank: u32| run.join("events").join(evenkeel_wire::path::events(rank));
    let length = |rank: u32| std::fs::metadata(path(rank)).map_or(0, |found| found.len());
    let mut heard = Heard::default();
    let mut ranks = ranks(&run.join("events")).unwrap_or_else(|error| {
        gaps.push(format!("Which ranks told of events could not be read: {error}."));
        Vec::new()
    });
    if ranks.iter().fold(0, |sum: u64, rank| sum.saturating_add(length(*rank))) > EVENTS {
        ranks = vec![0];
        gaps.push("There are so many events that only those of rank 0 are told of here: losses are its own, and speeds those of its images.".to_owned());
    }
    for rank in ranks {
        let skipped = length(rank).saturating_sub(EVENTS);
        if skipped > 0 {
            gaps.push("Of its events, only the last are told of here.".to_owned());
        }
        match hear(&path(rank), skipped, &mut heard) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                gaps.push(format!("The events of rank {rank} could not be read: {error}."));
            }
            _ => {}
        }
    }
    heard
}

/// The ranks of all launches, by their files: the plan is that of the last one, which may have had fewer.
fn ranks(events: &Path) -> io::Result<Vec<u32>> {
    let mut ranks = Vec::new();
    let files = match std::fs::read_dir(events) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ranks),
        Err(error) => return Err(error),
    };
    for file in files {
        let name = file?.file_name();
        let number = |name: &str| name.strip_prefix("rank-")?.split('.').next()?.parse().ok();
        let rank = name.to_str().and_then(number);
        ranks.extend(rank.filter(|rank| name.to_str() == Some(&evenkeel_wire::path::events(*rank))));
    }
    ranks.sort_unstable();
    Ok(ranks)
}

fn hear(path: &Path, from: u64, heard: &mut Heard) -> io::Result<()> {
    let mut file = regular::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    // A file that still grows is read to where it is now.
    for line in BufReader::with_capacity(1 << 20, file.take(EVENTS)).split(b'\n') {
        // Most of what is no event of ours is a line that a crash or the beginning cut off.
        if let Ok(record) = serde_json::from_slice(&line?) {
            heard.hear(&record);
        }
    }
    Ok(())
}

/// The pictures that the trainer left, the most telling first, as far as there is room.
fn pictures_of(run: &Path) -> (Vec<Picture>, Vec<String>) {
    let folder = run.join("output");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut known: Vec<_> = names.filter_map(|name| Some((pictures::kind(&name)?, name))).collect();
    known.sort();
    let (mut taken, mut left_out, mut room) = (Vec::new(), Vec::new(), pictures::ALL);
    for (kind, file) in known {
        let name = format!("output/{file}");
        if taken.len() == pictures::MOST {
            left_out.push(name);
            continue;
        }
        // What is no picture, or nothing that can be read, is left to its trainer.
        match regular::whole(&folder.join(file), room.min(pictures::LARGEST)) {
            Ok(bytes) => {
                if let Some(media) = pictures::media(&bytes) {
                    room -= bytes.len() as u64;
                    taken.push(Picture { name, kind, media, bytes });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => left_out.push(name),
            Err(_) => {}
        }
    }
    (taken, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_that_of_all_ranks_that_a_launch_had() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut gaps = Vec::new();
        assert!(heard(run.path(), &mut gaps).steps().is_empty() && gaps.is_empty(), "{gaps:?}");
        std::fs::create_dir(run.path().join("events")).expect("a folder");
        // The second launch had one rank of the first's three.
        for (rank, steps) in [(0, "0 1 2"), (1, "0 1"), (2, "0 1")] {
            let line = |step: &str| {
                let generation = if step == "2" { 2 } else { 1 };
                let event = format!(
                    r#"{{"kind":"step","epoch":0,"epochs":1,"step":{step},"steps_per_epoch":3,"images":4,"loss":{rank},"terms":{{}},"lr":0.1,"memory_bytes":null,"time_ms":1000.0}}"#
                );
                format!(r#"{{"v":1,"generation":{generation},"rank":{rank},"seq":0,"time_ms":0,"event":{event}}}"#)
                    + "\n"
            };
            let lines: String = steps.split(' ').map(line).collect();
            std::fs::write(run.path().join("events").join(evenkeel_wire::path::events(rank)), lines).expect("written");
        }
        for other in ["rank-01.events.jsonl", "rank-x.events.jsonl", "rank-7.log"] {
            std::fs::write(run.path().join("events").join(other), "").expect("written");
        }
        assert_eq!(ranks(&run.path().join("events")).expect("read"), [0, 1, 2]);
        let steps = heard(run.path(), &mut gaps).steps();
        let told: Vec<_> = steps.iter().map(|step| (step.loss, step.images_per_second)).collect();
        assert_eq!(told, [(Some(1.0), Some(12.0)), (Some(1.0), Some(12.0)), (Some(0.0), Some(4.0))]);
        assert!(gaps.is_empty(), "{gaps:?}");
    }
}
