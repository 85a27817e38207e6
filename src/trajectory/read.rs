//! A training's path out of its record: `results.csv`, and what the ranks told of steps and weights.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use evenkeel_wire::Event;
use evenkeel_wire::event::Record;

use super::Trajectory;
use crate::record::regular;

/// Columns that are no figures of the training.
const NO_FIGURES: [&str; 2] = ["epoch", "time"];

/// A file of a record could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{}`", path.display())]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Reads the path of the run in this directory. What is not there is absent from it.
///
/// # Errors
///
/// A file is there and cannot be read.
pub fn trajectory(run: &Path) -> Result<Trajectory, Unreadable> {
    let mut losses = BTreeMap::new();
    let mut weights = BTreeMap::new();
    for rank in 0.. {
        let path = run.join("events").join(evenkeel_wire::path::events(rank));
        match regular::open(&path) {
            Ok(file) => {
                events(file, rank, &mut losses, &mut weights).map_err(|source| Unreadable { path, source })?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(source) => return Err(Unreadable { path, source }),
        }
    }
    let table = run.join("results.csv");
    let columns = match regular::open(&table).and_then(io::read_to_string) {
        Ok(text) => columns(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(source) => return Err(Unreadable { path: table, source }),
    };
    Ok(Trajectory {
        losses: losses.into_iter().map(|(step, (_, ranks))| (step, mean(&ranks))).collect(),
        columns,
        weights,
    })
}

/// Images and mean loss of a step, by rank.
type Step = BTreeMap<u32, (u64, Option<f64>)>;

fn events(
    file: File,
    rank: u32,
    losses: &mut BTreeMap<u64, (u32, Step)>,
    weights: &mut BTreeMap<u32, String>,
) -> io::Result<()> {
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        // Most lines are of no interest, and a line that a crash cut off is none.
        let Ok(record) = serde_json::from_slice::<Record>(&line) else { continue };
        match record.event {
            // A step that another launch repeated counts as it was repeated, whichever ranks that launch had.
            Event::Step { step, images, loss, .. } => {
                let (generation, ranks) = losses.entry(step).or_default();
                if record.generation > *generation {
                    (*generation, *ranks) = (record.generation, Step::new());
                }
                if record.generation == *generation {
                    ranks.insert(rank, (images, loss));
                }
            }
            Event::Checkpoint { epoch, weights_sha256, .. } if rank == 0 => {
                weights.insert(epoch, weights_sha256);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The mean over all images of a step, whoever had them.
fn mean(ranks: &Step) -> Option<f64> {
    let images: u64 = ranks.values().map(|(images, _)| images).sum();
    if ranks.len() == 1 || images == 0 {
        return ranks.values().next()?.1;
    }
    let sum: Option<f64> = ranks.values().map(|(images, loss)| Some((*loss)? * *images as f64)).sum();
    Some(sum? / images as f64)
}

/// The table's columns by name, and their values by epoch.
fn columns(text: &str) -> BTreeMap<String, BTreeMap<u64, Option<f64>>> {
    let mut lines = text.lines();
    let cells = |line: &str| -> Vec<String> { line.split(',').map(|cell| cell.trim().to_owned()).collect() };
    let names = cells(lines.next().unwrap_or_default());
    let epoch_at = names.iter().position(|name| name == "epoch");
    let mut columns: BTreeMap<String, BTreeMap<u64, Option<f64>>> = BTreeMap::new();
    for (number, line) in (1..).zip(lines.filter(|line| !line.trim().is_empty())) {
        let cells = cells(line);
        let epoch = epoch_at.and_then(|at| cells.get(at)?.parse::<f64>().ok()).map_or(number, |epoch| epoch as u64);
        for (name, cell) in names.iter().zip(&cells).filter(|(name, _)| !NO_FIGURES.contains(&name.as_str())) {
            let value = cell.parse().ok().filter(|value: &f64| value.is_finite());
            columns.entry(name.clone()).or_default().insert(epoch, value);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_by_its_epochs() {
        let text = "epoch,time, train/box_loss,metrics/mAP50(B)\n1,9.5,2.5,0.1\n2,19.5,nan,0.2\n";
        let columns = columns(text);
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["metrics/mAP50(B)", "train/box_loss"]);
        assert_eq!(columns["train/box_loss"], [(1, Some(2.5)), (2, None)].into());
    }

    #[test]
    fn a_step_of_several_ranks_is_weighted_by_their_images() {
        assert_eq!(mean(&[(0, (3, Some(1.0))), (1, (1, Some(5.0)))].into()), Some(2.0));
        assert_eq!(mean(&[(0, (3, Some(1.0))), (1, (1, None))].into()), None);
        assert_eq!(mean(&[(0, (0, Some(0.1)))].into()), Some(0.1));
    }

    #[test]
    fn steps_and_weights_come_from_the_events() {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(place.path().join("events")).expect("made");
        let line = |seq: u64, event: &str| {
            format!("{{\"v\":1,\"generation\":1,\"rank\":0,\"seq\":{seq},\"time_ms\":0,\"event\":{event}}}\n")
        };
        let step = |step: u64, loss: f64| {
            format!(
                "{{\"kind\":\"step\",\"epoch\":0,\"epochs\":1,\"step\":{step},\"steps_per_epoch\":2,\"images\":4,\
                 \"loss\":{loss},\"terms\":{{}},\"lr\":0.1,\"memory_bytes\":null,\"time_ms\":1}}"
            )
        };
        let weights = "{\"kind\":\"checkpoint\",\"epoch\":0,\"path\":null,\"weights_sha256\":\"ab\",\"best\":true}";
        let text = line(0, &step(0, 2.0))
            + &line(1, &step(1, 9.0))
            + &line(2, &step(1, 1.0))
            + &line(3, weights)
            + "{\"v\":1,";
        std::fs::write(place.path().join("events/rank-0.events.jsonl"), text).expect("written");
        let path = trajectory(place.path()).expect("read");
        assert_eq!(path.losses, [(0, Some(2.0)), (1, Some(1.0))].into());
        assert_eq!(path.weights, [(0, "ab".to_owned())].into());
        assert!(path.columns.is_empty());
    }

    #[test]
    fn a_step_that_another_launch_repeated_is_that_launch_s_alone() {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(place.path().join("events")).expect("made");
        let step = |generation: u32, rank: u32, loss: f64| {
            format!(
                "{{\"v\":1,\"generation\":{generation},\"rank\":{rank},\"seq\":0,\"time_ms\":0,\"event\":{{\"kind\":\"step\",\
                 \"epoch\":0,\"epochs\":1,\"step\":5,\"steps_per_epoch\":9,\"images\":4,\"loss\":{loss},\"terms\":{{}},\
                 \"lr\":0.1,\"memory_bytes\":null,\"time_ms\":1}}}}\n"
            )
        };
        let write = |rank: u32, text: String| {
            std::fs::write(place.path().join(format!("events/rank-{rank}.events.jsonl")), text).expect("written");
        };
        let losses = || trajectory(place.path()).expect("read").losses;
        write(0, step(1, 0, 1.0) + &step(2, 0, 2.0));
        write(1, step(1, 1, 9.0));
        assert_eq!(losses(), [(5, Some(2.0))].into(), "the second launch had one rank");
        write(0, step(1, 0, 1.0));
        write(1, step(1, 1, 9.0) + &step(2, 1, 3.0));
        assert_eq!(losses(), [(5, Some(3.0))].into());
    }
}
