//! `evenkeel logs`, over records that are made up.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::Value;

use crate::record::{BEGUN, Made};
use crate::support::{Ended, Place, Running, until};

fn run(place: &Place) -> Made {
    Made::new(&place.path().join("runs"), "shapes", "20261124-034501")
}

/// Two ranks that take turns, a second apart, then the end a minute after the beginning.
fn turns(place: &Place) -> Made {
    let mut run = run(place);
    for (rank, second, text) in [(0, 1, "a\nb\n"), (1, 2, "c\n"), (0, 3, "d\n"), (1, 4, "e\nf"), (0, 5, "g")] {
        run.wrote(rank, BEGUN + second * 1000, text.as_bytes());
    }
    run.done();
    run
}

fn logs(place: &Place, args: &[&str]) -> String {
    let ended = place.run(&[&["logs"], args].concat()).with_code(0);
    assert_eq!(ended.stderr, "", "{args:?}");
    ended.stdout
}

/// Lines without their ranks, joined.
fn texts(place: &Place, args: &[&str]) -> String {
    logs(place, args).lines().filter_map(|line| line.split_once(" | ")).map(|(_, text)| text).collect()
}

#[test]
fn ranks_are_merged_by_time() {
    let place = Place::new();
    turns(&place);
    let expected = "rank 0 | a\nrank 0 | b\nrank 1 | c\nrank 0 | d\nrank 1 | e\nrank 1 | f\nrank 0 | g\n";
    assert_eq!(logs(&place, &[]), expected);
    assert_eq!(logs(&place, &["shapes", "--follow"]), expected, "a run that is over is followed to its end");
    let objects: Vec<Value> =
        logs(&place, &["--json"]).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(objects.len(), 7);
    assert_eq!(
        (&objects[2]["rank"], &objects[2]["text"], &objects[2]["time_ms"]),
        (&1.into(), &"c".into(), &(BEGUN + 2000).into())
    );
}

#[test]
fn lines_are_chosen_by_time_number_and_pattern() {
    let place = Place::new();
    turns(&place);
    for (args, expected) in [
        // Counted back from the end, which was at 60 s.
        (&["--since", "57s"][..], "defg"),
        (&["--since", "58s", "--until", "57s"], "cd"),
        (&["--since", "2026-11-24T03:45:05Z"], "efg"),
        (&["--since", "2026-11-24T04:45:05+01:00"], "efg"),
        (&["--until", "1795491902.5"], "ab"),
        (&["--since", "10s"], ""),
        (&["--tail", "3"], "efg"),
        (&["--tail", "0"], ""),
        (&["-n", "100"], "abcdefg"),
        (&["--tail", "2", "--since", "57s", "--until", "56s"], "ef"),
        (&["--grep", "[ace]"], "ace"),
        (&["--grep", "^[a-e]$", "--tail", "2"], "de"),
        (&["--grep", "nothing"], ""),
    ] {
        assert_eq!(texts(&place, args), expected, "{args:?}");
    }
    for (args, expected) in [
        (&["--rank", "0"][..], "a\nb\nd\ng"),
        (&["--rank", "1", "--tail", "1"], "f"),
        (&["--rank", "0", "--since", "58s"], "d\ng"),
        (&["--rank", "0", "--since", "58s", "--tail", "9"], "d\ng"),
        (&["--rank", "0", "--grep", "b|g"], "b\ng"),
        (&["--rank", "0", "--until", "58s", "--tail", "1"], "b\n"),
    ] {
        assert_eq!(logs(&place, args), expected, "{args:?}");
    }
    let mut command = place.evenkeel(&["logs", "--since", "05:45:04"]);
    // Where the run's fourth second was a quarter to six.
    let shown = Ended::from(command.env("TZ", "EET-2").output().expect("the program starts")).with_code(0).stdout;
    assert_eq!(shown.lines().count(), 4, "{shown}");
}

