//! The fastest exact cut of a step under a time model: numbers in, numbers out. What is known of devices, and which cut a
//! person would rather have, is the caller's; how much a micro-batch may hold is told by each worker.
//!
//! A rank runs `count` micro-batches of `micro` images each, one after the other, and the step ends with the slowest rank.
//! Two families are searched: cuts in which all micro-batches are equal (`uniform.rs`), and those in which each rank has a
//! size of its own (`uneven.rs`).

mod sums;
mod uneven;
mod uniform;

use crate::job::SplitWish;

/// How much faster unequal micro-batches must be before `split: auto` takes them: equal ones give nothing up.
pub const PREFERENCE: f64 = 1.05;

/// What is to be cut, and by whom it can be computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// T, images of an optimizer step over all ranks; at least 1.
    pub target: u32,
    /// The devices, in the order of the ranks.
    pub workers: Vec<Worker>,
    /// Whether each of them has to be used; otherwise some may stay idle.
    pub all: bool,
    /// The size of every micro-batch, where somebody pinned it.
    pub micro: Option<u32>,
    /// Micro-batches of one rank at most.
    pub max_accumulation: Option<u32>,
    /// Whether sizes may differ.
    pub split: SplitWish,
    /// Whether the trainer can run other numbers of micro-batches on other ranks.
    pub uneven_counts: bool,
    /// Whether the trainer can run other sizes of micro-batches on other ranks.
    pub uneven_micro: bool,
    /// What more than one rank spends together once a step.
    pub all_reduce_seconds: f64,
}

/// A device as the cut sees it: a micro-batch of m images takes `overhead + per_image * m` seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worker {
    /// Seconds of a micro-batch, whatever it holds.
    pub overhead: f64,
    /// Seconds that each image adds.
    pub per_image: f64,
    /// Images that its memory holds at once; 0 where not even one fits.
    pub most: u32,
}

impl Worker {
    /// Seconds of `count` micro-batches of `micro` images.
    #[must_use]
    pub fn seconds(&self, count: u32, micro: u32) -> f64 {
        // Never nothing: a model fitted to noise must not promise it.
        f64::from(count) * (self.overhead + self.per_image * f64::from(micro)).max(1e-9)
    }

    /// Images of the largest micro-batch of which `count` end before `deadline`.
    fn micro_within(&self, deadline: f64, count: u32) -> u32 {
        if self.most == 0 || self.seconds(count, 1) > deadline {
            return 0;
        }
        let room = deadline / f64::from(count) - self.overhead;
        let fitting = if self.per_image > 0.0 { room / self.per_image } else { f64::INFINITY };
        // A quotient just below a whole number is one; the product decides. The cast stops at the ends of u32.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
        let micro = ((fitting + 1e-6) as u32).clamp(1, self.most);
        if self.seconds(count, micro) > deadline { micro - 1 } else { micro }
    }

    /// How many micro-batches of `micro` images end before `deadline`.
    fn count_within(&self, deadline: f64, micro: u32) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
        let count = (deadline / self.seconds(1, micro) + 1e-9) as u32;
        if count > 0 && self.seconds(count, micro) > deadline { count - 1 } else { count }
    }
}

/// Part of a step that one rank computes; no micro-batch at all: its device stays idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Micro-batches.
    pub count: u32,
    /// Images of each of them.
    pub micro: u32,
}

impl Share {
    /// Images of a step.
    #[must_use]
    pub fn images(&self) -> u32 {
        self.count * self.micro
    }
}

/// A cut of the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// What each worker computes, in their order.
    pub shares: Vec<Share>,
    /// Seconds of the step.
    pub seconds: f64,
}

impl Cut {
    fn new(ask: &Ask, shares: Vec<Share>) -> Self {
        let seconds = shares.iter().zip(&ask.workers).map(|(share, worker)| worker.seconds(share.count, share.micro));
        let slowest = seconds.fold(0.0, f64::max);
        let ranks = shares.iter().filter(|share| share.count > 0).count();
        let together = if ranks > 1 { ask.all_reduce_seconds } else { 0.0 };
        Self { shares, seconds: slowest + together }
    }

    /// Whether all micro-batches have the same number of images.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        let mut sizes = self.shares.iter().filter(|share| share.count > 0).map(|share| share.micro);
        let first = sizes.next();
        sizes.all(|size| Some(size) == first)
    }
}

/// The cut that was chosen, and the other family's best where there was a choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What to run.
    pub cut: Cut,
    /// Seconds of the best cut into equal micro-batches; absent where there is none.
    pub uniform_seconds: Option<f64>,
    /// Seconds of the best cut when sizes may differ; absent where they may not.
    pub uneven_seconds: Option<f64>,
}

/// The cut to run, or nothing where none is exact and fits.
///
/// Each family's best is within a thousandth of the best there is, and never gets slower by more memory, nor by another
/// device that may stay idle. `split: auto` takes equal micro-batches unless others are faster by [`PREFERENCE`].
#[must_use]
pub fn choose(ask: &Ask) -> Option<Choice> {
    if ask.target == 0 || ask.workers.is_empty() {
        return None;
    }
    let uniform = uniform::best(ask);
    let uneven = if may_differ(ask) { uneven::best(ask) } else { None };
    let uniform_seconds = uniform.as_ref().map(|cut| cut.seconds);
    let uneven_seconds = uneven.as_ref().map(|cut| cut.seconds);
    let tolerated = if ask.split == SplitWish::Uneven { 1.0 } else { PREFERENCE };
    let cut = match (uniform, uneven) {
        (Some(uniform), Some(uneven)) if uniform.seconds <= uneven.seconds * tolerated => uniform,
        (_, Some(uneven)) => uneven,
        (uniform, None) => uniform?,
    };
    Some(Choice { cut, uniform_seconds, uneven_seconds })
}

/// Whether there is a cut at all, however slow.
#[must_use]
pub fn is_possible(ask: &Ask) -> bool {
    ask.target > 0 && (uniform::is_possible(ask) || (may_differ(ask) && uneven::is_possible(ask)))
}

fn may_differ(ask: &Ask) -> bool {
    ask.uneven_micro && ask.split != SplitWish::Uniform && ask.micro.is_none()
}

/// The divisors of a number, the largest first.
fn divisors(number: u32) -> Vec<u32> {
    let small: Vec<u32> = (1..).take_while(|divisor| divisor * divisor <= number).filter(|n| number % n == 0).collect();
    let mut all: Vec<u32> = small.iter().map(|divisor| number / divisor).collect();
    all.extend(small.iter().rev().filter(|divisor| *divisor * *divisor != number));
    all
}

/// The smallest deadline to within `tolerance` of itself that is enough, from one that is a lower bound; nothing where none is.
fn least_deadline(bound: f64, tolerance: f64, enough: impl Fn(f64) -> bool) -> Option<f64> {
    if enough(bound) {
        return Some(bound);
    }
    let (mut low, mut factor) = (bound, 1.0 + tolerance);
    let mut high = loop {
        let high = bound * factor;
        if !high.is_finite() {
            return None;
        }
        if enough(high) {
            break high;
        }
        low = high;
        factor = 1.0 + (factor - 1.0) * 4.0;
    };
    while high - low > tolerance * low {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
