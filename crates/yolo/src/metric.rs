//! How good detections are: average precision over recalls and overlaps, as people quote it (mAP50, mAP50-95).

use serde::{Deserialize, Serialize};

use crate::loss::Object;
use crate::nms::{Detection, iou};

/// Overlaps from which on a detection counts as right: 0.5, 0.55, ... 0.95.
pub const OVERLAPS: usize = 10;

fn threshold(level: usize) -> f32 {
    0.5 + 0.05 * level as f32
}

/// What was found in images, against what is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Confidence, class, and whether it is right at each overlap, of every detection.
    found: Vec<(f32, usize, [bool; OVERLAPS])>,
    /// Objects of each class.
    there: Vec<u64>,
    /// What was taken for what.
    matrix: Matrix,
}

/// What was taken for what, counted: detections that are surer than 0.25 against objects that they overlap by more than 0.45.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Classes, without the background that comes after them.
    pub classes: usize,
    counts: Vec<u64>,
}

/// Confidence above which a detection counts for the matrix, and overlap above which it is one of an object.
const MATRIX_CONFIDENCE: f32 = 0.25;
const MATRIX_OVERLAP: f32 = 0.45;

impl Matrix {
    /// Nothing, for so many classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; (classes + 1) * (classes + 1)] }
    }

    /// How often an object of class `there` was said to be of class `said`; `classes` is the background: nothing there, or nothing said.
    #[must_use]
    pub fn at(&self, said: usize, there: usize) -> u64 {
        self.counts[said * (self.classes + 1) + there]
    }

    /// Counts one.
    pub fn add(&mut self, said: usize, there: usize) {
        self.counts[said * (self.classes + 1) + there] += 1;
    }

    /// Counts an image: pairs of a detection and an object, the best fits first, each used once, whatever their classes.
    fn add_image(&mut self, detections: &[Detection], objects: &[Object]) {
        let sure: Vec<&Detection> = detections.iter().filter(|it| it.confidence > MATRIX_CONFIDENCE).collect();
        let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
        for (d, detection) in sure.iter().enumerate() {
            let fits = objects.iter().enumerate().map(|(o, object)| (iou(&detection.corners, &object.corners), d, o));
            pairs.extend(fits.filter(|(overlap, ..)| *overlap > MATRIX_OVERLAP));
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut found, mut met) = (vec![false; sure.len()], vec![false; objects.len()]);
        let class =
            |object: &Object| usize::try_from(object.class).map_or(self.classes, |class| class.min(self.classes));
        let there: Vec<usize> = objects.iter().map(class).collect();
        for (_, d, o) in pairs {
            if !found[d] && !met[o] {
                (found[d], met[o]) = (true, true);
                self.add(sure[d].class, there[o]);
            }
        }
        let background = self.classes;
        sure.iter().zip(found).filter(|(_, found)| !found).for_each(|(it, _)| self.add(it.class, background));
        there.iter().zip(met).filter(|(_, met)| !met).for_each(|(class, _)| self.add(background, *class));
    }
}

/// The figures of one class, or their means over the classes that occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Share of detections that are right, at the confidence with the best mean F1.
    pub precision: f64,
    /// Share of objects that are found, there.
    pub recall: f64,
    /// Average precision at an overlap of one half.
    pub ap50: f64,
    /// Average precision over all overlaps.
    pub ap50_95: f64,
}

/// The outcome of a validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Means over the classes that have objects.
    pub mean: Figures,
    /// By class; absent where it has no object.
    pub classes: Vec<Option<Figures>>,
}

