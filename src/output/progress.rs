//! Where a training stands, from what its ranks tell. Pure.

use std::collections::BTreeMap;

use evenkeel_wire::Event;

use super::plain;

/// The state of a training as one line can show it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    ranks: BTreeMap<u32, Rank>,
    epochs: u32,
    steps_per_epoch: u64,
    metrics: BTreeMap<String, f64>,
    /// Epochs that a validation has ended.
    epochs_done: Option<u32>,
    /// No step was heard since the last metrics.
    validated: bool,
}

#[derive(Clone, Debug, Default)]
struct Rank {
    epoch: u32,
    step: u64,
    images: u64,
    time_ms: f64,
    loss: Option<f64>,
    memory_bytes: Option<u64>,
}

impl Progress {
    /// Takes in what a rank told. The line is one that should stay on the screen.
    pub fn hear(&mut self, rank: u32, event: &Event) -> Option<String> {
        match event {
            Event::Preflight { ok: true, bytes_per_second, transport, .. } if rank == 0 => {
                let speed = bytes_per_second.map(|speed| format!(", {:.1} GB/s", speed / 1e9)).unwrap_or_default();
                let transport = transport.as_deref().unwrap_or("unknown transport");
                Some(format!("preflight: all ranks reach each other ({transport}{speed})"))
            }
            Event::Preflight { ok: false, message, .. } => {
                Some(format!("rank {rank}: preflight: {}", message.as_deref().unwrap_or("failed")))
            }
            Event::Step { epoch, epochs, step, steps_per_epoch, images, loss, memory_bytes, time_ms, .. } => {
                (self.epochs, self.steps_per_epoch) = (*epochs, *steps_per_epoch);
                self.validated = false;
                let state = self.ranks.entry(rank).or_default();
                // Smoothed over some ten steps, so that the figure can be read.
                let smooth = |old: f64, new: f64| if old == 0.0 { new } else { old * 0.9 + new * 0.1 };
                *state = Rank {
                    epoch: *epoch,
                    step: *step,
                    images: *images,
                    time_ms: smooth(state.time_ms, *time_ms),
                    loss: *loss,
                    memory_bytes: *memory_bytes,
                };
                None
            }
            Event::Metrics { epoch, values } => {
                self.metrics.clone_from(values);
                self.epochs_done = self.epochs_done.max(Some(epoch + 1));
                let map = self.map50().map(|map| format!(", mAP50 {map:.3}")).unwrap_or_default();
                // With nothing learnt since the last ones they are no epoch's, but those of the best weights, of which the trainer's
                // own note speaks.
                if std::mem::replace(&mut self.validated, true) && !self.ranks.is_empty() {
                    return None;
                }
                let loss = self.loss().map(|loss| format!("loss {loss:.3}")).unwrap_or_else(|| "no loss".into());
                Some(format!("epoch {}/{}: {loss}{map}", epoch + 1, self.epochs))
            }
            Event::Failure { class, message, .. } => {
                Some(format!("rank {rank}: {} ({})", plain(message), class.name()))
            }
            Event::SteppedDown { step, from, to, message } => Some(format!(
                "rank {rank}: out of memory in step {}: micro-batches of {from} became {to}, the step was repeated ({})",
                step + 1,
                plain(message)
            )),
            Event::Note { message } => Some(format!("rank {rank}: {}", plain(message))),
            _ => None,
        }
    }

    /// What goes on before the first step, by the event that begins it.
    #[must_use]
    pub fn phase(&self, event: &Event) -> Option<&'static str> {
        if !self.ranks.is_empty() {
            return None;
        }
        match event {
            Event::Started { command, .. } if command.iter().any(|word| word == "preflight") => Some("preflight"),
            Event::Preflight { .. } | Event::Started { .. } => Some("starting the trainer"),
            Event::Joined { .. } => Some("before the first step"),
            _ => None,
        }
    }

    /// One line on where the training stands; none before its first step.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        let first = self.ranks.values().next()?;
        let loss = self.loss().map(|loss| format!("  loss {loss:.3}")).unwrap_or_default();
        let step = if self.steps_per_epoch == 0 { 0 } else { first.step % self.steps_per_epoch + 1 };
        Some(format!(
            "epoch {}/{}  step {step}/{}  {:.1} images/s{loss}{}",
            first.epoch + 1,
            self.epochs,
            self.steps_per_epoch,
            self.images_per_second(),
            self.memory(),
        ))
    }

    /// Epoch of the first rank, from 0.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.ranks.values().next().map_or(0, |rank| rank.epoch)
    }

    /// The last validation's mAP at an overlap of one half.
    #[must_use]
    pub fn map50(&self) -> Option<f64> {
        self.metrics.get("metrics/mAP50(B)").copied()
    }

    /// The last validation's numbers.
    #[must_use]
    pub fn metrics(&self) -> &BTreeMap<String, f64> {
        &self.metrics
    }

    /// Epochs that are over, and those there are in all; absent where no rank told of any.
    #[must_use]
    pub fn epochs(&self) -> (Option<u32>, Option<u32>) {
        (self.epochs_done, (self.epochs > 0).then_some(self.epochs))
    }

    fn images_per_second(&self) -> f64 {
        let speed = |rank: &Rank| if rank.time_ms > 0.0 { rank.images as f64 * 1e3 / rank.time_ms } else { 0.0 };
        self.ranks.values().map(speed).sum()
    }

    fn loss(&self) -> Option<f64> {
        let losses: Vec<f64> = self.ranks.values().filter_map(|rank| rank.loss).collect();
        (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64)
    }

    fn memory(&self) -> String {
        let each: Vec<String> = self
            .ranks
            .values()
            .map(|rank| rank.memory_bytes.map_or("?".into(), |bytes| format!("{:.2}", bytes as f64 / 1e9)))
            .collect();
        if each.iter().all(|memory| memory == "?") { String::new() } else { format!("  memory {} GB", each.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rank: u32, step: u64, loss: f64) -> (u32, Event) {
        let event = Event::Step {
            epoch: 0,
            epochs: 3,
            step,
            steps_per_epoch: 16,
            images: 16,
            loss: Some(loss),
            terms: BTreeMap::new(),
            lr: 0.01,
            memory_bytes: Some(1_500_000_000),
            time_ms: 500.0,
        };
        (rank, event)
    }

    #[test]
    fn all_ranks_count_in_the_line() {
        let mut progress = Progress::default();
        assert_eq!(progress.status(), None);
        for (rank, event) in [step(0, 4, 2.0), step(1, 4, 4.0)] {
            assert_eq!(progress.hear(rank, &event), None);
        }
        let status = progress.status().expect("a step was heard");
        assert_eq!(status, "epoch 1/3  step 5/16  64.0 images/s  loss 3.000  memory 1.50 1.50 GB");
    }

    #[test]
    fn an_epoch_ends_with_a_line_that_stays() {
        let mut progress = Progress::default();
        let (rank, event) = step(0, 15, 2.0);
        progress.hear(rank, &event);
        let values = BTreeMap::from([("metrics/mAP50(B)".to_owned(), 0.91234)]);
        let line = progress.hear(0, &Event::Metrics { epoch: 0, values });
        assert_eq!(line.as_deref(), Some("epoch 1/3: loss 2.000, mAP50 0.912"));
        let values = BTreeMap::from([("metrics/mAP50(B)".to_owned(), 0.95)]);
        // Of the best weights, at the end: kept, and no epoch's line.
        assert_eq!(progress.hear(0, &Event::Metrics { epoch: 0, values }), None);
        assert_eq!(progress.map50(), Some(0.95));
    }
}
