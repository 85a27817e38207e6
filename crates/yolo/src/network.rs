//! A model and its state in a few flat tensors, of which its variables are views: one operation decays, averages, reduces, copies or saves
//! them all.

use std::ops::Range;

use rand::Rng;
use sha2::{Digest, Sha256};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::model::Yolo;
use crate::random::{Purpose, generator};
use crate::scale::Scale;

/// Where in a flat tensor a variable may begin: at multiples of so many values, 512 bytes, as in memory of its own. cuDNN's kernels read several
/// values at once and fault on a GPU where a vector begins at an odd place, as all would behind a bias for 3 classes.
const ALIGNMENT: i64 = 128;

/// Values of a flat tensor that a variable of so many takes.
pub(crate) fn padded(values: i64) -> i64 {
    (values + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}

/// A model with its parameters, their gradients and its running statistics.
#[derive(Debug)]
pub struct Network {
    /// The model, which computes with the tensors below.
    pub model: Yolo,
    /// All parameters, `[parameters]`, f32. Between them are zeros, which stay zero: see [`padded`].
    pub parameters: Tensor,
    /// Their gradients, `[parameters]`, f32, which backward passes add to; absent for a network that is not trained.
    pub gradients: Option<Tensor>,
    /// Running mean and variance of all layers of batch normalisation, `[2, channels of all layers]`, f32, padded likewise.
    pub statistics: Tensor,
    /// By kind, then by name.
    slots: Vec<Slot>,
    groups: [Range<i64>; 3],
    vs: VarStore,
}

/// Where a parameter is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    name: String,
    start: i64,
    shape: Vec<i64>,
    /// Kernels of convolutions lie with the inputs innermost where the network's images do.
    innermost: bool,
}

/// Kinds of parameters, which optimizers treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Kernels, which decay.
    Kernels,
    /// Factors of batch normalisation.
    Factors,
    /// What is added: biases, which warm up from above.
    Biases,
}

impl Group {
    /// All, in the order in which parameters lie.
    pub const ALL: [Self; 3] = [Self::Kernels, Self::Factors, Self::Biases];

    fn of(name: &str, dimensions: usize) -> Self {
        if name.ends_with(".bias") {
            Self::Biases
        } else if dimensions > 1 {
            Self::Kernels
        } else {
            Self::Factors
        }
    }
}

impl Network {
    /// A network with fresh weights that depend on `seed` alone. With `channels_last` its kernels lie as convolutions on images with the
    /// channels innermost want them.
    #[must_use]
    pub fn new(scale: Scale, classes: i64, device: Device, seed: u64, channels_last: bool) -> Self {
        let vs = VarStore::new(device);
        let model = Yolo::new(&vs, scale, classes);
        let mut network = Self::flatten(vs, model, channels_last);
        network.draw(seed);
        network
    }

    /// Draws all kernels as torch does by default, uniformly within 1/√(inputs of one output), but from a generator of ours, which draws
    /// the same on every device.
    fn draw(&mut self, seed: u64) {
        let _guard = tch::no_grad_guard();
        let mut chance = generator(Purpose::Weights, seed, 0, 0);
        let variables = self.vs.variables();
        for slot in self.slots.iter().filter(|slot| slot.shape.len() == 4) {
            let bound = 1.0 / (slot.shape[1..].iter().product::<i64>() as f32).sqrt();
            let count = slot.shape.iter().product::<i64>();
            let values: Vec<f32> = (0..count).map(|_| chance.random_range(-bound..bound)).collect();
            variables[&slot.name].shallow_clone().copy_(&Tensor::from_slice(&values).view(slot.shape.as_slice()));
        }
    }

    fn flatten(vs: VarStore, model: Yolo, channels_last: bool) -> Self {
        let _guard = tch::no_grad_guard();
        let mut named: Vec<(Group, String, Tensor)> = vs
            .variables()
            .into_iter()
            .filter(|(_, variable)| variable.requires_grad())
            .map(|(name, variable)| (Group::of(&name, variable.dim()), name, variable))
            .collect();
        named.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let total: i64 = named.iter().map(|(_, _, variable)| padded(variable.numel() as i64)).sum();
        let parameters = Tensor::zeros([total], (Kind::Float, vs.device()));
        let (mut slots, mut at, mut groups) = (Vec::new(), 0, [0..0, 0..0, 0..0]);
        for (group, name, mut variable) in named {
            let (shape, start) = (variable.size(), at);
            at += padded(variable.numel() as i64);
            let range = &mut groups[group as usize];
            *range = if range.end == 0 { start..at } else { range.start..at };
            let innermost = channels_last && shape.len() == 4;
            let slot = Slot { name, start, shape, innermost };
            let mut view = slot.view(&parameters);
            view.copy_(&variable);
            variable.set_data(&view);
            slots.push(slot);
        }
        let statistics = model.norms().flatten();
        Self { model, parameters, gradients: None, statistics, slots, groups, vs }
    }

    /// A network with the same weights that is not trained.
    #[must_use]
    pub fn copy(&self) -> Self {
        let vs = VarStore::new(self.parameters.device());
        let model = Yolo::new(&vs, self.model.scale(), self.model.classes());
        let channels_last = self.slots.iter().any(|slot| slot.innermost);
        let mut copy = Self::flatten(vs, model, channels_last);
        copy.vs.freeze();
        copy.take(&self.parameters, &self.statistics);
        copy
    }