impl Tally {
    /// A tally for this many classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self { found: Vec::new(), there: vec![0; classes], matrix: Matrix::new(classes) }
    }

    /// Adds an image. Objects of classes that the tally does not have are left out.
    pub fn add(&mut self, detections: &[Detection], objects: &[Object]) {
        self.matrix.add_image(detections, objects);
        for object in objects {
            if let Some(count) = usize::try_from(object.class).ok().and_then(|class| self.there.get_mut(class)) {
                *count += 1;
            }
        }
        let mut right = vec![[false; OVERLAPS]; detections.len()];
        // Surest first: each takes, at every overlap, the object of its class that it fits best and that none before it has taken.
        let mut order: Vec<usize> = (0..detections.len()).collect();
        order.sort_by(|a, b| detections[*b].confidence.total_cmp(&detections[*a].confidence));
        let mut taken = vec![[false; OVERLAPS]; objects.len()];
        for d in order {
            let detection = &detections[d];
            let fits: Vec<(usize, f32)> = objects
                .iter()
                .enumerate()
                .filter(|(_, object)| object.class == detection.class as i64)
                .map(|(o, object)| (o, iou(&detection.corners, &object.corners)))
                .filter(|(_, overlap)| *overlap >= threshold(0))
                .collect();
            for level in 0..OVERLAPS {
                let free = fits.iter().filter(|(o, _)| !taken[*o][level]);
                // The first of equal ones.
                let best =
                    free.fold(None, |best: Option<(usize, f32)>, it| best.filter(|best| best.1 >= it.1).or(Some(*it)));
                if let Some((o, overlap)) = best {
                    if overlap >= threshold(level) {
                        taken[o][level] = true;
                        right[d][level] = true;
                    }
                }
            }
        }
        self.found.extend(detections.iter().zip(right).map(|(it, right)| (it.confidence, it.class, right)));
    }

    /// The tally as bytes, for another rank.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.there.len() as u64).to_le_bytes().to_vec();
        self.there.iter().chain(&self.matrix.counts).for_each(|count| bytes.extend(count.to_le_bytes()));
        for (confidence, class, right) in &self.found {
            let mask = right.iter().enumerate().fold(0_u16, |mask, (level, right)| mask | (u16::from(*right) << level));
            bytes.extend(confidence.to_le_bytes());
            bytes.extend((*class as u32).to_le_bytes());
            bytes.extend(mask.to_le_bytes());
        }
        bytes
    }

    /// The tally that [`Self::to_bytes`] made bytes of.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let four = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).expect("four bytes");
        let (length, rest) = bytes.split_at(8);
        let classes = word(length) as usize;
        let (there, rest) = rest.split_at(8 * classes);
        let (counts, found) = rest.split_at(8 * (classes + 1) * (classes + 1));
        let words = |bytes: &[u8]| bytes.chunks_exact(8).map(word).collect();
        let one = |bytes: &[u8]| {
            let mask = u16::from_le_bytes([bytes[8], bytes[9]]);
            let right = std::array::from_fn(|level| (mask >> level) & 1 == 1);
            (f32::from_le_bytes(four(&bytes[..4])), u32::from_le_bytes(four(&bytes[4..8])) as usize, right)
        };
        let matrix = Matrix { classes, counts: words(counts) };
        Self { found: found.chunks_exact(10).map(one).collect(), there: words(there), matrix }
    }

    /// Adds what another tally holds, as of another rank.
    pub fn join(&mut self, other: Self) {
        self.found.extend(other.found);
        for (mine, theirs) in self.there.iter_mut().zip(other.there) {
            *mine += theirs;
        }
        for (mine, theirs) in self.matrix.counts.iter_mut().zip(other.matrix.counts) {
            *mine += theirs;
        }
    }

    /// Objects of a class that were there.
    #[must_use]
    pub fn objects(&self, class: usize) -> u64 {
        self.there.get(class).copied().unwrap_or(0)
    }

    /// What was taken for what.
    #[must_use]
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Precision at [`RECALLS`] recalls from 0 to 1, at an overlap of one half, by class; absent where it has no object.
    #[must_use]
    pub fn precision_recall(&self) -> Vec<Option<Vec<f64>>> {
        self.curves().into_iter().map(|curves| curves.map(|curves| curves.by_recall)).collect()
    }

    fn curves(&self) -> Vec<Option<Curves>> {
        let mut found = self.found.clone();
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.there
            .iter()
            .enumerate()
            .map(|(class, objects)| {
                let of_class = found.iter().filter(|(_, it, _)| *it == class);
                (*objects > 0).then(|| Curves::new(&of_class.collect::<Vec<_>>(), *objects))
            })
            .collect()
    }

    /// The figures of everything that was added.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let curves = self.curves();
        let present: Vec<&Curves> = curves.iter().flatten().collect();
        let best = best_confidence(&present);
        let figures = |curves: &Curves| Figures {
            precision: curves.precision[best],
            recall: curves.recall[best],
            ap50: curves.average[0],
            ap50_95: curves.average.iter().sum::<f64>() / OVERLAPS as f64,
        };
        let mean = |of: fn(&Figures) -> f64| {
            let sum: f64 = present.iter().map(|curves| of(&figures(curves))).sum();
            if present.is_empty() { 0.0 } else { sum / present.len() as f64 }
        };
        Outcome {
            mean: Figures {
                precision: mean(|it| it.precision),
                recall: mean(|it| it.recall),
                ap50: mean(|it| it.ap50),
                ap50_95: mean(|it| it.ap50_95),
            },
            classes: curves.iter().map(|curves| curves.as_ref().map(figures)).collect(),
        }
    }
}

