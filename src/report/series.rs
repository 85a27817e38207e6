//! Numbers over steps and epochs: from what was written to what is drawn. Pure.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_wire::{Event, Record};

use crate::record::told::Launches;

/// Trouble, at most, and notes beside it: a training that steps down at every turn says so in fewer.
const HAPPENED: usize = 200;
/// Columns of a table, at most: trainers have some fifteen, and a file may claim a million for each of its rows.
const COLUMNS: usize = 64;
/// Epochs of it, at most: of more, the last ones.
const EPOCHS: usize = 20_000;

/// Values over the epochs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The epochs, from 1, rising.
    pub epochs: Vec<u64>,
    /// Columns by name, in the order of the file, with a value for each epoch.
    pub columns: Vec<(String, Vec<Option<f64>>)>,
}

impl Table {
    /// Reads results.csv, as far as it is no larger than any training makes it. Of rows for the same epoch, as a training leaves that went on
    /// from an earlier state, the last counts; a row that is not whole yet does not.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let names: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).take(COLUMNS).collect();
        let Some(epoch_at) = names.iter().position(|name| *name == "epoch") else { return Self::default() };
        let mut rows: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
        for line in lines {
            let finite = |cell: &str| cell.trim().parse().ok().filter(|value: &f64| value.is_finite());
            let cells: Vec<Option<f64>> = line.split(',').take(names.len()).map(finite).collect();
            let Some(epoch) = cells.get(epoch_at).copied().flatten() else { continue };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small whole number, saturating"
            )]
            rows.insert(epoch as u64, cells);
            if rows.len() > EPOCHS {
                rows.pop_first();
            }
        }
        let column = |at: usize| rows.values().map(|cells| cells.get(at).copied().flatten()).collect();
        let columns = names.iter().enumerate().filter(|(at, _)| *at != epoch_at);
        let columns = columns.map(|(at, name)| ((*name).to_owned(), column(at))).collect();
        Self { epochs: rows.into_keys().collect(), columns }
    }

    /// The same from what ranks told, by epoch.
    #[must_use]
    pub fn told(epochs: &BTreeMap<u64, BTreeMap<String, f64>>) -> Self {
        let last = || epochs.iter().skip(epochs.len().saturating_sub(EPOCHS));
        let names: BTreeSet<&String> = last().flat_map(|(_, values)| values.keys()).collect();
        let column = |name: &String| {
            last().map(|(_, values)| values.get(name).copied().filter(|value| value.is_finite())).collect()
        };
        let columns = names.into_iter().take(COLUMNS).map(|name| (name.clone(), column(name))).collect();
        Self { epochs: last().map(|(epoch, _)| *epoch).collect(), columns }
    }

    /// The points of a column.
    #[must_use]
    pub fn points(&self, name: &str) -> Vec<(f64, Option<f64>)> {
        let column = self.columns.iter().find(|(column, _)| column == name).map(|(_, values)| values);
        let values = column.into_iter().flatten().copied();
        self.epochs.iter().map(|epoch| *epoch as f64).zip(values).collect()
    }
}

/// An optimizer step over all ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// In the whole run, from 0.
    pub step: u64,
    /// Mean loss of its images; absent where one was not finite.
    pub loss: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Images of all ranks over the time of the slowest.
    pub images_per_second: Option<f64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The launch.
    pub generation: u32,
    /// The rank.
    pub rank: Option<u32>,
    /// Whether it is trouble.
    pub bad: bool,
    /// One line for a person.
    pub text: String,
}

/// What the ranks told, as it is read.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    steps: BTreeMap<u64, Sum>,
    /// The first step of each launch.
    pub first_steps: BTreeMap<u32, u64>,
    /// Numbers of the validations, by epoch from 1.
    pub metrics: BTreeMap<u64, BTreeMap<String, f64>>,
    /// The launches that `metrics` is of.
    launches: Launches,
    /// How each rank reached the others.
    pub transports: BTreeMap<u32, String>,
    /// What happened on the way.
    pub happened: Vec<Happened>,
    /// Notes and trouble that were heard, those with no room in `happened` as well.
    said: [usize; 2],
}

/// A step of the ranks that were read so far.
#[derive(Clone, Copy, Debug)]
struct Sum {
    generation: u32,
    images: u64,
    loss: Option<f64>,
    slowest_ms: f64,
    lr: f64,
}

