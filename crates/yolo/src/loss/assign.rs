//! Which cells are responsible for which object: task-aligned assignment (Feng et al., 2021). A cell serves an object the better, the surer it
//! is of its class and the better its box fits; the best few inside the object's box are taken.

use tch::{Kind, Tensor};

use super::Objects;
use crate::boxes;

/// The assignment's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment {
    /// Most cells of an object.
    pub cells: i64,
    /// Power of the class's score.
    pub score_power: f64,
    /// Power of the overlap.
    pub overlap_power: f64,
    /// Pixels that a side of an object counts as at least, when cells inside are looked for: two of the finest grid's cells.
    pub least_side: f64,
}

impl Default for Assignment {
    fn default() -> Self {
        Self { cells: 10, score_power: 0.5, overlap_power: 6.0, least_side: 16.0 }
    }
}

/// What each cell is to say.
#[derive(Debug)]
pub struct Assigned {
    /// Whether a cell is responsible for an object, `[images, anchors]`, bool.
    pub responsible: Tensor,
    /// The object's box in pixels, `[images, anchors, 4]`; that of some object where the cell has none.
    pub boxes: Tensor,
    /// Target of every class, `[images, anchors, classes]`.
    pub scores: Tensor,
}

/// Assigns objects to cells, given each cell's class probabilities, `[images, anchors, classes]`, its box in pixels, `[images, anchors, 4]`,
/// and its centre in pixels, `[anchors, 2]`.
#[must_use]
pub fn assign(
    constants: &Assignment,
    scores: &Tensor,
    predicted: &Tensor,
    centres: &Tensor,
    objects: &Objects,
) -> Assigned {
    const TINY: f64 = 1e-9;
    let (images, anchors, classes) = scores.size3().expect("images, anchors, classes");
    let count = objects.classes.size()[1];
    if count == 0 {
        return Assigned {
            responsible: Tensor::zeros([images, anchors], (Kind::Bool, scores.device())),
            boxes: predicted.zeros_like(),
            scores: scores.zeros_like(),
        };
    }
    // From here on `[images, objects, anchors]`.
    let inside = inside(&objects.boxes, centres, constants.least_side, TINY).logical_and(&objects.there.unsqueeze(-1));
    let of_class = objects.classes.unsqueeze(-1).expand([images, count, anchors], false);
    let score = scores.transpose(1, 2).gather(1, &of_class, false);
    let overlap = boxes::complete_iou(&objects.boxes.unsqueeze(2), &predicted.unsqueeze(1)).squeeze_dim(-1);
    let overlap = overlap.clamp_min(0.0) * &inside;
    let alignment = score.pow_tensor_scalar(constants.score_power) * overlap.pow_tensor_scalar(constants.overlap_power);
    let alignment = alignment * &inside;

    let (_, best) = alignment.topk(constants.cells.min(anchors), -1, true, true);
    let taken = alignment.zeros_like().scatter_value(-1, &best, 1.0).to_kind(Kind::Bool).logical_and(&inside);
    // A cell that several objects want serves the one it overlaps most.
    let contested = taken.sum_dim_intlist([1].as_slice(), true, Kind::Int64).gt(1);
    let closest = overlap.zeros_like().scatter_value(1, &overlap.argmax(1, true), 1.0).to_kind(Kind::Bool);
    let taken = closest.where_self(&contested, &taken);

    let responsible = taken.any_dim(1, false);
    let object = taken.to_kind(Kind::Int64).argmax(1, false);
    let boxes = objects.boxes.gather(1, &object.unsqueeze(-1).expand([images, anchors, 4], false), false);
    let class = objects.classes.gather(1, &object, false);
    // An object's best cell is to score as high as that object's best overlap; the others in proportion to their alignment.
    let alignment = alignment * &taken;
    let most = |x: &Tensor| x.amax([-1].as_slice(), true);
    let target = &alignment * most(&(overlap * &taken)) / (most(&alignment) + TINY);
    let target = target.amax([1].as_slice(), false) * &responsible;
    let scores = Tensor::zeros([images, anchors, classes], (Kind::Float, scores.device()));
    let scores = scores.scatter(-1, &class.unsqueeze(-1), &target.unsqueeze(-1));
    Assigned { responsible, boxes, scores }
}

/// Which centres, `[anchors, 2]`, are inside which boxes, `[images, objects, 4]`: `[images, objects, anchors]`.
fn inside(objects: &Tensor, centres: &Tensor, least_side: f64, least: f64) -> Tensor {
    let parts = objects.chunk(2, -1);
    let (middle, half) = ((&parts[0] + &parts[1]) / 2.0, (&parts[1] - &parts[0]).clamp_min(least_side) / 2.0);
    let (low, high) = ((&middle - &half).unsqueeze(2), (middle + half).unsqueeze(2));
    Tensor::cat(&[centres - low, high - centres], -1).amin([-1].as_slice(), false).gt(least)
}