    /// Takes over parameters and statistics that lie as this network's.
    fn take(&mut self, parameters: &Tensor, statistics: &Tensor) {
        tch::no_grad(|| {
            self.parameters.copy_(parameters);
            self.statistics.copy_(statistics);
        });
    }

    /// Takes memory for gradients, `[parameters]`, f32 and zero, to which every backward pass from here on adds its own.
    pub fn prepare_gradients(&mut self, flat: Tensor) {
        let variables = self.vs.variables();
        // A first gradient for each, of zeros, whose memory is then exchanged for its part of the whole.
        let zero = Tensor::from(0.0_f32).to_device(flat.device());
        let touched: Vec<Tensor> =
            self.slots.iter().map(|slot| (&variables[&slot.name] * &zero).sum(Kind::Float)).collect();
        Tensor::stack(&touched, 0).sum(Kind::Float).backward();
        for slot in &self.slots {
            tch::no_grad(|| variables[&slot.name].grad().set_data(&slot.view(&flat)));
        }
        self.gradients = Some(flat);
    }

    /// Where the parameters of a group lie.
    #[must_use]
    pub fn range(&self, group: Group) -> Range<i64> {
        self.groups[group as usize].clone()
    }

    /// The device that it computes on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    /// Its variables by name: parameters and running statistics, in the shapes and with the names of the official state dict.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, Tensor)> {
        let mut all: Vec<(String, Tensor)> = self.vs.variables().into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// SHA-256 of the parameters, in the order of their names, each row by row, as f32 in little-endian order.
    #[must_use]
    pub fn hash(&self) -> String {
        let variables = self.vs.variables();
        let mut names: Vec<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        names.sort_unstable();
        let mut digest = Sha256::new();
        for name in names {
            digest.update(crate::weights::bytes(&variables[name]));
        }
        crate::checkpoint::hex(&digest.finalize())
    }

    /// The store of its variables, for what libtorch does with them.
    pub(crate) fn store(&self) -> &VarStore {
        &self.vs
    }
}

impl Slot {
    /// The parameter's part of a flat tensor, in its shape.
    fn view(&self, flat: &Tensor) -> Tensor {
        let part = flat.narrow(0, self.start, self.shape.iter().product());
        match self.shape[..] {
            [to, from, height, width] if self.innermost => part.view([to, height, width, from]).permute([0, 3, 1, 2]),
            _ => part.view(self.shape.as_slice()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(channels_last: bool) -> Network {
        let mut network = Network::new(Scale::N, 3, Device::Cpu, 7, channels_last);
        network.prepare_gradients(network.parameters.zeros_like());
        network
    }

    #[test]
    fn variables_and_gradients_are_views_of_the_whole() {
        let mut network = network(true);
        assert_eq!(network.parameters.size1().expect("flat"), network.range(Group::Biases).end);
        assert_eq!(network.range(Group::Kernels).end, network.range(Group::Factors).start);
        let images = Tensor::rand([2, 3, 64, 64], (Kind::Float, Device::Cpu));
        let sum = |network: &Network| {
            network.model.forward(&images, true).sides.square().mean(Kind::Float).backward();
            network.gradients.as_ref().expect("prepared").abs().sum(Kind::Double).double_value(&[])
        };
        let once = sum(&network);
        let twice = sum(&network);
        assert!(once > 0.0 && (twice / once - 2.0).abs() < 1e-4, "{once} and {twice}");
        let _ = network.gradients.as_mut().expect("prepared").zero_();
        assert!((sum(&network) / once - 1.0).abs() < 1e-4);
        let before = network.variables();
        let _ = network.parameters.fill_(0.5);
        assert!(before.iter().filter(|(_, it)| it.requires_grad()).all(|(_, it)| it.min().double_value(&[]) == 0.5));
    }

    #[test]
    fn every_variable_begins_where_memory_of_its_own_would() {
        // Neither 3 nor 70 values are a multiple of what a GPU reads at once.
        for classes in [3, 70] {
            let network = Network::new(Scale::N, classes, Device::Cpu, 0, true);
            let base = |flat: &Tensor| flat.data_ptr() as usize;
            for (name, variable) in network.variables() {
                let flat = if variable.requires_grad() { &network.parameters } else { &network.statistics };
                let begin = variable.data_ptr() as usize - base(flat);
                assert_eq!(begin % 512, 0, "{name}");
            }
        }
    }

    #[test]
    fn how_kernels_lie_changes_no_value() {
        let (rows, innermost) = (network(false), network(true));
        assert_eq!(rows.hash(), innermost.hash());
        for ((name, a), (_, b)) in rows.variables().iter().zip(&innermost.variables()) {
            assert!(a.equal(b), "{name}");
        }
    }

    #[test]
    fn a_copy_computes_the_same_and_shares_nothing() {
        let mut network = network(true);
        let mut copy = network.copy();
        let images = Tensor::rand([1, 3, 64, 64], (Kind::Float, Device::Cpu));
        assert!(copy.model.predict(&images).1.equal(&network.model.predict(&images).1));
        let _ = network.parameters.fill_(0.0);
        assert!(!copy.model.predict(&images).1.equal(&network.model.predict(&images).1));
        copy.take(&network.parameters, &network.statistics);
        assert!(copy.model.predict(&images).1.equal(&network.model.predict(&images).1));
    }

    #[test]
    fn a_seed_draws_the_same_weights_again() {
        let of = |seed| Network::new(Scale::N, 3, Device::Cpu, seed, true).hash();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
