//! The report of a run that had everything, with names that would break out of their place.

use super::*;
use crate::record::read::Glance;
use crate::record::summary::{Attempt, Failure, Generation, Log, StepDown};
use crate::record::told::Epoch;

const HOSTILE: &str = "<script>alert('x')</script>\" onload=\"x";

fn material() -> Material {
    let attempt = |rank, measured| Attempt {
        rank,
        device: format!("cpu:{rank} {HOSTILE}"),
        micro_batches: vec![16, 16],
        predicted_bytes: Some(2 << 30),
        measured_bytes: Some(measured),
        budget_bytes: Some(3 << 30),
    };
    let failure = Failure {
        rank: Some(1),
        class: Some("out_of_memory_device".into()),
        message: HOSTILE.into(),
        advice: Some("mend it".into()),
    };
    let launch = |number, failures| Generation {
        number,
        begun_ms: 1000 * number,
        go_ms: Some(1000 * number + 100),
        ended_ms: Some(1000 * number + 900),
        imgsz: Some(640),
        ranks: vec![attempt(0, 1 << 30), attempt(1, 4 << 30)],
        images_per_second: Some(123.4),
        step_downs: vec![StepDown { step: 3, rank: 1, from: 32, to: 16 }],
        failures,
        ..Generation::default()
    };
    let summary = Summary {
        run: Glance {
            id: "20261124-034501".into(),
            name: HOSTILE.into(),
            path: "/r".into(),
            state: State::Failed,
            class: Some("out_of_memory_device".into()),
            begun_ms: Some(1000),
            seconds: Some(61.5),
            epochs_done: Some(2),
            epochs: Some(3),
            map50: Some(0.5),
            devices: vec!["cpu:0".into(), "cpu:1".into()],
        },
        failure: Some(failure.clone()),
        trainer: Some("native".into()),
        model: Some(HOSTILE.into()),
        data: Some("shapes".into()),
        image: Some("evenkeel/worker:1".into()),
        target_batch: Some(64),
        split: None,
        images_per_second: Some(200.0),
        generations: vec![launch(1, vec![failure]), launch(2, Vec::new())],
        ranks: vec![attempt(0, 1 << 30), attempt(1, 4 << 30)],
        usage: Default::default(),
        logs: vec![Log { rank: 1, lines: Some(1234), bytes: Some(9), dropped: 7, complete: Some(false) }],
        course: Vec::new(),
        best: Some(Epoch { epoch: 2, loss: None, map50: Some(0.5) }),
        weights: None,
    };
    let epochs = |values: [f64; 2]| vec![(1.0, values[0]), (2.0, values[1])];
    Material {
        summary,
        table: vec![
            ("train/box_loss".into(), epochs([2.0, 1.0])),
            (format!("train/{HOSTILE}loss"), epochs([2.0, 1.0])),
            ("metrics/mAP50(B)".into(), epochs([0.1, 0.5])),
        ],
        loss: (0..100_000).map(|step| (f64::from(step), 1.0 / f64::from(step + 1))).collect(),
        rate: (0..100_000).map(|step| (f64::from(step), 0.01)).collect(),
        speed: (0..100_000).map(|step| (f64::from(step), 200.0)).collect(),
        lock: None,
        pictures: vec![Picture { name: "val_pred.svg".into(), media: "image/svg+xml", bytes: b"<svg/>".to_vec() }],
        left_out: vec!["PR_curve.png".into()],
        zone: jiff::tz::TimeZone::UTC,
    }
}

#[test]
fn nothing_breaks_out_of_its_place() {
    let html = html(&material());
    assert!(!html.contains("<script") && !html.contains("\" onload"), "{html}");
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    // No address but those of the formats themselves, which nobody looks up.
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn everything_is_in_it_and_a_long_run_stays_small() {
    let html = html(&material());
    for words in [
        "failed: out_of_memory_device",
        "rank 1: ",
        "mend it",
        "2/3",
        "0.500 in epoch 2",
        "Loss by epoch",
        "mAP of the validation",
        "Loss by step",
        "Learning rate",
        "Images a second",
        "1.0 GiB seen, 2.0 GiB predicted, 3.0 GiB there",
        "class=\"over\"",
        "launch 2",
        "ran out of memory, micro-batches of 32 became 16",
        "1,234, 7 dropped (not whole)",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "Too large for this file: PR_curve.png.",
        "evenkeel reproduce",
    ] {
        assert!(html.contains(words), "no `{words}` in\n{html}");
    }
    assert!(html.len() < 200_000, "{} bytes", html.len());
}

#[test]
fn a_run_that_told_nothing_says_so() {
    let mut material = material();
    (material.table, material.loss, material.rate, material.speed) = Default::default();
    material.summary.ranks.clear();
    material.summary.generations.clear();
    material.pictures.clear();
    material.left_out.clear();
    let html = html(&material);
    assert!(html.contains("told neither epochs nor steps") && html.contains("left no pictures"), "{html}");
    assert!(!html.contains("NaN") && !html.contains("<h2>Memory"), "{html}");
}
