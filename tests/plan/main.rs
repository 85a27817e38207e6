//! The planner on random jobs and devices: exact, within memory, near the best, stable. A sample in ordinary tests, the whole with
//! `EVENKEEL_TEST_LONG=1`; `make bench-plan` does the whole in a release build and prints figures.

mod brute;
mod case;
mod check;
mod known;
mod rng;
mod stable;

use case::{Case, Limits};
use rng::Rng;

const LARGE: Limits = Limits { devices: 64, target: 4096, images: 300 };
const SMALL: Limits = Limits { devices: 5, target: 80, images: 12 };

/// So many cases, or all.
fn cases(sample: u64, all: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("EVENKEEL_TEST_LONG").is_some_and(|long| long == "1") { all } else { sample }
}

fn describe(case: &Case) -> String {
    let limits: Vec<u32> = case.devices.iter().map(|device| case.most(device)).collect();
    format!("{:?} {:?} {:?} {limits:?} {:?}", case.job.batch, case.job.device, case.abilities, case.knowledge.kinds)
}

/// Says which case it was when something in it panics.
fn during(number: u64, case: &Case, check: impl FnOnce() + std::panic::UnwindSafe) {
    if let Err(panic) = std::panic::catch_unwind(check) {
        eprintln!("in case {number}: {}", describe(case));
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_plan_is_exact_and_fits_and_every_refusal_is_right() {
    let job = case::job();
    let (mut accepted, mut refused) = (0, 0);
    for number in cases(1500, 100_000) {
        let case = case::random(&job, &mut Rng::new(5, number), LARGE);
        let answer = case.plan();
        *if answer.is_ok() { &mut accepted } else { &mut refused } += 1;
        during(
            number,
            &case,
            std::panic::AssertUnwindSafe(|| match &answer {
                Ok(plan) => check::accepted(&case, plan),
                Err(error) => check::refused(&case, error),
            }),
        );
    }
    assert!(accepted > refused / 4 && refused > accepted / 20, "{accepted} accepted, {refused} refused");
}

#[test]
fn every_plan_is_within_a_hundredth_of_the_best() {
    let job = case::job();
    let mut planned = 0;
    for number in cases(150, 2000) {
        let case = case::random(&job, &mut Rng::new(6, number), SMALL);
        let Ok(plan) = case.plan() else { continue };
        planned += 1;
        during(
            number,
            &case,
            std::panic::AssertUnwindSafe(|| {
                let (ratio, _) = check::ratios(&case, &plan);
                assert!((0.999_999..=1.01).contains(&ratio), "{ratio} times the best");
            }),
        );
    }
    assert!(planned > 50);
}
