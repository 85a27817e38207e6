//! How near the planner comes to the best there is, how long it takes for a machine larger than any, and every random case that
//! `tests/plan` samples.
//!
//! Times are printed and kept, never judged here: only wrong results fail.

#[path = "../tests/plan/brute.rs"]
mod brute;
#[path = "../tests/plan/case.rs"]
mod case;
#[path = "../tests/plan/check.rs"]
mod check;
#[expect(dead_code, reason = "each program uses its part")]
mod common;
#[path = "../tests/plan/rng.rs"]
mod rng;

use std::time::Instant;

use case::Limits;
use common::{keep, median};
use evenkeel::inventory::DeviceRequest;
use evenkeel::job::{Job, Micro, SplitWish, Trainer};
use evenkeel::plan::Abilities;
use rng::Rng;
use serde_json::json;

const CASES: u64 = 100_000;
const SMALL_CASES: u64 = 2000;
const ROUNDS: usize = 9;

fn main() {
    let job = case::job();
    let (own, all) = beside_brute_force(&job);
    let (worst, mean, compared) = (own.iter().copied().fold(0.0, f64::max), average(&own), own.len());
    assert!(worst <= 1.01, "{worst} times the best");
    println!("beside brute force: worst {worst:.5}, mean {mean:.6} times the best, of {compared} plans");
    let (kept_worst, kept_mean) = (all.iter().copied().fold(0.0, f64::max), average(&all));
    println!("with what `split: auto` gives for equal micro-batches: worst {kept_worst:.5}, mean {kept_mean:.6}");
    let mut times = Vec::new();
    for (name, kinds) in [("one kind", 1), ("five kinds", 5), ("all unlike", 1000)] {
        for trainer in [Trainer::Native, Trainer::Ultralytics] {
            let seconds = large(&job, kinds, trainer);
            println!("1,000 devices, {name}, 65,536 images, {}: {:.1} ms", trainer.name(), seconds * 1e3);
            times.push(json!({ "devices": 1000, "kinds": kinds, "trainer": trainer.name(), "seconds": seconds }));
        }
    }
    let begin = Instant::now();
    let (mut accepted, mut slowest) = (0_u64, 0.0_f64);
    for number in 0..CASES {
        let case = case::random(&job, &mut Rng::new(5, number), Limits { devices: 64, target: 4096, images: 300 });
        let start = Instant::now();
        let answer = case.plan();
        slowest = slowest.max(start.elapsed().as_secs_f64());
        match &answer {
            Ok(plan) => check::accepted(&case, plan),
            Err(error) => check::refused(&case, error),
        }
        accepted += u64::from(answer.is_ok());
    }
    let all = begin.elapsed().as_secs_f64();
    println!(
        "{CASES} random cases: {accepted} plans exact and within memory, {} refusals right; slowest {:.1} ms, {all:.0} s in all",
        CASES - accepted,
        slowest * 1e3
    );
    keep(
        "plan",
        json!({ "worst": worst, "mean": mean, "compared": compared, "worst_of_all": kept_worst, "mean_of_all": kept_mean, "large": times, "cases": CASES, "accepted": accepted,
                "slowest_case_seconds": slowest }),
    );
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Ratios to the best of the cuts to choose from, and to the best of all, for all small cases that have a plan.
fn beside_brute_force(job: &Job) -> (Vec<f64>, Vec<f64>) {
    let mut ratios = Vec::new();
    for number in 0..SMALL_CASES {
        let case = case::random(job, &mut Rng::new(6, number), Limits { devices: 5, target: 80, images: 12 });
        if let Ok(plan) = case.plan() {
            ratios.push(check::ratios(&case, &plan));
        }
    }
    ratios.into_iter().unzip()
}

/// Median seconds of a plan for a thousand devices, each memory too small for its part in one micro-batch.
fn large(job: &Job, kinds: u32, trainer: Trainer) -> f64 {
    let mut rng = Rng::new(9, u64::from(kinds));
    let mut case = case::random(job, &mut rng, Limits { devices: 1, target: 1, images: 300 });
    let known = *case.knowledge.kinds.values().next().expect("one");
    case.job.trainer = trainer;
    case.abilities = Abilities::of(trainer);
    case.job.device = DeviceRequest::Auto;
    case.job.batch.target = Some(65_536);
    case.job.batch.micro = Micro::Auto;
    case.job.batch.max_accumulation = None;
    case.job.batch.split = SplitWish::Auto;
    case.knowledge.kinds.clear();
    for kind in 0..kinds {
        let mut known = known;
        let time = known.time.as_mut().expect("given");
        time.overhead_seconds = 0.01 * (0.5 + rng.unit());
        time.seconds_per_image *= 0.5 + rng.unit();
        case.knowledge.kinds.insert(case::gpu(0, kind, 0).kind(), known);
    }
    let memory = known.memory.expect("given");
    let fixed = memory.context_bytes + memory.weights_bytes + memory.gradients_and_optimizer_bytes;
    let image = f64::from(case.job.imgsz.largest()).powi(2) * (memory.bytes_per_pixel + 300.0);
    let budget = |rng: &mut Rng| fixed + (image * f64::from(rng.between(8, 40))) as u64;
    case.devices = (0..1000).map(|index| case::gpu(index, index % kinds, budget(&mut rng))).collect();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let plan = case.plan().expect("a plan");
        times.push(start.elapsed().as_secs_f64());
        assert_eq!(plan.ranks.iter().flat_map(|rank| &rank.micro_batches).sum::<u32>(), 65_536);
    }
    median(&times)
}
