//! How right the fit is: for each cell a device with a cap, a model, an image size and a set; what `autobatch` predicts against what an epoch
//! with validation and mosaics needs, and the micro-batch that it says is the largest against the largest that really trains.
//!
//! `make bench-fit` prints the table of docs/batch.md. It fails where a figure is outside what the fit promises. Arguments name cells.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

#[expect(dead_code, reason = "each program uses its part")]
mod common;

use std::process::ExitCode;
use std::time::Instant;

use common::keep;
use serde_json::{Value, json};
use support::{Ended, Place, no_engine, nothing_left};

/// The most that the prediction of a cell may be below what was needed.
const TOO_LOW: f64 = 0.05;
/// The most that predictions may be off on average.
const OFF: f64 = 0.03;
/// Of the largest micro-batch that really runs, what is to be found at least; of few images all but one.
const LARGE_ENOUGH: f64 = 0.9;
struct Cell {
    name: &'static str,
    trainer: &'static str,
    model: &'static str,
    imgsz: u32,
    memory: &'static str,
    labels: &'static str,
    /// Images of the set: more than fit at once.
    images: u32,
}

const fn cell(
    name: &'static str,
    trainer: &'static str,
    model: &'static str,
    imgsz: u32,
    memory: &'static str,
    labels: &'static str,
    images: u32,
) -> Cell {
    Cell { name, trainer, model, imgsz, memory, labels, images }
}

const FEW: &str = "1..3";
const MANY: &str = "200";

const CELLS: [Cell; 12] = [
    cell("n-96", "native", "yolov8n.yaml", 96, "1.2GiB", FEW, 384),
    cell("n-160-many", "native", "yolov8n.yaml", 160, "1.2GiB", MANY, 160),
    cell("n-320", "native", "yolov8n.yaml", 320, "2GiB", FEW, 80),
    cell("n-320-many", "native", "yolov8n.yaml", 320, "1.5GiB", MANY, 64),
    cell("s-160", "native", "yolov8s.yaml", 160, "1.5GiB", FEW, 96),
    cell("s-224-many", "native", "yolov8s.yaml", 224, "3GiB", MANY, 96),
    cell("s-320", "native", "yolov8s.yaml", 320, "1.2GiB", FEW, 32),
    cell("official-n-96", "ultralytics", "yolov8n.yaml", 96, "1.5GiB", FEW, 128),
    cell("official-n-160", "ultralytics", "yolov8n.yaml", 160, "2GiB", FEW, 96),
    cell("official-n-160-many", "ultralytics", "yolov8n.yaml", 160, "2GiB", MANY, 96),
    cell("official-s-320", "ultralytics", "yolov8s.yaml", 320, "3GiB", FEW, 48),
    cell("official-s-320-small", "ultralytics", "yolov8s.yaml", 320, "1.2GiB", FEW, 48),
];

/// What came of a cell.
struct Outcome {
    /// The micro-batch that was found and what was predicted for it; nothing where not one image fits.
    found: Option<(u32, f64)>,
    launches: u64,
    /// What an epoch with it needed.
    measured: f64,
    /// The largest that trains.
    largest: u32,
    seconds: f64,
}

