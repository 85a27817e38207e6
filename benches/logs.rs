//! How fast output arrives: a million lines from each of two ranks in the record and on stdout, against `docker logs -f`
//! of one container that writes as many. Launching is counted on both sides.
//!
//! Times are printed and kept, never judged here: only a missing or misplaced line fails.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

#[expect(dead_code, reason = "each program uses its part")]
mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use common::{keep, median, peak_memory};
use serde_json::json;
use support::{Place, docker, image, job, no_engine, nothing_left};

const ROUNDS: usize = 3;
const LINES: u64 = 1_000_000;

fn main() -> ExitCode {
    if let Some(why) = no_engine() {
        eprintln!("SKIPPED: {why}");
        return ExitCode::SUCCESS;
    }
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    let mut delivered = Vec::new();
    for _ in 0..ROUNDS {
        let (time, memory) = evenkeel();
        ours.push(time);
        peak = peak.max(memory);
        let (time, lines) = docker_logs();
        theirs.push(time);
        delivered.push(lines);
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let ratio = median(&ratios);
    println!("evenkeel, 2 x {LINES} lines:            {:.2} s, every line there and in order", median(&ours));
    println!("docker logs -f, 1 x {LINES} lines:      {:.2} s, lines delivered: {delivered:?}", median(&theirs));
    println!("ratio {ratio:.3} (target: below 1); controller's peak memory {:.1} MB", peak as f64 / 1e6);
    keep(
        "logs",
        json!({
            "version": 1, "lines": LINES, "evenkeel_seconds": ours, "docker_logs_seconds": theirs,
            "docker_logs_lines": delivered, "ratio": ratio, "controller_peak_bytes": peak,
        }),
    );
    ExitCode::SUCCESS
}

/// Both ranks' lines through the controller: seconds, and its peak memory in bytes.
fn evenkeel() -> (f64, u64) {
    let place = Place::new();
    job(&place, &format!("exec seq -f \"$RANK line %.0f\" {LINES}"), "");
    let shown = place.path().join("stdout");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.stdout(File::create(&shown).expect("a file")).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().expect("the program starts");
    let peak = peak_memory(&mut child);
    let time = begin.elapsed().as_secs_f64();
    assert!(child.wait().expect("a child of ours").success());
    for rank in 0..2 {
        check(&place.record().join(format!("logs/rank-{rank}.log")), "", rank);
        check(&shown, &format!("[{rank}] "), rank);
    }
    nothing_left(&place);
    (time, peak)
}

/// Checks that the lines of a rank, those behind `prefix`, are all there and in order.
fn check(file: &Path, prefix: &str, rank: u32) {
    let mut next = 1;
    for line in BufReader::new(File::open(file).expect("a file")).lines() {
        let line = line.expect("text");
        if let Some(line) = line.strip_prefix(prefix) {
            assert_eq!(line, format!("{rank} line {next}"), "in {}", file.display());
            next += 1;
        }
    }
    assert_eq!(next, LINES + 1, "lines of rank {rank} in {}", file.display());
}

/// One container's lines through `docker logs -f`: seconds, and how many came.
fn docker_logs() -> (f64, usize) {
    let place = Place::new();
    let name = format!("evenkeel-bench-{}", std::process::id());
    let file = place.path().join("logs");
    let script = format!("exec seq -f '0 line %.0f' {LINES}");
    let begin = Instant::now();
    // A file that holds them all: an engine's settings may ask for rotation, to which a follower would lose most of the lines. `-1` for
    // "without" is refused by Engine 20.10.
    let whole = ["--log-driver", "json-file", "--log-opt", "max-size=1g", "--log-opt", "max-file=1"];
    let run = ["run", "-d", "--network", "none", "--name", &name];
    docker(&[&run[..], &whole, &[&image(), "bash", "-c", &script]].concat());
    let followed = Command::new("docker")
        .args(["logs", "-f", &name])
        .stdin(Stdio::null())
        .stdout(File::create(&file).expect("a file"))
        .stderr(Stdio::null())
        .status();
    let time = begin.elapsed().as_secs_f64();
    docker(&["rm", "-f", &name]);
    assert!(followed.is_ok_and(|status| status.success()));
    (time, BufReader::new(File::open(&file).expect("a file")).lines().count())
}
