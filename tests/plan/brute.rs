//! What is possible, found by going through all of it: another way than the planner's, slow, for small cases.

use evenkeel::job::SplitWish;

use super::case::Case;

/// Seconds of the best split over a choice of families; nothing where there is none.
pub struct Best {
    pub uniform: Option<f64>,
    pub uneven: Option<f64>,
}

/// A micro-batch that a device can run: how often, how large, how long all of them take.
struct Option_ {
    count: u32,
    micro: u32,
    seconds: f64,
}

pub fn best(case: &Case) -> Best {
    let options: Vec<Vec<Option_>> = case.devices.iter().map(|device| options(case, device)).collect();
    let target = case.target();
    let counts = 1..=target;
    let differ = case.abilities.uneven_micro && case.micro().is_none() && case.job.batch.split != SplitWish::Uniform;
    let least = |one: Option<f64>, other: Option<f64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let uniform = (1..=target).filter(|micro| target % micro == 0).map(|micro| {
        if case.abilities.uneven_counts {
            sums(case, &options, |option| option.micro == micro)
        } else {
            let each = counts.clone().filter(|count| target % count == 0);
            each.map(|count| sums(case, &options, |option| option.micro == micro && option.count == count))
                .fold(None, least)
        }
    });
    let uneven = || {
        if case.abilities.uneven_counts {
            sums(case, &options, |_| true)
        } else {
            let each = counts.clone().filter(|count| target % count == 0);
            each.map(|count| sums(case, &options, |option| option.count == count)).fold(None, least)
        }
    };
    Best { uniform: uniform.fold(None, least), uneven: if differ { uneven() } else { None } }
}

fn options(case: &Case, device: &evenkeel::inventory::Device) -> Vec<Option_> {
    let (time, _) = case.known(device);
    let largest = case.most(device);
    let most = case.job.batch.max_accumulation.unwrap_or(u32::MAX);
    let mut options = Vec::new();
    for micro in (1..=largest).filter(|micro| case.micro().is_none_or(|pinned| pinned == *micro)) {
        for count in 1..=(case.target() / micro).min(most) {
            let seconds = f64::from(count) * (time.overhead_seconds + time.seconds_per_image * f64::from(micro));
            options.push(Option_ { count, micro, seconds });
        }
    }
    options
}

/// Over all ways to choose one of the options that `may` be for each device, so that images add up: the least of the longest.
/// Kept by the sum and by whether none, one or more devices are used, as only more wait for each other.
fn sums(case: &Case, options: &[Vec<Option_>], may: impl Fn(&Option_) -> bool) -> Option<f64> {
    let target = case.target() as usize;
    let mut best = vec![[f64::INFINITY; 3]; target + 1];
    best[0][0] = 0.0;
    for device in options {
        let mut next = if case.auto() { best.clone() } else { vec![[f64::INFINITY; 3]; target + 1] };
        for option in device.iter().filter(|option| may(option)) {
            let images = (option.count * option.micro) as usize;
            for sum in images..=target {
                for used in 0..3 {
                    let seconds = best[sum - images][used].max(option.seconds);
                    let after = &mut next[sum][(used + 1).min(2)];
                    *after = after.min(seconds);
                }
            }
        }
        best = next;
    }
    let [_, one, more] = best[target];
    let seconds = one.min(more + case.knowledge.all_reduce_seconds);
    seconds.is_finite().then_some(seconds)
}

/// Whether there is any split, by the sums that devices can reach together: for cases of any size.
pub fn is_possible(case: &Case) -> bool {
    let target = case.target();
    let limits: Vec<u32> = case.devices.iter().map(|device| case.most(device)).collect();
    let accumulation = case.job.batch.max_accumulation.unwrap_or(u32::MAX);
    let differ = case.abilities.uneven_micro && case.micro().is_none() && case.job.batch.split != SplitWish::Uniform;
    let reaches = |may: &dyn Fn(u32, u32) -> bool| {
        let words = target as usize / 64 + 1;
        let mut reached = vec![0_u64; words];
        reached[0] = 1;
        let mut last: Option<(u32, Vec<u32>)> = None;
        for most in &limits {
            if last.as_ref().is_none_or(|(same, _)| same != most) {
                let mut can = vec![false; target as usize + 1];
                for micro in (1..=*most).filter(|micro| case.micro().is_none_or(|pinned| pinned == *micro)) {
                    for count in (1..=(target / micro).min(accumulation)).filter(|count| may(*count, micro)) {
                        can[(count * micro) as usize] = true;
                    }
                }
                last = Some((*most, (1..=target).filter(|images| can[*images as usize]).collect()));
            }
            let mut next = if case.auto() { reached.clone() } else { vec![0; words] };
            for images in &last.as_ref().expect("just made").1 {
                shift_or(&mut next, &reached, *images as usize);
            }
            reached = next;
        }
        reached[target as usize / 64] >> (target % 64) & 1 == 1
    };
    let divisors = || (1..=target).filter(|divisor| target % divisor == 0);
    match (differ, case.abilities.uneven_counts) {
        (true, true) => reaches(&|_, _| true),
        (true, false) => divisors().any(|count| reaches(&|other, _| other == count)),
        (false, true) => divisors().any(|micro| reaches(&|_, other| other == micro)),
        (false, false) => {
            divisors().any(|micro| divisors().any(|count| reaches(&|other, size| other == count && size == micro)))
        }
    }
}

fn shift_or(into: &mut [u64], from: &[u64], by: usize) {
    for at in by / 64..into.len() {
        into[at] |= from[at - by / 64] << (by % 64);
        if by % 64 > 0 && at > by / 64 {
            into[at] |= from[at - by / 64 - 1] >> (64 - by % 64);
        }
    }
}
