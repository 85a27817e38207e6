//! What the measurements share: medians, the machine, a file of results.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Middle of some measurements; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Peak of a child's resident memory in bytes, seen until it ends; looked at every few milliseconds.
pub fn peak_memory(child: &mut Child) -> u64 {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while matches!(child.try_wait(), Ok(None)) {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        // The kernel keeps the peak itself: only what grows after the last look is missed.
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(3));
    }
    peak
}

/// Runs a program that must succeed, without its output.
pub fn silently(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Writes the figures to `target/bench/<name>.json` and says where.
pub fn keep(name: &str, mut figures: Value) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    figures["machine"] = json!({ "cpus": cpus, "load_afterwards": load.split(' ').next(), "unix_time":
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs()) });
    // Beside the build's own folder for temporary files, which is `target/tmp`.
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "..", "bench"].iter().collect();
    std::fs::create_dir_all(&folder).expect("a folder for the results");
    let path = folder.canonicalize().expect("it was made").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(&figures).expect("plain data");
    std::fs::write(&path, text + "\n").expect("written");
    println!("figures: {}", path.display());
}