/// Points at which precision and recall are looked at, over confidences from 0 to 1.
const CONFIDENCES: usize = 1000;

/// The curves of one class at an overlap of one half, and its average precision at every overlap.
struct Curves {
    precision: Vec<f64>,
    recall: Vec<f64>,
    average: [f64; OVERLAPS],
    /// Precision by recall, at an overlap of one half.
    by_recall: Vec<f64>,
}

impl Curves {
    /// Of detections by falling confidence.
    fn new(found: &[&(f32, usize, [bool; OVERLAPS])], objects: u64) -> Self {
        if found.is_empty() {
            return Self {
                precision: vec![0.0; CONFIDENCES],
                recall: vec![0.0; CONFIDENCES],
                average: [0.0; OVERLAPS],
                by_recall: vec![0.0; RECALLS],
            };
        }
        let running = |level: usize| -> (Vec<f64>, Vec<f64>) {
            let mut right = 0_u64;
            let points = found.iter().enumerate().map(|(before, it)| {
                right += u64::from(it.2[level]);
                (right as f64 / objects as f64, right as f64 / (before + 1) as f64)
            });
            points.unzip()
        };
        let (recall, precision) = running(0);
        // By rising negated confidence, as an interpolation wants it. Surer than the surest: nothing found, all of it right.
        let surer: Vec<f64> = found.iter().map(|it| -f64::from(it.0)).collect();
        let at = |values: &[f64], left: f64| -> Vec<f64> {
            let point = |i: usize| -(i as f64 / (CONFIDENCES - 1) as f64);
            (0..CONFIDENCES).map(|i| interpolate(point(i), &surer, values, left)).collect()
        };
        let average = std::array::from_fn(|level| {
            let (recall, precision) = running(level);
            mean_precision(&by_recall(&recall, &precision))
        });
        let by_recall = by_recall(&recall, &precision);
        Self { recall: at(&recall, 0.0), precision: at(&precision, 1.0), average, by_recall }
    }
}

/// Recalls at which precision is looked at, from 0 to 1.
pub const RECALLS: usize = 101;

/// Precision at each of [`RECALLS`] recalls, raised to the best at no smaller recall.
fn by_recall(recall: &[f64], precision: &[f64]) -> Vec<f64> {
    let mut recalls = vec![0.0];
    recalls.extend(recall);
    // Nothing is right beyond the last recall that was reached.
    recalls.extend([recall.last().copied().unwrap_or(1.0), 1.0]);
    let mut precisions = vec![1.0];
    precisions.extend(precision);
    precisions.extend([0.0, 0.0]);
    for i in (0..precisions.len() - 1).rev() {
        precisions[i] = precisions[i].max(precisions[i + 1]);
    }
    (0..RECALLS).map(|i| interpolate(i as f64 / (RECALLS - 1) as f64, &recalls, &precisions, 1.0)).collect()
}

/// The area under precision by recall.
fn mean_precision(by_recall: &[f64]) -> f64 {
    by_recall.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0 / (RECALLS - 1) as f64).sum()
}

/// The value at `x` on the line through points with rising `xs`; `left` before the first, the last value after the last.
fn interpolate(x: f64, xs: &[f64], values: &[f64], left: f64) -> f64 {
    let after = xs.partition_point(|point| *point <= x);
    if after == 0 {
        return left;
    }
    if after == xs.len() {
        return values[after - 1];
    }
    let (low, high) = (after - 1, after);
    values[low] + (values[high] - values[low]) * (x - xs[low]) / (xs[high] - xs[low])
}

