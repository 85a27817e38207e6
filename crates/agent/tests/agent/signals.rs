//! Signals that reach the program, and the end of everything below the agent.

use std::fs;
use std::time::{Duration, Instant};

use evenkeel_wire::Event;
use rustix::process::Signal;

use crate::support::{Agent, Run, Seal, done, eventually, is_alive};

/// Starts a script and waits until it says `ready`.
fn ready(run: &Run, script: &str) -> Agent {
    run.go();
    let agent = run.start(0, 1, &["sh", "-c", script]);
    eventually("`ready`", || {
        let log = fs::read(run.root().join("logs/rank-0.log")).ok()?;
        String::from_utf8_lossy(&log).contains("ready\n").then_some(())
    });
    agent
}

#[test]
fn sigterm_and_sigint_reach_the_program_and_what_it_says_then_is_kept() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let run = Run::new();
        let script =
            format!("trap 'echo saving; sleep 0.1; echo saved; exit 5' {name}; echo ready; while :; do :; done");
        let mut agent = ready(&run, &script);
        agent.signal(Signal::USR2);
        agent.signal(Signal::HUP);
        agent.signal(signal);
        let status = agent.wait();
        let outcome = run.outcome(0, status);
        assert_eq!(outcome.text(), "ready\nsaving\nsaved\n");
        assert_eq!(outcome.code, Some(5));
        assert_eq!(outcome.seal(), Seal { code: Some(5), stopped: true, ..done(3) });
    }
}

#[test]
fn a_program_that_sigterm_ends_is_told_so() {
    let run = Run::new();
    let mut agent = ready(&run, "echo ready; exec sleep 1000");
    agent.signal(Signal::TERM);
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.code, Some(143));
    assert_eq!(outcome.seal(), Seal { code: None, signal: Some(15), stopped: true, lines: 1, dropped: 0 });
}

#[test]
fn sigusr1_kills_the_whole_tree_and_seals_at_once() {
    let run = Run::new();
    // Children that ignore SIGTERM, write without a pause, or have left for a session of their own, as torchrun's do.
    let script = r#"
        trap '' TERM INT
        (trap '' TERM; while :; do sleep 1000; done) &
        echo pid $!
        setsid sh -c 'sleep 1000 & echo pid $!; wait' &
        (setsid setsid sh -c 'echo pid $$; exec sleep 1000' &)
        (while :; do echo flood; done) &
        echo pid $!
        while [ "$(grep -c pid $EVENKEEL_ROOT/logs/rank-0.log)" -lt 4 ]; do sleep 0.01; done
        echo ready
        wait
    "#;
    let mut agent = ready(&run, script);
    let asked = Instant::now();
    agent.signal(Signal::USR1);
    let status = agent.wait();
    let took = asked.elapsed();
    let outcome = run.outcome(0, status);
    assert!(took < Duration::from_millis(500), "{took:?}");
    println!("from SIGUSR1 to the agent's end: {took:?}, {} bytes of log", outcome.log.len());
    assert_eq!(outcome.code, Some(137));
    let seal = outcome.seal();
    assert_eq!(seal, Seal { code: None, signal: Some(9), stopped: true, lines: seal.lines, dropped: 0 });
    let text = outcome.text();
    let pids: Vec<u32> =
        text.lines().filter_map(|line| line.strip_prefix("pid ")).map(|pid| pid.parse().expect("a number")).collect();
    assert_eq!(pids.len(), 4);
    for pid in pids {
        assert!(!is_alive(pid), "{pid} lives on");
    }
}

#[test]
fn what_the_program_leaves_behind_is_ended_with_it() {
    let run = Run::new();
    // One child holds the pipes, one has let go of them; both have left the process group.
    let outcome = run.shell(
        "setsid sleep 1000 & echo $!; setsid sleep 1000 >/dev/null 2>&1 & echo $!; setsid -f sh -c 'echo $$; exec sleep 1000'; echo end",
    );
    assert_eq!(outcome.seal(), done(4));
    for pid in outcome.text().lines().filter_map(|line| line.parse().ok()) {
        assert!(!is_alive(pid), "{pid} lives on");
    }
}

#[test]
fn a_child_that_outlives_the_program_may_finish_its_words() {
    let run = Run::new();
    let start = Instant::now();
    let outcome = run.shell("(sleep 0.05; echo late) & echo end");
    assert_eq!(outcome.text(), "end\nlate\n");
    assert_eq!(outcome.seal(), done(2));

    // But not for ever.
    let run = Run::new();
    let outcome = run.shell("(while :; do echo still; sleep 0.01; done) & echo end");
    assert!(outcome.text().starts_with("end\n") || outcome.text().starts_with("still\n"));
    assert_eq!(outcome.seal().code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn signals_that_come_during_the_preflight_keep_the_trainer_from_starting() {
    let run = Run::new();
    run.go();
    let preflight = run.root().join("check");
    fs::write(&preflight, "#!/bin/sh\ntrap 'exit 0' TERM\necho ready\nwhile :; do :; done\n").expect("our folder");
    fs::set_permissions(&preflight, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our file");
    let mut command = run.command(0, 1, &["echo", "trained"]);
    command.env(evenkeel_wire::env::PREFLIGHT, &preflight);
    let mut agent = Agent::spawn(command);
    eventually("`ready`", || {
        run.root().join("logs/rank-0.log").exists().then(|| run.log(0)).filter(|log| log == b"ready\n")
    });
    agent.signal(Signal::TERM);
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.text(), "ready\n");
    assert_eq!(outcome.seal(), Seal { code: Some(0), stopped: true, ..done(1) });
    assert_eq!(outcome.events.iter().filter(|event| matches!(event, Event::Started { .. })).count(), 1);
}

#[test]
fn a_program_finds_its_signals_as_a_shell_leaves_them() {
    let run = Run::new();
    let outcome = run.shell("grep -E '^Sig(Blk|Ign)' /proc/self/status");
    let text = outcome.text();
    let masks: Vec<u64> =
        text.lines().map(|line| u64::from_str_radix(line[8..].trim(), 16).expect("hexadecimal digits")).collect();
    assert_eq!(masks.len(), 2, "{text}");
    // Real-time signals are not the agent's business; some test runners ignore them.
    assert!(masks.iter().all(|mask| mask & 0x7fff_ffff == 0), "{text}");
}

#[test]
fn a_program_that_has_failed_by_itself_was_not_stopped() {
    let run = Run::new();
    run.go();
    // What it leaves behind holds the pipe, so that the agent still waits for it when the signal comes.
    let mut agent =
        run.start(0, 1, &["sh", "-c", "sh -c 'while :; do echo late; sleep 0.02; done' & echo pid $$; exit 1"]);
    let pid = eventually("the program's end", || {
        let log = fs::read(run.root().join("logs/rank-0.log")).ok()?;
        let pid = String::from_utf8_lossy(&log).lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok())?;
        (!is_alive(pid)).then_some(pid)
    });
    agent.signal(Signal::USR1);
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.code, Some(1), "{pid}");
    let seal = outcome.seal();
    assert_eq!((seal.code, seal.stopped), (Some(1), false));
}
