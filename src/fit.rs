//! From trial steps to what is known of a job's time and memory. Pure, but for `store.rs`, which keeps it in files.
//!
//! The memory model is `M(m) = F + m * s² * (a + d * N)`, with s the side of the image and N the most labels in one. Small micro-batches say
//! little of it: there, weights and the optimizer's temporaries need more than activations, and a line through them predicts too little for
//! large ones. So the sizes that were tried double, and only the largest of them count.

pub mod render;
pub mod store;

use std::collections::BTreeMap;

use evenkeel_wire::Event as Told;

use crate::inventory::Kind;
use crate::plan::{Known, MemoryModel, TimeModel};

/// Of the sizes that were tried, those count that are at least this part of the largest.
const COUNTS: u32 = 4;
/// Two sizes tell a slope if the larger is the smaller one so many times at least.
const APART: f64 = 1.2;

/// What the ranks told of a trial, by rank.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    ranks: BTreeMap<u32, Observed>,
}

/// What devices of one kind were seen to need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Context, weights, gradients and optimizer, and the most until then, in bytes.
    fixed: Option<[u64; 4]>,
    tried: Vec<Tried>,
}

/// A batch that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// Whether it was one of a validation.
    pub validation: bool,
    /// Images.
    pub images: u32,
    /// The most labels in one.
    pub labels: u32,
    /// Side of an image in pixels.
    pub imgsz: u32,
    /// The most memory meanwhile; absent: it ran out.
    pub peak_bytes: Option<u64>,
    /// Seconds of its computation.
    pub seconds: f64,
    /// Seconds of the rest of a step.
    pub reduce_seconds: f64,
    /// Whether nothing was tried before it in its process. What others left behind counts elsewhere: a trainer in Python is some percent off then.
    pub fresh: bool,
}

impl Heard {
    /// Takes note of what a rank told; whatever has nothing to do with a trial is passed over.
    pub fn hear(&mut self, rank: u32, told: &Told) {
        match told {
            Told::Fixed { context_bytes, weights_bytes, gradients_and_optimizer_bytes, start_bytes } => {
                let fixed = [*context_bytes, *weights_bytes, *gradients_and_optimizer_bytes, *start_bytes];
                self.ranks.entry(rank).or_default().fixed = Some(fixed);
            }
            Told::Tried { validation, images, labels, imgsz, peak_bytes, seconds, reduce_seconds } => {
                let tried = Tried {
                    validation: *validation,
                    images: *images,
                    labels: *labels,
                    imgsz: *imgsz,
                    peak_bytes: *peak_bytes,
                    seconds: *seconds,
                    reduce_seconds: *reduce_seconds,
                    fresh: false,
                };
                self.ranks.entry(rank).or_default().tried.push(tried);
            }
            _ => {}
        }
    }