#[test]
fn bytes_of_a_rank_come_as_they_are() {
    let place = Place::new();
    let mut run = run(&place);
    let mut bytes = b"10%\r20%\r\n\x00\xff\x1b[31m\n\n".to_vec();
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.extend(b"\nno end\r");
    run.wrote(0, BEGUN, &bytes).wrote(1, BEGUN + 1, b"\xfe\n").done();
    let raw = |args: &[&str]| place.evenkeel(args).output().expect("the program starts").stdout;
    assert!(raw(&["logs", "--rank", "0"]) == bytes, "not what rank 0 wrote");
    assert!(raw(&["logs", "--rank", "0", "--follow"]) == bytes, "not what rank 0 wrote");
    assert!(raw(&["logs", "--rank", "0", "--grep", ""]) == bytes, "not what rank 0 wrote");
    let mut merged = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        merged.extend_from_slice(b"rank 0 | ");
        merged.extend_from_slice(line);
        merged.push(b'\n');
    }
    merged.extend_from_slice(b"rank 1 | \xfe\n");
    assert!(raw(&["logs"]) == merged, "not what both wrote");
}

#[test]
fn many_lines_are_all_there() {
    let place = Place::new();
    let mut run = run(&place);
    let line = |rank: u32, number: u64| format!("{rank} line {number}\n");
    for part in 0..100_u64 {
        for rank in 0..2 {
            let text: String = (part * 1000..(part + 1) * 1000).map(|number| line(rank, number)).collect();
            run.wrote(rank, BEGUN + part * 50, text.as_bytes());
        }
    }
    run.done();
    let expected: String = (0..200_u64)
        .flat_map(|part| {
            (part / 2 * 1000..(part / 2 + 1) * 1000)
                .map(move |number| (u32::try_from(part % 2).expect("0 or 1"), number))
        })
        .map(|(rank, number)| format!("rank {rank} | {}", line(rank, number)))
        .collect();
    assert!(logs(&place, &[]) == expected, "lines are lost, doubled or out of order");
}

#[test]
fn a_record_without_times_can_be_read() {
    let place = Place::new();
    let mut run = run(&place);
    run.append("logs/rank-0.log", b"a\nb\n").append("logs/rank-1.log", b"c\nd").done();
    let ended = place.run(&["logs"]).with_code(0).saying("the times of lines were not recorded");
    assert_eq!(ended.stdout, "rank 0 | a\nrank 0 | b\nrank 1 | c\nrank 1 | d\n");
    assert_eq!(logs(&place, &["--rank", "1"]), "c\nd");
    let ended = place.run(&["logs", "--since", "1m"]).with_code(2);
    ended.saying("have no times, by which `--since` could choose");
}

