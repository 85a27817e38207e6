//! Whether two trainings took the same path, and to how many digits. Pure; `read.rs` alone looks into records.

pub mod read;

use std::collections::BTreeMap;

use serde::Serialize;

/// The path of a training, as its record tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trajectory {
    /// Mean loss over all images of each optimizer step; absent where it was not finite.
    pub losses: BTreeMap<u64, Option<f64>>,
    /// Columns of `results.csv` by name, with a value by epoch, from 1 as the file has them.
    pub columns: BTreeMap<String, BTreeMap<u64, Option<f64>>>,
    /// Hash of the weights at the end of each epoch, from 0.
    pub weights: BTreeMap<u32, String>,
}

/// How far two series agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Values that both have.
    pub compared: usize,
    /// Values that one of them alone has.
    pub only_one: usize,
    /// Where they differ first; absent: nowhere.
    pub first_difference: Option<u64>,
    /// Digits to which all values agree; absent: they are equal.
    pub digits: Option<u32>,
    /// Where they agree least; absent: they are equal.
    pub worst: Option<u64>,
    /// Digits to which the last value agrees; absent: it is equal.
    pub last_digits: Option<u32>,
}

impl Agreement {
    /// Whether the series are one.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.compared > 0 && self.only_one == 0 && self.first_difference.is_none()
    }
}

/// How far two sets of weights agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// Epochs whose weights both tell.
    pub compared: usize,
    /// The first epoch, from 0, after which they differ; absent: after none.
    pub first_difference: Option<u32>,
    /// Whether the last weights of both are those of one epoch and are equal.
    pub last_equal: bool,
}

/// What comes of comparing two trajectories.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The weights.
    pub weights: Weights,
    /// The losses, step by step.
    pub losses: Agreement,
    /// The columns of `results.csv` that both have, epoch by epoch.
    pub columns: BTreeMap<String, Agreement>,
}

/// The outcome in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The weights are equal to the bit.
    BitIdentical,
    /// Everything that both recorded is equal, as far as it was written down.
    Equal,
    /// They agree to some digits.
    Close,
    /// They do not agree to a single digit, or one is longer.
    Different,
    /// There is nothing to compare.
    Unknown,
}

impl Comparison {
    /// All values that were compared, losses first.
    fn series(&self) -> impl Iterator<Item = &Agreement> {
        std::iter::once(&self.losses).chain(self.columns.values()).filter(|agreement| agreement.compared > 0)
    }

    /// Digits to which everything agrees; absent: it is equal, or there is nothing.
    #[must_use]
    pub fn digits(&self) -> Option<u32> {
        self.series().filter_map(|agreement| agreement.digits).min()
    }

    /// The outcome.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let whole = self.series().all(|agreement| agreement.only_one == 0);
        match (self.weights.last_equal && self.weights.first_difference.is_none(), self.digits()) {
            (true, _) if whole => Verdict::BitIdentical,
            _ if self.series().next().is_none() && self.weights.compared == 0 => Verdict::Unknown,
            (_, None) if self.weights.first_difference.is_some() || !whole => Verdict::Different,
            (_, None) => Verdict::Equal,
            (_, Some(0)) => Verdict::Different,
            (_, Some(_)) => Verdict::Close,
        }
    }
}

/// Compares two trajectories.
#[must_use]
pub fn compare(one: &Trajectory, other: &Trajectory) -> Comparison {
    let both = one.columns.iter().filter_map(|(name, column)| Some((name, column, other.columns.get(name)?)));
    Comparison {
        weights: weights(&one.weights, &other.weights),
        losses: agreement(&one.losses, &other.losses),
        columns: both.map(|(name, one, other)| (name.clone(), agreement(one, other))).collect(),
    }
}

fn weights(one: &BTreeMap<u32, String>, other: &BTreeMap<u32, String>) -> Weights {
    let both: Vec<(u32, bool)> =
        one.iter().filter_map(|(epoch, hash)| Some((*epoch, other.get(epoch)? == hash))).collect();
    Weights {
        compared: both.len(),
        first_difference: both.iter().find(|(_, equal)| !equal).map(|(epoch, _)| *epoch),
        last_equal: !one.is_empty() && one.last_key_value() == other.last_key_value(),
    }
}

