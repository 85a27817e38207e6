//! The same inputs give the same plan; more memory or another device makes no step slower.

use evenkeel::inventory::DeviceRequest;
use evenkeel::job::SplitWish;
use evenkeel::plan::{Plan, Split};

use super::case::{self, Case};
use super::{Limits, Rng, cases, during};

/// The one exception: `split: auto` that goes over to equal micro-batches, which it takes when they are within 5 % of the best.
fn no_slower(before: &Plan, after: &Plan, wish: SplitWish) {
    let (was, is) = (before.predicted_step_seconds.expect("known"), after.predicted_step_seconds.expect("known"));
    let equal = wish == SplitWish::Auto && after.split == Some(Split::Uniform);
    let tolerated = if equal { 1.0501 } else { 1.01 };
    assert!(is <= was * tolerated, "{is} s after {was} s");
}

fn each(seed: u64, change: impl Fn(&mut Case, &mut Rng)) {
    let job = case::job();
    let limits = Limits { devices: 24, target: 1024, images: 60 };
    let mut compared = 0;
    for number in cases(300, 10_000) {
        let mut rng = Rng::new(seed, number);
        let mut case = case::random(&job, &mut rng, limits);
        let before = case.plan();
        assert_eq!(before, case.plan());
        change(&mut case, &mut rng);
        let (Ok(before), Ok(after)) = (before, case.plan()) else { continue };
        compared += 1;
        let wish = case.job.batch.split;
        during(number, &case, std::panic::AssertUnwindSafe(|| no_slower(&before, &after, wish)));
    }
    assert!(compared > 30, "{compared}");
}

#[test]
fn more_memory_makes_no_step_slower() {
    each(7, |case, rng| {
        let all = rng.one_in(2);
        for device in &mut case.devices {
            if all || rng.one_in(3) {
                device.memory_budget_bytes = device.memory_budget_bytes.map(|budget| budget + budget / 3);
            }
        }
    });
}

#[test]
fn another_equal_device_makes_no_step_slower() {
    let job = case::job();
    for number in cases(400, 10_000) {
        let mut rng = Rng::new(8, number);
        let mut case = case::random(&job, &mut rng, Limits { devices: 24, target: 1024, images: 60 });
        case.job.device = DeviceRequest::Auto;
        let before = case.plan();
        let mut other = case.devices[rng.between(0, case.devices.len() as u32 - 1) as usize].clone();
        other.id = case::gpu(999, 0, 0).id;
        case.devices.push(other);
        let (Ok(before), Ok(after)) = (before, case.plan()) else { continue };
        let wish = case.job.batch.split;
        during(number, &case, std::panic::AssertUnwindSafe(|| no_slower(&before, &after, wish)));
    }
}
