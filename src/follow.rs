//! What ranks tell, as those outside want to hear it: an optimizer step of all ranks together, an epoch as a row of results.csv.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_wire::{Event, Record};

/// Steps that one rank's words may come later than another's.
const LAG: u64 = 8;

/// An optimizer step, over all ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// In the whole run, from 0.
    pub step: u64,
    /// When its last rank told of it, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Mean loss of its images; absent when one is not finite.
    pub loss: Option<f64>,
    /// Means of the loss terms, by name.
    pub terms: BTreeMap<String, f64>,
    /// Learning rate.
    pub lr: f64,
    /// Images of all ranks over the time of the slowest.
    pub images_per_second: Option<f64>,
}

/// An epoch that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// From 1, as in results.csv.
    pub epoch: u32,
    /// When it was told, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Numbers by the names of results.csv.
    pub values: BTreeMap<String, f64>,
    /// Of its steps.
    pub images_per_second: Option<f64>,
}

/// Something that is complete.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A step.
    Step(Step),
    /// An epoch.
    Epoch(Epoch),
}

impl Fact {
    /// When it was complete, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        match self {
            Self::Step(step) => step.time_ms,
            Self::Epoch(epoch) => epoch.time_ms,
        }
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Follow {
    ranks: usize,
    /// Steps that not all ranks have told of.
    open: BTreeMap<u64, Told>,
    /// Images and seconds of the epoch's steps.
    epoch: (u64, f64),
    stepped: bool,
    ever_stepped: bool,
    told: BTreeSet<u32>,
    /// The last numbers of a validation.
    pub metrics: BTreeMap<String, f64>,
    /// Of the last epoch.
    pub images_per_second: Option<f64>,
}

#[derive(Debug, Default)]
struct Told {
    ranks: BTreeSet<u32>,
    time_ms: u64,
    images: u64,
    slowest_ms: f64,
    /// Sum over images; absent once a rank's is not finite.
    loss: Option<f64>,
    terms: BTreeMap<String, f64>,
    lr: f64,
}

impl Follow {
    /// Of so many ranks.
    #[must_use]
    pub fn new(ranks: usize) -> Self {
        Self { ranks, ..Self::default() }
    }

    /// Epochs that were told.
    #[must_use]
    pub fn epochs_done(&self) -> u32 {
        self.told.last().copied().unwrap_or(0)
    }

    /// Takes note of a record; what it completes is returned in order.
    pub fn hear(&mut self, rank: u32, record: &Record) -> Vec<Fact> {
        match &record.event {
            Event::Step { step, images, loss, terms, lr, time_ms, .. } => {
                (self.stepped, self.ever_stepped) = (true, true);
                let told = self.open.entry(*step).or_insert_with(|| Told { loss: Some(0.0), ..Told::default() });
                // A step that is done again after a failure counts once.
                if !told.ranks.insert(rank) {
                    return Vec::new();
                }
                let share = *images as f64;
                told.time_ms = told.time_ms.max(record.time_ms);
                told.images += images;
                told.slowest_ms = told.slowest_ms.max(*time_ms);
                told.loss = told.loss.zip(*loss).map(|(sum, loss)| sum + loss * share);
                for (name, value) in terms {
                    *told.terms.entry(name.clone()).or_default() += value * share;
                }
                told.lr = *lr;
                if told.ranks.len() < self.ranks {
                    // What a much earlier step waits for will not come: ranks go from one to the next together.
                    return self.close_before(step.saturating_sub(LAG));
                }
                self.close_before(step + 1)
            }
            Event::Metrics { epoch, values } => {
                let mut facts = self.close_before(u64::MAX);
                self.metrics.clone_from(values);
                // With nothing learnt since the last ones they are those of the best weights, told at the end.
                let fresh = std::mem::take(&mut self.stepped) || !self.ever_stepped;
                if fresh && self.told.insert(epoch + 1) {
                    let (images, seconds) = std::mem::take(&mut self.epoch);
                    self.images_per_second = (seconds > 0.0).then(|| images as f64 / seconds);
                    facts.push(Fact::Epoch(Epoch {
                        epoch: epoch + 1,
                        time_ms: record.time_ms,
                        values: values.clone(),
                        images_per_second: self.images_per_second,
                    }));
                }
                facts
            }
            _ => Vec::new(),
        }
    }

