//! What works near a job that does not, where time and memory are known.

use crate::plan::batch::{Alternatives, LARGEST_TARGET};
use crate::plan::cut::{Ask, is_possible};

/// Targets that are tried in each direction: the nearest that works is a few micro-batches away, or there is none.
const TRIES: u32 = 4096;

/// The nearest of each sort; all else is as it was.
pub(super) fn alternatives(ask: &Ask) -> Alternatives {
    let with_target = |target: &u32| is_possible(&Ask { target: *target, ..ask.clone() });
    let with_micro = |micro: &u32| is_possible(&Ask { micro: Some(*micro), ..ask.clone() });
    let ranks = ask.workers.len();
    let first = |count: &usize| {
        // More of what is there last: whoever adds a device mostly has another of those.
        let workers = (0..*count).map(|rank| ask.workers[rank.min(ranks - 1)]).collect();
        is_possible(&Ask { workers, ..ask.clone() })
    };
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let capacity = u32::try_from(capacity(ask)).unwrap_or(LARGEST_TARGET).min(LARGEST_TARGET);
    // Fewer images than ranks that all need one are not worth a try.
    let least = if ask.all { small(ranks) } else { 1 };
    let below = ask.target.saturating_sub(1).min(capacity);
    let above = ask.target.saturating_add(1).max(least);
    let largest = ask.micro.map_or(0, |micro| ask.target.min(micro.saturating_add(TRIES)));
    Alternatives {
        target_below: (least..=below).rev().take(TRIES as usize).find(with_target),
        target_above: (above..=capacity).take(TRIES as usize).find(with_target),
        fewer_ranks: (1..ranks).rev().find(first).map(small),
        more_ranks: (ranks + 1..=(2 * ranks).min(ranks + 64)).find(first).map(small),
        micro_below: ask.micro.and_then(|micro| (1..micro).rev().find(with_micro)),
        micro_above: ask.micro.and_then(|micro| (micro + 1..=largest).find(with_micro)),
        uneven: ask.uneven_micro && ask.micro.is_none() && {
            let split = crate::job::SplitWish::Uneven;
            ask.split != split && is_possible(&Ask { split, ..ask.clone() })
        },
    }
}

/// Images that all workers together can compute in a step, were they to be cut freely.
pub(super) fn capacity(ask: &Ask) -> u64 {
    let most = u64::from(ask.max_accumulation.unwrap_or(u32::MAX));
    let fits = |most: u32| ask.micro.map_or(most, |micro| if micro <= most { micro } else { 0 });
    ask.workers.iter().map(|worker| most.saturating_mul(u64::from(fits(worker.most)))).fold(0, u64::saturating_add)
}

/// The smallest limit of micro-batches a rank with which there is a cut.
pub(super) fn accumulation(ask: &Ask) -> Option<u32> {
    let with = |most: &u32| is_possible(&Ask { max_accumulation: Some(*most), ..ask.clone() });
    (ask.max_accumulation? + 1..=ask.target).take(TRIES as usize).find(with)
}
