//! What unlike devices do together: images a second of two CPU devices of different size in one training, against the sum of what each does alone.
//! The runs alternate, so that whatever else the machine does meets all of them alike.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

#[expect(dead_code, reason = "each program uses its part")]
mod common;

use std::process::ExitCode;

use common::{keep, median};
use serde_json::{Value, json};
use support::{Place, no_engine, nothing_left};

/// Together they reach this part of the sum.
const TARGET: f64 = 0.85;
const ROUNDS: usize = 3;
/// Steps that are left out at the beginning of a run: memory and pictures are new.
const WARM: usize = 2;
const T: u64 = 96;

const LARGE: &str = "{cpu: 1.0, memory: 2GiB}";
const SMALL: &str = "{cpu: 0.5, memory: 1.2GiB}";

fn main() -> ExitCode {
    if let Some(why) = no_engine() {
        eprintln!("SKIPPED: {why}");
        return ExitCode::SUCCESS;
    }
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "480", "--imgsz", "160"]).with_code(0);
    place.write(
        "job.yaml",
        &format!(
            "name: t\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nimgsz: 160\nepochs: 2\nbatch: {T}\n\
             device: [{LARGE}, {SMALL}]\nargs: {{plots: false, val: false}}\n"
        ),
    );
    let devices = [format!("device=[{LARGE}]"), format!("device=[{SMALL}]"), format!("device=[{LARGE}, {SMALL}]")];
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut plan = Value::Null;
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let which = (round + turn) % 3;
            let (rate, planned) = train(&place, &devices[which]);
            eprintln!("{}: {rate:.1} images/s", devices[which]);
            rates[which].push(rate);
            if which == 2 {
                plan = planned;
            }
        }
    }
    nothing_left(&place);
    let ratios: Vec<f64> = (0..ROUNDS).map(|round| rates[2][round] / (rates[0][round] + rates[1][round])).collect();
    let ratio = median(&ratios);
    println!("1.0 processors, 2 GiB:     {:.1} images/s", median(&rates[0]));
    println!("0.5 processors, 1.2 GiB:   {:.1} images/s", median(&rates[1]));
    println!("together:                  {:.1} images/s, {ratio:.3} of the sum (target {TARGET})", median(&rates[2]));
    println!(
        "split: {}",
        plan["ranks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|rank| rank["micro_batches"].to_string())
            .collect::<Vec<_>>()
            .join(" and ")
    );
    keep("unlike", json!({ "images_per_second": rates, "ratios": ratios, "ratio": ratio, "plan": plan }));
    if ratio >= TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Trains on some devices; images a second in the middle of the run, and the plan. Every step has all its images.
fn train(place: &Place, device: &str) -> (f64, Value) {
    let ended = place.run(&["train", "job.yaml", device, "--json"]).with_code(0);
    let outcome: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    let record = std::path::PathBuf::from(outcome["record"].as_str().expect("a path"));
    let plan: Value = serde_json::from_slice(&std::fs::read(record.join("plan.json")).expect("a plan")).expect("JSON");
    let ranks = plan["ranks"].as_array().expect("ranks").len();
    // When each step ended on rank 0, and the images of all ranks.
    let steps = |rank: usize| -> Vec<(u64, u64)> {
        let events = std::fs::read_to_string(record.join(format!("events/rank-{rank}.events.jsonl"))).expect("events");
        let records = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records
            .filter(|record| record["event"]["kind"] == "step")
            .map(|record| {
                (record["time_ms"].as_u64().expect("a time"), record["event"]["images"].as_u64().expect("images"))
            })
            .collect()
    };
    let all: Vec<Vec<(u64, u64)>> = (0..ranks).map(steps).collect();
    let count = all[0].len();
    for step in 0..count {
        assert_eq!(all.iter().map(|steps| steps[step].1).sum::<u64>(), T, "images of step {step}");
    }
    let seconds = (all[0][count - 1].0 - all[0][WARM - 1].0) as f64 / 1e3;
    ((count - WARM) as f64 * T as f64 / seconds, plan)
}
