//! The split of the batch where nothing is known of time and memory: numbers in, numbers out. Which devices there are, and
//! what else speaks for or against a split, is the caller's.

use super::PlanError;
use super::cut::Share;
use crate::job::SplitWish;

/// Images of a step at most; a target above is a typing error.
pub const LARGEST_TARGET: u32 = 1_000_000;

/// What is to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// T, images of an optimizer step over all ranks; at least 1.
    pub target: u32,
    /// Images of one micro-batch; absent: as many as a rank has to take in one go.
    pub micro: Option<u32>,
    /// Micro-batches of one rank at most.
    pub max_accumulation: Option<u32>,
    /// Whether ranks may run different numbers of micro-batches.
    pub uneven_counts: bool,
    /// Whether micro-batches of different ranks could differ in size.
    pub uneven_micro: bool,
    /// Whether they shall. Nobody having said so, they do not: which device is the slower one is unknown.
    pub split: SplitWish,
}

/// A split with equal micro-batches: Σ counts · micro = T.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uniform {
    /// Images of every micro-batch.
    pub micro: u32,
    /// Micro-batches of each rank, at least 1.
    pub counts: Vec<u32>,
}

impl Demand {
    /// What each of `ranks` devices computes; nothing when the target cannot be split over them exactly.
    #[must_use]
    pub fn shares(&self, ranks: u32) -> Option<Vec<Share>> {
        if let Some(Uniform { micro, counts }) = self.split(ranks) {
            return Some(counts.into_iter().map(|count| Share { count, micro }).collect());
        }
        let differ = self.differs(ranks);
        let micro = |rank: u32| self.target / ranks + u32::from(rank < self.target % ranks);
        differ.then(|| (0..ranks).map(|rank| Share { count: 1, micro: micro(rank) }).collect())
    }

    /// Whether this splits over `ranks` devices, one way or the other.
    fn splits(&self, ranks: u32) -> bool {
        self.micro_for(ranks).is_some() || self.differs(ranks)
    }

    /// Whether it is to be split in sizes that differ, and can be.
    fn differs(&self, ranks: u32) -> bool {
        self.split == SplitWish::Uneven && self.could_differ(ranks)
    }

    fn could_differ(&self, ranks: u32) -> bool {
        self.uneven_micro && self.micro.is_none() && (1..=self.target).contains(&ranks)
    }

    /// Refuses a limit of micro-batches below which no number of the devices computes the target.
    pub(super) fn check_accumulation(&self, ranks: u32) -> Result<(), PlanError> {
        let (Some(micro), Some(most)) = (self.micro, self.max_accumulation) else { return Ok(()) };
        let capacity = u64::from(micro) * u64::from(most) * u64::from(ranks);
        if capacity >= u64::from(self.target) {
            return Ok(());
        }
        let needed = u64::from(self.target).div_ceil(u64::from(micro) * u64::from(ranks));
        Err(PlanError::TooFewMicroBatches {
            target: self.target,
            micro: Some(micro),
            max_accumulation: most,
            ranks,
            capacity,
            near: Alternatives { target_below: u32::try_from(capacity).ok(), ..Alternatives::default() },
            needed: u32::try_from(needed).ok(),
        })
    }

    /// Splits over `ranks` devices into equal micro-batches, exactly; nothing when that is not possible.
    #[must_use]
    pub fn split(&self, ranks: u32) -> Option<Uniform> {
        let micro = self.micro_for(ranks)?;
        let all = self.target / micro;
        // The first ranks take what is left over, one each.
        let counts = (0..ranks).map(|rank| all / ranks + u32::from(rank < all % ranks)).collect();
        Some(Uniform { micro, counts })
    }

    /// Images of the micro-batches with which this splits over `ranks` devices.
    fn micro_for(&self, ranks: u32) -> Option<u32> {
        if ranks == 0 || self.target == 0 {
            return None;
        }
        let micro = match self.micro {
            Some(micro) => micro,
            None if self.target % ranks == 0 => self.target / ranks,
            None => return None,
        };
        if micro == 0 || self.target % micro != 0 {
            return None;
        }
        let all = self.target / micro;
        let exact = all >= ranks && (all % ranks == 0 || self.uneven_counts);
        let within = self.max_accumulation.is_none_or(|most| all.div_ceil(ranks) <= most);
        (exact && within).then_some(micro)
    }

