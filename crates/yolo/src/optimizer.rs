//! From gradients to weights: SGD with Nesterov's momentum, and AdamW (Loshchilov and Hutter, 2019), as torch computes them.

use tch::{Device, Kind, Tensor};

use crate::network::{Group, Network};
use crate::schedule::{Rates, Schedule};
use crate::settings::OptimizerChoice;

/// AdamW's second beta, and what is added to its divisor.
const SECOND_BETA: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// An optimizer with its state, all of which is there before the first step. An update works in place, part by part, and remembers how far
/// it came: one that fails is called again and goes on at the first part that was not updated.
#[derive(Debug)]
pub struct Optimizer {
    kind: Method,
    weight_decay: f64,
    /// Parameters of one part: few enough for a processor's cache, all for a GPU.
    part: i64,
    /// Parameters that the update under way has updated.
    done: i64,
}

#[derive(Debug)]
enum Method {
    Sgd { momentum: Tensor },
    AdamW { first: Tensor, second: Tensor, beta: f64, updates: u64 },
}

impl Optimizer {
    /// The schedule's optimizer for the parameters of a network.
    #[must_use]
    pub fn new(schedule: &Schedule, weight_decay: f64, network: &Network) -> Self {
        let zeros = || network.parameters.zeros_like();
        let kind = match schedule.optimizer {
            OptimizerChoice::AdamW => {
                Method::AdamW { first: zeros(), second: zeros(), beta: schedule.momentum, updates: 0 }
            }
            OptimizerChoice::Sgd | OptimizerChoice::Auto => Method::Sgd { momentum: zeros() },
        };
        let part = if network.device() == Device::Cpu { 1 << 16 } else { i64::MAX };
        Self { kind, weight_decay, part, done: 0 }
    }

    /// Updates the parameters by their gradients, which are used up: what they hold afterwards means nothing.
    ///
    /// # Panics
    ///
    /// As tensors do, where memory runs out; call it again then. The network has no gradients.
    pub fn update(&mut self, network: &mut Network, rates: &Rates) {
        let _guard = tch::no_grad_guard();
        let gradients = network.gradients.as_ref().expect("a network that is trained").shallow_clone();
        if let Method::AdamW { updates, .. } = &mut self.kind {
            if self.done == 0 {
                *updates += 1;
            }
        }
        for group in Group::ALL {
            let range = network.range(group);
            let lr = if group == Group::Biases { rates.biases } else { rates.weights };
            let decay = if group == Group::Kernels { self.weight_decay } else { 0.0 };
            while self.done < range.end {
                let length = self.part.min(range.end - self.done);
                let mut part = Part {
                    parameters: network.parameters.narrow(0, self.done, length),
                    gradients: gradients.narrow(0, self.done, length),
                };
                self.kind.update(&mut part, self.done, lr, decay, rates.momentum);
                self.done += length;
            }
        }
        self.done = 0;
    }

