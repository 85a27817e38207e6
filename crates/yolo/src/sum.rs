//! What micro-batches add up to in a step: gradients, statistics of batch normalisation, terms of the loss; over those of one rank, then
//! over all ranks.
//!
//! Sums in floating point depend on their order in the last bits, so a step that is cut otherwise agrees to rounding. Sums of integers do
//! not: with [`Sum::exact`] every summand is rounded to a multiple of a power of two, the same for all micro-batches of the step.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::team::Team;

/// Parts of a ledger, each with a magnitude of its own.
const PARTS: usize = 3;
/// Bits by which a step's largest value may exceed the step's before without being summed again.
const HEADROOM: i64 = 8;
/// Terms of the loss that are summed: boxes, classes, distances, and the target scores that they are divided by.
pub const TERMS: i64 = 4;

/// The sums of a step.
#[derive(Debug)]
pub struct Sum {
    /// What the micro-batch under way adds, `[length]`, f32: gradients, then statistics, then terms. Without [`Self::exact`], what all
    /// micro-batches so far added.
    ledger: Tensor,
    parts: [Range<i64>; PARTS],
    exact: Option<Exact>,
}

/// Integers that everything is added to.
#[derive(Debug)]
struct Exact {
    total: Tensor,
    /// Every value of a part is below two to this power, or the step has to be summed again.
    assumed: [i64; PARTS],
    seen: [i64; PARTS],
    /// Bits that the number of micro-batches needs.
    spare: i64,
}

/// Some value was larger than was assumed: the step's micro-batches have to be computed and added again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded;

/// Below this power of two, two values are the same to us; also what zero has.
const LEAST: i64 = -120;

impl Sum {
    /// Sums for so many parameters, and for statistics of so many channels, on `device`.
    #[must_use]
    pub fn new(parameters: i64, channels: i64, device: Device, exact: bool) -> Self {
        let statistics = parameters..parameters + 2 * channels;
        let terms = statistics.end..statistics.end + TERMS;
        let length = terms.end;
        let exact = exact.then(|| Exact {
            total: Tensor::zeros([length], (Kind::Int64, device)),
            assumed: [LEAST; PARTS],
            seen: [LEAST; PARTS],
            spare: 0,
        });
        Self {
            ledger: Tensor::zeros([length], (Kind::Float, device)),
            parts: [0..parameters, statistics, terms],
            exact,
        }
    }

    fn part(&self, part: usize) -> Tensor {
        let range = &self.parts[part];
        self.ledger.narrow(0, range.start, range.end - range.start)
    }

    /// Memory for gradients, `[parameters]`.
    pub fn gradients(&self) -> Tensor {
        self.part(0)
    }

    /// Sums of the statistics, `[2 x channels]`.
    pub fn statistics(&self) -> Tensor {
        self.part(1)
    }

    /// Sums of the terms, `[4]`.
    pub fn terms(&self) -> Tensor {
        self.part(2)
    }

    /// Begins a step of `micro_batches` in all, over all ranks.
    pub fn begin(&mut self, micro_batches: u64) {
        let _ = self.ledger.zero_();
        if let Some(exact) = &mut self.exact {
            let _ = exact.total.zero_();
            exact.seen = [LEAST; PARTS];
            exact.spare = i64::from(micro_batches.max(1).next_power_of_two().trailing_zeros());
        }
    }

    /// Ends a micro-batch, whose gradients are in the ledger, with its statistics, weighted by its images, and its terms.
    pub fn add(&mut self, statistics: &Tensor, terms: &Tensor) {
        let _guard = tch::no_grad_guard();
        let _ = self.statistics().g_add_(&statistics.view(-1));
        let _ = self.terms().g_add_(terms);
        let Some(exact) = &mut self.exact else { return };
        for (part, range) in self.parts.iter().enumerate() {
            let length = range.end - range.start;
            let values = self.ledger.narrow(0, range.start, length);
            exact.seen[part] = exact.seen[part].max(exponent(&values));
            let scale = 2_f64.powi(exact.scale(part) as i32);
            // Piece by piece, so that no copy of everything in twice the width is needed.
            for (at, length) in pieces(length, values.device()) {
                let integers =
                    (values.narrow(0, at, length).to_kind(Kind::Double) * scale).round().to_kind(Kind::Int64);
                let _ = exact.total.narrow(0, range.start + at, length).g_add_(&integers);
            }
        }
        let _ = self.ledger.zero_();
    }

    /// Powers of two that this rank's values of the step stay below: what the ranks have to agree on, by the largest. Empty without
    /// [`Self::exact`].
    #[must_use]
    pub fn seen(&self) -> Vec<i64> {
        self.exact.as_ref().map_or(Vec::new(), |exact| exact.seen.to_vec())
    }

    /// Takes note of the largest powers over all ranks.
    ///
    /// # Errors
    ///
    /// They exceed what was assumed for this step. What is assumed for its repetition is right.
    pub fn agree(&mut self, seen: &[i64]) -> Result<(), Exceeded> {
        let Some(exact) = &mut self.exact else { return Ok(()) };
        let exceeded = exact.assumed.iter().zip(seen).any(|(assumed, seen)| seen > assumed);
        for (assumed, seen) in exact.assumed.iter_mut().zip(seen) {
            // A repetition has its own power; the next step has room above it.
            *assumed = if exceeded { *seen } else { *assumed };
        }
        if exceeded { Err(Exceeded) } else { Ok(()) }
    }

