//! Memory that runs out: on purpose in each place, and for real under a cap.

use std::time::{Duration, Instant};

use evenkeel_wire::{Event, FailureClass};
use serde_json::json;

use crate::place::{Job, Place, Trained, sample};

/// Steps down that any rank told: step, micro-batch before and after.
fn step_downs(trained: &Trained) -> Vec<(u64, u32, u32)> {
    let of = |event: &Event| match event {
        Event::SteppedDown { step, from, to, .. } => Some((*step, *from, *to)),
        _ => None,
    };
    trained.ranks.iter().flat_map(|ended| ended.events.iter().filter_map(of)).collect()
}

#[test]
fn memory_that_runs_out_anywhere_costs_one_step() {
    let place = Place::with_images(24);
    let job = || Job { epochs: 1, cut: vec![vec![4], vec![4]], ..Job::new(&place, json!({"optimizer": "SGD"})) };
    let undisturbed = job().train(&[]).done();
    let all = [0, 1].into_iter().flat_map(|rank| [0, 2].map(|step| (rank, step)));
    let places = ["forward", "loss", "backward", "update", "validation"];
    let all: Vec<_> = all.flat_map(|(rank, step)| places.map(|place| (rank, step, place))).collect();
    // A sample has every place, both ranks, and both steps.
    let chosen = all.iter().enumerate().filter(|(at, _)| sample(0, 1) == 1 || at % 4 == (at / 5) % 4 || *at == 4);
    for (_, (rank, step, place)) in chosen {
        // The only validation comes after the last step.
        let step = if *place == "validation" { 2 } else { *step };
        let fault = format!("{rank}:{step}:{place}");
        let trained = job().train(&[("EVENKEEL_FAULTS", &fault)]).done();
        assert_eq!(trained.images(), [8, 8, 8], "{fault}");
        let same = match *place {
            "update" | "validation" => {
                assert_eq!(step_downs(&trained), [], "{fault}");
                undisturbed.state_bits()
            }
            _ => {
                assert_eq!(step_downs(&trained), [(step, 4, 2)], "{fault}");
                let scheduled = Job { micro_from_step: [(step, 2)].into(), ..job() };
                scheduled.train(&[]).done().state_bits()
            }
        };
        assert_eq!(trained.state_bits(), same, "{fault}");
        if *place == "validation" {
            assert!(trained.ranks[*rank].stdout.contains("out of memory in the validation of epoch 1"), "{fault}");
        }
    }
}

#[test]
fn memory_that_runs_out_while_gradients_are_on_their_way_costs_a_new_start() {
    let place = Place::with_images(24);
    let args = json!({"optimizer": "SGD", "overlap": true, "save_every": 1});
    let job = || Job { epochs: 1, cut: vec![vec![4], vec![4]], ..Job::new(&place, args.clone()) };
    let undisturbed = job().train(&[]).done();
    let scheduled = |step: u64| Job { micro_from_step: [(step, 2)].into(), ..job() }.train(&[]).done().state_bits();
    // Before the last backward pass, and after it, nobody waits for gradients: as without overlap.
    for (fault, down) in [
        ("0:0:forward", Some(0)),
        ("1:2:forward", Some(2)),
        ("1:0:loss", Some(0)),
        ("0:2:loss", Some(2)),
        ("0:0:update", None),
        ("1:2:update", None),
        ("0:2:validation", None),
        ("1:2:validation", None),
    ] {
        let trained = job().train(&[("EVENKEEL_FAULTS", fault)]).done();
        assert_eq!(trained.images(), [8, 8, 8], "{fault}");
        assert_eq!(step_downs(&trained), Vec::from_iter(down.map(|step| (step, 4, 2))), "{fault}");
        let same = down.map_or_else(|| undisturbed.state_bits(), scheduled);
        assert_eq!(trained.state_bits(), same, "{fault}");
    }
    for (rank, step) in [0, 1].into_iter().flat_map(|rank| [0, 2].map(|step| (rank, step))) {
        let out = format!("early-{rank}-{step}");
        let job = || Job { out: out.clone(), ..job() };
        let began = Instant::now();
        let failed = job().train(&[("EVENKEEL_FAULTS", &format!("{rank}:{step}:backward"))]);
        assert!(began.elapsed() < Duration::from_secs(30), "nobody waits for who is gone: {:?}", began.elapsed());
        let (class, message) = failed.ranks[rank].failure();
        assert_eq!((failed.ranks[rank].code, class), (Some(1), FailureClass::OutOfMemoryDevice), "{message}");
        let told = failed.ranks[rank].events.iter().find_map(|event| match event {
            Event::Failure { retry_below, .. } => *retry_below,
            _ => None,
        });
        assert_eq!(told, Some(4), "{message}");
        let (class, message) = failed.ranks[1 - rank].failure();
        assert_eq!(class, FailureClass::Collective, "{message}");
        // What a controller does then. The state may be older than the last step: it is written beside the training.
        let again = Job { cut: vec![vec![2; 2]; 2], ..job() }.train(&[]).done();
        let from = 3 - again.images().len() as u64;
        assert!(from <= step && again.images().iter().all(|images| *images == 8), "{:?}", again.images());
        assert_eq!(again.state_bits(), scheduled(from), "{out} from step {from}");
    }
}

