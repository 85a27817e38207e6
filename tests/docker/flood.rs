//! Floods of output, whose controllers die: every byte is in the record, once and in order.

use std::io::{BufRead, BufReader};

use crate::needs_engine;
use crate::support::{Ended, Place, Running, entries, job, nothing_left, until};

/// Kills the run's controller once `file` is there, and takes the run up again.
fn replace(controller: Running, place: &Place, file: &str) -> Running {
    until(file, || place.path().join(file).exists().then_some(()));
    controller.signal("KILL");
    let _ = controller.end();
    let mut heir = Running::start(place.evenkeel(&["attach"]));
    // A signal before it says so leaves the run to nobody, as it was.
    let mut words = BufReader::new(heir.0.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("took up") {
        line.clear();
        assert!(words.read_line(&mut line).expect("text") > 0, "it ended: {:?}", place.journal());
    }
    heir.0.stderr = Some(words.into_inner());
    heir
}

/// Checks that the record says of both logs that they are whole.
#[track_caller]
fn whole(place: &Place, ended: &Ended) {
    let journal = place.journal();
    let logs = entries(&journal, "logs");
    assert_eq!(logs.len(), 1, "{journal:#?}\n{}", ended.stderr);
    for rank in 0..2 {
        assert_eq!(logs[0]["detail"]["ranks"][rank]["whole"], true, "{logs:?}\n{}", ended.stderr);
    }
    nothing_left(place);
}

#[test]
fn a_million_lines_of_each_rank_survive_five_controllers_and_one_that_is_held() {
    needs_engine!();
    const PARTS: u64 = 10;
    const LINES: u64 = 1_000_000;
    let place = Place::new();
    // Each part waits for the test: a fast machine must not be done before the second controller comes.
    let script = format!(
        "for part in $(seq 0 {last}); do until [ -e /place/go-$part ]; do sleep 0.02; done\n\
         seq -f %.0f $((part * {size} + 1)) $(((part + 1) * {size})); touch /place/part-$part-$RANK; done",
        last = PARTS - 1,
        size = LINES / PARTS
    );
    job(&place, &script, "volumes: [.:/place]\n");
    let mut controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    let go = |part: u64| drop(place.write(&format!("go-{part}"), ""));
    // It is killed in the midst of a part: one rank has written it, the other may have.
    for part in 0..5 {
        go(part);
        controller = replace(controller, &place, &format!("part-{part}-{}", part % 2));
    }
    // The last one is held for as long as ten seconds, while the rest is written.
    controller.signal("STOP");
    (5..PARTS).for_each(go);
    let written = |rank: u64| place.path().join(format!("part-{}-{rank}", PARTS - 1)).exists();
    until("the last part", || (written(0) && written(1)).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(10));
    controller.signal("CONT");
    let ended = controller.end().with_code(0);
    whole(&place, &ended);
    assert_eq!(entries(&place.journal(), "attach").len(), 5);
    let expected: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
    for rank in 0..2 {
        // Not `assert_eq`, which would print both.
        assert!(place.log(rank) == expected, "rank {rank}: lines are lost, doubled or out of order");
    }
}

#[test]
fn bytes_of_any_kind_survive_as_well_up_to_the_last_word() {
    needs_engine!();
    let place = Place::new();
    let last = "after the signal\nwithout an end of line";
    // A line of a megabyte, progress bars, bytes that are no text: written down first, so that the test knows them.
    // (bash itself says `Terminated` for a `sleep` that got the signal as well: not here.)
    let script = format!(
        "cd /place\n\
         {{ head -c 1000000 /dev/zero | tr '\\0' x; echo; for i in $(seq 0 100); do printf '\\rprogress %d%%' $i; done; echo\n\
         head -c 400000 /dev/urandom; }} > copy-$RANK\n\
         trap 'printf \"{}\"; exit 0' TERM\n\
         for part in $(seq 0 14); do dd if=copy-$RANK bs=100000 skip=$part count=1 status=none; touch part-$part-$RANK\n\
         until [ $part -ne 4 -a $part -ne 11 -o -e go-$part ]; do sleep 0.02; done; done\n\
         touch up-$RANK; exec 2> /dev/null; while :; do sleep 0.02; done",
        last.replace('\n', "\\n")
    );
    job(&place, &script, "volumes: [.:/place]\n");
    let mut controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    for part in [4, 11] {
        controller = replace(controller, &place, &format!("part-{part}-1"));
        place.write(&format!("go-{part}"), "");
    }
    let up = |rank: u32| place.path().join(format!("up-{rank}")).exists();
    until("both", || (up(0) && up(1)).then_some(()));
    controller.signal("INT");
    let ended = controller.end().with_code(130);
    whole(&place, &ended);
    for rank in 0..2 {
        let mut expected = std::fs::read(place.path().join(format!("copy-{rank}"))).expect("the copy");
        expected.extend_from_slice(last.as_bytes());
        let log = std::fs::read(place.record().join(format!("logs/rank-{rank}.log"))).expect("the log");
        assert!(log == expected, "rank {rank}: {} bytes in place of {}", log.len(), expected.len());
    }
}
