//! What results.csv and the ranks' events tell of a training's course. Pure: text in, numbers out.

use std::collections::BTreeMap;

use evenkeel_wire::{Event, Record};
use serde::Serialize;

/// Where results.csv has the mAP at an overlap of one half.
const MAP50: &str = "metrics/mAP50(B)";

/// An epoch that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: u64,
    /// Mean loss of the training: the sum of its terms.
    pub loss: Option<f64>,
    /// mAP at an overlap of one half, of the validation.
    pub map50: Option<f64>,
}

/// What the events of a rank tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Epochs in all.
    pub epochs: Option<u64>,
    /// The last optimizer step, from 0.
    pub last_step: Option<u64>,
    /// Images that it trained on, and the seconds of their steps.
    pub images: u64,
    /// See `images`.
    pub seconds: f64,
    /// The most memory it told of, in bytes.
    pub peak_bytes: Option<u64>,
    /// Its epochs as far as they are over.
    pub course: Vec<Epoch>,
}

/// Which launch's validation of an epoch counts, as a rank tells of it.
#[derive(Clone, Debug, Default)]
pub struct Launches {
    /// The last that made a step of an epoch, and that of the validation that counts so far, by epoch.
    trained: BTreeMap<u32, u32>,
    validated: BTreeMap<u32, u32>,
}

impl Launches {
    /// Takes note of a step.
    pub fn step(&mut self, epoch: u32, generation: u32) {
        let last = self.trained.entry(epoch).or_insert(generation);
        *last = generation.max(*last);
    }

    /// Whether a validation takes the place of what there was of its epoch. One that another launch repeated counts as it was repeated. A second one
    /// within a launch, or of one that did not make the epoch, is that of the best weights, at the end.
    pub fn validation(&mut self, epoch: u32, generation: u32) -> bool {
        let repeats = || self.trained.get(&epoch).is_none_or(|last| *last == generation);
        let counts = self.validated.get(&epoch).is_none_or(|known| *known < generation && repeats());
        if counts {
            self.validated.insert(epoch, generation);
        }
        counts
    }
}

/// Reads the events of a rank. What is no event of ours is passed over, as is a first line that is not whole.
#[must_use]
pub fn events(bytes: &[u8]) -> Told {
    let mut told = Told::default();
    let mut losses: BTreeMap<u32, (f64, u32)> = BTreeMap::new();
    let mut launches = Launches::default();
    let mut validations: BTreeMap<u32, Epoch> = BTreeMap::new();
    let records = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
    for record in records {
        let generation = record.generation;
        match record.event {
            Event::Step { epoch, epochs, step, images, loss, memory_bytes, time_ms, .. } => {
                launches.step(epoch, generation);
                told.epochs = Some(u64::from(epochs));
                told.last_step = Some(step);
                told.images += images;
                told.seconds += time_ms / 1e3;
                told.peak_bytes = told.peak_bytes.max(memory_bytes);
                if let Some(loss) = loss {
                    let (sum, count) = losses.entry(epoch).or_default();
                    (*sum, *count) = (*sum + loss, *count + 1);
                }
            }
            Event::Metrics { epoch, values } => {
                if !launches.validation(epoch, generation) {
                    continue;
                }
                let loss = sum_of_losses(values.iter().map(|(name, value)| (name.as_str(), Some(*value))));
                let map50 = values.get(MAP50).copied();
                validations.insert(epoch, Epoch { epoch: u64::from(epoch) + 1, loss, map50 });
            }
            _ => {}
        }
    }
    told.course = validations.into_values().collect();
    for epoch in &mut told.course {
        let of_steps = u32::try_from(epoch.epoch - 1).ok().and_then(|number| losses.get(&number));
        epoch.loss = epoch.loss.or(of_steps.map(|(sum, count)| sum / f64::from(*count)));
    }
    told
}

