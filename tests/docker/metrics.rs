//! What ranks were seen to use: rows of each, about one a second, as the kernel counts on a real engine.

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Ended, Place, Running, entries, job, until};

/// What the busy rank puts into memory, bytes.
const KNOWN: u64 = 64 << 20;

/// A row of ranks.csv.
struct Row {
    time_ms: u64,
    rank: u64,
    cpu: Option<f64>,
    memory: u64,
    peak: Option<u64>,
    limit: Option<u64>,
}

/// A line of it; none for one that is no row.
fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.split(',').collect();
    let [time, "1", rank, cpu, memory, peak, limit] = cells[..] else { return None };
    Some(Row {
        time_ms: time.parse().ok()?,
        rank: rank.parse().ok()?,
        cpu: cpu.parse().ok(),
        memory: memory.parse().ok()?,
        peak: peak.parse().ok(),
        limit: limit.parse().ok(),
    })
}

/// The seconds in which there are samples.
fn seconds<'a>(rows: impl Iterator<Item = &'a Row>) -> usize {
    rows.map(|row| row.time_ms / 1000).collect::<std::collections::BTreeSet<_>>().len()
}

/// Seconds of work, as bash's `times` tells them of itself: `0m1.250s 0m0.030s`.
fn burned(text: &str) -> f64 {
    let first = text.lines().next().expect("a line");
    let one = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("minutes and seconds");
        minutes.parse::<f64>().expect("a number") * 60.0 + seconds.parse::<f64>().expect("a number")
    };
    first.split(' ').map(one).sum()
}

#[test]
fn ranks_are_sampled_once_a_second() {
    needs_engine!();
    let place = Place::new();
    let script = format!(
        "[ $RANK = 1 ] && exec sleep 5\n\
         head -c {KNOWN} /dev/zero > /dev/shm/known; end=$((SECONDS + 5))\n\
         while [ $SECONDS -lt $end ]; do :; done; times > /place/times"
    );
    job(&place, &script, "volumes: [.:/place]\n");
    place.run(&["train", "job.yaml"]).with_code(0);
    let table = place.recorded("ranks.csv");
    let mut lines = table.lines();
    let header = "time_ms,generation,rank,cpu_percent,memory_bytes,memory_peak_bytes,memory_limit_bytes";
    assert_eq!(lines.next(), Some(header));
    let rows: Vec<Row> = lines.map(|line| row(line).unwrap_or_else(|| panic!("{line}"))).collect();
    let of = |rank| rows.iter().filter(move |row| row.rank == rank);
    for rank in 0..2 {
        let (count, distinct) = (of(rank).count(), seconds(of(rank)));
        // One at the start, and then one a second.
        assert!(distinct >= 4 && count <= distinct + 2, "{count} rows in {distinct} seconds of rank {rank}:\n{table}");
        assert_eq!(of(rank).next().and_then(|first| first.cpu), None, "{table}");
        assert!(of(rank).skip(1).all(|row| row.cpu.is_some()), "{table}");
    }
    let most = of(0).map(|row| row.memory).max().expect("rows");
    let peak = of(0).filter_map(|row| row.peak).max();
    assert!(most >= KNOWN && peak.is_none_or(|peak| peak >= most), "{table}");
    assert!(of(1).all(|row| row.memory < KNOWN), "{table}");
    let host = rustix::system::sysinfo().totalram;
    let limit = of(0).filter_map(|row| row.limit).max().unwrap_or(host as u64);
    assert!(most < limit, "{most} of {limit}");
    // Busy machines leave a busy rank little; what it did itself is the measure, of which the last second may be missing.
    let burned = burned(&std::fs::read_to_string(place.path().join("times")).expect("its own times"));
    let all: Vec<&Row> = of(0).collect();
    let work = |two: &[&Row]| two[1].cpu.unwrap_or_default() / 100.0 * (two[1].time_ms - two[0].time_ms) as f64 / 1e3;
    let sampled: f64 = all.windows(2).map(work).sum();
    assert!(sampled > burned * 0.4 && sampled < burned * 1.2 + 0.5, "{sampled} s sampled, {burned} s burned:\n{table}");

    let shown = place.run(&["show"]).with_code(0).stdout;
    assert!(shown.contains("\nrank  CPU   at most"), "{shown}");
    let json: Value = serde_json::from_str(&place.run(&["show", "--json"]).with_code(0).stdout).expect("JSON");
    let usage = &json["summary"]["usage"];
    assert_eq!(usage["ranks"][0]["memory_bytes"]["peak"].as_f64(), Some(most as f64), "{usage}");
    assert_eq!((&usage["ranks"][1]["rank"], &usage["devices"]), (&Value::from(1), &Value::Array(Vec::new())));
    assert!(!place.record().join("devices.csv").exists(), "a run on processors has no GPUs");
}

#[test]
fn a_run_that_is_taken_up_goes_on_with_whole_rows() {
    needs_engine!();
    let place = Place::new();
    job(&place, "until [ -e /place/go ]; do sleep 0.05; done; sleep 3", "volumes: [.:/place]\n");
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    let table = || std::fs::read_to_string(place.record().join("ranks.csv")).unwrap_or_default();
    let begun = || !place.journal_so_far().is_empty();
    let has_both = |rows: &[Row]| (0..2).all(|rank| rows.iter().any(|row| row.rank == rank));
    until("rows of both ranks", || {
        let rows: Vec<Row> = if begun() { table().lines().filter_map(row).collect() } else { Vec::new() };
        has_both(&rows).then_some(())
    });
    controller.signal("KILL");
    let _ = controller.end();
    let mut torn = table();
    torn.push_str("1795491901000,1,0,9");
    std::fs::write(place.record().join("ranks.csv"), &torn).expect("written");
    let heir = Running::start(place.evenkeel(&["attach"]));
    until("the heir", || entries(&place.journal(), "attach").first().map(|_| ()));
    place.write("go", "");
    let ended: Ended = heir.end();
    ended.with_code(0);
    let table = table();
    let more = table.strip_prefix(&torn).and_then(|more| more.strip_prefix('\n'));
    let more = more.unwrap_or_else(|| panic!("not on a new line:\n{table}"));
    let rows: Vec<Row> = more.lines().map(|line| row(line).unwrap_or_else(|| panic!("{line}"))).collect();
    assert!(has_both(&rows) && (0..2).all(|rank| seconds(rows.iter().filter(|row| row.rank == rank)) >= 2), "{table}");
    place.run(&["show"]).with_code(0);
}
