//! The screen of a run, whole.

use super::*;
use crate::record::read::Glance;
use crate::record::summary::{Attempt, StepDown};
use crate::record::usage::{DEVICE_COLUMNS, RANK_COLUMNS, Usage, devices, ranks};

const LOOK: Look = Look { width: 80, colour: false, unicode: true };

fn run() -> Summary {
    let attempt = |rank: u64, micro: &[u64]| Attempt {
        rank,
        device: format!("cpu:{rank}"),
        micro_batches: micro.to_vec(),
        predicted_bytes: Some(1100 << 20),
        measured_bytes: Some(1000 << 20),
        budget_bytes: None,
    };
    let log =
        |rank, complete| Log { rank, lines: Some(1234), bytes: Some(56_789), dropped: 0, complete: Some(complete) };
    let out = Failure {
        rank: Some(1),
        class: Some("out_of_memory.device".into()),
        message: "no memory left".into(),
        advice: None,
    };
    let first = Generation {
        number: 1,
        begun_ms: 1_795_491_902_000,
        ended_ms: Some(1_795_491_912_000),
        ranks: vec![attempt(0, &[16, 16]), attempt(1, &[32])],
        imgsz: Some(160),
        last_step: Some(40),
        step_downs: vec![StepDown { step: 11, rank: 1, from: 64, to: 32 }],
        failures: vec![out],
        ..Generation::default()
    };
    let second = Generation {
        number: 2,
        begun_ms: 1_795_491_913_000,
        ended_ms: Some(1_795_492_026_000),
        failures: Vec::new(),
        step_downs: Vec::new(),
        last_step: Some(1599),
        ..first.clone()
    };
    Summary {
        run: Glance {
            id: "20261124-034501".into(),
            name: "shapes".into(),
            path: "runs/shapes/20261124-034501".into(),
            state: State::Done,
            class: None,
            begun_ms: Some(1_795_491_901_000),
            seconds: Some(125.0),
            epochs_done: Some(4),
            epochs: Some(4),
            map50: Some(0.75),
            devices: vec!["cpu:0".into(), "cpu:1".into()],
        },
        failure: None,
        trainer: Some("native".into()),
        model: Some("yolov8n.yaml".into()),
        data: Some("data/shapes/data.yaml".into()),
        image: Some("evenkeel/worker:1".into()),
        target_batch: Some(64),
        split: Some("uneven".into()),
        images_per_second: Some(64.25),
        ranks: second.ranks.clone(),
        generations: vec![first, second],
        logs: vec![log(0, true), Log { lines: None, ..log(1, false) }],
        course: [(4.0, 0.0), (2.0, 0.5), (1.0, 0.8), (0.5, 0.7)]
            .into_iter()
            .zip(1..)
            .map(|((loss, map), epoch)| Epoch { epoch, loss: Some(loss), map50: Some(map) })
            .collect(),
        best: Some(Epoch { epoch: 3, loss: Some(1.0), map50: Some(0.8) }),
        weights: Some("weights/best.safetensors".into()),
        usage: Usage::default(),
    }
}

#[test]
fn a_run_is_told_on_one_screen() {
    let expected = "\
shapes/20261124-034501  done after 2 min 5 s, begun 2026-11-24 03:45:01
record     runs/shapes/20261124-034501
job        native: yolov8n.yaml on data/shapes/data.yaml
image      evenkeel/worker:1
batch      64 images an optimizer step, uneven
devices    cpu:0 cpu:1

epochs     4/4
last       epoch 4: loss 0.500, mAP50 0.700
best       epoch 3: loss 1.000, mAP50 0.800
in the end mAP50 0.750
images/s   64.2
weights    weights/best.safetensors
";
    let text = summary(&run(), LOOK, &TimeZone::UTC);
    assert!(text.starts_with(expected), "{text}");
    let expected = "
launch 1   03:45:02, 10 s, micro-batches 2 x 16 | 32, 160 px, until step 41,
           failed, started again
           rank 1 ran out of memory in step 12: micro-batches of 64 became 32
           rank 1: no memory left (out_of_memory.device)
launch 2   03:45:13, 113 s, micro-batches 2 x 16 | 32, 160 px, until step 1,600,
           done

rank  device  micro-batches  memory    predicted          log
0     cpu:0   2 x 16         1000 MiB  1.1 GiB (+10.0 %)  1,234 lines, 56,789 bytes, complete
1     cpu:1   32             1000 MiB  1.1 GiB (+10.0 %)  56,789 bytes, unsealed: the last lines may be missing";
    assert!(text.ends_with(expected), "{text}");
    assert!(text.lines().count() <= 40, "more than a screen:\n{text}");
    assert!(text.contains("█") && !text.contains('\x1b'), "{text}");
}

