//! Whether a gang stands still: by how long its steps have taken so far. Pure; told events and times go in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use evenkeel_wire::Event as Told;

use crate::event::Event;

/// No gang stands still that took a step within this time: a disk may be slow, a laptop's lid closed.
pub const SHORTEST: Duration = Duration::from_secs(60);
/// Nor one that took a step within so many times the time that its steps take.
const MEDIANS: u32 = 10;
/// Between epochs much may happen that is no step: validation, plots, checkpoints on a slow disk.
const BETWEEN_EPOCHS: Duration = Duration::from_secs(30 * 60);
/// Steps that the median is of.
const STEPS: usize = 64;

/// The pace of a gang.
#[derive(Debug, Default)]
pub struct Pace {
    /// The last step of each rank.
    last: BTreeMap<u32, u64>,
    /// Milliseconds between steps of the gang.
    intervals: VecDeque<u64>,
    /// When the last step was told, by the rank's clock.
    stepped_ms: Option<u64>,
    /// The longest time from the last step of an epoch to the first of the next, in milliseconds.
    longest_between: u64,
    /// When anything was last told, by the clock of [`Self::hear`].
    heard: Duration,
    /// Whether the last step ended an epoch.
    between: bool,
}

/// A gang stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The rank that is behind the others, or the first of those that are.
    pub rank: u32,
    /// One line for a person.
    pub message: String,
}

impl Pace {
    /// Takes note of what a rank told at `time_ms` by its own clock, heard at `now` by the controller's.
    pub fn hear(&mut self, rank: u32, told: &Told, time_ms: u64, now: Duration) {
        self.heard = now;
        let Told::Step { step, steps_per_epoch, .. } = told else {
            // Somebody validates, writes, or starts anew: no step is due.
            self.between |= matches!(told, Told::Metrics { .. } | Told::Started { .. } | Told::Joined { .. });
            return;
        };
        // What a gang does at once is told once a rank.
        if self.last.values().all(|last| last < step) {
            let since = self.stepped_ms.map(|before| time_ms.saturating_sub(before));
            match since {
                Some(since) if self.between => self.longest_between = self.longest_between.max(since),
                Some(since) => {
                    self.intervals.push_back(since);
                    if self.intervals.len() > STEPS {
                        self.intervals.pop_front();
                    }
                }
                None => {}
            }
            self.stepped_ms = Some(time_ms);
            self.between = *steps_per_epoch > 0 && (step + 1) % steps_per_epoch == 0;
        }
        self.last.insert(rank, *step);
    }

    /// The same for any event; only what is told counts.
    pub fn hear_event(&mut self, event: &Event, now: Duration) {
        if let Event::Told { rank, record } = event {
            self.hear(*rank, &record.event, record.time_ms, now);
        }
    }

    /// When the gang stands still, if nothing is told until then. Nothing before its first step: nobody knows what a start takes.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.stepped_ms.map(|_| self.heard + self.limit())
    }

    /// The rank that holds up the others, if the gang stands still at `now`.
    #[must_use]
    pub fn stall(&self, now: Duration) -> Option<Stall> {
        self.due().filter(|due| now >= *due)?;
        let (rank, step) = self.last.iter().min_by_key(|(_, step)| **step)?;
        let silence = now.saturating_sub(self.heard).as_secs();
        let most = self.last.values().max().copied().unwrap_or_default();
        let others = if most > *step { format!(", others step {}", most + 1) } else { String::new() };
        let usual = match self.median() {
            Some(median) if !self.between => format!("; steps took {:.1} s", median.as_secs_f64()),
            _ => String::new(),
        };
        let message = format!("no step for {silence} s: its last was step {}{others}{usual}", step + 1);
        Some(Stall { rank: *rank, message })
    }

    fn limit(&self) -> Duration {
        if self.between {
            return BETWEEN_EPOCHS.max(Duration::from_millis(self.longest_between) * MEDIANS);
        }
        SHORTEST.max(self.median().unwrap_or_default() * MEDIANS)
    }

    fn median(&self) -> Option<Duration> {
        let mut sorted: Vec<u64> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map(|median| Duration::from_millis(*median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Told {
        Told::Step {
            epoch: 0,
            epochs: 2,
            step,
            steps_per_epoch: 100,
            images: 8,
            loss: None,
            terms: BTreeMap::new(),
            lr: 0.01,
            memory_bytes: None,
            time_ms: 1000.0,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn quick_steps_may_stop_for_a_minute() {
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None, "before the first step");
        for number in 0..10 {
            for rank in 0..2 {
                if (rank, number) != (1, 9) {
                    pace.hear(rank, &step(number), number * 1000, at(number));
                }
            }
        }
        assert_eq!(pace.due(), Some(at(9) + SHORTEST));
        assert_eq!(pace.stall(at(68)), None);
        let stall = pace.stall(at(69)).expect("a minute is over");
        assert_eq!(stall.rank, 1, "it is a step behind");
        assert_eq!(stall.message, "no step for 60 s: its last was step 9, others step 10; steps took 1.0 s");
    }

    #[test]
    fn slow_steps_may_take_ten_times_as_long() {
        let mut pace = Pace::default();
        for number in 0..5 {
            pace.hear(0, &step(number), number * 20_000, at(number * 20));
        }
        assert_eq!(pace.due(), Some(at(80 + 200)));
    }

    #[test]
    fn what_is_between_epochs_has_more_time() {
        let mut pace = Pace::default();
        pace.hear(0, &step(98), 0, at(0));
        pace.hear(0, &step(99), 1000, at(1));
        assert_eq!(pace.due(), Some(at(1) + BETWEEN_EPOCHS));
        // A validation that took ten minutes once may take a hundred.
        pace.hear(0, &step(100), 601_000, at(601));
        assert_eq!(pace.due(), Some(at(601) + SHORTEST));
        pace.hear(0, &step(199), 700_000, at(700));
        assert_eq!(pace.due(), Some(at(700) + at(6000)));
    }
}