/// Reads results.csv; of rows for the same epoch, as a training leaves that went on from an earlier state, the last. A row that is not
/// whole yet is passed over.
#[must_use]
pub fn table(text: &str) -> Vec<Epoch> {
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    let mut rows = BTreeMap::new();
    for line in lines {
        let values: Vec<Option<f64>> = line.split(',').map(|value| value.trim().parse().ok()).collect();
        let row = || columns.iter().copied().zip(values.iter().copied());
        let value = |name: &str| row().find(|(column, _)| *column == name).and_then(|(_, value)| value);
        let Some(epoch) = value("epoch") else { continue };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number, saturating")]
        let epoch = epoch as u64;
        rows.insert(epoch, Epoch { epoch, loss: sum_of_losses(row()), map50: value(MAP50) });
    }
    rows.into_values().collect()
}

/// The sum of what is called `train/..._loss`; of nothing else, such as the loss of a validation.
fn sum_of_losses<'a>(values: impl Iterator<Item = (&'a str, Option<f64>)>) -> Option<f64> {
    let terms: Vec<Option<f64>> = values
        .filter(|(name, _)| name.strip_prefix("train/").is_some_and(|term| term.ends_with("loss")) || *name == "loss")
        .map(|(_, value)| value)
        .collect();
    if terms.is_empty() { None } else { terms.into_iter().sum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_by_its_columns() {
        let text = "  epoch, time,train/box_loss, train/cls_loss,metrics/mAP50(B),val/box_loss\n\
                    1,2.0,1.5,2.5,,9\n2,4.0,1,2,0.25,9\n2,5.0,1,1,0.5,9\n3,6.0,nan,1,0.75,9\n4,7.";
        let loss = |epoch: &Epoch| epoch.loss.filter(|loss| loss.is_finite());
        let rows: Vec<_> = table(text).iter().map(|row| (row.epoch, loss(row), row.map50)).collect();
        assert_eq!(rows, [(1, Some(4.0), None), (2, Some(2.0), Some(0.5)), (3, None, Some(0.75))]);
        assert!(table("").is_empty() && table("no,table\nat,all\n").is_empty());
    }

    #[test]
    fn events_tell_the_course_where_no_table_does() {
        let record = |seq: u64, event: &str| {
            format!(r#"{{"v":1,"generation":GENERATION,"rank":0,"seq":{seq},"time_ms":5,"event":{event}}}"#) + "\n"
        };
        let step = |seq: u64, epoch, loss| {
            let memory = seq * 100;
            let event = format!(
                r#"{{"kind":"step","epoch":{epoch},"epochs":3,"step":{seq},"steps_per_epoch":2,"images":16,"loss":{loss},"terms":{{}},"lr":0.1,"memory_bytes":{memory},"time_ms":500.0}}"#
            );
            record(seq, &event)
        };
        let metrics =
            |epoch, map| record(0, &format!(r#"{{"kind":"metrics","epoch":{epoch},"values":{{"{MAP50}":{map}}}}}"#));
        let text = [
            "alf of a line\n".to_owned(),
            step(0, 0, 4.0),
            step(1, 0, 2.0),
            metrics(0, 0.5),
            step(2, 1, 1.0),
            metrics(1, 0.6),
            metrics(1, 0.7),
        ]
        .concat();
        let first = text.replace("GENERATION", "1");
        let told = events(first.as_bytes());
        assert_eq!(
            (told.epochs, told.last_step, told.images, told.seconds, told.peak_bytes),
            (Some(3), Some(2), 48, 1.5, Some(200))
        );
        let course: Vec<_> = told.course.iter().map(|epoch| (epoch.epoch, epoch.loss, epoch.map50)).collect();
        assert_eq!(course, [(1, Some(3.0), Some(0.5)), (2, Some(1.0), Some(0.6))]);
        // Another launch made the second epoch again, and its best weights were those of the first.
        let again = [step(2, 1, 1.0), metrics(1, 0.8), metrics(1, 0.9), metrics(0, 0.9)].concat();
        let course = events((first + &again.replace("GENERATION", "2")).as_bytes()).course;
        assert_eq!(course.iter().map(|epoch| epoch.map50).collect::<Vec<_>>(), [Some(0.5), Some(0.8)]);
    }
}