fn agreement(one: &BTreeMap<u64, Option<f64>>, other: &BTreeMap<u64, Option<f64>>) -> Agreement {
    let both: Vec<(u64, Option<u32>)> =
        one.iter().filter_map(|(at, value)| Some((*at, digits(*value, *other.get(at)?)))).collect();
    let worst = both.iter().filter_map(|(at, digits)| Some(((*digits)?, *at))).min();
    Agreement {
        compared: both.len(),
        only_one: one.len() + other.len() - 2 * both.len(),
        first_difference: both.iter().find(|(_, digits)| digits.is_some()).map(|(at, _)| *at),
        digits: worst.map(|(digits, _)| digits),
        worst: worst.map(|(_, at)| at),
        last_digits: both.last().and_then(|(_, digits)| *digits),
    }
}

/// Significant digits to which two values agree: the difference is less than one in the last of them. Nothing where they are equal.
fn digits(one: Option<f64>, other: Option<f64>) -> Option<u32> {
    let (one, other) = match (one, other) {
        (None, None) => return None,
        (Some(one), Some(other)) => (one, other),
        _ => return Some(0),
    };
    if one == other {
        return None;
    }
    let apart = (one - other).abs() / one.abs().max(other.abs());
    // An f64 has sixteen.
    (1..=16).rev().find(|digits| apart < 10_f64.powi(-digits)).map_or(Some(0), |digits| u32::try_from(digits).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> BTreeMap<u64, Option<f64>> {
        (0..).zip(values.iter().copied().map(Some)).collect()
    }

    fn path(losses: &[f64], weights: &[&str]) -> Trajectory {
        Trajectory {
            losses: series(losses),
            columns: [("metrics/mAP50(B)".to_owned(), series(&[0.5]))].into(),
            weights: (0..).zip(weights.iter().map(|hash| (*hash).to_owned())).collect(),
        }
    }

    #[test]
    fn digits_are_those_that_agree() {
        for (one, other, expected) in [
            (1.0, 1.0, None),
            (0.0, 0.0, None),
            (1.0, 2.0, Some(0)),
            (1.0, -1.0, Some(0)),
            (100.0, 100.5, Some(2)),
            (2.46913, 2.46914, Some(5)),
            (1.0, 1.0 + f64::EPSILON, Some(15)),
            (0.0, 1e-30, Some(0)),
        ] {
            assert_eq!(digits(Some(one), Some(other)), expected, "{one} and {other}");
        }
        assert_eq!((digits(None, None), digits(Some(1.0), None)), (None, Some(0)));
    }

    #[test]
    fn equal_weights_are_bit_identical() {
        let one = path(&[2.0, 1.0], &["a", "b"]);
        let same = compare(&one, &one);
        assert_eq!((same.verdict(), same.digits()), (Verdict::BitIdentical, None));
        assert!(same.losses.is_identical());
        assert_eq!(same.weights, Weights { compared: 2, first_difference: None, last_equal: true });
        // Those of an earlier epoch are another matter.
        let part = compare(&one, &path(&[2.0], &["a"]));
        assert_eq!((part.weights.last_equal, part.losses.only_one), (false, 1));
        assert_eq!(part.verdict(), Verdict::Different);
    }

    #[test]
    fn where_paths_part_and_how_far_is_told() {
        let (one, other) = (path(&[2.0, 1.5, 1.0], &["a", "b"]), path(&[2.0, 1.5001, 1.0002], &["a", "x"]));
        let both = compare(&one, &other);
        assert_eq!(both.losses.first_difference, Some(1));
        assert_eq!((both.losses.digits, both.losses.worst), (Some(3), Some(2)));
        assert_eq!(both.weights.first_difference, Some(1));
        assert_eq!((both.verdict(), both.digits()), (Verdict::Close, Some(3)));
        // Weights that differ behind figures that are written as equal.
        let hidden = compare(&path(&[2.0], &["a"]), &path(&[2.0], &["b"]));
        assert_eq!(hidden.verdict(), Verdict::Different);
    }

    #[test]
    fn without_figures_nothing_is_known_and_without_hashes_the_figures_count() {
        let nothing = compare(&Trajectory::default(), &Trajectory::default());
        assert_eq!(nothing.verdict(), Verdict::Unknown);
        let figures = compare(&path(&[1.0], &[]), &path(&[1.0], &[]));
        assert_eq!(figures.verdict(), Verdict::Equal);
    }
}
