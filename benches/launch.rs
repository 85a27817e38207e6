//! What a launch costs: two ranks that echo, against two `docker run --rm` of the same at once; and the controller's
//! peak memory. The ways alternate in one run, so that whatever else the machine does meets all of them alike.
//!
//! Times are printed and kept, never judged here: only wrong results fail.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

mod common;

use std::process::{Command, ExitCode};
use std::time::Instant;

use common::{keep, median, peak_memory, silently};
use serde_json::json;
use support::{Place, image, no_engine, nothing_left};

const ROUNDS: usize = 15;

fn main() -> ExitCode {
    if let Some(why) = no_engine() {
        eprintln!("SKIPPED: {why}");
        return ExitCode::SUCCESS;
    }
    let place = Place::new();
    let text = format!("trainer: command\nimage: {}\ncommand: [echo, hello]\ndevice: cpu:2\nnetwork: none\n", image());
    place.write("job.yaml", &text);
    let ours = || {
        let begin = Instant::now();
        let ended = place.run(&["train", "job.yaml"]);
        let time = begin.elapsed().as_secs_f64();
        let ended = ended.with_code(0);
        let mut lines: Vec<&str> = ended.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["[0] hello", "[1] hello"]);
        time
    };
    let theirs = |network: &[&str]| {
        let begin = Instant::now();
        let start =
            || silently(Command::new("docker").args(["run", "--rm"]).args(network).args([&image(), "echo", "hello"]));
        let both = [start(), start()];
        for mut child in both {
            assert!(child.wait().expect("a child of ours").success());
        }
        begin.elapsed().as_secs_f64()
    };

    // Once unmeasured: the first of each loads what the others find in memory.
    ours();
    theirs(&[]);
    theirs(&["--network", "none"]);
    let (mut times, mut bridge, mut none) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => times.push(ours()),
                1 => bridge.push(theirs(&[])),
                _ => none.push(theirs(&["--network", "none"])),
            }
        }
    }
    let ratios =
        |others: &[f64]| median(&times.iter().zip(others).map(|(ours, other)| ours / other).collect::<Vec<_>>());
    let (ratio, ratio_none) = (ratios(&bridge), ratios(&none));

    place.write("longer.yaml", &text.replace("[echo, hello]", "[sleep, \"1\"]"));
    let mut child = silently(&mut place.evenkeel(&["train", "longer.yaml"]));
    let peak = peak_memory(&mut child);
    assert!(child.wait().expect("a child of ours").success());
    nothing_left(&place);

    println!("evenkeel, 2 ranks:                    {:.3} s", median(&times));
    println!("2 docker run --rm:                    {:.3} s  ratio {ratio:.3} (target 1.0)", median(&bridge));
    println!("2 docker run --rm --network none:     {:.3} s  ratio {ratio_none:.3}", median(&none));
    println!("controller's peak memory:             {:.1} MB (target 25)", peak as f64 / 1e6);
    keep(
        "launch",
        json!({
            "version": 1, "rounds": ROUNDS, "evenkeel_seconds": times, "docker_run_seconds": bridge,
            "docker_run_network_none_seconds": none, "ratio": ratio, "ratio_network_none": ratio_none,
            "controller_peak_bytes": peak,
        }),
    );
    ExitCode::SUCCESS
}
