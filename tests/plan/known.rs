//! What a person reads of plans and refusals where time and memory are known.

use std::collections::BTreeMap;

use evenkeel::error::{ExitCode, Failure};
use evenkeel::inventory::{ComputeCapability, Device, DeviceRequest};
use evenkeel::job::{Micro, SplitWish, Trainer};
use evenkeel::plan::{Abilities, Amp, Knowledge, Known, Lighter, MemoryModel, Split, TimeModel, table};

use super::case::{self, Case};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

const MEMORY: MemoryModel = MemoryModel {
    context_bytes: 300 * MIB,
    weights_bytes: 24 * MIB,
    gradients_and_optimizer_bytes: 36 * MIB,
    bytes_per_pixel: 400.0,
    bytes_per_pixel_and_label: 1.0,
    validation_bytes_per_pixel: 120.0,
    least_bytes: 0,
};

/// `count` cards of each kind: kind 0 is twice as fast as kind 1.
fn case(kinds: &[u32], budget: u64) -> Case {
    let mut job = case::job();
    job.device = DeviceRequest::Count(kinds.len() as u32);
    let devices = (0..).zip(kinds).map(|(index, kind)| case::gpu(index, *kind, budget)).collect();
    let known = |seconds_per_image| Known {
        time: Some(TimeModel { overhead_seconds: 0.004, seconds_per_image }),
        memory: Some(MEMORY),
    };
    let kind = |kind: u32, seconds: f64| (case::gpu(0, kind, 0).kind(), known(seconds));
    let kinds = BTreeMap::from([kind(0, 0.002), kind(1, 0.004)]);
    let knowledge = Knowledge {
        kinds,
        labels: 50,
        validation_images: None,
        all_reduce_seconds: 0.003,
        reserve: 0.0,
        lighter: Vec::new(),
    };
    Case { job, devices, abilities: Abilities::of(Trainer::Native), knowledge }
}

fn refusal(case: &Case) -> (ExitCode, String) {
    let failure = Failure::from(case.plan().expect_err("a refusal"));
    (failure.code(), failure.render())
}

fn cuts(case: &Case) -> Vec<Vec<u32>> {
    case.plan().expect("a plan").ranks.into_iter().map(|rank| rank.micro_batches).collect()
}

#[test]
fn unlike_cards_end_together_by_counts_or_by_sizes() {
    // Memory for 22 images a micro-batch at 640 pixels: equal ones of 16 in counts of 3 and 1 would wait.
    let mut case = case(&[0, 1], 64 * GIB);
    let plan = case.plan().expect("a plan");
    assert_eq!((plan.split, cuts(&case)), (Some(Split::Uneven), vec![vec![43], vec![21]]));
    assert!(plan.reasons.iter().any(|line| line.contains("batch normalisation sees another number")), "{plan:?}");
    case.job.batch.target = Some(96);
    case.job.batch.split = SplitWish::Uniform;
    assert_eq!(cuts(&case), [vec![32, 32], vec![32]]);
}

#[test]
fn equal_cards_keep_equal_micro_batches() {
    let case = case(&[0, 0], 64 * GIB);
    assert_eq!(cuts(&case), [[32], [32]]);
    assert_eq!(case.plan().expect("a plan").yolo.map(|yolo| (yolo.batch, yolo.accumulate)), Some((64, 1)));
}

