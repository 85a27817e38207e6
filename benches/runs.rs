//! How long `runs`, `show` and `logs` take to find their way among 10,000 finished runs, and `ps` to a run that goes on beside them. Every list is
//! checked for its length; times are printed and kept, never judged here.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

#[path = "../tests/support/record.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod record;

#[expect(dead_code, reason = "each program uses its part")]
mod common;

use std::time::Instant;

use common::{keep, median};
use evenkeel::record::usage::{DEVICE_COLUMNS, DEVICES, RANK_COLUMNS, RANKS};
use record::{BEGUN, Made};
use serde_json::{Value, json};
use support::{Place, job, until};

const RUNS: u64 = 10_000;
const NAMES: u64 = 20;
const ROUNDS: usize = 15;

fn main() {
    let place = Place::new();
    for number in 0..RUNS {
        make(&place, number);
    }
    let mut figures = json!({ "version": 1, "runs": RUNS });
    job(&place, "trap 'exit 0' TERM; while :; do sleep 0.05; done", "");
    let live = place.run(&["train", "-d", "job.yaml"]).with_code(0).stdout;
    let live = live.trim();
    until("both ranks", || place.run(&["ps"]).stdout.contains("2 cpu").then_some(()));
    let [prefix, latest] = [RUNS / 2, RUNS - 1].map(|number| format!("20261124-{number:06}"));
    for (name, args, bytes) in [
        ("ps", &["ps"][..], 40),
        ("runs", &["runs"], RUNS as usize * 50),
        ("runs_json", &["runs", "--json"], RUNS as usize * 100),
        ("show_latest", &["show", &latest], 500),
        ("show_prefix", &["show", &prefix], 500),
        ("logs_prefix", &["logs", &prefix], 10),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let ended = place.run(args).with_code(0);
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            assert!(ended.stdout.len() > bytes, "{args:?} printed {} bytes", ended.stdout.len());
        }
        let slowest = times.iter().copied().fold(0.0, f64::max);
        println!("{name:<12} {:>6.1} ms, slowest of {ROUNDS} {slowest:.1} ms (target: below 200)", median(&times));
        figures[name] = json!(times);
    }
    place.run(&["stop", live]).with_code(0);
    let list = place.run(&["runs", "--json"]).with_code(0).stdout;
    let list: Value = serde_json::from_str(&list).expect("one JSON value");
    assert_eq!(list["runs"].as_array().map(Vec::len), Some(RUNS as usize + 1));
    keep("runs", figures);
}

/// A run of two ranks with a journal as long as that of a training that went well.
fn make(place: &Place, number: u64) {
    let mut run =
        Made::new(&place.path().join("runs"), &format!("job-{}", number % NAMES), &format!("20261124-{number:06}"));
    for rank in 0..2 {
        let detail = json!({ "generation": 1, "rank": rank, "detail": null });
        for entry in ["create", "created", "started", "ended", "removed"] {
            run.entry(BEGUN + 1000, entry, detail.clone());
        }
        run.append(&format!("logs/rank-{rank}.log"), b"a line of its log\n");
    }
    let log = |rank: u32| json!({ "rank": rank, "sealed": true, "begin": 0, "lines": 1, "bytes": 18, "sha256": "0".repeat(64), "dropped": 0, "whole": true });
    let attempt = |rank: u32| {
        json!({ "rank": rank, "device": format!("cpu:{rank}"), "micro_batches": [16], "predicted_bytes": 2_000_000_000_u64,
            "budget_bytes": null, "measured_bytes": 1_900_000_000_u64 })
    };
    run.entry(BEGUN + 2000, "logs", json!({ "generation": 1, "ranks": [log(0), log(1)] }));
    let attempts = json!({ "generation": 1, "target_batch": 32, "imgsz": 640, "ranks": [attempt(0), attempt(1)], "last_step": 99,
        "images": 3200, "step_seconds": 50.0, "step_downs": [], "failures": [] });
    run.entry(BEGUN + 2000, "attempt", attempts);
    run.append("results.csv", b"epoch,time,train/box_loss,metrics/mAP50(B)\n1,1,3.5,0.25\n2,2,1.5,0.95\n3,3,1.0,0.9\n");
    if number % 10 == 0 {
        run.failed("code", "the trainer ended with exit code 1");
    } else {
        run.done();
    }
    // A gibibyte of tables would measure the disk: those that are shown have them.
    if number == RUNS / 2 || number == RUNS - 1 {
        sampled(&mut run);
    }
}

/// What two ranks and two GPUs were seen to use in an hour.
fn sampled(run: &mut Made) {
    let (mut ranks, mut devices) = (format!("{RANK_COLUMNS}\n"), format!("{DEVICE_COLUMNS}\n"));
    for second in 0..3600_u64 {
        let time = BEGUN + 1000 * second;
        for rank in 0..2 {
            let (cpu, memory) = (90 + second % 20, 2_000_000_000 + 100_000 * second);
            ranks += &format!("{time},1,{rank},{cpu}.5,{memory},{},\n", memory + 5);
            devices += &format!(
                "{time},1,GPU-{rank}f000000-1c2d-4e5f-8a9b-0123456789ab,{memory},25769803776,{},71,212.5,sw_power_cap,\
                 4242:python:{memory}:rank-{rank};4343:other:1000:foreign\n",
                second % 100
            );
        }
    }
    run.append(RANKS, ranks.as_bytes()).append(DEVICES, devices.as_bytes());
}
