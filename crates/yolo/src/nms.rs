//! From what the head says of an image to a list of detections: the sure ones, without those that lie on a surer one of the same class.

/// Something that was found in an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Corners in pixels.
    pub corners: [f32; 4],
    /// How sure the network is, 0 to 1.
    pub confidence: f32,
    /// Class, from 0.
    pub class: usize,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Least confidence.
    pub confidence: f32,
    /// Overlap (intersection over union) above which the less sure one of two detections goes.
    pub overlap: f32,
    /// Most candidates, and most detections, of an image.
    pub candidates: usize,
    /// Most detections of an image.
    pub detections: usize,
}

impl Default for Limits {
    /// Those of a validation.
    fn default() -> Self {
        Self { confidence: 0.001, overlap: 0.7, candidates: 30_000, detections: 300 }
    }
}

/// The detections of one image, surest first. `boxes` holds four corners an anchor, `scores` a probability for each of `classes` an anchor;
/// an anchor may be detected as several classes.
#[must_use]
pub fn detections(boxes: &[f32], scores: &[f32], classes: usize, limits: &Limits) -> Vec<Detection> {
    let mut found: Vec<Detection> = Vec::new();
    for (corners, scores) in boxes.chunks_exact(4).zip(scores.chunks_exact(classes)) {
        let corners = [corners[0], corners[1], corners[2], corners[3]];
        let sure = scores.iter().enumerate().filter(|(_, score)| **score > limits.confidence);
        found.extend(sure.map(|(class, confidence)| Detection { corners, confidence: *confidence, class }));
    }
    // Stable, so that equal ones stay in the anchors' order. `total_cmp` also has a place for what is not a number.
    found.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    found.truncate(limits.candidates);
    let mut kept: Vec<Detection> = Vec::new();
    for detection in found {
        if kept.len() == limits.detections {
            break;
        }
        let mut rivals = kept.iter().filter(|rival| rival.class == detection.class);
        if !rivals.any(|rival| iou(&rival.corners, &detection.corners) > limits.overlap) {
            kept.push(detection);
        }
    }
    kept
}

/// Intersection over union of two boxes.
#[must_use]
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let side = |low: usize, high: usize| (a[high].min(b[high]) - a[low].max(b[low])).max(0.0);
    let area = |of: &[f32; 4]| (of[2] - of[0]) * (of[3] - of[1]);
    let shared = side(0, 2) * side(1, 3);
    let all = area(a) + area(b) - shared;
    if all > 0.0 { shared / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surer_of_two_of_a_class_stays() {
        let boxes = [0.0, 0.0, 10.0, 10.0, 1.0, 0.0, 11.0, 10.0, 20.0, 0.0, 30.0, 10.0];
        let scores = [0.8, 0.0, 0.9, 0.2, 0.5, 0.0005];
        let found = detections(&boxes, &scores, 2, &Limits::default());
        let short: Vec<(f32, f32, usize)> = found.iter().map(|it| (it.corners[0], it.confidence, it.class)).collect();
        assert_eq!(short, [(1.0, 0.9, 0), (20.0, 0.5, 0), (1.0, 0.2, 1)]);
    }

    #[test]
    fn no_more_are_kept_than_asked_for() {
        let boxes: Vec<f32> = (0..10).flat_map(|at| [at as f32 * 20.0, 0.0, at as f32 * 20.0 + 10.0, 10.0]).collect();
        let limits = Limits { detections: 3, ..Limits::default() };
        assert_eq!(detections(&boxes, &[0.5; 10], 1, &limits).len(), 3);
    }
}