#[test]
fn a_poor_terminal_gets_ascii_and_no_colour_is_kept_from_it() {
    let text = summary(&run(), Look { unicode: false, ..LOOK }, &TimeZone::UTC);
    assert!(text.is_ascii() && text.contains('#'), "{text}");
    let text = summary(&run(), Look { colour: true, ..LOOK }, &TimeZone::UTC);
    assert!(text.contains("\x1b[32mdone\x1b[0m"), "{text}");
    let narrow = summary(&run(), Look { width: 40, ..LOOK }, &TimeZone::UTC);
    let chart = narrow.lines().filter(|line| line.contains('█')).map(|line| line.chars().count()).max();
    assert!(chart.is_some_and(|widest| widest <= 40), "{narrow}");
}

#[test]
fn a_failure_is_told_with_its_advice_and_nothing_steers_the_terminal() {
    let mut it = run();
    it.run.state = State::Failed;
    it.run.class = Some("code".into());
    it.failure = Some(Failure {
        rank: Some(1),
        class: Some("code".into()),
        message: "it broke\x1b[2J\x07 here".into(),
        advice: Some("mend it".into()),
    });
    let text = summary(&it, LOOK, &TimeZone::UTC);
    assert!(text.contains("failed     rank 1: it broke here (code)\nadvice     mend it\n"), "{text}");
    assert!(!text.contains(['\x1b', '\x07']), "{text:?}");
}

#[test]
fn what_is_not_known_is_left_out() {
    let empty = Summary {
        run: Glance {
            seconds: None,
            begun_ms: None,
            epochs: None,
            epochs_done: None,
            map50: None,
            devices: Vec::new(),
            state: State::Unknown,
            ..run().run
        },
        trainer: None,
        model: None,
        data: None,
        image: None,
        target_batch: None,
        split: None,
        images_per_second: None,
        generations: Vec::new(),
        ranks: Vec::new(),
        logs: Vec::new(),
        course: Vec::new(),
        best: None,
        weights: None,
        ..run()
    };
    let text = summary(&empty, LOOK, &TimeZone::UTC);
    let expected =
        "shapes/20261124-034501  unknown\nrecord     runs/shapes/20261124-034501\n\nunknown    its record has no end";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn what_was_used_is_told_with_small_charts() {
    use std::fmt::Write;
    let (mut rank_rows, mut device_rows) = (format!("{RANK_COLUMNS}\n"), format!("{DEVICE_COLUMNS}\n"));
    for second in 0..120_u64 {
        let time = 1_795_491_902_000 + second * 1000;
        for rank in 0..2 {
            let (cpu, memory) =
                (if second == 0 { String::new() } else { format!("{second}.0") }, ((second + 1) * 10) << 20);
            let _ = writeln!(rank_rows, "{time},1,{rank},{cpu},{memory},{},", memory + 1);
        }
        let (throttled, game) =
            if second < 90 { ("none", "") } else { ("sw_power_cap", ";8:ga\x07me:1073741824:foreign") };
        let _ = writeln!(
            device_rows,
            "{time},1,GPU-9f000000-1c2d-4e5f-8a9b-0123456789ab,{},25769803776,{second},71,212.5,{throttled},7:python:5:rank-0{game}",
            (second + 1) << 27,
        );
    }
    let mut it = run();
    it.usage = Usage { ranks: ranks(rank_rows.as_bytes()), devices: devices(device_rows.as_bytes()) };
    let expected = "
rank  CPU   at most                memory                 predicted
0     60 %  119 %    ▁▁▂▃▃▄▅▆▆▇██  1.2 GiB  ▁▂▂▃▄▄▅▆▆▇██  1.1 GiB (-8.3 %)
1     60 %  119 %    ▁▁▂▃▃▄▅▆▆▇██  1.2 GiB  ▁▂▂▃▄▄▅▆▆▇██  1.1 GiB (-8.3 %)

device        memory    of                      use                 hottest  power
GPU-9f000000  15.0 GiB  24.0 GiB  ▁▂▂▃▄▄▅▆▆▇██  60 %  ▁▁▂▃▃▄▅▆▆▇██  71 °C    212 W
throttled  GPU-9f000000: sw_power_cap for 30 s
foreign    GPU-9f000000: game (process 8) for 30 s, 1.0 GiB at most";
    let text = summary(&it, LOOK, &TimeZone::UTC);
    assert!(text.ends_with(expected), "{text}");
    let text = summary(&it, Look { unicode: false, ..LOOK }, &TimeZone::UTC);
    assert!(text.is_ascii(), "{text}");
    // A screen is no place for all that came and went.
    let device = &mut it.usage.devices[0];
    device.foreign = vec![device.foreign[0].clone(); 9];
    device.foreign_more = 1000;
    let text = summary(&it, LOOK, &TimeZone::UTC);
    assert_eq!(text.matches("foreign  ").count(), 6, "{text}");
    assert!(text.ends_with("foreign    GPU-9f000000: 1004 more"), "{text}");
}