    /// The largest number of ranks up to `ranks` over which this splits.
    #[must_use]
    pub fn most_ranks(&self, ranks: u32) -> Option<u32> {
        (1..=ranks.min(self.target)).rev().find(|count| self.splits(*count))
    }

    /// What is near this demand and splits.
    #[must_use]
    pub fn alternatives(&self, ranks: u32) -> Alternatives {
        let with = |target| Self { target, ..*self };
        // Every step from one target that splits to the next is a multiple of this.
        let unit = match self.micro {
            Some(micro) if self.uneven_counts => u64::from(micro),
            Some(micro) => u64::from(micro) * u64::from(ranks),
            None if self.split == SplitWish::Uneven && self.uneven_micro => 1,
            None => u64::from(ranks),
        }
        .max(1);
        let least = u64::from(self.micro.unwrap_or(1)) * u64::from(ranks.max(1));
        let splits = |target: &u64| {
            *target <= u64::from(LARGEST_TARGET)
                && u32::try_from(*target).is_ok_and(|target| with(target).splits(ranks))
        };
        let floor = u64::from(self.target) / unit * unit;
        let small = |target: u64| u32::try_from(target).expect("checked against the largest target");
        let below = (floor < u64::from(self.target)).then_some(floor).or(floor.checked_sub(unit));
        Alternatives {
            target_below: below.filter(splits).map(small),
            target_above: Some((floor + unit).max(least)).filter(splits).map(small),
            fewer_ranks: ranks.checked_sub(1).and_then(|fewer| self.most_ranks(fewer)),
            // Nobody has more devices than twice as many at hand.
            more_ranks: (ranks + 1..=ranks.saturating_mul(2)).find(|more| self.splits(*more)),
            micro_below: self.micro.and_then(|micro| self.nearest_micro(ranks, (1..micro).rev())),
            micro_above: self.micro.and_then(|micro| self.nearest_micro(ranks, micro + 1..=self.target)),
            uneven: self.split != SplitWish::Uneven && self.could_differ(ranks),
        }
    }

    fn nearest_micro(&self, ranks: u32, mut candidates: impl Iterator<Item = u32>) -> Option<u32> {
        candidates.find(|micro| Self { micro: Some(*micro), ..*self }.micro_for(ranks).is_some())
    }
}

