//! What a report is made from, read from a record. Files that are missing leave gaps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use evenkeel_wire::{Event, Record};

use super::{Material, Picture, Points};
use crate::record::find::Found;
use crate::record::journal::JournalError;
use crate::record::read;
use crate::runlock::RunLock;

/// Bytes of a rank's events that are read: those of the last million steps or so.
const EVENTS: u64 = 256 << 20;
/// Bytes of a picture, and of all of them, that a report takes.
const PICTURE: u64 = 2 << 20;
const PICTURES: u64 = 6 << 20;
/// What trainers draw that a report shows, as far as it is there: predictions, then how good they are.
const DRAWN: [&str; 8] = [
    "val_pred.svg",
    "val_batch0_pred.jpg",
    "val_batch1_pred.jpg",
    "confusion_matrix.svg",
    "confusion_matrix_normalized.png",
    "PR_curve.svg",
    "BoxPR_curve.png",
    "PR_curve.png",
];

/// Reads it. `now_ms` is the time, for a run that goes on.
///
/// # Errors
///
/// The journal cannot be read.
pub fn gather(found: &Found, now_ms: u64) -> Result<Material, JournalError> {
    let path = &found.path;
    let summary = read::summary(found, now_ms)?;
    let table = ["results.csv", "output/results.csv"]
        .iter()
        .find_map(|name| std::fs::read_to_string(path.join(name)).ok())
        .map(|text| columns(&text))
        .unwrap_or_default();
    let steps = Steps::read(path, summary.run.devices.len());
    let lock = std::fs::read_to_string(path.join("lock.yaml")).ok();
    let lock: Option<RunLock> = lock.and_then(|text| serde_yaml::from_str(&text).ok());
    let (pictures, left_out) = pictures(&path.join("output"));
    let (loss, rate, speed) = steps.points();
    let zone = jiff::tz::TimeZone::system();
    Ok(Material { summary, table, loss, rate, speed, lock, pictures, left_out, zone })
}

/// results.csv by column. Of rows for the same epoch the last counts.
fn columns(text: &str) -> Vec<(String, Points)> {
    // A row that is not whole yet is none.
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let names: Vec<String> = lines.next().unwrap_or_default().split(',').map(|name| name.trim().to_owned()).collect();
    let mut rows: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
    let Some(at) = names.iter().position(|name| name == "epoch") else { return Vec::new() };
    for line in lines {
        let values: Vec<Option<f64>> = line.split(',').map(|value| value.trim().parse().ok()).collect();
        if let Some(epoch) = line.split(',').nth(at).and_then(|epoch| epoch.trim().parse().ok()) {
            rows.insert(epoch, values);
        }
    }
    let column = |at: usize| -> Points {
        rows.iter().filter_map(|(epoch, values)| Some((*epoch as f64, values.get(at).copied()??))).collect()
    };
    names.iter().enumerate().map(|(at, name)| (name.clone(), column(at))).collect()
}

/// What ranks told of a step.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    generation: u32,
    images: f64,
    /// Losses, each times its images, and those images.
    loss: f64,
    counted: f64,
    rate: f64,
    speed: f64,
}

/// By number, from 0.
#[derive(Debug, Default)]
struct Steps(BTreeMap<u64, Step>);

impl Steps {
    fn read(run: &Path, ranks: usize) -> Self {
        let mut steps = Self::default();
        for rank in 0..u32::try_from(ranks).unwrap_or(u32::MAX) {
            let file = File::open(run.join("events").join(evenkeel_wire::path::events(rank)));
            let Ok(mut file) = file else { continue };
            let length = file.metadata().map_or(0, |found| found.len());
            if file.seek(SeekFrom::Start(length.saturating_sub(EVENTS))).is_err() {
                continue;
            }
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                // Most lines are steps; a first line that is not whole is nothing.
                if let Ok(record) = serde_json::from_slice::<Record>(&line) {
                    steps.take(&record);
                }
            }
        }
        steps
    }

    fn take(&mut self, record: &Record) {
        let Event::Step { step, images, loss, lr, time_ms, .. } = &record.event else { return };
        let known = self.0.entry(*step).or_default();
        // A step that a later launch made again counts as that one made it.
        if record.generation > known.generation {
            *known = Step { generation: record.generation, ..Step::default() };
        } else if record.generation < known.generation {
            return;
        }
        let images = *images as f64;
        known.images += images;
        if let Some(loss) = loss {
            known.loss += loss * images;
            known.counted += images;
        }
        known.rate = *lr;
        if *time_ms > 0.0 {
            known.speed += images / (time_ms / 1e3);
        }
    }

    /// Loss, learning rate and images a second.
    fn points(&self) -> (Points, Points, Points) {
        let of = |value: fn(&Step) -> Option<f64>| -> Points {
            self.0.iter().filter_map(|(step, it)| Some((*step as f64 + 1.0, value(it)?))).collect()
        };
        (
            of(|it| (it.counted > 0.0).then(|| it.loss / it.counted)),
            of(|it| Some(it.rate)),
            of(|it| (it.speed > 0.0).then_some(it.speed)),
        )
    }
}

fn pictures(output: &Path) -> (Vec<Picture>, Vec<String>) {
    let (mut taken, mut left_out, mut all) = (Vec::new(), Vec::new(), 0);
    for name in DRAWN {
        let path: PathBuf = output.join(name);
        let Ok(found) = std::fs::metadata(&path) else { continue };
        if found.len() > PICTURE || all + found.len() > PICTURES {
            left_out.push(name.to_owned());
            continue;
        }
        let media = match name.rsplit('.').next() {
            Some("svg") => "image/svg+xml",
            Some("jpg") => "image/jpeg",
            _ => "image/png",
        };
        if let Ok(bytes) = std::fs::read(&path) {
            all += found.len();
            taken.push(Picture { name: name.to_owned(), media, bytes });
        }
    }
    (taken, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_taken_by_its_columns() {
        let table = columns("epoch, train/box_loss,metrics/mAP50(B)\n1,2.5,0.1\n2,2.0,\n2,1.5,0.3\n3,1.");
        assert_eq!(
            table[1..],
            [
                ("train/box_loss".to_owned(), vec![(1.0, 2.5), (2.0, 1.5)]),
                ("metrics/mAP50(B)".to_owned(), vec![(1.0, 0.1), (2.0, 0.3)])
            ]
        );
        assert!(columns("no,table\n1,2\n").is_empty());
    }

    #[test]
    fn a_step_is_that_of_all_ranks_and_of_the_last_launch() {
        let record = |generation, rank, loss: f64| -> Record {
            let event = serde_json::json!({
                "kind": "step", "epoch": 0, "epochs": 1, "step": 4, "steps_per_epoch": 9, "images": 8, "loss": loss, "terms": {},
                "lr": 0.01, "memory_bytes": null, "time_ms": 500.0,
            });
            let record = serde_json::json!({ "v": 1, "generation": generation, "rank": rank, "seq": 0, "time_ms": 0, "event": event });
            serde_json::from_value(record).expect("a record")
        };
        let mut steps = Steps::default();
        for (generation, rank, loss) in [(1, 0, 9.0), (2, 0, 1.0), (1, 1, 9.0), (2, 1, 3.0)] {
            steps.take(&record(generation, rank, loss));
        }
        assert_eq!(steps.points(), (vec![(5.0, 2.0)], vec![(5.0, 0.01)], vec![(5.0, 32.0)]));
    }
}