    /// Whether anything was tried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranks.values().all(|observed| observed.tried.is_empty())
    }

    /// What was tried on a rank.
    #[must_use]
    pub fn of(&self, rank: u32) -> &[Tried] {
        self.ranks.get(&rank).map_or(&[], |observed| &observed.tried)
    }

    /// The images of the smallest micro-batch that a rank had no memory for.
    #[must_use]
    pub fn ran_out(&self, rank: u32) -> Option<u32> {
        let failed = self.of(rank).iter().filter(|tried| tried.peak_bytes.is_none());
        // A batch of a validation is that of a micro-batch of half its size.
        failed.map(|tried| if tried.validation { tried.images.div_ceil(2) } else { tried.images }).min()
    }

    /// The most memory that a rank needed, in bytes; nothing where it told none.
    #[must_use]
    pub fn peak(&self, rank: u32) -> Option<u64> {
        self.of(rank).iter().filter_map(|tried| tried.peak_bytes).max()
    }

    /// Whether a micro-batch of any size fitted on a rank.
    #[must_use]
    pub fn fits(&self, rank: u32) -> bool {
        self.of(rank).iter().any(|tried| !tried.validation && tried.peak_bytes.is_some())
    }

    /// Whether one of one rank at least did.
    #[must_use]
    pub fn any_fits(&self) -> bool {
        self.ranks.keys().any(|rank| self.fits(*rank))
    }

    /// Images of the largest micro-batch that ranks of each kind tried, `kinds` being those of the ranks.
    #[must_use]
    pub fn largest(&self, kinds: &[Kind]) -> BTreeMap<Kind, u32> {
        let mut largest = BTreeMap::new();
        for (rank, kind) in (0..).zip(kinds) {
            let tried = self.of(rank).iter().filter(|tried| !tried.validation && tried.peak_bytes.is_some());
            let images = tried.map(|tried| tried.images).max().unwrap_or(0);
            let known = largest.entry(kind.clone()).or_insert(0);
            *known = images.max(*known);
        }
        largest
    }

    /// Takes off a rank's context what was taken of its device before it was there, in bytes.
    pub fn forget_taken(&mut self, rank: u32, taken: u64) {
        if let Some([context, ..]) = self.ranks.get_mut(&rank).and_then(|observed| observed.fixed.as_mut()) {
            *context = context.saturating_sub(taken);
        }
    }

    /// Takes in what a further launch told, in which every rank tried one size.
    pub fn join(&mut self, other: Self) {
        for (rank, observed) in other.ranks {
            let own = self.ranks.entry(rank).or_default();
            own.fixed = observed.fixed.or(own.fixed);
            own.tried.extend(observed.tried.into_iter().map(|tried| Tried { fresh: true, ..tried }));
        }
    }

    /// Takes a micro-batch for which a rank had no memory for one that needs all of its `budget`, in bytes: it needs more.
    pub fn bound(&mut self, rank: u32, images: u32, budget: u64) {
        let Some(last) = self.of(rank).iter().rfind(|tried| !tried.validation && tried.peak_bytes.is_some()).copied()
        else {
            return;
        };
        // How long it would have taken is not known.
        let tried =
            Tried { images, labels: self.labels(), peak_bytes: Some(budget), seconds: 0.0, fresh: true, ..last };
        self.ranks.entry(rank).or_default().tried.push(tried);
    }

    /// The most labels in an image of the training.
    #[must_use]
    pub fn labels(&self) -> u32 {
        let all = self.ranks.values().flat_map(|observed| &observed.tried);
        all.filter(|tried| !tried.validation).map(|tried| tried.labels).max().unwrap_or(0)
    }

    /// Seconds that a step takes beside its micro-batches: on the rank that waited for no other.
    #[must_use]
    pub fn all_reduce_seconds(&self) -> f64 {
        let all = self.ranks.values().flat_map(|observed| &observed.tried);
        let seconds = all.filter(|tried| !tried.validation && tried.peak_bytes.is_some());
        let least = seconds.map(|tried| tried.reduce_seconds).fold(f64::INFINITY, f64::min);
        if least.is_finite() { least.max(0.0) } else { 0.0 }
    }

    /// What is known of each kind, `kinds` being those of the ranks.
    #[must_use]
    pub fn kinds(&self, kinds: &[Kind]) -> BTreeMap<Kind, Known> {
        let mut by_kind: BTreeMap<&Kind, Observed> = BTreeMap::new();
        for (kind, observed) in (0..).zip(kinds).filter_map(|(rank, kind)| Some((kind, self.ranks.get(&rank)?))) {
            let all = by_kind.entry(kind).or_default();
            all.fixed = all.fixed.max(observed.fixed);
            all.tried.extend(&observed.tried);
        }
        by_kind.into_iter().map(|(kind, observed)| (kind.clone(), observed.known())).collect()
    }
}

impl Observed {
    fn known(&self) -> Known {
        Known { time: self.time(), memory: self.memory() }
    }