    /// Gives out the steps before `end`, whoever has told of them.
    fn close_before(&mut self, end: u64) -> Vec<Fact> {
        let later = self.open.split_off(&end);
        let done = std::mem::replace(&mut self.open, later);
        done.into_iter().map(|(step, told)| Fact::Step(self.close(step, told))).collect()
    }

    fn close(&mut self, step: u64, told: Told) -> Step {
        let images = told.images as f64;
        let seconds = told.slowest_ms / 1e3;
        self.epoch.0 += told.images;
        self.epoch.1 += seconds;
        let mean = |sum: f64| sum / images;
        Step {
            step,
            time_ms: told.time_ms,
            loss: told.loss.filter(|_| images > 0.0).map(mean),
            terms: if images > 0.0 {
                told.terms.into_iter().map(|(name, sum)| (name, mean(sum))).collect()
            } else {
                BTreeMap::new()
            },
            lr: told.lr,
            images_per_second: (seconds > 0.0).then(|| images / seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rank: u32, event: Event) -> Record {
        Record { v: 1, generation: 1, rank, seq: 0, time_ms: 1000, event }
    }

    fn step(rank: u32, step: u64, images: u64, loss: f64) -> Record {
        let terms = BTreeMap::from([("box".to_owned(), loss)]);
        let (epochs, steps_per_epoch) = (2, 2);
        let (loss, memory_bytes, time_ms) = (Some(loss), None, 500.0 + f64::from(rank) * 500.0);
        let epoch = 0;
        record(
            rank,
            Event::Step { epoch, epochs, step, steps_per_epoch, images, loss, terms, lr: 0.1, memory_bytes, time_ms },
        )
    }

    fn metrics(epoch: u32, value: f64) -> Record {
        record(0, Event::Metrics { epoch, values: BTreeMap::from([("metrics/mAP50(B)".to_owned(), value)]) })
    }

    fn hear(follow: &mut Follow, record: &Record) -> Vec<Fact> {
        follow.hear(record.rank, record)
    }

    #[test]
    fn a_step_is_told_once_and_weighs_every_image_alike() {
        let mut follow = Follow::new(2);
        assert_eq!(hear(&mut follow, &step(0, 0, 3, 1.0)), []);
        let facts = hear(&mut follow, &step(1, 0, 1, 5.0));
        let [Fact::Step(told)] = &facts[..] else { panic!("{facts:?}") };
        assert_eq!((told.step, told.loss, told.images_per_second), (0, Some(2.0), Some(4.0)));
        assert_eq!(told.terms["box"], 2.0);
    }

    #[test]
    fn a_step_that_a_rank_never_told_of_is_not_waited_for() {
        let mut follow = Follow::new(2);
        hear(&mut follow, &step(0, 0, 1, 1.0));
        hear(&mut follow, &step(0, LAG, 1, 1.0));
        assert_eq!(hear(&mut follow, &step(0, LAG + 1, 1, 1.0)).len(), 1);
        let facts = hear(&mut follow, &metrics(0, 0.5));
        assert!(matches!(&facts[..], [Fact::Step(_), Fact::Step(_), Fact::Epoch(_)]), "{facts:?}");
    }

    #[test]
    fn an_epoch_is_a_row_once_and_the_best_weights_numbers_are_none() {
        let mut follow = Follow::new(1);
        hear(&mut follow, &step(0, 0, 4, 1.0));
        let facts = hear(&mut follow, &metrics(0, 0.5));
        let Some(Fact::Epoch(row)) = facts.last() else { panic!("{facts:?}") };
        assert_eq!((row.epoch, row.images_per_second), (1, Some(8.0)));
        assert_eq!(hear(&mut follow, &metrics(0, 0.6)), []);
        assert_eq!((follow.epochs_done(), follow.metrics["metrics/mAP50(B)"]), (1, 0.6));
        // Done again after a failure: it was told.
        hear(&mut follow, &step(0, 0, 4, 1.0));
        assert_eq!(hear(&mut follow, &metrics(0, 0.7)), []);
    }

    #[test]
    fn a_program_without_steps_has_rows_nevertheless() {
        let mut follow = Follow::new(1);
        assert_eq!(hear(&mut follow, &metrics(0, 0.5)).len(), 1);
        assert_eq!(hear(&mut follow, &metrics(1, 0.5)).len(), 1);
    }
}
