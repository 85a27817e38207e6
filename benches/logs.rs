//! How fast output arrives: a million lines from each of two ranks in the record and on stdout, against `docker logs -f` of one container that
//! writes as many, and against both containers followed side by side as `docker compose logs -f` does it: a follower each, every line with its
//! container's name before it. Launching is counted on all sides. And what a flood costs a training: the same work with its words kept and thrown away.
//!
//! Times are printed and kept, never judged here: only a missing or misplaced line fails.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

#[expect(dead_code, reason = "each program uses its part")]
mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
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
    let (mut ours, mut one, mut both, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut of_one, mut of_both) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (time, memory) = evenkeel();
        ours.push(time);
        peak = peak.max(memory);
        let (time, lines) = docker_logs(1);
        one.push(time);
        of_one.push(lines);
        let (time, lines) = docker_logs(2);
        both.push(time);
        of_both.push(lines);
    }
    let ratio =
        |theirs: &[f64]| median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>());
    let (to_one, to_both) = (ratio(&one), ratio(&both));
    println!("evenkeel, 2 x {LINES} lines:            {:.2} s, every line there and in order", median(&ours));
    println!("docker logs -f, 1 x {LINES} lines:      {:.2} s, lines delivered: {of_one:?}", median(&one));
    println!("as compose follows, 2 x {LINES} lines:  {:.2} s, lines delivered: {of_both:?}", median(&both));
    println!("ratio {to_one:.3} to one `docker logs -f`, {to_both:.3} to both (target: below 1)");
    println!("controller's peak memory {:.1} MB", peak as f64 / 1e6);
    let (slowed, rate) = slowed();
    println!(
        "a training whose ranks write {rate:.0} lines/s each takes {slowed:.4} of the time without (target: below 1.02)"
    );
    keep(
        "logs",
        json!({
            "version": 2, "lines": LINES, "evenkeel_seconds": ours, "docker_logs_seconds": one, "compose_seconds": both,
            "docker_logs_lines": of_one, "compose_lines": of_both, "ratio": to_one, "ratio_compose": to_both,
            "controller_peak_bytes": peak, "flooded": slowed, "flood_lines_per_second": rate,
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

/// The lines of so many containers, each through its own `docker logs -f`: seconds, and how many came.
fn docker_logs(containers: usize) -> (f64, usize) {
    let place = Place::new();
    let names: Vec<String> =
        (0..containers).map(|rank| format!("evenkeel-bench-{}-{rank}", std::process::id())).collect();
    let file = place.path().join("logs");
    let begin = Instant::now();
    for (rank, name) in names.iter().enumerate() {
        let script = format!("exec seq -f '{rank} line %.0f' {LINES}");
        // A file that holds them all: an engine's settings may ask for rotation, to which a follower would lose most of the lines. `-1` for
        // "without" is refused by Engine 20.10.
        let whole = ["--log-driver", "json-file", "--log-opt", "max-size=1g", "--log-opt", "max-file=1"];
        let run = ["run", "-d", "--network", "none", "--name", name];
        docker(&[&run[..], &whole, &[&image(), "bash", "-c", &script]].concat());
    }
    let shown = Mutex::new(BufWriter::new(File::create(&file).expect("a file")));
    std::thread::scope(|scope| {
        for (rank, name) in names.iter().enumerate() {
            let prefix = if containers > 1 { format!("rank-{rank} | ") } else { String::new() };
            scope.spawn(|| follow(name, prefix, &shown));
        }
    });
    shown.into_inner().expect("no panic").flush().expect("written");
    let time = begin.elapsed().as_secs_f64();
    for name in &names {
        docker(&["rm", "-f", name]);
    }
    (time, BufReader::new(File::open(&file).expect("a file")).lines().count())
}

/// Follows a container to its end: its lines, or with a prefix each of them behind it.
fn follow(name: &str, prefix: String, shown: &Mutex<BufWriter<File>>) {
    let mut command = Command::new("docker");
    command.args(["logs", "-f", name]).stdin(Stdio::null()).stderr(Stdio::null());
    if prefix.is_empty() {
        let file = shown.lock().expect("no panic").get_ref().try_clone().expect("a handle");
        assert!(command.stdout(file).status().is_ok_and(|status| status.success()));
        return;
    }
    let mut child = command.stdout(Stdio::piped()).spawn().expect("docker");
    let mut lines = BufReader::with_capacity(1 << 16, child.stdout.take().expect("piped"));
    let mut line = prefix.clone().into_bytes();
    while lines.read_until(b'\n', &mut line).expect("a pipe") > 0 {
        shown.lock().expect("no panic").write_all(&line).expect("written");
        line.truncate(prefix.len());
    }
    assert!(child.wait().is_ok_and(|status| status.success()));
}

/// How long two ranks take that write what they do, against the same ranks that throw it away; and how many lines a second each writes.
fn slowed() -> (f64, f64) {
    const PAIRS: usize = 9;
    const STEPS: u64 = 10_000_000;
    const LINES: u64 = 40_000;
    let place = Place::new();
    let work = format!(
        "mawk 'BEGIN {{ for (i = 0; i < {STEPS}; i++) {{ x = (x * 1103515245 + 12345) % 2147483648; \
         if (i % {every} == 0) print \"step\", i, \"of {STEPS}, loss\", x }} }}'",
        every = STEPS / LINES
    );
    // Within one launch, in turns and side by side: what the machine does meanwhile is done to both. The first pair warms up.
    let script = format!(
        "for pair in $(seq 0 {PAIRS}); do for to in null stdout; do begin=$(date +%s%N)\n\
         if [ $to = null ]; then {work} > /dev/null; else {work}; fi\n\
         echo $to $(($(date +%s%N) - begin)) >> /evenkeel/output/times-$RANK; done; done"
    );
    job(&place, &script, "");
    let status = place.evenkeel(&["train", "job.yaml"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()));
    let mut ratios = Vec::new();
    let mut seconds = Vec::new();
    for rank in 0..2 {
        let times = place.recorded(&format!("output/times-{rank}"));
        let times: Vec<f64> = times
            .lines()
            .filter_map(|line| line.split(' ').nth(1)?.parse::<f64>().ok())
            .map(|nanos| nanos / 1e9)
            .collect();
        assert_eq!(times.len(), 2 * (PAIRS + 1));
        ratios.extend(times.chunks(2).skip(1).map(|pair| pair[1] / pair[0]));
        seconds.extend(times.chunks(2).skip(1).map(|pair| pair[1]));
    }
    (median(&ratios), LINES as f64 / median(&seconds))
}