#[test]
fn the_table_itemises_memory() {
    let text = table(&case(&[0, 0], 64 * GIB).plan().expect("a plan"));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let heading = "memory     context  weights  gradients+optimizer  activations  validation  in all";
    assert!(lines.contains(&heading), "{text}");
    assert!(
        lines.contains(&"ranks 0-1  300 MiB  24 MiB   36 MiB               5.5 GiB      2.9 GiB     5.8 GiB"),
        "{text}"
    );
    assert!(text.contains("in yolo's terms: batch=64 nbs=64 (accumulate 1)"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
    let text = table(&case(&[0, 1], 64 * GIB).plan().expect("a plan"));
    assert!(text.contains("in yolo's terms: nbs=64; it has no `batch`"), "{text}");
}

#[test]
fn what_does_not_fit_says_what_would() {
    let mut case = case(&[0], 480 * MIB);
    case.knowledge.lighter = vec![Lighter {
        change: "args.amp=true".into(),
        memory: BTreeMap::from([(case.devices[0].kind(), MemoryModel { bytes_per_pixel: 200.0, ..MEMORY })]),
    }];
    let (code, text) = refusal(&case);
    assert_eq!(code, ExitCode::OutOfMemory);
    for words in ["GPU 0 (card 0) has 480 MiB", "1 image", "activations 176 MiB", "`imgsz=", "`args.amp=true` (needs"] {
        assert!(text.contains(words), "no {words} in {text}");
    }
}

#[test]
fn a_smaller_image_of_one_stage_is_another_schedule() {
    let refused = case(&[0], 480 * MIB).plan().expect_err("a refusal");
    let hint = refused.of_stage(|side| format!("{{0: 320, 50: {side}}}")).hint().expect("what would fit");
    assert!(hint.contains("`imgsz={0: 320, 50: ") && !hint.contains("`imgsz=5"), "{hint}");
}

#[test]
fn a_cap_below_the_fixed_cost_names_both() {
    let mut case = case(&[0], 128 * MIB);
    case.devices[0].memory_cap_bytes = Some(128 * MIB);
    let (code, text) = refusal(&case);
    assert_eq!(code, ExitCode::OutOfMemory);
    for words in
        ["128 MiB", "360 MiB that a rank needs before its first image", "a higher `memory` cap (needs 536 MiB)"]
    {
        assert!(text.contains(words), "no {words} in {text}");
    }
}

#[test]
fn a_pinned_micro_batch_that_does_not_fit_is_the_jobs_mistake() {
    let mut case = case(&[0], 2 * GIB);
    case.job.batch.micro = Micro::Fixed(32);
    let (code, text) = refusal(&case);
    assert_eq!(code, ExitCode::BadRequest);
    assert!(text.contains("a micro-batch of 32 images needs") && text.contains("`batch.micro` of 9 at most"), "{text}");
}

#[test]
fn pins_that_contradict_each_other_are_named() {
    let mut case = case(&[0, 0], 64 * GIB);
    (case.job.batch.micro, case.job.batch.max_accumulation) = (Micro::Fixed(8), Some(3));
    let (code, text) = refusal(&case);
    assert_eq!(code, ExitCode::BadRequest);
    for words in [
        "3 micro-batches of 8 images on each of 2 devices hold 48 images",
        "target batch of 64",
        "`batch.max_accumulation=4`",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    case.knowledge = Knowledge::default();
    assert!(refusal(&case).1.contains("hold 48 images"));
}

#[test]
fn devices_that_the_target_cannot_feed_are_refused_or_idle() {
    let mut case = case(&[0; 4], 64 * GIB);
    case.job.batch.target = Some(2);
    let (code, text) = refusal(&case);
    assert_eq!(code, ExitCode::BadRequest);
    assert!(text.contains("`batch.target=4`") && text.contains("`gpus=2`"), "{text}");
    case.job.device = DeviceRequest::Auto;
    let plan = case.plan().expect("a plan");
    assert_eq!(plan.world_size, 1, "{plan:?}");
    assert!(plan.warnings.iter().any(|line| line.contains("3 devices idle")), "{plan:?}");
}

#[test]
fn a_card_on_which_nothing_fits_stays_idle_when_it_was_left_to_us() {
    let mut case = case(&[0, 0], 64 * GIB);
    case.devices[0].memory_budget_bytes = Some(100 * MIB);
    assert_eq!(refusal(&case).0, ExitCode::OutOfMemory);
    case.job.device = DeviceRequest::Auto;
    let plan = case.plan().expect("a plan");
    assert_eq!((plan.world_size, plan.ranks[0].device.as_str()), (1, "GPU-1"));
    assert!(plan.warnings.iter().any(|line| line.contains("not one image fits")), "{plan:?}");
}

#[test]
fn what_is_unknown_of_one_card_is_not_guessed() {
    let mut case = case(&[0, 1], 64 * GIB);
    let kind = case.devices[1].kind();
    case.knowledge.kinds.remove(&kind);
    let plan = case.plan().expect("a plan");
    assert_eq!(plan.predicted_step_seconds, None);
    assert!(plan.ranks[0].memory.predicted_bytes.is_some() && plan.ranks[1].memory.predicted_bytes.is_none());
}

#[test]
fn the_oldest_card_decides_on_the_type_of_mixed_precision() {
    let amp = |majors: &[Option<u32>]| {
        let mut case = case(&vec![0; majors.len()], 64 * GIB);
        let capability = |major: &u32| ComputeCapability { major: *major, minor: 0 };
        let set =
            |(device, major): (&mut Device, &Option<u32>)| device.compute_capability = major.as_ref().map(capability);
        case.devices.iter_mut().zip(majors).for_each(set);
        case.plan().expect("a plan").amp
    };
    assert_eq!(amp(&[Some(9), Some(8)]), Some(Amp::Bf16));
    assert_eq!(amp(&[Some(9), Some(7)]), Some(Amp::Fp16));
    assert_eq!(amp(&[Some(9), None]), None);
}

#[test]
fn knowledge_reads_back_as_it_was_written() {
    let knowledge = case(&[0, 1], GIB).knowledge;
    let text = serde_json::to_string(&knowledge).expect("plain data");
    assert_eq!(serde_json::from_str::<Knowledge>(&text).expect("what we wrote"), knowledge);
}