/// What splits, near something that does not. All else is as it was in each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alternatives {
    /// The next smaller target.
    pub target_below: Option<u32>,
    /// The next larger target.
    pub target_above: Option<u32>,
    /// The next smaller number of ranks.
    pub fewer_ranks: Option<u32>,
    /// The next larger number of ranks.
    pub more_ranks: Option<u32>,
    /// The next smaller micro-batch.
    pub micro_below: Option<u32>,
    /// The next larger micro-batch.
    pub micro_above: Option<u32>,
    /// Whether micro-batches that differ in size would do.
    pub uneven: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(target: u32, micro: impl Into<Option<u32>>) -> Demand {
        Demand {
            target,
            micro: micro.into(),
            max_accumulation: None,
            uneven_counts: false,
            uneven_micro: false,
            split: SplitWish::Auto,
        }
    }

    #[test]
    fn a_split_is_equal_on_all_ranks() {
        assert_eq!(demand(64, None).split(2), Some(Uniform { micro: 32, counts: vec![1, 1] }));
        assert_eq!(demand(64, 8).split(2), Some(Uniform { micro: 8, counts: vec![4, 4] }));
        assert_eq!(demand(64, None).split(3), None);
        assert_eq!(demand(48, 32).split(1), None);
    }

    #[test]
    fn ranks_that_may_differ_take_the_rest_one_each() {
        let demand = Demand { uneven_counts: true, ..demand(56, 8) };
        assert_eq!(demand.split(3), Some(Uniform { micro: 8, counts: vec![3, 2, 2] }));
        assert_eq!(demand.split(8), None);
    }

    #[test]
    fn sizes_that_differ_split_any_target() {
        let demand = Demand { uneven_micro: true, ..demand(64, None) };
        assert_eq!((demand.shares(3), demand.alternatives(3).uneven), (None, true));
        let demand = Demand { split: SplitWish::Uneven, ..demand };
        let micro = |micro| Share { count: 1, micro };
        assert_eq!(demand.shares(3), Some(vec![micro(22), micro(21), micro(21)]));
        assert_eq!(demand.most_ranks(100), Some(64));
        assert_eq!(demand.shares(65), None);
        assert_eq!(demand.alternatives(65).target_above, Some(65));
    }

    #[test]
    fn a_rank_runs_no_more_micro_batches_than_it_may() {
        let limited = |most| Demand { max_accumulation: Some(most), ..demand(64, 8) };
        assert_eq!(limited(4).split(2), Some(Uniform { micro: 8, counts: vec![4, 4] }));
        assert_eq!((limited(3).split(2), limited(3).alternatives(2).more_ranks), (None, Some(4)));
        assert!(limited(4).check_accumulation(2).is_ok() && limited(3).check_accumulation(2).is_err());
    }

    #[test]
    fn what_is_near_is_named() {
        let near = demand(64, None).alternatives(3);
        assert_eq!((near.target_below, near.target_above), (Some(63), Some(66)));
        assert_eq!((near.fewer_ranks, near.more_ranks), (Some(2), Some(4)));
        let near = demand(64, 12).alternatives(2);
        assert_eq!((near.target_below, near.target_above), (Some(48), Some(72)));
        assert_eq!((near.micro_below, near.micro_above), (Some(8), Some(16)));
        assert_eq!((near.fewer_ranks, near.more_ranks), (None, None));
        let near = demand(2, 4).alternatives(4);
        assert_eq!((near.target_below, near.target_above), (None, Some(16)));
    }

    /// Every target up to 512 over up to 16 ranks: what is accepted adds up, and what a refusal names is accepted.
    #[test]
    fn accepted_is_exact_and_refused_names_what_works() {
        let (mut accepted, mut refused) = (0_u32, 0_u32);
        for uneven_counts in [false, true] {
            for ranks in 1..=16 {
                for target in 1..=512 {
                    for micro in
                        [None, Some(1), Some(2), Some(3), Some(7), Some(8), Some(12), Some(16), Some(100), Some(600)]
                    {
                        let demand = Demand { uneven_counts, ..demand(target, micro) };
                        match demand.split(ranks) {
                            Some(split) => {
                                accepted += 1;
                                assert_eq!(split.counts.len(), ranks as usize);
                                assert_eq!(
                                    split.counts.iter().sum::<u32>() * split.micro,
                                    target,
                                    "{demand:?} {ranks}"
                                );
                                let (least, most) = (split.counts.iter().min(), split.counts.iter().max());
                                assert!(least >= Some(&1), "every rank works");
                                assert!(most <= least.map(|least| least + u32::from(uneven_counts)).as_ref());
                                assert!(micro.is_none_or(|micro| micro == split.micro));
                            }
                            None => {
                                refused += 1;
                                named_alternatives_split(&demand, ranks);
                            }
                        }
                    }
                }
            }
        }
        assert!(accepted > 5_000 && refused > 50_000, "{accepted} accepted, {refused} refused");
    }

    fn named_alternatives_split(demand: &Demand, ranks: u32) {
        let near = demand.alternatives(ranks);
        let target = |target| Demand { target, ..*demand }.micro_for(ranks).is_some();
        let brute_above =
            (demand.target + 1..=demand.target + ranks * demand.micro.unwrap_or(1)).find(|&other| target(other));
        let brute_below = (1..demand.target).rev().find(|&other| target(other));
        assert_eq!(near.target_above, brute_above, "{demand:?} {ranks}");
        assert_eq!(near.target_below, brute_below, "{demand:?} {ranks}");
        for count in [near.fewer_ranks, near.more_ranks].into_iter().flatten() {
            assert!(demand.split(count).is_some(), "{demand:?} {count}");
        }
        for micro in [near.micro_below, near.micro_above].into_iter().flatten() {
            assert!(Demand { micro: Some(micro), ..*demand }.split(ranks).is_some(), "{demand:?} {ranks} {micro}");
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        for ranks in [1, 1024, u32::MAX] {
            for micro in [None, Some(1), Some(LARGEST_TARGET)] {
                let demand = demand(LARGEST_TARGET - 1, micro);
                if demand.split(ranks.min(1024)).is_none() {
                    let _ = demand.alternatives(ranks.min(1024));
                }
            }
        }
    }
}
