//! What ranks take is looked at once a second, whoever sees the run through.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Place, Running, entries, job, nothing_left, until};

/// A row of ranks.csv.
#[derive(Debug)]
struct Row {
    second: u64,
    rank: u64,
    cpu_percent: Option<f64>,
    memory: u64,
    peak: Option<u64>,
}

fn rows(place: &Place) -> Vec<Row> {
    let text = place.recorded("ranks.csv");
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("time_ms,generation,rank,cpu_percent,memory_bytes,memory_peak_bytes,memory_limit_bytes")
    );
    let row = |line: &str| {
        let values: Vec<&str> = line.split(',').collect();
        assert_eq!(values.len(), 7, "a row that is not whole: {line}");
        assert_eq!(values[1], "1", "{line}");
        Row {
            second: values[0].parse::<u64>().expect("a time") / 1000,
            rank: values[2].parse().expect("a rank"),
            cpu_percent: values[3].parse().ok(),
            memory: values[4].parse().expect("bytes"),
            peak: values[5].parse().ok(),
        }
    };
    lines.map(row).collect()
}

/// Rank 0 computes, rank 1 holds 48 MiB, until the test has seen enough.
fn working(place: &Place) {
    let script = "if [ $RANK = 0 ]; then touch /place/up-0; while [ ! -e /place/enough ]; do :; done; exit 0; fi\n\
                  head -c 50331648 /dev/zero > /dev/shm/held; touch /place/up-1; until [ -e /place/enough ]; do sleep 0.05; done";
    job(place, script, "volumes: [.:/place]\n");
}

/// Waits until both ranks were looked at in so many different seconds.
fn looked_at(place: &Place, seconds: usize) {
    until("rows of both ranks", || {
        // What is being written is not yet a row.
        let text = std::fs::read_to_string(place.record().join("ranks.csv")).ok()?;
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).skip(1);
        let mut seen: [BTreeSet<&str>; 2] = Default::default();
        for line in whole {
            let mut values = line.split(',');
            let (time, rank) = (values.next()?, values.nth(1)?);
            seen[rank.parse::<usize>().ok()?].insert(&time[..time.len() - 3]);
        }
        seen.iter().all(|seen| seen.len() >= seconds).then_some(())
    });
}

#[test]
fn ranks_are_looked_at_once_a_second_also_by_an_heir() {
    needs_engine!();
    let place = Place::new();
    working(&place);
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("both", || (0..2).all(|rank| place.path().join(format!("up-{rank}")).exists()).then_some(()));
    looked_at(&place, 3);
    controller.signal("KILL");
    let _ = controller.end();
    // As if it had been killed in the midst of a row.
    let path = place.record().join("ranks.csv");
    let before = std::fs::read_to_string(&path).expect("rows");
    std::fs::write(&path, before.trim_end()).expect("written");
    let heir = Running::start(place.evenkeel(&["attach"]));
    until("the heir", || entries(&place.journal(), "attach").first().map(|_| ()));
    looked_at(&place, 6);
    place.write("enough", "");
    heir.end().with_code(0);
    nothing_left(&place);
    let rows = rows(&place);
    for rank in 0..2 {
        let own: Vec<&Row> = rows.iter().filter(|row| row.rank == rank).collect();
        let seconds: BTreeSet<u64> = own.iter().map(|row| row.second).collect();
        // A second in which the machine was busy elsewhere may be left out, and two rows may fall into one.
        assert!(own.len() <= seconds.len() + 2, "{own:?}");
        assert!(own.windows(2).all(|two| two[0].second <= two[1].second), "{own:?}");
    }
    let most = |rank: u64, of: fn(&Row) -> Option<u64>| rows.iter().filter(|row| row.rank == rank).filter_map(of).max();
    let held = most(1, |row| Some(row.memory)).expect("looked at");
    assert!((48 << 20..300 << 20).contains(&held), "{held} bytes");
    assert!(most(1, |row| row.peak).is_none_or(|peak| peak >= held), "{rows:?}");
    let cpu =
        |rank: u64| rows.iter().filter(|row| row.rank == rank).filter_map(|row| row.cpu_percent).fold(0.0, f64::max);
    // Others may compute on this machine as well.
    assert!(cpu(0) > 15.0 && cpu(0) < 250.0, "{rows:?}");
    let shown = place.run(&["show", "--json"]).with_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown["summary"]["usage"]["ranks"][1]["memory_bytes"].as_u64(), Some(held), "{shown}");
    let shown = place.run(&["show"]).with_code(0).stdout;
    assert!(shown.contains("processors") && shown.contains("MiB of rank 1, by seconds"), "{shown}");
    assert!(!place.record().join("devices.csv").exists(), "there is no GPU");
}
