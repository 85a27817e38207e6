//! Boxes as tensors whose last dimension is `x1, y1, x2, y2`.

use tch::Tensor;

/// Boxes around `centres`, `[.., 2]`, at these distances to the left, upper, right and lower side, `[.., 4]`.
pub fn around(centres: &Tensor, distances: &Tensor) -> Tensor {
    let halves = distances.chunk(2, -1);
    Tensor::cat(&[centres - &halves[0], centres + &halves[1]], -1)
}

/// Distances of the sides of `boxes`, `[.., 4]`, from `centres`, `[.., 2]`; the inverse of [`around`].
pub fn distances(centres: &Tensor, boxes: &Tensor) -> Tensor {
    let corners = boxes.chunk(2, -1);
    Tensor::cat(&[centres - &corners[0], &corners[1] - centres], -1)
}

/// `x, y, width, height` around a centre to corners.
pub fn corners(boxes: &Tensor) -> Tensor {
    let parts = boxes.chunk(2, -1);
    let half = &parts[1] / 2.0;
    Tensor::cat(&[&parts[0] - &half, &parts[0] + half], -1)
}

/// Width and height, `[.., 1]` each.
fn size(parts: &[Tensor]) -> (Tensor, Tensor) {
    (&parts[2] - &parts[0], &parts[3] - &parts[1])
}

/// What the areas of both share, `[.., 1]`.
fn intersection(a: &[Tensor], b: &[Tensor]) -> Tensor {
    let side = |low: usize, high: usize| (a[high].minimum(&b[high]) - a[low].maximum(&b[low])).clamp_min(0.0);
    side(0, 2) * side(1, 3)
}

/// Small enough to change nothing, large enough to divide by.
const TINY: f64 = 1e-7;

/// Intersection over union of boxes that broadcast against each other, `[.., 1]`.
pub fn iou(a: &Tensor, b: &Tensor) -> Tensor {
    let (a, b) = (a.chunk(4, -1), b.chunk(4, -1));
    let shared = intersection(&a, &b);
    let ((aw, ah), (bw, bh)) = (size(&a), size(&b));
    let all = aw * ah + bw * bh - &shared;
    shared / (all + TINY)
}

/// Complete intersection over union (Zheng et al., 2020), `[.., 1]`: the overlap, less the distance of the centres over the diagonal of the
/// box around both, less a term for sides of another proportion, whose weight is held constant for the gradient.
pub fn complete_iou(a: &Tensor, b: &Tensor) -> Tensor {
    let (a, b) = (a.chunk(4, -1), b.chunk(4, -1));
    let ((aw, ah), (bw, bh)) = (size(&a), size(&b));
    let (ah, bh) = (ah + TINY, bh + TINY);
    let shared = intersection(&a, &b);
    let all = &aw * &ah + &bw * &bh - &shared + TINY;
    let overlap = shared / all;
    let around = |low: usize, high: usize| a[high].maximum(&b[high]) - a[low].minimum(&b[low]);
    let diagonal = around(0, 2).square() + around(1, 3).square() + TINY;
    let apart = |low: usize, high: usize| (&b[low] + &b[high] - &a[low] - &a[high]).square();
    let distance = (apart(0, 2) + apart(1, 3)) / 4.0;
    let proportion = ((bw / bh).atan() - (aw / ah).atan()).square() * (4.0 / std::f64::consts::PI.powi(2));
    let weight = {
        let _guard = tch::no_grad_guard();
        &proportion / (&proportion - &overlap + (1.0 + TINY))
    };
    overlap - (distance / diagonal + proportion * weight)
}
