//! What the network is made of.

use tch::Tensor;
use tch::nn::{Init, Path};

use super::norm::{Norm, Norms};

/// A convolution without a bias, batch normalisation, SiLU.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    norm: Norm,
    stride: i64,
    padding: i64,
}

impl Conv {
    pub(super) fn new(path: &Path<'_>, from: i64, to: i64, kernel: i64, stride: i64, norms: &mut Norms) -> Self {
        let weight = kernel_of(&(path / "conv"), from, to, kernel);
        Self { weight, norm: Norm::new(&(path / "bn"), to, norms), stride, padding: kernel / 2 }
    }

    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let [stride, padding] = [self.stride, self.padding].map(|n| [n, n]);
        let x = x.conv2d(&self.weight, None::<&Tensor>, stride, padding, [1, 1], 1);
        self.norm.forward(&x, train).silu()
    }
}

/// A kernel, all zeros until somebody draws or loads it.
pub(super) fn kernel_of(path: &Path<'_>, from: i64, to: i64, kernel: i64) -> Tensor {
    path.var("weight", &[to, from, kernel, kernel], Init::Const(0.0))
}

/// Two convolutions, and the input added where `shortcut`.
#[derive(Debug)]
struct Bottleneck {
    first: Conv,
    second: Conv,
    shortcut: bool,
}

impl Bottleneck {
    fn new(path: &Path<'_>, channels: i64, shortcut: bool, norms: &mut Norms) -> Self {
        let first = Conv::new(&(path / "cv1"), channels, channels, 3, 1, norms);
        let second = Conv::new(&(path / "cv2"), channels, channels, 3, 1, norms);
        Self { first, second, shortcut }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let y = self.second.forward(&self.first.forward(x, train), train);
        if self.shortcut { x + y } else { y }
    }
}

/// Splits the channels in two, sends one half through a row of bottlenecks, and joins everything that came about on the way.
#[derive(Debug)]
pub(super) struct C2f {
    split: Conv,
    row: Vec<Bottleneck>,
    join: Conv,
}

impl C2f {
    pub(super) fn new(path: &Path<'_>, from: i64, to: i64, repeats: i64, shortcut: bool, norms: &mut Norms) -> Self {
        let half = to / 2;
        let split = Conv::new(&(path / "cv1"), from, 2 * half, 1, 1, norms);
        let join = Conv::new(&(path / "cv2"), (2 + repeats) * half, to, 1, 1, norms);
        let row = (0..repeats).map(|i| Bottleneck::new(&(path / "m" / i), half, shortcut, norms)).collect();
        Self { split, row, join }
    }

    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let mut parts = self.split.forward(x, train).chunk(2, 1);
        for bottleneck in &self.row {
            let next = bottleneck.forward(&parts[parts.len() - 1], train);
            parts.push(next);
        }
        self.join.forward(&Tensor::cat(&parts, 1), train)
    }
}

/// Joins what windows of 5, 9 and 13 cells hold at most, by pooling three times over 5.
#[derive(Debug)]
pub(super) struct Sppf {
    first: Conv,
    second: Conv,
}

impl Sppf {
    pub(super) fn new(path: &Path<'_>, from: i64, to: i64, norms: &mut Norms) -> Self {
        let half = from / 2;
        let first = Conv::new(&(path / "cv1"), from, half, 1, 1, norms);
        Self { first, second: Conv::new(&(path / "cv2"), 4 * half, to, 1, 1, norms) }
    }

    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let pool = |x: &Tensor| x.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
        let x = self.first.forward(x, train);
        let x5 = pool(&x);
        let x9 = pool(&x5);
        let x13 = pool(&x9);
        self.second.forward(&Tensor::cat(&[x, x5, x9, x13], 1), train)
    }
}

/// Twice the height and width, each cell four times.
pub(super) fn upsample(x: &Tensor) -> Tensor {
    let (_, _, height, width) = x.size4().expect("images, channels, height, width");
    x.upsample_nearest2d([2 * height, 2 * width], None, None)
}