fn main() -> ExitCode {
    if let Some(why) = no_engine() {
        eprintln!("SKIPPED: {why}");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut rows = Vec::new();
    let (mut off, mut bad) = (Vec::new(), Vec::new());
    println!(
        "| cell | trainer | model | imgsz | cap | labels | micro-batch | predicted | measured | off | largest that runs | launches |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for cell in CELLS.iter().filter(|cell| wanted.is_empty() || wanted.iter().any(|name| name == cell.name)) {
        let outcome = measure(cell);
        let mib = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
        let Cell { name, trainer, model, imgsz, memory, labels, .. } = cell;
        let found = match outcome.found {
            Some((micro, predicted)) => {
                let error = predicted / outcome.measured - 1.0;
                if outcome.measured.is_nan() {
                    bad.push(format!("{name}: {micro} images do not fit"));
                } else {
                    off.push(error.abs());
                }
                if error < -TOO_LOW {
                    bad.push(format!("{name}: predicted {:.1} % too low", -error * 100.0));
                }
                let enough = if outcome.largest < 10 {
                    micro + 1 >= outcome.largest
                } else {
                    f64::from(micro) >= LARGE_ENOUGH * f64::from(outcome.largest)
                };
                if !enough {
                    bad.push(format!("{name}: {micro} of the {} images that fit", outcome.largest));
                }
                format!("{micro} | {} | {} | {:+.1} %", mib(predicted), mib(outcome.measured), error * 100.0)
            }
            None => {
                if outcome.largest > 0 {
                    bad.push(format!("{name}: refused, though one image trains"));
                }
                "refused | - | - | -".to_owned()
            }
        };
        if outcome.launches > 4 {
            bad.push(format!("{name}: {} launches", outcome.launches));
        }
        println!(
            "| {name} | {trainer} | {model} | {imgsz} | {memory} | {labels} | {found} | {} | {} |",
            outcome.largest, outcome.launches
        );
        rows.push(json!({
            "cell": name, "micro_batch": outcome.found.map(|found| found.0), "predicted_bytes": outcome.found.map(|found| found.1),
            "measured_bytes": outcome.measured, "largest": outcome.largest, "launches": outcome.launches, "seconds": outcome.seconds,
        }));
    }
    let mean = off.iter().sum::<f64>() / off.len().max(1) as f64;
    let worst = off.iter().copied().fold(0.0, f64::max);
    println!("\nprediction off by {:.1} % on average, {:.1} % at most", mean * 100.0, worst * 100.0);
    if mean > OFF {
        bad.push(format!("predictions are {:.1} % off on average", mean * 100.0));
    }
    keep("fit", json!({ "cells": rows, "mean_off": mean, "worst_off": worst }));
    bad.iter().for_each(|bad| eprintln!("{bad}"));
    if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(cell: &Cell) -> Outcome {
    let began = Instant::now();
    let place = Place::new();
    let (images, side) = (cell.images.to_string(), cell.imgsz.to_string());
    place
        .run(&["dataset", "shapes", "shapes", "--images", &images, "--imgsz", &side, "--labels", cell.labels])
        .with_code(0);
    place.write(
        "job.yaml",
        &format!(
            "name: t\ntrainer: {}\nmodel: {}\ndata: shapes/data.yaml\nimgsz: {}\nepochs: 2\nbatch: {}\n\
             device: [{{cpu: 1, memory: {}}}]\nargs: {{plots: false, close_mosaic: 0}}\n",
            cell.trainer, cell.model, cell.imgsz, cell.images, cell.memory
        ),
    );
    let ended = place.run(&["autobatch", "job.yaml", "--json"]);
    if ended.code == Some(4) {
        eprintln!("{}: {}", cell.name, ended.stderr.lines().filter(|line| line.contains("error")).collect::<String>());
        let largest = u32::from(train(&place, 1, "epochs=1").is_some());
        return Outcome { found: None, launches: 1, measured: 0.0, largest, seconds: began.elapsed().as_secs_f64() };
    }
    let ended = ended.with_code(0);
    let found: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    let device = &found["devices"][0];
    // More than all images of the set are no question.
    let micro = device["largest_micro_batch"].as_u64().expect("a number").min(cell.images.into()) as u32;
    let launches = found["launches"].as_u64().expect("a number");
    let ended =
        place.run(&["plan", "job.yaml", &format!("batch.micro={micro}"), &format!("batch.target={micro}"), "--json"]);
    let plan: Value = serde_json::from_str(&ended.with_code(0).stdout).expect("one JSON object");
    let predicted = plan["ranks"][0]["memory"]["predicted_bytes"].as_f64().expect("a prediction");
    let measured =
        train(&place, micro, "epochs=2").unwrap_or_else(|| panic!("{}: {micro} images do not fit", cell.name));
    // The largest that runs, between what was found and what would be too much to have missed.
    let (mut runs, mut fails) = (micro, (micro + micro / 5 + 2).min(cell.images + 1));
    while fails - runs > 1 + runs / 50 {
        let middle = runs + (fails - runs) / 2;
        if train(&place, middle, "epochs=1").is_some() { runs = middle } else { fails = middle }
    }
    nothing_left(&place);
    let found = Some((micro, predicted));
    Outcome { found, launches, measured, largest: runs, seconds: began.elapsed().as_secs_f64() }
}

/// Trains in steps of one micro-batch; the most memory that it needed, in bytes, or nothing where memory ran out.
fn train(place: &Place, micro: u32, epochs: &str) -> Option<f64> {
    let (micro, target) = (format!("batch.micro={micro}"), format!("batch.target={micro}"));
    // Without what the fit found, which would refuse beforehand what is to be tried.
    let mut command = place.evenkeel(&["train", "job.yaml", &micro, &target, epochs, "batch.on_oom=fail", "--json"]);
    let ended = Ended::from(command.env("XDG_CACHE_HOME", place.path().join("no-cache")).output().expect("it starts"));
    let outcome: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr));
    if outcome["failure"]["class"] == "out_of_memory.device" {
        return None;
    }
    assert_eq!(outcome["exit_code"], 0, "{}", ended.stderr);
    let journal = std::path::Path::new(outcome["record"].as_str().expect("a path")).join("journal.jsonl");
    let journal = std::fs::read_to_string(journal).expect("a journal");
    let entries = journal.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let attempt = entries.rev().find(|entry| entry["entry"] == "attempt").expect("an attempt");
    attempt["detail"]["ranks"][0]["measured_bytes"].as_f64()
}
