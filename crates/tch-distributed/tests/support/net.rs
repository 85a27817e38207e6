//! A small model and its data, the same in every process that asks for them.

use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};

/// Numbers between -1 and 1 that look random and follow from `seed` alone.
pub fn numbers(count: i64, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // Knuth's MMIX generator; the upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    Tensor::from_slice(&(0..count).map(|_| next()).collect::<Vec<f32>>())
}

/// Two convolutions, two linear layers, and a layer that [`Net::forward`] leaves out unless it is asked for.
#[derive(Debug)]
pub struct Net {
    pub vs: nn::VarStore,
    first: nn::Conv2D,
    second: nn::Conv2D,
    hidden: nn::Linear,
    last: nn::Linear,
    branch: nn::Linear,
}

pub const CLASSES: i64 = 5;

impl Net {
    /// Weights follow from `seed`.
    pub fn new(seed: u64) -> Self {
        // Ranks share the processors; several threads each would wait for one another.
        tch::set_num_threads(1);
        let vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        let stride = nn::ConvConfig { stride: 2, ..Default::default() };
        let net = Self {
            first: nn::conv2d(&root / "first", 2, 6, 3, stride),
            second: nn::conv2d(&root / "second", 6, 8, 3, Default::default()),
            hidden: nn::linear(&root / "hidden", 8 * 9, 16, Default::default()),
            last: nn::linear(&root / "last", 16, CLASSES, Default::default()),
            branch: nn::linear(&root / "branch", 16, CLASSES, Default::default()),
            vs,
        };
        for (i, variable) in net.vs.trainable_variables().iter().enumerate() {
            let mut variable = variable.detach();
            let values = numbers(variable.numel() as i64, seed * 100 + i as u64) * 0.3;
            variable.copy_(&values.view(variable.size().as_slice()));
        }
        net
    }

    /// Logits `[N, 5]` of images `[N, 2, 11, 11]`.
    pub fn forward(&self, images: &Tensor, branch: bool) -> Tensor {
        let features = self.second.forward(&self.first.forward(images).relu()).relu();
        let hidden = self.hidden.forward(&features.flatten(1, -1)).relu();
        if branch { self.branch.forward(&hidden) } else { self.last.forward(&hidden) }
    }

    /// Mean loss over the images.
    pub fn loss(&self, batch: &Batch) -> Tensor {
        self.forward(&batch.images, false).cross_entropy_for_logits(&batch.labels)
    }

    /// Gradients by name; those of parameters without one are left out.
    pub fn gradients(&self) -> Vec<(String, Tensor)> {
        let mut all: Vec<_> = self
            .vs
            .variables()
            .into_iter()
            .map(|(name, tensor)| (name, tensor.grad()))
            .filter(|(_, gradient)| gradient.defined())
            .map(|(name, gradient)| (name, gradient.copy()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The gradients of one process with the weights of `self` and a loss of its own making.
    pub fn alone(&self, loss: impl FnOnce(&Net) -> Tensor) -> Vec<(String, Tensor)> {
        let mut other = Net::new(0);
        other.vs.copy(&self.vs).expect("the same variables");
        loss(&other).backward();
        other.gradients()
    }

    /// A step of plain SGD.
    pub fn descend(&self, rate: f64) {
        tch::no_grad(|| {
            for mut variable in self.vs.trainable_variables() {
                let gradient = variable.grad();
                if gradient.defined() {
                    variable -= gradient * rate;
                }
            }
        });
    }
}

/// Images and labels.
#[derive(Debug)]
pub struct Batch {
    pub images: Tensor,
    pub labels: Tensor,
}

impl Batch {
    /// `images` images that follow from `seed`.
    pub fn new(images: i64, seed: u64) -> Self {
        let labels: Vec<i64> = (0..images).map(|i| (i * 7 + seed as i64) % CLASSES).collect();
        Self {
            images: numbers(images * 2 * 11 * 11, seed + 1000).view([images, 2, 11, 11]),
            labels: Tensor::from_slice(&labels),
        }
    }

    pub fn part(&self, start: i64, images: i64) -> Self {
        Self { images: self.images.narrow(0, start, images), labels: self.labels.narrow(0, start, images) }
    }
}

/// Largest difference between two lists of tensors, which must have the same names and shapes.
pub fn distance(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let names = |all: &[(String, Tensor)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    a.iter().zip(b).map(|((_, a), (_, b))| gap(a, b)).fold(0.0, f64::max)
}

/// Largest difference between the elements of two tensors.
pub fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    if a.numel() == 0 {
        return 0.0;
    }
    let gap = (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[]);
    assert!(gap.is_finite(), "{a:?} against {b:?}");
    gap
}