#[test]
fn a_small_device_steps_down_alone() {
    let place = Place::with_images(24);
    let job = || Job { cut: vec![vec![8], vec![4]], ..Job::new(&place, json!({"val": false})) };
    let trained = job().train(&[("EVENKEEL_FAULTS", "1:1:backward")]).done();
    assert_eq!(trained.images(), [12, 12]);
    assert_eq!(step_downs(&trained), [(1, 4, 2)]);
    // The other one's micro-batch of 8 would have to go before 4 became 2, were they one size.
    let whole = job().train(&[("EVENKEEL_FAULTS", "0:1:backward")]).done();
    assert_eq!(step_downs(&whole), [(1, 8, 4)]);
}

#[test]
fn both_ranks_may_run_out_and_more_than_once() {
    let place = Place::with_images(16);
    let job = || Job { epochs: 1, cut: vec![vec![8], vec![8]], ..Job::new(&place, json!({})) };
    let faults = "0:0:backward,1:0:backward,0:0:forward";
    let trained = job().train(&[("EVENKEEL_FAULTS", faults)]).done();
    assert_eq!(trained.images(), [16]);
    let mut seen = step_downs(&trained);
    seen.sort_unstable();
    assert_eq!(seen, [(0, 4, 2), (0, 8, 4), (0, 8, 4)]);
    let scheduled = Job { micro_from_step: [(0, 2)].into(), ..job() }.train(&[]).done();
    assert_eq!(trained.state_bits(), scheduled.state_bits());
}

/// The most bytes of tensors that a training with micro-batches of `images` takes.
fn peak(place: &Place, images: u32) -> u64 {
    // A cap that is never met: only then are tensors told, and not the process.
    let job =
        Job { cut: vec![vec![images; (32 / images) as usize]], max_images: Some(32), ..Job::new(place, steady()) };
    let trained = job.train(&[("EVENKEEL_MEMORY", "100000000000")]).done();
    let memory = |event: &Event| if let Event::Step { memory_bytes, .. } = event { *memory_bytes } else { None };
    trained.ranks[0].events.iter().filter_map(memory).max().expect("a step")
}

/// Without mosaics' varying number of objects, every step takes the same memory.
fn steady() -> serde_json::Value {
    json!({"mosaic": 0.0, "optimizer": "SGD", "val": false})
}

#[test]
fn a_cap_is_kept_by_smaller_micro_batches() {
    let place = Place::with_images(64);
    let (large, small) = (peak(&place, 32), peak(&place, 8));
    let cap = (large + small) / 2;
    let job = || Job { epochs: 1, cut: vec![vec![32]], ..Job::new(&place, steady()) };
    let trained = job().train(&[("EVENKEEL_MEMORY", &cap.to_string())]).done();
    assert_eq!(trained.images(), [32, 32]);
    let seen = step_downs(&trained);
    eprintln!("micro-batches of 32 take {large} bytes, of 8 {small}; under a cap of {cap}: {seen:?}");
    let Some((0, _, to)) = seen.last().copied() else { panic!("{seen:?}") };
    assert!([8, 16].contains(&to), "{seen:?}");
    let scheduled = Job { micro_from_step: [(0, to)].into(), ..job() }.train(&[]).done();
    assert_eq!(trained.state_bits(), scheduled.state_bits());
}

#[test]
fn what_cannot_fit_ends_with_advice() {
    let place = Place::with_images(32);
    let (large, single) = (peak(&place, 32), peak(&place, 1));
    let job = || Job { epochs: 1, cut: vec![vec![32]], ..Job::new(&place, steady()) };
    for (job, cap, part) in [
        (Job { step_down: false, ..job() }, (large + single) / 2, "micro-batches of 32, which the job asks for"),
        (job(), single - (1 << 18), "a single image"),
        (job(), 20 << 20, "the model and what belongs to it do not fit"),
    ] {
        let trained = job.train(&[("EVENKEEL_MEMORY", &cap.to_string())]);
        let ended = &trained.ranks[0];
        let (class, message) = ended.failure();
        assert_eq!((ended.code, class), (Some(1), FailureClass::OutOfMemoryDevice), "{message}");
        assert!(message.contains(part) && message.contains("`imgsz`"), "{message}");
    }
}
