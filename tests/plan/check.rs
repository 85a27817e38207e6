//! What must hold of an answer, whatever the case; used by the tests and by `benches/plan.rs`.

use evenkeel::job::SplitWish;
use evenkeel::plan::{Plan, PlanError, Split};

use super::brute;
use super::case::Case;

/// The step of a plan: exact, within memory, as the job and the trainer want it. Panics with what is wrong.
pub fn accepted(case: &Case, plan: &Plan) {
    let target = case.target();
    let images: u32 = plan.ranks.iter().flat_map(|rank| &rank.micro_batches).sum();
    assert_eq!(images, target, "exact");
    assert!(plan.world_size as usize == plan.ranks.len() && (case.auto() || plan.ranks.len() == case.devices.len()));
    let mut longest = 0.0_f64;
    for rank in &plan.ranks {
        let device = case.devices.iter().find(|device| device.id.to_string() == rank.device).expect("one of the job's");
        let micro = rank.micro_batches[0];
        assert!(rank.micro_batches.iter().all(|other| *other == micro), "one size a rank");
        assert!(case.micro().is_none_or(|pinned| pinned == micro), "the pin");
        assert!(
            case.job.batch.max_accumulation.is_none_or(|most| rank.micro_batches.len() <= most as usize),
            "the limit"
        );
        let (needs, budget) = (case.bytes(device, micro), device.memory_budget_bytes.expect("given") as f64);
        assert!(needs <= budget, "{needs} of {budget} bytes on {}", rank.device);
        let predicted = rank.memory.predicted_bytes.expect("known") as f64;
        assert!((predicted - needs).abs() < 4.0, "{predicted} for {needs}");
        let (time, _) = case.known(device);
        let one = time.overhead_seconds + time.seconds_per_image * f64::from(micro);
        longest = longest.max(one * rank.micro_batches.len() as f64);
    }
    let together = if plan.world_size > 1 { case.knowledge.all_reduce_seconds } else { 0.0 };
    let predicted = plan.predicted_step_seconds.expect("known");
    assert!((longest + together - predicted).abs() <= 1e-6 * predicted, "{predicted} for {}", longest + together);
    let counts = plan.ranks.windows(2).all(|pair| pair[0].micro_batches.len() == pair[1].micro_batches.len());
    assert!(counts || case.abilities.uneven_counts);
    let sizes = plan.ranks.windows(2).all(|pair| pair[0].micro_batches[0] == pair[1].micro_batches[0]);
    assert_eq!(plan.split, Some(if sizes { Split::Uniform } else { Split::Uneven }));
    assert!(sizes || (case.abilities.uneven_micro && case.job.batch.split != SplitWish::Uniform));
}

/// A refusal is right: there really is no plan, and what it proposes is one.
pub fn refused(case: &Case, error: &PlanError) {
    match error {
        PlanError::DoesNotFit { micro, one_fits, .. } => {
            let fits = |device: &evenkeel::inventory::Device| case.most(device) >= *micro;
            assert_eq!(*micro, case.micro().unwrap_or(1));
            assert!(if case.auto() { !case.devices.iter().any(fits) } else { !case.devices.iter().all(fits) });
            assert!(*one_fits || !case.devices.iter().all(|device| case.most(device) > 0));
        }
        PlanError::DoesNotSplit { near, .. } | PlanError::TooFewMicroBatches { near, .. } => {
            // Of devices that were left to us most must have work: then there may be a plan, on few of them.
            let few = case.auto() && fewer_than_half(case);
            assert!(few || !brute::is_possible(case), "there is a plan: {error}");
            for target in [near.target_below, near.target_above].into_iter().flatten() {
                let mut other = case.clone();
                other.job.batch.target = Some(target);
                if !other.auto() {
                    accepted(&other, &other.plan().unwrap_or_else(|error| panic!("proposed {target}: {error}")));
                }
            }
            if near.uneven {
                let mut other = case.clone();
                other.job.batch.split = SplitWish::Uneven;
                accepted(&other, &other.plan().expect("as was proposed"));
            }
        }
        other => panic!("{other}"),
    }
}

/// Whether no exact split into equal parts gives half of the devices work.
fn fewer_than_half(case: &Case) -> bool {
    let target = case.target();
    let useful = case.devices.iter().filter(|device| case.most(device) >= case.micro().unwrap_or(1)).count() as u32;
    let all = match case.micro() {
        Some(micro) if target % micro == 0 => target / micro,
        Some(_) => return true,
        None => target,
    };
    let widest = (1..=useful.min(all)).rev().find(|ranks| case.abilities.uneven_counts || all % ranks == 0);
    widest.unwrap_or(0) * 2 < useful.min(target)
}

/// How much slower than the best of the cuts that the plan is to be chosen from, and than the best of all: 1 is the best. The two
/// differ where `split: auto` keeps equal micro-batches, which may be up to 5 % slower.
pub fn ratios(case: &Case, plan: &Plan) -> (f64, f64) {
    let best = brute::best(case);
    let seconds = plan.predicted_step_seconds.expect("known");
    let all = best.uniform.into_iter().chain(best.uneven).fold(f64::INFINITY, f64::min);
    let own = match (plan.split, case.job.batch.split, best.uniform) {
        (Some(Split::Uniform), SplitWish::Auto, Some(uniform)) => {
            assert!(seconds <= all * 1.0501, "{seconds} s, and {all} s is possible");
            seconds / uniform
        }
        _ => seconds / all,
    };
    (own, seconds / all)
}