impl Heard {
    /// Takes note of a record.
    pub fn hear(&mut self, record: &Record) {
        let (generation, rank) = (record.generation, record.rank);
        let mut happened = |bad, text| {
            // Apart, so that a rank that says much leaves room for how another failed.
            let said = &mut self.said[usize::from(bad)];
            *said += 1;
            if *said <= HAPPENED {
                self.happened.push(Happened { time_ms: record.time_ms, generation, rank: Some(rank), bad, text });
            }
        };
        match &record.event {
            Event::Step { epoch, step, images, loss, lr, time_ms, .. } => {
                if rank == 0 {
                    self.launches.step(*epoch, generation);
                }
                let first = self.first_steps.entry(generation).or_insert(*step);
                *first = (*first).min(*step);
                let new = Sum { generation, images: 0, loss: Some(0.0), slowest_ms: 0.0, lr: *lr };
                let sum = self.steps.entry(*step).or_insert(new);
                // A step that another launch repeated counts as it was repeated.
                if sum.generation < generation {
                    *sum = new;
                }
                if sum.generation == generation {
                    sum.images += images;
                    let loss = loss.filter(|loss| loss.is_finite());
                    sum.loss = sum.loss.zip(loss).map(|(sum, loss)| sum + loss * *images as f64);
                    sum.slowest_ms = sum.slowest_ms.max(*time_ms);
                }
            }
            Event::Metrics { epoch, values } if rank == 0 && self.launches.validation(*epoch, generation) => {
                self.metrics.insert(u64::from(*epoch) + 1, values.clone());
            }
            Event::Preflight { ok, transport, message, .. } => {
                self.transports.extend(transport.clone().map(|transport| (rank, transport)));
                if !ok {
                    happened(true, format!("the preflight failed: {}", message.as_deref().unwrap_or("no word why")));
                }
            }
            Event::SteppedDown { step, from, to, .. } => {
                let step = step.saturating_add(1);
                happened(true, format!("out of memory in step {step}: micro-batches of {from} became {to}"));
            }
            Event::Failure { class, message, .. } => happened(true, format!("{message} ({})", class.name())),
            Event::Note { message } => happened(false, message.clone()),
            _ => {}
        }
    }

    /// How much is not in `happened`, in one sentence.
    #[must_use]
    pub fn left_out(&self) -> Option<String> {
        let [notes, trouble] = self.said.map(|said| said.saturating_sub(HAPPENED));
        (notes + trouble > 0).then(|| {
            format!(
                "Of what the ranks told, {trouble} cases of trouble and {notes} notes have no room here: they are in the record's events."
            )
        })
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let step = |(step, sum): (&u64, &Sum)| {
            let (images, seconds) = (sum.images as f64, sum.slowest_ms / 1e3);
            Step {
                step: *step,
                loss: sum.loss.filter(|_| images > 0.0).map(|loss| loss / images),
                lr: sum.lr,
                images_per_second: (seconds > 0.0).then(|| images / seconds),
            }
        };
        self.steps.iter().map(step).collect()
    }
}

/// A point of a chart; without a value it is a gap.
pub type Point = (f64, Option<f64>);

/// At most about twice as many points as `buckets`: of each bucket of neighbours its least and its greatest, so that no spike is lost.
#[must_use]
pub fn thin(points: &[Point], buckets: usize) -> Vec<Point> {
    if points.len() <= 2 * buckets {
        return points.to_vec();
    }
    let mut thinned = Vec::with_capacity(2 * buckets);
    for bucket in points.chunks(points.len().div_ceil(buckets)) {
        let some = || bucket.iter().enumerate().filter_map(|(at, (_, value))| Some((at, (*value)?)));
        let least = some().min_by(|one, other| one.1.total_cmp(&other.1));
        let greatest = some().max_by(|one, other| one.1.total_cmp(&other.1));
        let (Some((least, _)), Some((greatest, _))) = (least, greatest) else {
            thinned.push(bucket[0]);
            continue;
        };
        thinned.push(bucket[least.min(greatest)]);
        if least != greatest {
            thinned.push(bucket[least.max(greatest)]);
        }
    }
    thinned
}