#[test]
fn what_cannot_be_meant_is_said() {
    let place = Place::new();
    turns(&place);
    for (args, words) in [
        (&["--rank", "2"][..], "has no rank 2: its ranks are 0 to 1"),
        (&["--since", "soon"], "`--since soon` is no time"),
        (&["--until", "25:00"], "`--until 25:00` is no time"),
        (&["--grep", "a("], "`--grep a(` is no regular expression: unclosed group"),
    ] {
        let ended = place.run(&[&["logs"], args].concat()).with_code(2).saying(words).saying("hint: ");
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}

#[test]
fn a_reader_who_leaves_ends_it_quietly() {
    let place = Place::new();
    let mut run = run(&place);
    run.wrote(0, BEGUN, "a line\n".repeat(200_000).as_bytes());
    let _controller = run.hold();
    for args in [&["logs"][..], &["logs", "--follow"], &["logs", "--rank", "0", "--follow"]] {
        let mut reading = Running::start(place.evenkeel(args));
        let mut line = String::new();
        BufReader::new(reading.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.ends_with("a line\n"), "{line}");
        assert_quiet_end(reading);
    }
    // One who leaves while nothing is written is noticed as well.
    let mut reading = Running::start(place.evenkeel(&["logs", "--follow", "--tail", "1"]));
    let mut stdout = reading.0.stdout.take().expect("piped");
    let mut last = [0; "rank 0 | a line\n".len()];
    stdout.read_exact(&mut last).expect("the last line");
    drop(stdout);
    assert_quiet_end(reading);
}

#[track_caller]
fn assert_quiet_end(mut reading: Running) {
    let status = until("the reader's end", || reading.0.try_wait().expect("a child of ours"));
    let mut stderr = String::new();
    reading.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

/// Starts to follow, into a file.
fn follow(place: &Place, args: &[&str]) -> (Running, std::path::PathBuf) {
    let path = place.path().join("shown");
    let mut command = place.evenkeel(&[&["logs", "--follow"], args].concat());
    command.stdout(File::create(&path).expect("a file")).stderr(Stdio::piped());
    (Running(command.spawn().expect("the program starts")), path)
}

#[track_caller]
fn shows(path: &std::path::Path, expected: &str) {
    until(expected, || (std::fs::read_to_string(path).expect("text") == expected).then_some(()));
}

#[test]
fn a_run_is_followed_to_its_end() {
    let place = Place::new();
    let mut run = run(&place);
    let controller = run.hold();
    run.wrote(0, BEGUN, b"a\nb\n");
    let (mut following, path) = follow(&place, &["--tail", "1"]);
    shows(&path, "rank 0 | b\n");
    run.wrote(0, BEGUN, b"hal");
    // A rank that begins later, and a line that was not whole.
    run.wrote(1, BEGUN + 100, b"c\nd\n");
    shows(&path, "rank 0 | b\nrank 1 | c\nrank 1 | d\n");
    run.wrote(0, BEGUN + 200, b"f\n");
    shows(&path, "rank 0 | b\nrank 1 | c\nrank 1 | d\nrank 0 | half\n");
    assert_eq!(following.0.try_wait().expect("a child of ours"), None);
    run.wrote(1, BEGUN + 300, b"no end").done();
    let status = until("the end", || following.0.try_wait().expect("a child of ours"));
    assert_eq!(status.code(), Some(0));
    let shown = std::fs::read_to_string(&path).expect("text");
    assert!(shown.ends_with("rank 0 | half\nrank 1 | no end\n"), "{shown}");
    drop(controller);
}

#[test]
fn bytes_are_followed_before_their_line_is_whole() {
    let place = Place::new();
    let mut run = run(&place);
    let controller = run.hold();
    // It has just begun: how many ranks it will have is not known yet.
    let (mut following, path) = follow(&place, &["--rank", "1"]);
    // It reads in a thread of its own.
    let threads = format!("/proc/{}/task", following.0.id());
    until("a look at the run", || (std::fs::read_dir(&threads).map_or(0, Iterator::count) > 1).then_some(()));
    assert_eq!(following.0.try_wait().expect("a child of ours"), None);
    run.append("plan.json", br#"{"containers":2,"ranks":[]}"#).wrote(1, BEGUN, b"10%\r");
    shows(&path, "10%\r");
    run.wrote(1, BEGUN + 1, b"20%\r");
    shows(&path, "10%\r20%\r");
    // Its controller dies: nothing more can come.
    drop(controller);
    let status = until("the end", || following.0.try_wait().expect("a child of ours"));
    assert_eq!(status.code(), Some(0));
    let mut stderr = String::new();
    following.0.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    assert!(stderr.contains("nobody works on this run any more"), "{stderr}");
}

#[test]
fn ctrl_c_ends_the_reading_alone() {
    let place = Place::new();
    let mut run = run(&place);
    run.wrote(0, BEGUN, b"a\n");
    let _controller = run.hold();
    let (mut following, path) = follow(&place, &[]);
    shows(&path, "rank 0 | a\n");
    following.signal("INT");
    let status = until("the end", || following.0.try_wait().expect("a child of ours"));
    assert_eq!(status.code(), Some(130));
    // Not even a reader that takes nothing holds it up.
    run.wrote(0, BEGUN + 1, "a line\n".repeat(200_000).as_bytes());
    let stuck = Running::start(place.evenkeel(&["logs", "--follow"]));
    let pipe = stuck.0.stdout.as_ref().expect("piped");
    until("a full pipe", || (rustix::io::ioctl_fionread(pipe).expect("a pipe") >= 60_000).then_some(()));
    stuck.signal("INT");
    assert_eq!(stuck.end().code, Some(130));
}
