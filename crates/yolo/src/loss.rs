//! What a training step makes small: binary cross-entropy of the classes, complete IoU of the boxes, and distribution focal loss of the
//! distances to their sides (Li et al., 2020), over the cells that the assignment makes responsible for an object.

mod assign;

use tch::{Kind, Reduction, Tensor};

use crate::boxes;
use crate::model::{Levels, REGRESSION_BINS};
pub use assign::{Assigned, Assignment, assign};

/// An object in an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Its class, from 0.
    pub class: i64,
    /// Its box in pixels of the network's input.
    pub corners: [f32; 4],
}

/// The objects of a batch, padded to those of the image that has most.
#[derive(Debug)]
pub struct Objects {
    /// Classes, `[images, objects]`, i64.
    pub classes: Tensor,
    /// Boxes in pixels, `[images, objects, 4]`, f32.
    pub boxes: Tensor,
    /// Which are there, `[images, objects]`, bool.
    pub there: Tensor,
}

impl Objects {
    /// The objects of each image, on `device`. A box without an area is none.
    #[must_use]
    pub fn new(images: &[Vec<Object>], device: tch::Device) -> Self {
        let most = images.iter().map(Vec::len).max().unwrap_or(0);
        let (mut classes, mut corners, mut there) = (Vec::new(), Vec::new(), Vec::new());
        let none = Object { class: 0, corners: [0.0; 4] };
        for objects in images {
            for object in objects.iter().chain(std::iter::repeat_n(&none, most - objects.len())) {
                let [x1, y1, x2, y2] = object.corners;
                classes.push(object.class);
                corners.extend(object.corners);
                there.push(x2 > x1 && y2 > y1);
            }
        }
        let shape = [images.len() as i64, most as i64];
        Self {
            classes: Tensor::from_slice(&classes).view(shape).to_device(device),
            boxes: Tensor::from_slice(&corners).view([shape[0], shape[1], 4]).to_device(device),
            there: Tensor::from_slice(&there).view(shape).to_device(device),
        }
    }
}

/// Weights of the terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gains {
    /// Of the boxes.
    pub boxes: f64,
    /// Of the classes.
    pub classes: f64,
    /// Of the distances' distributions.
    pub distances: f64,
}

impl Default for Gains {
    fn default() -> Self {
        Self { boxes: 7.5, classes: 0.5, distances: 1.5 }
    }
}

/// The terms of a batch as sums: whoever uses them divides by what the scores sum to, over the batch or over a whole step.
#[derive(Debug)]
pub struct Terms {
    /// Σ over responsible cells of (1 - complete IoU) times the cell's target score; a scalar.
    pub boxes: Tensor,
    /// Σ over all cells and classes of the binary cross-entropy; a scalar.
    pub classes: Tensor,
    /// Σ over responsible cells of the distances' loss times the cell's target score; a scalar.
    pub distances: Tensor,
    /// Σ of the target scores, which the terms are divided by; a scalar without gradient.
    pub scores: Tensor,
}

impl Terms {
    /// Boxes, classes and distances, weighted and undivided, `[3]`.
    pub fn each(&self, gains: &Gains) -> Tensor {
        let each = [&self.boxes * gains.boxes, &self.classes * gains.classes, &self.distances * gains.distances];
        Tensor::stack(&each, 0)
    }

    /// What the terms are divided by where only this batch counts, as the official trainer does: at least 1.
    pub fn divisor(&self) -> Tensor {
        self.scores.clamp_min(1.0)
    }
}

/// The terms of what the head said of a batch with these objects.
#[must_use]
pub fn loss(levels: &Levels, objects: &Objects, assignment: &Assignment) -> Terms {
    let scores = levels.scores.to_kind(Kind::Float);
    let (centres, strides) = levels.anchors();
    let predicted = boxes::around(&centres, &levels.distances());
    let assigned = {
        let _guard = tch::no_grad_guard();
        assign(assignment, &scores.sigmoid(), &(&predicted * &strides), &(&centres * &strides), objects)
    };

    let classes = scores.binary_cross_entropy_with_logits::<Tensor>(&assigned.scores, None, None, Reduction::Sum);
    let sum = assigned.scores.sum(Kind::Float);
    // Only the responsible cells, `[cells, ..]`.
    let mask = &assigned.responsible;
    let cells = |x: &Tensor| {
        let last = x.size().pop().expect("a dimension");
        x.masked_select(&mask.unsqueeze(-1)).view([-1, last])
    };
    let weights = cells(&assigned.scores.sum_dim_intlist([-1].as_slice(), true, Kind::Float));
    let targets = &assigned.boxes / &strides;
    let overlap = boxes::complete_iou(&cells(&predicted), &cells(&targets));
    let boxes_ = ((1.0_f64 - overlap) * &weights).sum(Kind::Float);

    let wanted = boxes::distances(&centres, &targets).clamp(0.0, REGRESSION_BINS as f64 - 1.0 - 0.01);
    let distances = distances_loss(&cells(&levels.sides.to_kind(Kind::Float)), &cells(&wanted));
    let distances = (distances * weights).sum(Kind::Float);
    Terms { boxes: boxes_, classes, distances, scores: sum }
}

/// Cross-entropy with the two whole distances around the wanted one, by nearness; mean over the four sides. `[cells, 4 x bins]` and
/// `[cells, 4]` to `[cells, 1]`.
fn distances_loss(logits: &Tensor, wanted: &Tensor) -> Tensor {
    let below = wanted.floor();
    let share_above = wanted - &below;
    let below = below.to_kind(Kind::Int64).view([-1, 1]);
    let log = logits.view([-1, REGRESSION_BINS]).log_softmax(1, Kind::Float);
    let entropy = |bin: &Tensor| -log.gather(1, bin, false).view_as(wanted);
    let both = entropy(&below) * (1.0_f64 - &share_above) + entropy(&(&below + 1)) * &share_above;
    both.mean_dim([-1].as_slice(), true, Kind::Float)
}
