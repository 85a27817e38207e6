//! Whole pages.

use jiff::tz::TimeZone;

use super::series::Happened;
use super::*;
use crate::record::read::Glance;
use crate::record::summary::{Attempt, Failure, Generation, Log, State};

/// Bytes that a page of a long training may have, pictures aside.
const LARGE: usize = 700_000;

fn attempt(rank: u64) -> Attempt {
    Attempt {
        rank,
        device: format!("cpu:{rank}"),
        micro_batches: vec![16, 16],
        predicted_bytes: Some(1100 << 20),
        measured_bytes: Some(1000 << 20),
        budget_bytes: Some(2000 << 20),
    }
}

fn report(steps: u64, epochs: u64) -> Report {
    let begun_ms = 1_795_491_901_000;
    let launch = |number: u64| Generation {
        number,
        begun_ms: begun_ms + number * 20_000,
        go_ms: Some(begun_ms + number * 20_000 + 2000),
        ended_ms: Some(begun_ms + number * 20_000 + 18_000),
        imgsz: Some(160),
        ranks: vec![attempt(0), attempt(1)],
        last_step: Some(steps),
        ..Generation::default()
    };
    let out = Failure { rank: Some(1), class: None, message: "no memory left".into(), advice: None };
    let loss = |at: u64, of: u64| 4.0 - 3.0 * at as f64 / of as f64 + (at % 5) as f64 / 10.0;
    let column = |from: f64| (0..epochs).map(|at| Some(from * loss(at, epochs))).collect::<Vec<_>>();
    let summary = Summary {
        usage: crate::record::usage::Usage::default(),
        run: Glance {
            id: "20261124-034501".into(),
            name: "shapes".into(),
            path: "runs/shapes/20261124-034501".into(),
            state: State::Done,
            class: None,
            begun_ms: Some(begun_ms),
            seconds: Some(60.0),
            epochs_done: Some(epochs),
            epochs: Some(epochs),
            map50: Some(0.75),
            devices: vec!["cpu:0".into(), "cpu:1".into()],
        },
        failure: None,
        trainer: Some("native".into()),
        model: Some("yolov8n.yaml".into()),
        data: Some("data/shapes/data.yaml".into()),
        image: Some("evenkeel/worker:1".into()),
        target_batch: Some(64),
        split: Some("uniform".into()),
        images_per_second: Some(64.25),
        ranks: vec![attempt(0), attempt(1)],
        generations: vec![Generation { failures: vec![out], ..launch(1) }, launch(2)],
        logs: vec![Log { rank: 0, lines: Some(12), bytes: Some(345), dropped: 0, complete: Some(true) }],
        course: Vec::new(),
        best: None,
        weights: None,
    };
    let share = |rank: u64| Share {
        rank,
        device: format!("cpu:{rank}"),
        model: Some("a processor".into()),
        micro_batches: vec![16, 16],
    };
    let step = |step| Step { step, loss: Some(loss(step, steps)), lr: 0.01, images_per_second: Some(64.0) };
    let happened = Happened {
        time_ms: begun_ms + 30_000,
        generation: 1,
        rank: Some(1),
        bad: true,
        text: "no memory left (out_of_memory.device)".into(),
    };
    Report {
        summary,
        digests: vec!["sha256:0123".into()],
        commit: Some("89ab".into()),
        data: Some(("cdef".into(), 640)),
        shares: vec![share(0), share(1)],
        table: Table {
            epochs: (1..=epochs).collect(),
            columns: vec![
                ("train/box_loss".into(), column(1.0)),
                ("val/box_loss".into(), column(1.2)),
                ("metrics/mAP50(B)".into(), column(0.2)),
                ("metrics/mAP50-95(B)".into(), column(0.1)),
            ],
        },
        steps: (0..steps).map(step).collect(),
        first_steps: [(1, 0), (2, steps / 2)].into(),
        happened: vec![happened],
        transports: [(0, "tcp".to_owned())].into(),
        pictures: vec![Picture {
            name: "output/val_pred.svg".into(),
            kind: PictureKind::Prediction,
            media: "image/svg+xml",
            bytes: b"<svg/>".to_vec(),
        }],
        left_out: vec!["output/val_batch9_pred.jpg".into()],
        gaps: Vec::new(),
        made_ms: begun_ms + 61_000,
    }
}

