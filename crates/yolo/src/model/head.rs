//! The head: for every cell of three grids the distances from its centre to the four sides of a box, as distributions, and a score of each
//! class.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::block::{Conv, kernel_of};
use super::norm::Norms;
use crate::boxes;

/// Pixels of one cell, by grid.
pub const STRIDES: [i64; 3] = [8, 16, 32];
/// Whole distances, in cells from 0, over which the distance to a side is distributed.
pub const REGRESSION_BINS: i64 = 16;

/// One grid's two branches.
#[derive(Debug)]
struct Branches {
    sides: Branch,
    classes: Branch,
}

/// Two convolutions and a linear map of each cell.
#[derive(Debug)]
struct Branch {
    first: Conv,
    second: Conv,
    weight: Tensor,
    bias: Tensor,
}

impl Branch {
    fn new(path: &Path<'_>, from: i64, inner: i64, to: i64, bias: f64, norms: &mut Norms) -> Self {
        let last = path / 2;
        Self {
            first: Conv::new(&(path / 0), from, inner, 3, 1, norms),
            second: Conv::new(&(path / 1), inner, inner, 3, 1, norms),
            weight: kernel_of(&last, inner, to, 1),
            bias: last.var("bias", &[to], Init::Const(bias)),
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let x = self.second.forward(&self.first.forward(x, train), train);
        x.conv2d(&self.weight, Some(&self.bias), [1, 1], [0, 0], [1, 1], 1)
    }
}

#[derive(Debug)]
pub(super) struct Head {
    grids: [Branches; 3],
}

impl Head {
    pub(super) fn new(path: &Path<'_>, channels: [i64; 3], classes: i64, norms: &mut Norms) -> Self {
        let for_sides = (channels[0] / 4).max(4 * REGRESSION_BINS).max(16);
        let for_classes = channels[0].max(classes.min(100));
        // At the start some five objects of a 640-pixel image are expected, spread over the classes and the grid's cells.
        let rare = |stride: i64| (5.0 / classes as f64 / (640.0 / stride as f64).powi(2)).ln();
        let sides = [0, 1, 2].map(|grid| {
            let path = path / "cv2" / grid as i64;
            Branch::new(&path, channels[grid], for_sides, 4 * REGRESSION_BINS, 1.0, norms)
        });
        let scores = [0, 1, 2].map(|grid| {
            let path = path / "cv3" / grid as i64;
            Branch::new(&path, channels[grid], for_classes, classes, rare(STRIDES[grid]), norms)
        });
        let mut scores = scores.into_iter();
        let grids = sides.map(|sides| Branches { sides, classes: scores.next().expect("as many as grids") });
        Self { grids }
    }

    pub(super) fn forward(&self, features: [&Tensor; 3], train: bool) -> Levels {
        let mut grids = [(0, 0); 3];
        let (mut sides, mut scores) = (Vec::new(), Vec::new());
        for (level, (branches, x)) in self.grids.iter().zip(features).enumerate() {
            let (_, _, height, width) = x.size4().expect("images, channels, height, width");
            grids[level] = (height, width);
            // `[images, channels, cells]` to `[images, cells, channels]`.
            let rows = |x: Tensor| x.flatten(2, 3).transpose(1, 2);
            sides.push(rows(branches.sides.forward(x, train)));
            scores.push(rows(branches.classes.forward(x, train)));
        }
        Levels { sides: Tensor::cat(&sides, 1), scores: Tensor::cat(&scores, 1), grids }
    }
}

/// What the head says, over the cells ("anchors") of all grids: the finest grid first, each row by row.
#[derive(Debug)]
pub struct Levels {
    /// Logits of the distance to the left, upper, right and lower side, `[images, anchors, 4 x REGRESSION_BINS]`.
    pub sides: Tensor,
    /// Logits of the classes, `[images, anchors, classes]`.
    pub scores: Tensor,
    /// Rows and columns of each grid.
    pub grids: [(i64, i64); 3],
}

impl Levels {
    /// Centres of the cells, `[anchors, 2]`, and pixels of one cell, `[anchors, 1]`; centres are in cells.
    pub fn anchors(&self) -> (Tensor, Tensor) {
        let options = (Kind::Float, self.sides.device());
        let (mut centres, mut strides) = (Vec::new(), Vec::new());
        for ((height, width), stride) in self.grids.into_iter().zip(STRIDES) {
            let line = |cells: i64| Tensor::arange(cells, options) + 0.5;
            let grid = Tensor::meshgrid_indexing(&[line(height), line(width)], "ij");
            centres.push(Tensor::stack(&[&grid[1], &grid[0]], -1).view([-1, 2]));
            strides.push(Tensor::full([height * width, 1], stride, options));
        }
        (Tensor::cat(&centres, 0), Tensor::cat(&strides, 0))
    }

    /// Expected distance to each side in cells, `[images, anchors, 4]`.
    pub fn distances(&self) -> Tensor {
        let (images, anchors, _) = self.sides.size3().expect("images, anchors, logits");
        let bins = Tensor::arange(REGRESSION_BINS, (Kind::Float, self.sides.device()));
        self.sides.view([images, anchors, 4, REGRESSION_BINS]).softmax(3, Kind::Float).matmul(&bins)
    }

    /// Boxes in pixels, `[images, anchors, 4]`.
    pub fn boxes(&self) -> Tensor {
        let (centres, strides) = self.anchors();
        boxes::around(&centres, &self.distances()) * strides
    }
}
