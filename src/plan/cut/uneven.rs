//! Cuts in which each rank has a size of micro-batch of its own.
//!
//! For a deadline, a worker can take certain numbers of images: every product of a count and a size that ends in time. The
//! question whether such numbers add up to the target is a sum of subsets, which is easy here for two reasons. Take each
//! worker's largest number X = n·m. It can take all multiples of n up to X, too, and every number up to n. So
//!
//! - when the target is at least one worker's X below the sum of all, it is always reached: one worker falls to a number
//!   up to its n, the others give multiples of theirs ([`give`]);
//! - when it is nearer, only what is missing has to be looked at, bit by bit ([`sums::reach`]).
//!
//! More time reaches all that less time does, so the least deadline is found by halving.

use super::uniform::trimmed;
use super::{Ask, Cut, Share, Worker, divisors, least_deadline, sums};

/// To within which part of itself the least deadline is searched.
const TOLERANCE: f64 = 5e-4;

/// Images that are looked at one by one; what is missing beyond is first made smaller in large steps. Up to a target of
/// this size the search is complete.
const WINDOW: u32 = 8192;

/// The fastest of them.
pub(super) fn best(ask: &Ask) -> Option<Cut> {
    if !ask.uneven_counts {
        let counts = divisors(ask.target).into_iter().rev();
        return counts.filter_map(|count| equal_counts(ask, count)).min_by(|a, b| a.seconds.total_cmp(&b.seconds));
    }
    if !is_possible(ask) {
        return None;
    }
    let rate = |worker: &&Worker| {
        let most = worker.most.min(ask.target);
        f64::from(most) / worker.seconds(1, most)
    };
    let useful = || ask.workers.iter().filter(|worker| worker.most > 0);
    let needed = useful().map(|worker| worker.seconds(1, 1)).fold(0.0, f64::max);
    let bound = (f64::from(ask.target) / useful().map(|worker| rate(&worker)).sum::<f64>()).max(if ask.all {
        needed
    } else {
        0.0
    });
    let sum = |deadline: f64| {
        let tops = Tops::new(ask, deadline);
        tops.sum() >= u64::from(ask.target)
    };
    let least = least_deadline(bound, 1e-7, sum)?;
    let deadline = least_deadline(least, TOLERANCE, |deadline| images(ask, deadline, false).is_some())?;
    let images = images(ask, deadline, true)?;
    let share = |(images, worker): (u32, &Worker)| share(ask, worker, deadline, images);
    Some(Cut::new(ask, images.into_iter().zip(&ask.workers).map(share).collect()))
}

/// Whether there is one at all.
pub(super) fn is_possible(ask: &Ask) -> bool {
    if ask.all && ask.workers.iter().any(|worker| worker.most == 0) {
        return false;
    }
    if ask.uneven_counts {
        return images(ask, f64::INFINITY, false).is_some();
    }
    let count = u64::try_from(ask.workers.len()).unwrap_or(u64::MAX);
    let most = |images: u32| ask.workers.iter().map(|worker| u64::from(worker.most.min(images))).sum::<u64>();
    divisors(ask.target).into_iter().filter(|count| ask.max_accumulation.is_none_or(|most| *count <= most)).any(
        |accumulation| {
            let images = ask.target / accumulation;
            (!ask.all || count <= u64::from(images)) && u64::from(images) <= most(images)
        },
    )
}

/// The same number of micro-batches on every rank.
fn equal_counts(ask: &Ask, count: u32) -> Option<Cut> {
    let images = ask.target / count;
    let least = u32::from(ask.all);
    let ranks = u32::try_from(ask.workers.len()).unwrap_or(u32::MAX);
    if ask.max_accumulation.is_some_and(|most| count > most) || (ask.all && ranks > images) {
        return None;
    }
    let slowest = ask.workers.iter().map(|worker| worker.seconds(count, 1)).fold(0.0, f64::max);
    let quickest = ask.workers.iter().map(|worker| worker.seconds(count, 1)).fold(f64::INFINITY, f64::min);
    let micro = |deadline: f64, worker: &Worker| worker.micro_within(deadline, count).min(images);
    let enough = |deadline: f64| {
        let mut sum = 0;
        for worker in &ask.workers {
            let micro = micro(deadline, worker);
            if micro < least {
                return false;
            }
            sum += u64::from(micro);
        }
        sum >= u64::from(images)
    };
    if !enough(f64::MAX) {
        return None;
    }
    let deadline = least_deadline(if ask.all { slowest } else { quickest }, 1e-12, enough)?;
    let sizes = ask.workers.iter().map(|worker| micro(deadline, worker)).collect();
    let sizes = trimmed(sizes, images, least, |rank, micro| ask.workers[rank].seconds(count, micro));
    let share = |micro: u32| if micro > 0 { Share { count, micro } } else { Share::default() };
    Some(Cut::new(ask, sizes.into_iter().map(share).collect()))
}