/// An exponential mean over about so many points. What is missing leaves it as it was.
#[must_use]
pub fn smooth(points: &[Point], over: usize) -> Vec<Point> {
    let share = 2.0 / (over as f64 + 1.0);
    // Both start at 0; their quotient weighs the first points rightly.
    let (mut mean, mut weight) = (0.0, 0.0);
    let mut next = |(x, value): &Point| {
        if let Some(value) = value {
            mean += share * (value - mean);
            weight += share * (1.0 - weight);
        }
        (*x, (weight > 0.0).then(|| mean / weight))
    };
    points.iter().map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u32, rank: u32, step: u64, loss: Option<f64>) -> Record {
        let event = Event::Step {
            epoch: 0,
            epochs: 1,
            step,
            steps_per_epoch: 9,
            images: u64::from(rank) + 1,
            loss,
            terms: BTreeMap::new(),
            lr: 0.1,
            memory_bytes: None,
            time_ms: 500.0,
        };
        Record { v: 1, generation, rank, seq: 0, time_ms: 0, event }
    }

    #[test]
    fn a_step_is_that_of_all_ranks_and_of_the_last_launch_that_made_it() {
        let mut heard = Heard::default();
        let loss = |loss| Some(loss);
        for told in [
            record(1, 0, 0, loss(1.0)),
            record(1, 0, 1, loss(9.0)),
            record(2, 0, 1, loss(2.0)),
            record(1, 1, 0, loss(4.0)),
            record(1, 1, 1, loss(9.0)),
            record(2, 1, 1, Some(f64::NAN)),
        ] {
            heard.hear(&told);
        }
        let steps = heard.steps();
        assert_eq!((steps[0].loss, steps[0].images_per_second), (Some(3.0), Some(6.0)));
        assert_eq!((steps[1].loss, steps[1].images_per_second), (None, Some(6.0)));
        assert_eq!(heard.first_steps, [(1, 0), (2, 1)].into());
    }

    #[test]
    fn a_validation_is_that_of_the_last_launch_that_made_the_epoch() {
        let mut heard = Heard::default();
        let metrics = |generation, epoch, value| {
            let event = Event::Metrics { epoch, values: [("map".to_owned(), value)].into() };
            Record { event, ..record(generation, 0, 0, None) }
        };
        let map = |heard: &Heard, epoch: u64| heard.metrics[&epoch]["map"];
        heard.hear(&record(1, 0, 0, None));
        heard.hear(&metrics(1, 0, 0.1));
        heard.hear(&metrics(1, 0, 0.9));
        assert_eq!(map(&heard, 1), 0.1);
        heard.hear(&record(2, 0, 0, None));
        heard.hear(&metrics(2, 0, 0.2));
        heard.hear(&metrics(2, 0, 0.9));
        // It only went on with later epochs, and tells at its end what the best weights do.
        heard.hear(&metrics(3, 0, 0.9));
        assert_eq!(map(&heard, 1), 0.2);
        // A program that tells no steps.
        heard.hear(&metrics(1, 1, 0.3));
        heard.hear(&metrics(2, 1, 0.4));
        assert_eq!(map(&heard, 2), 0.4);
    }

    #[test]
    fn a_rank_that_says_much_leaves_room_for_the_failure_of_another() {
        let mut heard = Heard::default();
        let note = |rank, event| Record { event, ..record(1, rank, 0, None) };
        for _ in 0..HAPPENED {
            heard.hear(&note(0, Event::Note { message: "well".into() }));
        }
        heard.hear(&note(1, Event::SteppedDown { step: 1, from: 8, to: 4, message: String::new() }));
        assert_eq!((heard.happened.len(), heard.left_out()), (HAPPENED + 1, None));
        heard.hear(&note(1, Event::Note { message: "one too many".into() }));
        assert_eq!(heard.happened.last().map(|it| (it.rank, it.bad)), Some((Some(1), true)));
        assert!(heard.left_out().is_some_and(|left| left.contains("0 cases of trouble and 1 notes")));
    }

    #[test]
    fn a_table_keeps_the_order_of_its_columns_and_the_last_row_of_an_epoch() {
        let table = Table::parse("epoch, time,val/x,a\n1,1,nan,2\n2,2,5,3\n2,3,6,4\n3,4,");
        assert_eq!(table.epochs, [1, 2]);
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["time", "val/x", "a"]);
        assert_eq!(table.points("val/x"), [(1.0, None), (2.0, Some(6.0))]);
        assert!(table.points("absent").is_empty() && Table::parse("a,b\n1,2\n") == Table::default());
    }

    #[test]
    fn a_table_takes_no_more_room_than_a_training_s() {
        let rows: String = (1..=EPOCHS + 9).map(|epoch| format!("{epoch}{}\n", ",1".repeat(COLUMNS + 9))).collect();
        let heading: String = (0..COLUMNS + 9).map(|at| format!(",c{at}")).collect();
        let table = Table::parse(&format!("epoch{heading}\n{rows}"));
        let size = |table: &Table| (table.epochs.len(), table.columns.len());
        assert_eq!((size(&table), table.epochs[0]), ((EPOCHS, COLUMNS - 1), 10));
        // Names that no other epoch has.
        let told = (1..=EPOCHS as u64 + 9).map(|epoch| (epoch, [(format!("c{epoch}"), 1.0)].into())).collect();
        let told = Table::told(&told);
        assert_eq!((size(&told), told.epochs[0]), ((EPOCHS, COLUMNS), 10));
    }

    #[test]
    fn no_spike_is_lost_when_points_are_thinned() {
        let mut points: Vec<Point> = (0..100_000).map(|at| (f64::from(at), Some(1.0 + f64::from(at % 7)))).collect();
        points[54_321].1 = Some(1e6);
        points[54_322].1 = Some(-1e6);
        points[7].1 = None;
        let thinned = thin(&points, 500);
        assert!(thinned.len() <= 1000 && thinned.is_sorted_by(|one, other| one.0 < other.0), "{}", thinned.len());
        assert!(thinned.contains(&points[54_321]) && thinned.contains(&points[54_322]));
        assert_eq!(thin(&points[..900], 500), points[..900]);
        assert!(thin(&vec![(0.0, None); 5000], 500).iter().all(|point| point.1.is_none()));
    }

    #[test]
    fn a_smoothed_line_begins_at_its_first_value() {
        let smoothed = smooth(&[(0.0, None), (1.0, Some(4.0)), (2.0, Some(4.0)), (3.0, None)], 10);
        assert_eq!(smoothed[0].1, None);
        assert!(smoothed[1..].iter().all(|point| point.1.is_some_and(|value| (value - 4.0).abs() < 1e-9)));
    }
}
