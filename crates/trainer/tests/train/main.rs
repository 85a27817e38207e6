//! Real trainings of the real program, one process a rank: that the cut of a step does not matter, that a run repeats and goes on to the
//! bit, that memory that runs out costs one step.
//!
//! Sets are small and images of 64 pixels, so that a step takes tens of milliseconds. With `EVENKEEL_TEST_LONG` everything that is sampled
//! runs whole.

mod memory;
mod place;
mod stages;
#[path = "../support/mod.rs"]
mod support;
mod trial;

use std::time::Duration;

use evenkeel_wire::{Event, FailureClass};
use place::{Job, Place, apart, sample};
use serde_json::json;

/// One micro-batch is 4 images; T is 16.
const CUTS: [&[usize]; 5] = [&[4], &[2, 2], &[2, 1, 1], &[1, 1, 1, 1], &[3, 1]];

fn cut(counts: &[usize]) -> Vec<Vec<u32>> {
    counts.iter().map(|count| vec![4; *count]).collect()
}

#[test]
fn the_cut_of_a_step_does_not_matter() {
    let place = Place::with_images(48);
    let run = |counts: &[usize], epochs: u32, images: Option<u32>| {
        let job = Job {
            epochs,
            cut: cut(counts),
            max_images: images,
            ..Job::new(&place, json!({"optimizer": "SGD", "val": false}))
        };
        job.train(&[]).done()
    };
    // After one step SGD's momentum is the gradient, and the decayed weights, which are the same for all.
    let first: Vec<_> = CUTS.iter().map(|counts| run(counts, 1, Some(16))).collect();
    for (counts, other) in CUTS.iter().zip(&first).skip(1) {
        let gradient = apart(&first[0].state()["optimizer.momentum"], &other.state()["optimizer.momentum"]);
        let statistics = apart(&first[0].state()["network.statistics"], &other.state()["network.statistics"]);
        eprintln!("{counts:?}: first gradient {gradient:.1e} apart, statistics {statistics:.1e}");
        assert!(gradient <= 1e-6 && statistics <= 1e-6);
    }
    // Later steps drift apart by rounding, which training amplifies.
    let one = run(CUTS[0], 1, None).losses();
    assert_eq!(one.len(), 3);
    for counts in &CUTS[1..] {
        let other = run(counts, 1, None).losses();
        let worst = one.iter().zip(&other).map(|(one, other)| (one - other).abs() / one).fold(0.0, f64::max);
        eprintln!("{counts:?}: losses of 3 steps {worst:.1e} apart");
        assert!(worst <= 1e-4, "{one:?} and {other:?}");
    }
}

#[test]
fn gradients_that_are_sent_early_are_the_same() {
    let place = Place::with_images(48);
    let run = |counts: &[usize], overlap: bool, images: Option<u32>| {
        let args = json!({"optimizer": "SGD", "val": false, "overlap": overlap});
        Job { cut: cut(counts), max_images: images, ..Job::new(&place, args) }.train(&[]).done()
    };
    for counts in &CUTS[1..] {
        let (late, early) = (run(counts, false, Some(16)), run(counts, true, Some(16)));
        let of = |part: &str| apart(&late.state()[part], &early.state()[part]);
        let (gradient, statistics) = (of("optimizer.momentum"), of("network.statistics"));
        eprintln!("{counts:?}: first gradient {gradient:.1e} apart, statistics {statistics:.1e}");
        assert!(gradient <= 1e-6 && statistics <= 1e-6);
    }
    let (once, again) = (run(CUTS[4], true, None), run(CUTS[4], true, None));
    assert_eq!(once.losses().len(), 3);
    assert_eq!(once.state_bits(), again.state_bits());
}