#[test]
fn a_page_tells_what_it_was_and_what_came_of_it() {
    let page = html(&report(40, 4), &TimeZone::UTC);
    for words in [
        "<h1>shapes/20261124-034501</h1>",
        ">done</span> after 60 s",
        "64 images an optimizer step = 2 ranks × 2 micro-batches × 16 images (uniform)",
        "<code>sha256:0123</code>",
        "640 files, hashes <code>cdef</code>",
        "seen 1000 MiB, predicted 1.1 GiB (+10.0 %), of 2.0 GiB",
        "failed, started again",
        "rank 1: no memory left",
        "launch 2 begins",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "output/val_batch9_pred.jpg",
        "12 lines, 345 bytes, complete",
        "Times are those of UTC",
    ] {
        assert!(page.contains(words), "no `{words}` in\n{page}");
    }
    for chart in
        ["Mean average precision", "Loss of the training", "Loss of each step", "Learning rate", "Images a second"]
    {
        assert!(page.contains(&format!("<h3>{chart}</h3>")), "{chart}");
    }
    // What a rank said itself is told once.
    assert_eq!(page.matches("no memory left").count(), 2, "in the drawing and in the list");
    // A browser that keeps the policy asks for nothing; one that does not finds nothing to ask for.
    let policy = page.find("Content-Security-Policy").expect("a policy");
    assert!(policy < page.find("<style").expect("a style") && page.contains("default-src 'none'"));
    for asked in ["http:", "https:", "url(", "<script", "@import", "<iframe", "<object", "<embed", "srcset"] {
        assert!(!page.contains(asked), "{asked}");
    }
    let tags = |tag: &str| (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
    for tag in ["section", "figure", "svg", "table", "ul", "ol", "dl", "div"] {
        let (opened, closed) = tags(tag);
        assert_eq!(opened, closed, "{tag}");
    }
}

#[test]
fn nothing_that_a_run_holds_is_markup() {
    const HOSTILE: &str = "</title></style><script>alert(1)</script><img src=x onerror='alert(2)'>\"&";
    let hostile = || HOSTILE.to_owned();
    let mut report = report(30, 3);
    let summary = &mut report.summary;
    summary.run.name = hostile();
    summary.run.id = hostile();
    summary.run.path = HOSTILE.into();
    (summary.run.state, summary.run.class) = (State::Failed, Some(hostile()));
    let failure = Failure { rank: None, class: Some(hostile()), message: hostile(), advice: Some(hostile()) };
    summary.failure = Some(failure.clone());
    for text in [&mut summary.trainer, &mut summary.model, &mut summary.data, &mut summary.image, &mut summary.split] {
        *text = Some(hostile());
    }
    for generation in &mut summary.generations {
        generation.failures.push(failure.clone());
        generation.signal = Some(hostile());
    }
    summary.ranks[0].device = hostile();
    report.digests = vec![hostile()];
    (report.commit, report.data) = (Some(hostile()), Some((hostile(), 1)));
    for share in &mut report.shares {
        (share.device, share.model) = (hostile(), Some(hostile()));
    }
    for (name, _) in &mut report.table.columns {
        *name = format!("train/{HOSTILE}_loss");
    }
    report.happened[0].text = hostile();
    report.transports.insert(0, hostile());
    report.pictures[0].name = hostile();
    report.left_out = vec![hostile()];
    report.gaps = vec![hostile()];
    let page = html(&report, &TimeZone::UTC);
    for markup in ["<script", "<img src=x", "onerror='", "</title></style>"] {
        assert!(!page.contains(markup), "{markup} in\n{page}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.matches("&lt;script&gt;").count() > 20, "it is all there, as text");
}

#[test]
fn a_long_training_has_a_page_of_bounded_size() {
    let mut long = report(100_000, 1_000);
    long.steps[54_321].loss = Some(900.0);
    long.steps[777].loss = None;
    let page = html(&long, &TimeZone::UTC);
    assert!(page.len() < LARGE, "{}", page.len());
    assert!(page.contains(" to 900\n"), "the spike is under the pointer");
    assert!(page.contains("In 1 step it was not finite"));
    assert!(page.contains("one of 10, and the last"));
}

#[test]
fn a_run_of_which_little_is_known_has_a_page() {
    let mut bare = report(0, 0);
    bare.summary.generations.clear();
    bare.summary.ranks.clear();
    bare.summary.logs.clear();
    bare.summary.run.state = State::Unknown;
    bare.summary.run.seconds = None;
    (bare.table, bare.steps, bare.shares) = (Table::default(), Vec::new(), Vec::new());
    bare.first_steps.clear();
    bare.happened.clear();
    bare.pictures.clear();
    bare.left_out.clear();
    let page = html(&bare, &TimeZone::UTC);
    for words in ["told of no step", "No container was made", "No rank was planned", "left no pictures", "has no end"] {
        assert!(page.contains(words), "no `{words}`");
    }
    // One epoch, one step, one value.
    let page = html(&report(1, 1), &TimeZone::UTC);
    assert!(!page.contains("NaN") && page.contains("class=\"line l0 dot\""));
}