    /// Its state by name, for a checkpoint: tensors and how many updates there were.
    #[must_use]
    pub fn state(&self) -> (Vec<(&'static str, Tensor)>, u64) {
        match &self.kind {
            Method::Sgd { momentum } => (vec![("optimizer.momentum", momentum.shallow_clone())], 0),
            Method::AdamW { first, second, updates, .. } => (
                vec![("optimizer.first", first.shallow_clone()), ("optimizer.second", second.shallow_clone())],
                *updates,
            ),
        }
    }

    /// Sets how many updates there were, after the tensors of [`Self::state`] were filled.
    pub fn set_updates(&mut self, count: u64) {
        if let Method::AdamW { updates, .. } = &mut self.kind {
            *updates = count;
        }
    }
}

/// A row of parameters and their gradients.
struct Part {
    parameters: Tensor,
    gradients: Tensor,
}

impl Method {
    /// Every operation is in place, so that nothing can fail between two of them for want of memory but the first's scalars.
    fn update(&mut self, part: &mut Part, start: i64, lr: f64, decay: f64, momentum_now: f64) {
        let Part { parameters, gradients } = part;
        let device = parameters.device();
        let length = parameters.size1().expect("flat");
        let scalar = |value: f64| Tensor::from(value as f32).to_device(device);
        match self {
            Self::Sgd { momentum } => {
                let (decay, share, step) = (scalar(decay), scalar(momentum_now), scalar(-lr));
                let mut momentum = momentum.narrow(0, start, length);
                let _ = gradients.addcmul_(parameters, &decay);
                let _ = momentum.g_mul_(&share);
                let _ = momentum.g_add_(gradients);
                let _ = gradients.addcmul_(&momentum, &share);
                let _ = parameters.addcmul_(gradients, &step);
            }
            Self::AdamW { first, second, beta, updates } => {
                let updates = i32::try_from(*updates).unwrap_or(i32::MAX);
                let (first_known, second_known) = (1.0 - beta.powi(updates), 1.0 - SECOND_BETA.powi(updates));
                let (mut first, mut second) = (first.narrow(0, start, length), second.narrow(0, start, length));
                let _ = parameters.g_mul_scalar_(1.0 - lr * decay);
                let _ = first.lerp_(gradients, 1.0 - *beta);
                let _ = gradients.square_();
                let _ = second.lerp_(gradients, 1.0 - SECOND_BETA);
                if lr > 0.0 {
                    // The gradients' memory holds the divisor now: with the step's length in it, one division is left.
                    gradients.copy_(&second);
                    let _ = gradients.sqrt_();
                    let _ = gradients.g_mul_scalar_(1.0 / second_known.sqrt());
                    let _ = gradients.g_add_scalar_(EPSILON);
                    let _ = gradients.g_mul_scalar_(-first_known / lr);
                    let _ = parameters.addcdiv_(&first, gradients);
                }
            }
        }
    }
}

/// The length of a gradient, as torch's `clip_grad_norm_` takes it.
#[must_use]
pub fn length(gradients: &Tensor) -> f64 {
    gradients.norm().to_kind(Kind::Double).double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scale;
    use crate::settings::Settings;
    use tch::nn::OptimizerConfig;

    /// Weights after three steps down the sum of the squares of all parameters, by ours and by libtorch's own optimizer.
    fn both(
        optimizer: OptimizerChoice,
        theirs: impl FnOnce(&tch::nn::VarStore) -> tch::nn::Optimizer,
    ) -> (Tensor, Tensor) {
        let settings =
            Settings { optimizer, lr0: 0.01, momentum: 0.9, warmup_epochs: 0.0, lrf: 1.0, ..Settings::default() };
        let schedule = Schedule::new(&settings, 1, 100, 3);
        let network = || Network::new(Scale::N, 3, Device::Cpu, 3, true);
        let (mut ours, other) = (network(), network());
        ours.prepare_gradients(ours.parameters.zeros_like());
        let mut optimizer = Optimizer::new(&schedule, 0.1, &ours);
        let mut reference = theirs(other.store());
        for step in 0..3 {
            let mut gradients = ours.gradients.as_ref().expect("prepared").shallow_clone();
            tch::no_grad(|| gradients.copy_(&(&ours.parameters * 2.0 + step as f64 * 0.01)));
            optimizer.update(&mut ours, &schedule.rates(step));
            let loss: Tensor = other
                .store()
                .trainable_variables()
                .iter()
                .map(|it| (it.square() + it * (step as f64 * 0.01)).sum(Kind::Float))
                .sum();
            reference.backward_step(&loss);
        }
        // Only kernels decay, which libtorch's optimizer does not know here: they alone are compared.
        let kernels = |network: &Network| {
            let all = network.variables().into_iter().filter(|(_, it)| it.requires_grad() && it.dim() > 1);
            Tensor::cat(&all.map(|(_, it)| it.flatten(0, -1)).collect::<Vec<_>>(), 0).detach()
        };
        (kernels(&ours), kernels(&other))
    }

    #[test]
    fn steps_are_those_of_libtorch() {
        let sgd = both(OptimizerChoice::Sgd, |vs| {
            tch::nn::Sgd { momentum: 0.9, dampening: 0.0, wd: 0.1, nesterov: true }
                .build(vs, 0.01)
                .expect("an optimizer")
        });
        let adam = both(OptimizerChoice::AdamW, |vs| {
            tch::nn::AdamW { beta1: 0.9, beta2: 0.999, wd: 0.1, eps: 1e-8, amsgrad: false }
                .build(vs, 0.01)
                .expect("an optimizer")
        });
        for (name, (ours, theirs)) in [("SGD", sgd), ("AdamW", adam)] {
            let apart = (ours - theirs).abs().max().double_value(&[]);
            assert!(apart < 1e-6, "{name}: {apart}");
        }
    }
}