/// The most that each worker can take in a time, as counts and sizes; workers that are alike are asked once.
struct Tops(Vec<Share>);

impl Tops {
    fn new(ask: &Ask, deadline: f64) -> Self {
        let mut last: Option<(&Worker, Share)> = None;
        let tops = ask.workers.iter().map(|worker| match last {
            Some((same, top)) if same == worker => top,
            _ => {
                let found = top(ask, worker, deadline);
                last = Some((worker, found));
                found
            }
        });
        Self(tops.collect())
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|top| u64::from(top.images())).sum()
    }
}

/// The most images that a worker can take: its count is that of the fewest micro-batches that do it.
fn top(ask: &Ask, worker: &Worker, deadline: f64) -> Share {
    let one = worker.seconds(1, 1);
    if worker.most == 0 || one > deadline {
        return Share::default();
    }
    let most = ask.max_accumulation.unwrap_or(u32::MAX).min(ask.target).min(worker.count_within(deadline, 1).max(1));
    let images = |count: u32| Share { count, micro: worker.micro_within(deadline, count).min(ask.target / count) };
    // As long as memory is the limit, more micro-batches are more images: begin with the last for which it is.
    let full = worker.count_within(deadline, worker.most.min(ask.target)).clamp(1, most);
    let mut best = images(full.min(ask.target / worker.most.min(ask.target)).max(1));
    for count in best.count + 1..=most {
        // Whatever the size: no more images than this.
        let bound = if worker.per_image > 0.0 {
            (deadline - f64::from(count) * worker.overhead) / worker.per_image + 1e-6
        } else {
            f64::INFINITY
        };
        if f64::from(best.images()) + 1.0 > bound.min(f64::from(ask.target)) {
            break;
        }
        let other = images(count);
        if other.images() > best.images() {
            best = other;
        }
    }
    best
}

/// How many images each worker takes so that all end before the deadline; nothing where they cannot add up. Without `really` the
/// answer may be any: it is asked only whether there is one.
fn images(ask: &Ask, deadline: f64, really: bool) -> Option<Vec<u32>> {
    let tops = Tops::new(ask, deadline);
    if ask.all && tops.0.iter().any(|top| top.count == 0) {
        return None;
    }
    let useful = tops.0.iter().filter(|top| top.count > 0).count();
    let missing = tops.sum().checked_sub(u64::from(ask.target))?;
    let mut images: Vec<u32> = tops.0.iter().map(Share::images).collect();
    if u64::from(ask.target) < useful as u64 {
        return if ask.all { None } else { Some(one_each(ask, &tops)) };
    }
    if missing == 0 {
        return Some(images);
    }
    if useful == 1 {
        let rank = images.iter().position(|images| *images > 0)?;
        images[rank] = ask.target;
        return (share(ask, &ask.workers[rank], deadline, ask.target).count > 0).then_some(images);
    }
    let largest = tops.0.iter().max_by_key(|top| top.count).map_or(0, Share::images);
    if missing >= u64::from(largest) {
        if !really {
            return Some(images);
        }
        return balanced(ask, &tops, deadline).or_else(|| Some(give(images, &tops, missing)));
    }
    let missing = u32::try_from(missing).ok()?;
    taken(ask, images, &tops, deadline, missing)
}

/// Fewer images than workers, who need not all be used: an image for each of the fastest.
fn one_each(ask: &Ask, tops: &Tops) -> Vec<u32> {
    let mut order: Vec<usize> = (0..ask.workers.len()).filter(|rank| tops.0[*rank].count > 0).collect();
    order.sort_by(|one, other| ask.workers[*one].seconds(1, 1).total_cmp(&ask.workers[*other].seconds(1, 1)));
    let mut images = vec![0; ask.workers.len()];
    for rank in order.into_iter().take(ask.target as usize) {
        images[rank] = 1;
    }
    images
}

/// From what a little less time reaches, which is too little, worker by worker to what this time reaches: so that those who are
/// alike differ by one step, and none has much less than another.
fn balanced(ask: &Ask, tops: &Tops, deadline: f64) -> Option<Vec<u32>> {
    let shorter = deadline * (1.0 - 1e-6);
    let mut images: Vec<u32> = Tops::new(ask, shorter).0.iter().map(Share::images).collect();
    let mut sum: u64 = images.iter().map(|images| u64::from(*images)).sum();
    for (rank, top) in tops.0.iter().enumerate() {
        // Who is needed has an image at least.
        if images[rank] == 0 && ask.all {
            images[rank] = 1;
            sum += 1;
        }
        if sum < u64::from(ask.target) {
            sum += u64::from(top.images() - images[rank]);
            images[rank] = top.images();
        }
    }
    let missing = u32::try_from(sum.checked_sub(u64::from(ask.target))?).ok()?;
    if missing == 0 { Some(images) } else { taken(ask, images, tops, deadline, missing) }
}

