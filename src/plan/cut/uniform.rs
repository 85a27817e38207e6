//! Cuts into micro-batches that are all of one size.

use super::{Ask, Cut, Share, Worker, divisors, least_deadline};

/// The fastest of them.
pub(super) fn best(ask: &Ask) -> Option<Cut> {
    let mut best: Option<Cut> = None;
    // Large micro-batches first: of cuts that are equally fast, the one with the most images for batch normalisation.
    for micro in sizes(ask) {
        let found = if ask.uneven_counts {
            let known = best.as_ref().map_or(f64::INFINITY, |cut| cut.seconds);
            [counted(ask, micro, known), alone(ask, micro)].into_iter().flatten().min_by(faster)
        } else {
            even(ask, micro)
        };
        best = best.into_iter().chain(found).min_by(faster);
    }
    best
}

/// Whether there is one at all.
pub(super) fn is_possible(ask: &Ask) -> bool {
    sizes(ask).into_iter().any(|micro| {
        let fitting = fitting(ask, micro);
        let all = ask.target / micro;
        if fitting == 0 || (ask.all && fitting < count(ask)) {
            return false;
        }
        let most = ask.max_accumulation.unwrap_or(u32::MAX);
        if ask.uneven_counts {
            u64::from(all) <= u64::from(most) * u64::from(fitting) && (!ask.all || all >= fitting)
        } else {
            let least = if ask.all { fitting } else { 1 };
            (least..=fitting.min(all)).any(|ranks| all % ranks == 0 && all / ranks <= most)
        }
    })
}

/// By seconds; of two that are equal but for rounding the first.
fn faster(one: &Cut, other: &Cut) -> std::cmp::Ordering {
    if (one.seconds - other.seconds).abs() <= 1e-9 * one.seconds {
        return std::cmp::Ordering::Equal;
    }
    one.seconds.total_cmp(&other.seconds)
}

/// The sizes that cut the target, the largest first.
fn sizes(ask: &Ask) -> Vec<u32> {
    match ask.micro {
        Some(micro) if micro > 0 && ask.target % micro == 0 => vec![micro],
        Some(_) => Vec::new(),
        None => divisors(ask.target),
    }
}

fn fitting(ask: &Ask, micro: u32) -> u32 {
    u32::try_from(ask.workers.iter().filter(|worker| worker.most >= micro).count()).unwrap_or(u32::MAX)
}

fn count(ask: &Ask) -> u32 {
    u32::try_from(ask.workers.len()).unwrap_or(u32::MAX)
}

/// The same number of micro-batches on every rank: of the ranks that are not all needed, the fastest.
fn even(ask: &Ask, micro: u32) -> Option<Cut> {
    let all = ask.target / micro;
    let mut order: Vec<(usize, &Worker)> =
        ask.workers.iter().enumerate().filter(|(_, worker)| worker.most >= micro).collect();
    if ask.all && order.len() < ask.workers.len() {
        return None;
    }
    order.sort_by(|(_, one), (_, other)| one.seconds(1, micro).total_cmp(&other.seconds(1, micro)));
    let fitting = u32::try_from(order.len()).unwrap_or(u32::MAX);
    let least = if ask.all { fitting } else { 1 };
    let seconds = |ranks: u32| {
        let together = if ranks > 1 { ask.all_reduce_seconds } else { 0.0 };
        order[ranks as usize - 1].1.seconds(all / ranks, micro) + together
    };
    let possible = (least..=fitting.min(all))
        .filter(|ranks| *ranks > 0 && all % ranks == 0)
        .filter(|ranks| ask.max_accumulation.is_none_or(|most| all / ranks <= most));
    let ranks = possible.min_by(|one, other| seconds(*one).total_cmp(&seconds(*other)))?;
    let mut shares = vec![Share::default(); ask.workers.len()];
    for (worker, _) in order.iter().take(ranks as usize) {
        shares[*worker] = Share { count: all / ranks, micro };
    }
    Some(Cut::new(ask, shares))
}

/// Each rank as many micro-batches as it can do in the time; nothing where that is no faster than `known`.
fn counted(ask: &Ask, micro: u32, known: f64) -> Option<Cut> {
    let all = ask.target / micro;
    let most = ask.max_accumulation.unwrap_or(u32::MAX).min(all);
    let fits = |worker: &&Worker| worker.most >= micro;
    let fitting = fitting(ask, micro);
    let idle_or_needed = !ask.all || (fitting == count(ask) && all >= fitting);
    if !idle_or_needed || u64::from(most) * u64::from(fitting) < u64::from(all) {
        return None;
    }
    let rate: f64 = ask.workers.iter().filter(fits).map(|worker| 1.0 / worker.seconds(1, micro)).sum();
    let slowest = ask.workers.iter().map(|worker| worker.seconds(1, micro)).fold(0.0, f64::max);
    let bound = (f64::from(all) / rate).max(if ask.all { slowest } else { 0.0 });
    if bound > known {
        return None;
    }
    let count = |deadline: f64, worker: &Worker| {
        if worker.most >= micro { worker.count_within(deadline, micro).min(most) } else { 0 }
    };
    let together = |deadline: f64| ask.workers.iter().map(|worker| u64::from(count(deadline, worker))).sum::<u64>();
    let deadline = least_deadline(bound, 1e-12, |deadline| together(deadline) >= u64::from(all))?;
    let counts = ask.workers.iter().map(|worker| count(deadline, worker)).collect();
    let least = u32::from(ask.all);
    let counts = trimmed(counts, all, least, |rank, count| ask.workers[rank].seconds(count, micro));
    let share = |count: u32| if count > 0 { Share { count, micro } } else { Share::default() };
    Some(Cut::new(ask, counts.into_iter().map(share).collect()))
}

/// All on one device, where the others may stay idle: it has nobody to wait for.
fn alone(ask: &Ask, micro: u32) -> Option<Cut> {
    let count = ask.target / micro;
    if ask.all || ask.max_accumulation.is_some_and(|most| count > most) {
        return None;
    }
    let fits = ask.workers.iter().enumerate().filter(|(_, worker)| worker.most >= micro);
    let (rank, _) = fits.min_by(|(_, one), (_, other)| one.seconds(1, micro).total_cmp(&other.seconds(1, micro)))?;
    let mut shares = vec![Share::default(); ask.workers.len()];
    shares[rank] = Share { count, micro };
    Some(Cut::new(ask, shares))
}

/// Takes away what is more than `wanted`, from those first who end last; nobody keeps less than `least`.
pub(super) fn trimmed(mut amounts: Vec<u32>, wanted: u32, least: u32, seconds: impl Fn(usize, u32) -> f64) -> Vec<u32> {
    let sum: u64 = amounts.iter().copied().map(u64::from).sum();
    let mut excess = sum.saturating_sub(u64::from(wanted));
    if excess == 0 {
        return amounts;
    }
    let mut order: Vec<usize> = (0..amounts.len()).collect();
    // Of equals the last gives way, so that the first ranks have most.
    order.sort_by(|one, other| {
        let (one_ends, other_ends) = (seconds(*one, amounts[*one]), seconds(*other, amounts[*other]));
        other_ends.total_cmp(&one_ends).then(other.cmp(one))
    });
    // One each is nearly always enough; a device on which more costs nothing can have more to give.
    for share in [1, u64::from(u32::MAX)] {
        for rank in &order {
            let taken = excess.min(u64::from(amounts[*rank].saturating_sub(least))).min(share);
            amounts[*rank] -= u32::try_from(taken).expect("no more than the amount");
            excess -= taken;
        }
    }
    amounts
}
