//! Learning rate and momentum of every step, by the official schedule with warm-up counted in optimizer steps.

use crate::settings::{OptimizerChoice, Settings};

/// Steps of warm-up at least, where there is one.
const LEAST_WARMUP: u64 = 100;
/// A training of more optimizer steps than this gets SGD from `optimizer: auto`.
const LONG: u64 = 10_000;

/// What an optimizer step is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate of kernels and factors.
    pub weights: f64,
    /// Learning rate of biases.
    pub biases: f64,
    /// Momentum; AdamW has its first beta from the settings instead.
    pub momentum: f64,
}

/// How a training learns, over all its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// SGD or AdamW; never `Auto`.
    pub optimizer: OptimizerChoice,
    /// Learning rate after the warm-up.
    pub lr0: f64,
    /// Momentum after the warm-up.
    pub momentum: f64,
    lrf: f64,
    cosine: bool,
    epochs: u32,
    steps_per_epoch: u64,
    warmup_steps: u64,
    warmup_momentum: f64,
    warmup_bias_lr: f64,
}

impl Schedule {
    /// The schedule of a training of `epochs` of `steps_per_epoch` on `classes` classes. `optimizer: auto` chooses as the official trainer
    /// does: AdamW at a rate that falls with the number of classes, and SGD for more than 10,000 steps, with a momentum of its own.
    #[must_use]
    pub fn new(settings: &Settings, epochs: u32, steps_per_epoch: u64, classes: usize) -> Self {
        let (optimizer, lr0, momentum, warmup_bias_lr) = match settings.optimizer {
            OptimizerChoice::Auto if u64::from(epochs) * steps_per_epoch > LONG => {
                (OptimizerChoice::Sgd, 0.01, 0.9, 0.0)
            }
            OptimizerChoice::Auto => {
                let fitting = 0.002 * 5.0 / (4.0 + classes as f64);
                // To six decimals, as the official trainer rounds it.
                (OptimizerChoice::AdamW, (fitting * 1e6).round() / 1e6, 0.9, 0.0)
            }
            named => (named, settings.lr0, settings.momentum, settings.warmup_bias_lr),
        };
        let asked = (settings.warmup_epochs * steps_per_epoch as f64).round() as u64;
        let warmup_steps = if settings.warmup_epochs > 0.0 { asked.max(LEAST_WARMUP) } else { 0 };
        Self {
            optimizer,
            lr0,
            momentum,
            lrf: settings.lrf,
            cosine: settings.cos_lr,
            epochs,
            steps_per_epoch,
            warmup_steps,
            warmup_momentum: settings.warmup_momentum,
            warmup_bias_lr,
        }
    }

    /// The rates of a step, counted from 0 over the whole training.
    #[must_use]
    pub fn rates(&self, step: u64) -> Rates {
        let epoch = step / self.steps_per_epoch.max(1);
        let target = self.lr0 * self.factor(epoch as f64);
        if step >= self.warmup_steps {
            return Rates { weights: target, biases: target, momentum: self.momentum };
        }
        let share = step as f64 / self.warmup_steps as f64;
        let between = |from: f64, to: f64| from + (to - from) * share;
        Rates {
            weights: between(0.0, target),
            biases: between(self.warmup_bias_lr, target),
            momentum: between(self.warmup_momentum, self.momentum),
        }
    }

    /// The learning rate of an epoch as a share of `lr0`.
    fn factor(&self, epoch: f64) -> f64 {
        let share = epoch / f64::from(self.epochs.max(1));
        if self.cosine {
            (1.0 - (share * std::f64::consts::PI).cos()) / 2.0 * (self.lrf - 1.0) + 1.0
        } else {
            (1.0 - share).max(0.0) * (1.0 - self.lrf) + self.lrf
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_meets_the_falling_rate() {
        let settings = Settings { optimizer: OptimizerChoice::Sgd, warmup_epochs: 2.0, ..Settings::default() };
        let schedule = Schedule::new(&settings, 10, 100, 3);
        assert_eq!(schedule.rates(0), Rates { weights: 0.0, biases: 0.1, momentum: 0.8 });
        let middle = schedule.rates(100);
        let of_epoch_1 = 0.01 * (0.9 * 0.99 + 0.01);
        assert!((middle.weights - of_epoch_1 / 2.0).abs() < 1e-12 && (middle.momentum - 0.8685).abs() < 1e-12);
        let after = schedule.rates(200);
        assert_eq!((after.weights, after.momentum), (after.biases, 0.937));
        assert!((schedule.rates(999).weights - 0.01 * (0.1 * 0.99 + 0.01)).abs() < 1e-12);
    }

    #[test]
    fn a_cosine_falls_slowly_at_both_ends() {
        let settings =
            Settings { optimizer: OptimizerChoice::Sgd, warmup_epochs: 0.0, cos_lr: true, ..Settings::default() };
        let schedule = Schedule::new(&settings, 100, 1, 3);
        let at = |epoch| schedule.rates(epoch).weights;
        assert_eq!(at(0), 0.01);
        assert!((at(50) - 0.00505).abs() < 1e-12);
        assert!(at(1) > 0.00999 && at(99) < 0.000105);
    }

    #[test]
    fn a_choice_is_made_by_length_and_classes() {
        let schedule = Schedule::new(&Settings::default(), 10, 16, 80);
        assert_eq!((schedule.optimizer, schedule.lr0, schedule.momentum), (OptimizerChoice::AdamW, 0.000119, 0.9));
        assert_eq!(Schedule::new(&Settings::default(), 100, 101, 80).optimizer, OptimizerChoice::Sgd);
    }
}