    /// Adds what all ranks have; the sums are in the ledger then.
    ///
    /// # Errors
    ///
    /// A peer is lost or late.
    pub fn finish(&mut self, team: &Team, seen: &[i64]) -> tch_distributed::Result<()> {
        let _guard = tch::no_grad_guard();
        let Some(exact) = &mut self.exact else { return team.sum(&mut self.ledger) };
        team.sum(&mut exact.total)?;
        for (part, range) in self.parts.iter().enumerate() {
            let scale = 2_f64.powi(-exact.scale(part) as i32);
            for (at, length) in pieces(range.end - range.start, self.ledger.device()) {
                let values = exact.total.narrow(0, range.start + at, length).to_kind(Kind::Double) * scale;
                self.ledger.narrow(0, range.start + at, length).copy_(&values);
            }
        }
        for (assumed, seen) in exact.assumed.iter_mut().zip(seen) {
            *assumed = seen + HEADROOM;
        }
        Ok(())
    }

    /// Adds what all ranks have, where gradients are their average over the ranks already.
    ///
    /// # Errors
    ///
    /// A peer is lost or late.
    pub fn finish_averaged(&mut self, team: &Team) -> tch_distributed::Result<()> {
        let _guard = tch::no_grad_guard();
        let gradients = self.parts[0].end;
        team.sum(&mut self.ledger.narrow(0, gradients, self.parts[2].end - gradients))?;
        let _ = self.gradients().g_mul_scalar_(f64::from(team.size()));
        Ok(())
    }

    /// What is assumed of the next step, for a checkpoint; empty without [`Self::exact`].
    #[must_use]
    pub fn assumed(&self) -> Vec<i64> {
        self.exact.as_ref().map_or(Vec::new(), |exact| exact.assumed.to_vec())
    }

    /// Goes on with what an earlier process assumed.
    pub fn assume(&mut self, powers: &[i64]) {
        if let (Some(exact), Ok(powers)) = (&mut self.exact, powers.try_into()) {
            exact.assumed = powers;
        }
    }
}

impl Exact {
    /// The power of two that a part's values are multiplied by before they are rounded. The sum of all stays below 2^62.
    fn scale(&self, part: usize) -> i64 {
        62 - self.spare - self.assumed[part]
    }
}

/// The least power of two that all values stay below in magnitude. What is not finite counts as zero: a loss that is not is told elsewhere.
fn exponent(values: &Tensor) -> i64 {
    let most = values.abs().max().to_kind(Kind::Double).double_value(&[]);
    if !most.is_finite() || most == 0.0 {
        return LEAST;
    }
    (most.log2().floor() as i64 + 1).max(LEAST)
}

/// Starts and lengths of pieces that fit a processor's cache; all in one for a GPU.
fn pieces(length: i64, device: Device) -> impl Iterator<Item = (i64, i64)> {
    let piece = if device == Device::Cpu { 1 << 15 } else { length.max(1) };
    (0..length)
        .step_by(usize::try_from(piece).unwrap_or(usize::MAX))
        .map(move |start| (start, piece.min(length - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gradients' sum of some micro-batches in the order given.
    fn sum(all: &[Tensor], order: &[usize], exact: bool) -> Tensor {
        let mut sum = Sum::new(all[0].size()[0], 1, Device::Cpu, exact);
        let small = |length: i64| Tensor::ones([length], (Kind::Float, Device::Cpu));
        loop {
            sum.begin(order.len() as u64);
            for at in order {
                let _ = sum.gradients().g_add_(&all[*at]);
                sum.add(&small(2), &small(TERMS));
            }
            let seen = sum.seen();
            if sum.agree(&seen).is_ok() {
                sum.finish(&Team::alone(), &seen).expect("alone");
                return sum.gradients().copy();
            }
        }
    }

    #[test]
    fn integers_do_not_care_about_order() {
        tch::manual_seed(1);
        let of = |scale: f64| Tensor::randn([100_000], (Kind::Float, Device::Cpu)) * scale;
        let all = [of(1.0), of(1000.0), of(1e-3), of(7.0), of(0.3), of(55.0)];
        let (there, back) = ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]);
        assert!(sum(&all, &there, true).equal(&sum(&all, &back, true)));
        assert!(!sum(&all, &there, false).equal(&sum(&all, &back, false)), "the check can fail");
        let double: Tensor = all.iter().map(|it| it.to_kind(Kind::Double)).sum();
        let apart = (sum(&all, &there, true).to_kind(Kind::Double) - &double).abs().max().double_value(&[]);
        assert!(apart < 5e-4, "as near as f32 comes to sums of thousands: {apart}");
    }

    #[test]
    fn a_value_beyond_what_was_assumed_is_seen() {
        let mut sum = Sum::new(2, 1, Device::Cpu, true);
        let none = |length: i64| Tensor::zeros([length], (Kind::Float, Device::Cpu));
        let mut step = |value: f64| {
            sum.begin(1);
            let _ = sum.gradients().fill_(value);
            sum.add(&none(2), &none(TERMS));
            let seen = sum.seen();
            let agreed = sum.agree(&seen);
            if agreed.is_ok() {
                sum.finish(&Team::alone(), &seen).expect("alone");
                assert_eq!(sum.gradients().double_value(&[0]), value);
            }
            agreed
        };
        assert_eq!(step(3.0), Err(Exceeded));
        assert_eq!(step(3.0), Ok(()));
        assert_eq!(step(3.0 * 256.0), Ok(()));
        assert_eq!(step(3e6), Err(Exceeded));
        assert_eq!(step(3e6), Ok(()));
    }
}