/// Where the mean F1 over the classes is highest, once smoothed over a tenth of the range.
fn best_confidence(curves: &[&Curves]) -> usize {
    const TINY: f64 = 1e-16;
    let mean = |i: usize| -> f64 {
        let each =
            curves.iter().map(|it| 2.0 * it.precision[i] * it.recall[i] / (it.precision[i] + it.recall[i] + TINY));
        each.sum::<f64>() / curves.len().max(1) as f64
    };
    let values: Vec<f64> = (0..CONFIDENCES).map(mean).collect();
    let half = (CONFIDENCES as f64 * 0.1 * 2.0).round() as usize / 2 / 2;
    let smooth = |i: usize| -> f64 {
        let window = (0..=2 * half).map(|offset| values[(i + offset).saturating_sub(half).min(CONFIDENCES - 1)]);
        window.sum::<f64>() / (2 * half + 1) as f64
    };
    let mut best = (0, f64::MIN);
    for i in 0..CONFIDENCES {
        let value = smooth(i);
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(class: i64, x: f32) -> Object {
        Object { class, corners: [x, 0.0, x + 10.0, 10.0] }
    }

    fn detection(class: usize, x: f32, confidence: f32) -> Detection {
        Detection { corners: [x, 0.0, x + 10.0, 10.0], confidence, class }
    }

    #[test]
    fn what_is_all_right_scores_all() {
        let mut tally = Tally::new(2);
        tally.add(&[detection(0, 0.0, 0.9), detection(1, 20.0, 0.8)], &[object(0, 0.0), object(1, 20.0)]);
        let mean = tally.outcome().mean;
        assert!((mean.ap50_95 - 0.995).abs() < 1e-9 && (mean.ap50 - 0.995).abs() < 1e-9, "{mean:?}");
        assert!(mean.precision > 0.999 && mean.recall > 0.999, "{mean:?}");
    }

    #[test]
    fn an_object_is_found_once_and_a_class_without_objects_is_left_out() {
        let mut tally = Tally::new(3);
        tally.add(&[detection(0, 0.0, 0.9), detection(0, 0.0, 0.8), detection(2, 0.0, 0.7)], &[object(0, 0.0)]);
        let outcome = tally.outcome();
        assert_eq!((outcome.classes[1], outcome.classes[2]), (None, None));
        assert!((outcome.mean.ap50 - 0.995).abs() < 1e-9, "the second on it comes after full recall: {outcome:?}");
    }

    #[test]
    fn a_detection_that_fits_badly_counts_at_small_overlaps_alone() {
        let mut tally = Tally::new(1);
        // 7.5 of 12.5: an overlap of 0.6.
        tally.add(&[detection(0, 2.5, 0.9)], &[object(0, 0.0)]);
        let mean = tally.outcome().mean;
        assert!((mean.ap50 - 0.995).abs() < 1e-9, "{mean:?}");
        assert!((mean.ap50_95 - 0.995 * 0.3).abs() < 1e-9, "0.5, 0.55 and 0.6: {mean:?}");
    }

    #[test]
    fn the_matrix_counts_what_was_taken_for_what() {
        let mut tally = Tally::new(2);
        let found = [detection(1, 0.0, 0.9), detection(0, 50.0, 0.8), detection(0, 0.0, 0.1)];
        tally.add(&found, &[object(0, 0.0), object(1, 100.0)]);
        let matrix = tally.matrix();
        let counts: Vec<u64> = (0..3).flat_map(|said| (0..3).map(move |there| matrix.at(said, there))).collect();
        // One of class 0 was taken for 1, one of class 0 was seen where nothing is, one of class 1 was not seen.
        assert_eq!(counts, [0, 0, 1, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn parts_of_a_validation_join_to_the_whole() {
        let images = [
            (vec![detection(0, 0.0, 0.9)], vec![object(0, 0.0), object(0, 30.0)]),
            (vec![detection(0, 5.0, 0.4), detection(0, 30.0, 0.3)], vec![object(0, 30.0)]),
        ];
        let (mut whole, mut first, mut second) = (Tally::new(1), Tally::new(1), Tally::new(1));
        for (detections, objects) in &images {
            whole.add(detections, objects);
        }
        second.add(&images[1].0, &images[1].1);
        first.add(&images[0].0, &images[0].1);
        assert_eq!(Tally::from_bytes(&second.to_bytes()), second);
        first.join(second);
        assert_eq!(first.outcome(), whole.outcome());
        assert_eq!(Tally::new(1).outcome().mean, Figures::default());
    }
}
