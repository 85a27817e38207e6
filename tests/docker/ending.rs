//! Runs that are ended from outside: by Ctrl-C, by SIGTERM, at any moment; in order first, at once if asked again.

use std::time::{Duration, Instant};

use crate::needs_engine;
use crate::support::{Ended, Place, Running, entries, job, nothing_left, sample, until};

/// Starts the job in this place; returns when the file `up-N` of each rank is there.
fn started(place: &Place, script: &str, more: &str) -> Running {
    let script = format!("{script}\ntouch /place/up-$RANK; while :; do sleep 0.05; done");
    job(place, &script, &format!("volumes: [.:/place]\n{more}"));
    let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("both trainers", || (place.path().join("up-0").exists() && place.path().join("up-1").exists()).then_some(()));
    run
}

/// Waits until the controller has noted so many signals.
fn heard(place: &Place, count: usize) {
    until("the signal in the journal", || (entries(&place.journal(), "signal").len() >= count).then_some(()));
}

#[test]
fn the_first_interrupt_lets_trainers_save() {
    needs_engine!();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let place = Place::new();
        let save = "trap 'echo saved by $RANK; echo weights > /evenkeel/output/weights-$RANK; exit 0' TERM";
        let run = started(&place, save, "");
        run.signal(signal);
        let ended = run.end().with_code(code).saying("stopping; once more kills at once").saying("stopped after");
        for rank in 0..2 {
            assert!(ended.stdout.contains(&format!("[{rank}] saved by {rank}\n")), "{}", ended.stdout);
            assert_eq!(place.recorded(&format!("output/weights-{rank}")), "weights\n");
            assert_eq!(place.events(rank).last().expect("a seal")["event"]["stopped"], true);
        }
        assert!(!ended.stderr.contains("error:"), "to be stopped is no error:\n{}", ended.stderr);
        let journal = place.journal();
        assert_eq!(entries(&journal, "end")[0]["detail"]["exit_code"], code);
        assert!(entries(&journal, "ask").iter().all(|ask| ask["detail"]["signal"] == "SIGTERM"), "{journal:?}");
        nothing_left(&place);
    }
}

#[test]
fn who_is_deaf_is_killed_when_the_grace_period_ends() {
    needs_engine!();
    let place = Place::new();
    let run = started(&place, "trap 'echo heard' TERM", "stop_grace_period: 1s\n");
    let begin = Instant::now();
    run.signal("INT");
    let ended = run.end().with_code(130);
    assert!(begin.elapsed() >= Duration::from_secs(1), "it had a second");
    assert!(ended.stdout.contains("[0] heard\n") && ended.stdout.contains("[1] heard\n"), "{}", ended.stdout);
    let journal = place.journal();
    let asked: Vec<&str> = entries(&journal, "ask").iter().filter_map(|ask| ask["detail"]["signal"].as_str()).collect();
    // Killed by their agents, so that the logs are sealed; the engine had nothing to kill.
    assert_eq!(asked, ["SIGTERM", "SIGTERM", "SIGUSR1", "SIGUSR1"]);
    for rank in 0..2 {
        assert_eq!(entries(&journal, "logs")[0]["detail"]["ranks"][rank]["whole"], true);
    }
    nothing_left(&place);
}

#[test]
fn the_second_interrupt_kills_at_once() {
    needs_engine!();
    let place = Place::new();
    let run = started(&place, "trap '' TERM", "stop_grace_period: 10m\n");
    run.signal("INT");
    heard(&place, 1);
    let begin = Instant::now();
    run.signal("INT");
    run.end().with_code(130);
    assert!(begin.elapsed() < Duration::from_secs(10), "nobody waited for the grace period");
    nothing_left(&place);
}

#[test]
fn a_lost_terminal_ends_nothing() {
    needs_engine!();
    let place = Place::new();
    let run = started(
        &place,
        "trap 'exit 9' TERM; (until [ -e /place/go ]; do sleep 0.02; done; kill -USR2 $$) & trap 'echo done; exit 0' USR2",
        "",
    );
    run.signal("HUP");
    heard(&place, 1);
    place.write("go", "");
    let ended = run.end().with_code(0);
    assert!(ended.stdout.contains("[0] done\n") && ended.stdout.contains("[1] done\n"), "{}", ended.stdout);
    nothing_left(&place);
}

#[test]
fn an_interrupt_at_any_moment_of_the_launch_leaves_nothing() {
    needs_engine!();
    const SEED: u64 = 20;
    // A linear congruence by Knuth: the same moments in every run of this test.
    let moments = std::iter::successors(Some(SEED), |last| {
        Some(last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    });
    for moment in moments.skip(1).take(sample(8, 200)).map(|number| (number >> 33) % 1200) {
        let place = Place::new();
        job(&place, "trap 'exit 0' TERM; while :; do sleep 0.05; done", "");
        let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
        std::thread::sleep(Duration::from_millis(moment));
        run.signal("INT");
        let Ended { code, stderr, .. } = run.end();
        assert_eq!(code, Some(130), "after {moment} ms:\n{stderr}");
        assert!(!stderr.contains("error:"), "after {moment} ms:\n{stderr}");
        nothing_left(&place);
    }
}

#[test]
fn an_interrupt_at_every_stage_of_the_launch_leaves_nothing() {
    needs_engine!();
    // As soon as the journal has it, on a slow machine as on a quick one.
    for stage in ["create", "created", "started", "go"] {
        let place = Place::new();
        job(&place, "trap 'exit 0' TERM; while :; do sleep 0.05; done", "");
        let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
        until(stage, || place.journal_so_far().iter().any(|entry| entry["entry"] == stage).then_some(()));
        run.signal("INT");
        run.end().with_code(130);
        nothing_left(&place);
    }
}

#[test]
fn two_interrupts_at_any_moment_of_the_launch_leave_nothing() {
    needs_engine!();
    for moment in (0..sample(4, 60)).map(|step| 30 + 100 * step as u64 % 1200) {
        let place = Place::new();
        job(&place, "trap '' TERM; while :; do sleep 0.05; done", "");
        let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
        std::thread::sleep(Duration::from_millis(moment));
        run.signal("INT");
        std::thread::sleep(Duration::from_millis(40));
        run.signal("INT");
        let Ended { code, stderr, .. } = run.end();
        assert_eq!(code, Some(130), "after {moment} ms:\n{stderr}");
        nothing_left(&place);
    }
}

#[test]
fn an_interrupt_while_a_failure_is_cleared_away_hides_no_failure() {
    needs_engine!();
    let place = Place::new();
    job(&place, "[ $RANK = 0 ] && exec sleep 60; exit 7", "");
    let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("the first ask", || place.journal_so_far().iter().any(|entry| entry["entry"] == "ask").then_some(()));
    run.signal("INT");
    run.end().with_code(1).saying("error: rank 1 failed first: the trainer ended with exit code 7");
    nothing_left(&place);
}

#[test]
fn a_failure_while_it_is_stopped_is_still_a_stop() {
    needs_engine!();
    let place = Place::new();
    let run = started(&place, "trap 'echo cannot save; exit 5' TERM", "");
    run.signal("INT");
    let ended = run.end().with_code(130);
    assert!(!ended.stderr.contains("failed first"), "{}", ended.stderr);
    nothing_left(&place);
}