/// Takes exactly `missing` away from `images`, where what is left can be done in time.
fn taken(ask: &Ask, mut images: Vec<u32>, tops: &Tops, deadline: f64, mut missing: u32) -> Option<Vec<u32>> {
    // In steps that a worker can always make, until the rest is in sight.
    for (rank, top) in tops.0.iter().enumerate() {
        if missing <= WINDOW {
            break;
        }
        if top.count > 0 && images[rank] == top.images() {
            let steps = ((missing - WINDOW / 2) / top.count).min(top.micro - 1);
            images[rank] -= steps * top.count;
            missing -= steps * top.count;
        }
    }
    if missing > WINDOW {
        return None;
    }
    let mut sets: Vec<Vec<u32>> = Vec::new();
    let mut places: Vec<usize> = Vec::with_capacity(images.len());
    let mut last: Option<(&Worker, u32)> = None;
    for (worker, images) in ask.workers.iter().zip(&images) {
        if last != Some((worker, *images)) {
            sets.push(drops(ask, worker, deadline, *images, missing));
            last = Some((worker, *images));
        }
        places.push(sets.len() - 1);
    }
    let sets: Vec<&[u32]> = places.iter().map(|place| sets[*place].as_slice()).collect();
    let drops = sums::reach(&sets, missing)?;
    for (images, drop) in images.iter_mut().zip(drops) {
        *images -= drop;
    }
    Some(images)
}

/// By how much a worker can fall below `images`, up to `most`: 0 first, ascending.
fn drops(ask: &Ask, worker: &Worker, deadline: f64, images: u32, most: u32) -> Vec<u32> {
    let floor = images.saturating_sub(most).max(1);
    let counts = ask.max_accumulation.unwrap_or(u32::MAX).min(images).min(worker.count_within(deadline, 1));
    let mut can = vec![false; images.saturating_sub(floor) as usize + 1];
    for count in 1..=counts {
        let largest = worker.micro_within(deadline, count).min(images / count);
        for micro in floor.div_ceil(count)..=largest {
            can[(images - count * micro) as usize] = true;
        }
    }
    let mut drops = vec![0];
    drops.extend((1..).zip(can.iter().skip(1)).filter(|(_, can)| **can).map(|(drop, _)| drop));
    if !ask.all && images > 0 && images <= most {
        drops.push(images);
    }
    drops
}

/// Takes `missing`, which is at least what the worker with the most micro-batches has, away from all.
fn give(mut images: Vec<u32>, tops: &Tops, missing: u64) -> Vec<u32> {
    let useful = || tops.0.iter().enumerate().filter(|(_, top)| top.count > 0);
    let many = useful().max_by_key(|(_, top)| top.count).map_or(0, |(rank, _)| rank);
    let few = useful().filter(|(rank, _)| *rank != many).min_by_key(|(_, top)| top.count).map_or(0, |(rank, _)| rank);
    let (most, least) = (tops.0[many], tops.0[few]);
    // What these two can give together, in every number from the first one's up.
    let both = u64::from(most.images() - 1) + u64::from(least.images() - least.count);
    let mut left = missing;
    for (rank, top) in useful().filter(|(rank, _)| *rank != many && *rank != few) {
        let wanted = left.saturating_sub(both).div_ceil(u64::from(top.count));
        let steps = u32::try_from(wanted).unwrap_or(u32::MAX).min(top.micro - 1);
        images[rank] -= steps * top.count;
        left -= u64::from(steps * top.count);
        // The last step is to one image, by ones.
        let ones = u32::try_from(left.saturating_sub(both)).unwrap_or(u32::MAX).min(images[rank] - 1);
        if steps + 1 == top.micro {
            images[rank] -= ones;
            left -= u64::from(ones);
        }
    }
    let steps = left.saturating_sub(u64::from(most.images() - 1)).div_ceil(u64::from(least.count));
    let steps = u32::try_from(steps).unwrap_or(u32::MAX).min(least.micro - 1);
    images[few] -= steps * least.count;
    left -= u64::from(steps * least.count);
    let rest = u32::try_from(left).unwrap_or(u32::MAX).min(most.images() - 1);
    images[many] -= rest;
    left -= u64::from(rest);
    // As few as workers: the second falls to one as well.
    let rest = u32::try_from(left).unwrap_or(u32::MAX).min(images[few] - 1);
    images[few] -= rest;
    images
}

/// A number of images as the fewest micro-batches of one size that end in time.
fn share(ask: &Ask, worker: &Worker, deadline: f64, images: u32) -> Share {
    let most = ask.max_accumulation.unwrap_or(u32::MAX).min(images).min(worker.count_within(deadline, 1));
    let fits = |count: &u32| images % count == 0 && images / count <= worker.micro_within(deadline, *count);
    (1..=most).find(fits).map_or(Share::default(), |count| Share { count, micro: images / count })
}

#[cfg(test)]
mod tests;