    /// Images and the most memory of every size that `which` holds for. Small ones are left out.
    fn sizes(&self, which: impl Fn(&Tried) -> bool) -> Vec<(f64, f64)> {
        let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
        for tried in self.tried.iter().filter(|tried| which(tried)) {
            let Some(peak) = tried.peak_bytes else { continue };
            let known = sizes.entry(tried.images).or_default();
            *known = peak.max(*known);
        }
        let largest = sizes.keys().next_back().copied().unwrap_or(0);
        let counting = sizes.into_iter().filter(|(images, _)| images.saturating_mul(COUNTS) >= largest);
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
        counting.map(|(images, peak)| (f64::from(images), peak as f64)).collect()
    }

    fn labels(&self) -> u32 {
        self.tried.iter().filter(|tried| !tried.validation).map(|tried| tried.labels).max().unwrap_or(0)
    }

    /// Of all sizes, small ones too: a plan may have them, and what a pass costs whatever is in it is seen in them alone. Each counts by how far the
    /// line is off as a share of it.
    fn time(&self) -> Option<TimeModel> {
        let labels = self.labels();
        let of_size = |tried: &&Tried| !tried.validation && tried.labels == labels && tried.seconds > 0.0;
        let mut sizes: BTreeMap<u32, f64> = BTreeMap::new();
        for tried in self.tried.iter().filter(of_size) {
            // Whatever disturbs a measurement makes it longer.
            let known = sizes.entry(tried.images).or_insert(tried.seconds);
            *known = known.min(tried.seconds);
        }
        let points: Vec<(f64, f64)> = sizes.into_iter().map(|(images, seconds)| (f64::from(images), seconds)).collect();
        let (overhead, each) = line(&points, |seconds| 1.0 / (seconds * seconds))?;
        // Noise may have a larger micro-batch take less time than a smaller one.
        let (overhead_seconds, seconds_per_image) = match (overhead < 0.0, each <= 0.0) {
            (false, false) => (overhead, each),
            _ => points.last().map(|(images, seconds)| (0.0, seconds / images))?,
        };
        Some(TimeModel { overhead_seconds, seconds_per_image })
    }

    fn memory(&self) -> Option<MemoryModel> {
        // What the device needs beside tensors is in none of the peaks.
        let [context, weights, state, start] = self.fixed?;
        let side = self.tried.first()?.imgsz;
        let pixels = f64::from(side) * f64::from(side);
        let labels = self.labels();
        let training = self.tried.iter().filter(|tried| !tried.validation);
        let smallest = training.filter_map(|tried| Some((tried.images, tried.peak_bytes?))).min();
        let points = self.sizes(|tried| !tried.fresh && !tried.validation && tried.labels == labels);
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
        let known = (weights + state) as f64;
        let (fixed, each) = match points.as_slice() {
            [] => return None,
            // Of one size alone it can only be told what was there before it.
            [(images, peak)] => (known.min(*peak), (peak - known).max(0.0) / images),
            points => line(points, alike)?,
        };
        let fresh = self.sizes(|tried| tried.fresh && !tried.validation && tried.labels == labels);
        let (fixed, each) = match fresh.as_slice() {
            [] => (fixed, each),
            [(least, _), .., (most, _)] if *most >= APART * least => line(&fresh, alike)?,
            // One size says how much was left behind by others, alike for all.
            [.., (images, peak)] => (peak - each * images, each),
        };
        // Noise may have a larger one need less.
        let (fixed, each) = (fixed.max(0.0), each.max(0.0));
        let few = |tried: &Tried| !tried.validation && tried.labels < labels;
        let fewer = self.tried.iter().filter(|tried| few(tried)).map(|tried| tried.labels).max();
        let few = fewer.and_then(|fewer| {
            let sizes = self.sizes(|tried| !tried.validation && tried.labels == fewer);
            let (images, peak) = *sizes.last()?;
            // What the same micro-batch needed with all labels, less what it needs with these.
            let all = points.iter().rfind(|point| point.0 <= images)?;
            let more = (all.1 - peak) / (images * f64::from(labels - fewer));
            Some(more.clamp(0.0, each / f64::from(labels)))
        });
        let each_label = few.unwrap_or(0.0);
        let any_fresh = self.tried.iter().any(|tried| tried.validation && tried.fresh && tried.peak_bytes.is_some());
        let validation = self.sizes(|tried| tried.validation && (tried.fresh || !any_fresh));
        let validation = validation.last().map_or(0.0, |(images, peak)| ((peak - fixed) / images).max(0.0));
        // The casts stop at the ends of u64.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
        let fixed = fixed.ceil() as u64;
        // What a trainer says of its weights is exact; the rest is what the line says.
        let weights = weights.min(fixed);
        let state = state.min(fixed - weights);
        Some(MemoryModel {
            context_bytes: context + fixed - weights - state,
            weights_bytes: weights,
            gradients_and_optimizer_bytes: state,
            bytes_per_pixel: (each - each_label * f64::from(labels)).max(0.0) / pixels,
            bytes_per_pixel_and_label: each_label / pixels,
            validation_bytes_per_pixel: validation / pixels,
            least_bytes: context + start.max(smallest.map_or(0, |(_, peak)| peak)),
        })
    }
}