#[test]
fn mixed_precision_trains_as_full_precision_does_but_for_rounding() {
    let place = Place::with_images(24);
    let job = || Job { cut: vec![vec![4], vec![4]], ..Job::new(&place, json!({"optimizer": "SGD", "val": false})) };
    let run = |amp: Option<&str>, faults: &[(&str, &str)]| {
        let trained = job().begin(faults, &|job| job["amp"] = amp.into()).end().done();
        (trained.losses(), trained.state_bits())
    };
    let (full, bits) = run(None, &[]);
    // 8 and 11 bits of mantissa, through sixty layers whose batch normalisation sees few values here.
    for (amp, apart) in [("bf16", 0.1), ("fp16", 0.02)] {
        let (mixed, mixed_bits) = run(Some(amp), &[]);
        eprintln!("{amp}: {mixed:?}, in full precision {full:?}");
        assert_ne!(bits, mixed_bits, "{amp} changes nothing");
        assert!(full.iter().zip(&mixed).all(|(full, mixed)| (full - mixed).abs() / full < apart), "{amp}");
        assert_eq!(run(Some(amp), &[]).1, mixed_bits, "{amp} repeats");
        // A rank that runs out in the midst of it computes the rest, and the update, as before.
        assert_eq!(run(Some(amp), &[("EVENKEEL_FAULTS", "0:1:update")]).1, mixed_bits, "{amp}");
        let down = run(Some(amp), &[("EVENKEEL_FAULTS", "0:1:forward")]);
        let scheduled = Job { micro_from_step: [(1, 2)].into(), ..job() };
        let scheduled = scheduled.begin(&[], &|job| job["amp"] = amp.into()).end().done();
        assert_eq!(down.1, scheduled.state_bits(), "{amp} after running out");
    }
}

#[test]
fn with_exact_sums_not_a_bit_depends_on_the_cut() {
    let place = Place::with_images(32);
    let epochs = sample(4, 25);
    let run = |counts: &[usize]| {
        let job =
            Job { epochs, cut: cut(counts), ..Job::new(&place, json!({"reduce": "exact", "warmup_epochs": 1.0})) };
        let trained = job.train(&[]).done();
        assert_eq!(trained.losses().len(), 2 * epochs as usize);
        trained
    };
    let one = run(CUTS[0]);
    for counts in &CUTS[1..] {
        let other = run(counts);
        assert_eq!(one.state_bits(), other.state_bits(), "{counts:?}: weights, optimizer and statistics");
        assert_eq!(one.hashes(), other.hashes(), "{counts:?}");
    }
}