/// Value at 0 and slope of the line with the least squares of distances, each times its point's `weight`; one point's goes through 0.
fn line(points: &[(f64, f64)], weight: impl Fn(f64) -> f64) -> Option<(f64, f64)> {
    let all: f64 = points.iter().map(|point| weight(point.1)).sum();
    let mean =
        |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(|point| weight(point.1) * of(point)).sum::<f64>() / all;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread = mean(&|point| (point.0 - x) * (point.0 - x));
    if points.is_empty() || x <= 0.0 {
        return None;
    }
    if spread == 0.0 {
        return Some((0.0, y / x));
    }
    let slope = mean(&|point| (point.0 - x) * (point.1 - y)) / spread;
    Some((y - slope * x, slope))
}

/// All points count alike.
fn alike(_: f64) -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::memory::Images;

    const SIDE: u32 = 100;

    /// What a device tells that needs 1000 bytes, 10 for each image's every pixel and 1 for each label of it, but never less than a million.
    fn tell(heard: &mut Heard, rank: u32, images: u32, labels: u32) {
        let pixels = u64::from(SIDE * SIDE);
        let peak = 1000 + u64::from(images) * pixels * u64::from(10 + labels);
        heard.hear(
            rank,
            &Told::Tried {
                validation: false,
                images,
                labels,
                imgsz: SIDE,
                peak_bytes: Some(peak.max(1_000_000)),
                seconds: 0.5 + 0.25 * f64::from(images),
                reduce_seconds: 0.1 + f64::from(rank),
            },
        );
    }

    fn heard() -> (Heard, Vec<Kind>) {
        let mut heard = Heard::default();
        for rank in 0..2 {
            heard.hear(
                rank,
                &Told::Fixed {
                    context_bytes: 0,
                    weights_bytes: 300,
                    gradients_and_optimizer_bytes: 400,
                    start_bytes: 0,
                },
            );
            for images in [1, 2, 4, 8, 16] {
                tell(&mut heard, rank, images, 20);
            }
            tell(&mut heard, rank, 16, 1);
            let peak_bytes = Some(1000 + 32 * u64::from(SIDE * SIDE) * 4);
            heard.hear(
                rank,
                &Told::Tried {
                    validation: true,
                    images: 32,
                    labels: 3,
                    imgsz: SIDE,
                    peak_bytes,
                    seconds: 1.0,
                    reduce_seconds: 0.0,
                },
            );
        }
        let kind = Kind("one".to_owned());
        (heard, vec![kind.clone(), kind])
    }

    #[test]
    fn a_model_is_found_again() {
        let (heard, kinds) = heard();
        let known = heard.kinds(&kinds);
        let Known { time: Some(time), memory: Some(memory) } = known[&kinds[0]] else { panic!("{known:?}") };
        assert!((time.overhead_seconds - 0.5).abs() < 1e-9 && (time.seconds_per_image - 0.25).abs() < 1e-9, "{time:?}");
        assert!((memory.bytes_per_pixel - 10.0).abs() < 1e-3, "{memory:?}");
        assert!((memory.bytes_per_pixel_and_label - 1.0).abs() < 1e-3, "{memory:?}");
        assert!((memory.validation_bytes_per_pixel - 4.0).abs() < 1e-3, "{memory:?}");
        assert_eq!((memory.weights_bytes, memory.gradients_and_optimizer_bytes), (300, 400));
        let images = Images { side: SIDE, labels: 20, validation: 2, validation_most: 1000 };
        let peak = memory.predict(40, images).peak_bytes();
        assert!(peak.abs_diff(1000 + 40 * 10_000 * 30) < 10, "{peak}");
        assert_eq!((heard.labels(), heard.all_reduce_seconds()), (20, 0.1));
    }

    #[test]
    fn small_sizes_do_not_count() {
        let (heard, kinds) = heard();
        // With 10,000 pixels and 30 bytes for each, three images reach the million that is always needed.
        let known = heard.kinds(&kinds)[&kinds[0]].memory.expect("a model");
        assert!(known.context_bytes < 400, "{known:?}");
    }

    #[test]
    fn what_a_fresh_process_needs_counts_more() {
        let (mut heard, kinds) = heard();
        let fresh = |images: u32, peak: u64| {
            let mut fresh = Heard::default();
            for rank in 0..2 {
                tell(&mut fresh, rank, images, 20);
                let tried = fresh.ranks.get_mut(&rank).expect("told").tried.last_mut().expect("told");
                tried.peak_bytes = Some(peak);
            }
            fresh
        };
        let predict = |heard: &Heard, images: u32| {
            let known = heard.kinds(&kinds)[&kinds[0]].memory.expect("a model");
            known.predict(images, Images { side: SIDE, labels: 20, validation: 1, validation_most: 1000 }).peak_bytes()
        };
        // The slope is that of the search, 300,000 an image; then that of two fresh ones.
        heard.join(fresh(16, 5_000_000));
        assert!(predict(&heard, 20).abs_diff(6_200_000) < 10, "{}", predict(&heard, 20));
        heard.join(fresh(24, 6_600_000));
        assert!(predict(&heard, 32).abs_diff(8_200_000) < 10, "{}", predict(&heard, 32));
        // One that did not fit needs more than there is.
        heard.bound(0, 32, 9_000_000);
        assert!(predict(&heard, 32) > 8_200_000, "{}", predict(&heard, 32));
    }

    #[test]
    fn one_size_is_told_from_what_was_there_before() {
        let mut heard = Heard::default();
        heard.hear(
            0,
            &Told::Fixed { context_bytes: 0, weights_bytes: 400_000, gradients_and_optimizer_bytes: 0, start_bytes: 0 },
        );
        tell(&mut heard, 0, 1, 100);
        let kind = Kind("one".to_owned());
        let known = heard.kinds(std::slice::from_ref(&kind))[&kind].memory.expect("a model");
        let peak =
            known.predict(1, Images { side: SIDE, labels: 100, validation: 2, validation_most: 1000 }).peak_bytes();
        assert!(peak.abs_diff(1_101_000) < 10, "{peak}");
        assert_eq!(known.weights_bytes, 400_000);
    }

    #[test]
    fn what_ran_out_is_known() {
        let (mut heard, _) = heard();
        assert_eq!(heard.ran_out(0), None);
        let out = |validation, images| Told::Tried {
            validation,
            images,
            labels: 3,
            imgsz: SIDE,
            peak_bytes: None,
            seconds: 0.0,
            reduce_seconds: 0.0,
        };
        heard.hear(0, &out(true, 64));
        assert_eq!(heard.ran_out(0), Some(32));
        heard.hear(0, &out(false, 24));
        assert_eq!((heard.ran_out(0), heard.ran_out(1)), (Some(24), None));
    }
}