#[test]
fn a_run_repeats_to_the_bit() {
    let place = Place::with_images(24);
    for (cut, args) in
        [(vec![vec![8]], json!({"optimizer": "SGD"})), (vec![vec![4], vec![4]], json!({"degrees": 10.0}))]
    {
        let run = || Job { epochs: 2, cut: cut.clone(), ..Job::new(&place, args.clone()) }.train(&[]).done();
        let (one, other) = (run(), run());
        assert_eq!(one.state_bits(), other.state_bits());
        assert_eq!(one.losses(), other.losses());
        let seeded = Job { epochs: 2, cut: cut.clone(), seed: 1, ..Job::new(&place, args.clone()) }.train(&[]).done();
        assert_ne!(one.state_bits(), seeded.state_bits(), "another seed is another run");
    }
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_weights() {
    let place = Place::with_images(24);
    let job = |out: &str| Job {
        epochs: 4,
        cut: vec![vec![4], vec![2, 2]],
        out: out.into(),
        ..Job::new(&place, json!({"save_every": 2, "optimizer": "AdamW"}))
    };
    let undisturbed = job("undisturbed").train(&[]).done();
    let mut chance = 1_u64;
    for round in 0..sample(3, 20) {
        let out = format!("killed-{round}");
        // A step between the first and the last, from a generator as simple as can be: 12 steps there are.
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = 1 + (chance >> 33) as usize % 11;
        let running = job(&out).start(&[]);
        running.until_steps(after);
        running.kill();
        let resumed = job(&out).train(&[]).done();
        assert_eq!(resumed.state_bits(), undisturbed.state_bits(), "killed after step {after}");
        let table = |out: &str| {
            let text = std::fs::read_to_string(place.path().join(out).join("results.csv")).expect("a table");
            // All but the time.
            text.lines()
                .map(|row| {
                    row.split(',')
                        .enumerate()
                        .filter(|(at, _)| *at != 1)
                        .map(|(_, cell)| cell.to_owned())
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(table(&out), table("undisturbed"), "killed after step {after}");
    }
}

#[test]
fn a_stopped_run_ends_after_the_step_and_goes_on_from_there() {
    let place = Place::with_images(24);
    let job =
        |out: &str| Job { epochs: 3, cut: vec![vec![4], vec![4]], out: out.into(), ..Job::new(&place, json!({})) };
    let undisturbed = job("undisturbed").train(&[]).done();
    let running = job("stopped").start(&[]);
    running.until_steps(4);
    running.terminate();
    let stopped = running.end();
    for ended in &stopped.ranks {
        assert_eq!(ended.code, Some(143), "{}{}", ended.stdout, ended.stderr);
    }
    let done = stopped.losses().len();
    assert!(
        stopped.ranks[0].stdout.contains(&format!("stopped after step {done} of 9")),
        "{}",
        stopped.ranks[0].stdout
    );
    let resumed = job("stopped").train(&[]).done();
    assert_eq!(resumed.losses().len(), 9 - done);
    assert_eq!(resumed.state_bits(), undisturbed.state_bits());
}

#[test]
fn a_small_set_has_whole_steps_or_none() {
    let place = Place::with_images(4);
    let run = |target: u32| Job { epochs: 2, cut: vec![vec![target]], ..Job::new(&place, json!({})) }.train(&[]);
    assert_eq!(run(4).done().losses().len(), 2);
    let three = run(3).done();
    assert_eq!(three.losses().len(), 2);
    assert!(three.ranks[0].stdout.contains("1 of 4 left out by chance"), "{}", three.ranks[0].stdout);
    let five = run(5);
    let (class, message) = five.ranks[0].failure();
    assert_eq!((five.ranks[0].code, class), (Some(1), FailureClass::Data));
    assert!(message.contains("a step of 5 images from a set of 4"), "{message}");
}

#[test]
fn weights_are_started_from_and_a_foreign_state_is_refused() {
    let place = Place::with_images(8);
    let job = || Job { epochs: 1, cut: vec![vec![8]], ..Job::new(&place, json!({})) };
    let first = Job { out: "first".into(), ..job() }.train(&[]).done();
    let weights = first.path().join("weights/best.safetensors");
    let model = weights.display().to_string();
    let second = Job { model, out: "second".into(), ..job() }.train(&[]).done();
    assert!(second.ranks[0].stdout.contains("297 of 297 tensors"), "{}", second.ranks[0].stdout);

    let other = Job { seed: 5, out: "first".into(), ..job() }.train(&[]);
    let (class, message) = other.ranks[0].failure();
    assert_eq!(class, FailureClass::Infrastructure);
    assert!(
        message.contains("state.safetensors` cannot be gone on from: its seed is 0, this training's is 5"),
        "{message}"
    );

    std::fs::write(place.path().join("first/weights/state.safetensors"), "torn").expect("written");
    let message = Job { out: "first".into(), ..job() }.train(&[]).ranks[0].failure().1.to_owned();
    assert!(message.contains("is damaged"), "{message}");
}

#[test]
fn a_job_that_makes_no_sense_is_refused_before_anything_is_read() {
    let place = Place::with_images(8);
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let job = Job::new(&place, json!({}));
        let trained = job.train_changed(change);
        let ended = &trained.ranks[0];
        assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
        ended.failure().1.to_owned()
    };
    for (change, part) in [
        (("args", json!({"lr": 1})), "no setting `lr`; did you mean `lr0`"),
        (("args", json!({"lr0": 7})), "`lr0` is 7, expected a number from 0 to 1"),
        (("imgsz", json!(100)), "no multiple of 32"),
        (("amp", json!("fp8")), "only in bf16 and fp16"),
        (("target_batch", json!(9)), "have 8 images, not 9"),
        (("micro_batches", json!([[4], [4]])), "over 2 ranks, but there are 1"),
        (("model", json!("yolov9n.yaml")), "unknown model `yolov9n.yaml`"),
        (("model", json!("best.pt")), "evenkeel weights import best.pt"),
        (("model", json!("none.safetensors")), "failed to read `none.safetensors`"),
        (("version", json!(99)), "of version 99"),
        (("epochs", json!("ten")), "is no job file"),
    ] {
        let message = refused(&|job| job[change.0] = change.1.clone());
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn hostile_files_are_counted_and_named() {
    let place = Place::with_images(16);
    let hostile = place::hostile_files(&place);
    // One more in the validation split, which is found out only when it is decoded there.
    std::fs::copy(place.file("images", "train", "scrambled.png"), place.file("images", "val", "scrambled-val.png"))
        .expect("copied");
    let job = Job { epochs: 1, cut: vec![vec![4], vec![4]], ..Job::new(&place, json!({})) };
    let trained = job.train(&[]).done();
    let log = &trained.ranks[0].stdout;
    for (name, skipped) in &hostile {
        let named = log.lines().any(|line| line.starts_with("warning") && line.contains(name.as_str()));
        assert_eq!(named, *skipped, "{name}:\n{log}");
    }
    assert!(trained.ranks.iter().any(|ended| ended.stdout.contains("scrambled-val.png")), "{log}");
    let left_out = hostile.iter().filter(|(_, skipped)| *skipped).count();
    // One is mended, and one is whole at both ends: it is found out when it is decoded.
    assert!(log.contains(&format!("{} left out", left_out - 2)), "{log}");
    let notes = trained.ranks[0].events.iter().filter_map(|event| match event {
        Event::Note { message } => Some(message.as_str()),
        _ => None,
    });
    assert!(notes.into_iter().any(|note| note.contains("images of the training split are left out")));
}

#[test]
fn pictures_are_drawn_unless_nobody_wants_them() {
    let place = Place::with_images(8);
    let drawn = |plots: bool| {
        let trained = Job { cut: vec![vec![8]], ..Job::new(&place, json!({"plots": plots})) }.train(&[]).done();
        let names = ["confusion_matrix.svg", "PR_curve.svg", "val_pred.svg", "results.svg"];
        names.map(|name| std::fs::read_to_string(trained.path().join(name)).ok())
    };
    let trained = Job { cut: vec![vec![8]], ..Job::new(&place, json!({"plots": false})) }.train(&[]).done();
    let classes = std::fs::read_to_string(trained.path().join("classes.csv")).expect("a table");
    assert_eq!(classes.lines().next(), Some("class,name,objects,precision,recall,mAP50,mAP50-95"));
    assert!(classes.contains("0,\"red\",") && classes.contains("1,\"green\","), "{classes}");
    assert!(drawn(true).iter().all(|text| text.as_ref().is_some_and(|text| text.starts_with("<svg "))));
    assert_eq!(drawn(false), [const { None }; 4]);
}

#[test]
fn a_rank_that_dies_is_known_at_once() {
    let place = Place::with_images(16);
    let job = Job { epochs: 1000, cut: vec![vec![4], vec![4]], ..Job::new(&place, json!({"val": false})) };
    let running = job.start(&[]);
    running.until_steps(2);
    let began = std::time::Instant::now();
    running.kill_rank(1);
    let ended = running.end();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let (class, message) = ended.ranks[0].failure();
    assert_eq!((ended.ranks[0].code, class), (Some(1), FailureClass::Collective), "{message}");
}
