//! Lock, go, preflight, exit codes, and the leader that stays.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use evenkeel_wire::{Event, FailureClass, env, path};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::support::{Agent, Run, Seal, done, eventually, is_alive};

fn is_locked(run: &Run, rank: u32) -> bool {
    let file = File::open(run.control(&path::alive(1, rank))).expect("the lock appears before anything is told");
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

#[test]
fn the_program_starts_at_the_go_and_not_before() {
    let run = Run::new();
    let marker = run.root().join("output/started");
    let mut agent = run.start(0, 1, &["sh", "-c", &format!("echo ran > {}", marker.display())]);
    run.wait_for_event(0, |event| *event == Event::Waiting);
    assert!(is_locked(&run, 0));
    // The go of another generation is not ours.
    fs::write(run.control(&path::go(2)), "").expect("the folder is there");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!marker.exists());
    run.go();
    let status = agent.wait();
    assert!(marker.exists());
    assert!(!is_locked(&run, 0));
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.seal(), done(0));
    let [Event::Waiting, Event::Started { command, pid }, Event::Ended { .. }, Event::Exit { .. }] = &*outcome.events
    else {
        panic!("{:?}", outcome.events)
    };
    assert_eq!(command[..2], ["sh", "-c"]);
    assert!(!is_alive(*pid));
}

#[test]
fn a_signal_while_waiting_ends_the_rank_without_a_start() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::USR1, 9)] {
        let run = Run::new();
        let mut agent = run.start(0, 1, &["true"]);
        run.wait_for_event(0, |event| *event == Event::Waiting);
        // These two are for others.
        agent.signal(Signal::HUP);
        agent.signal(Signal::USR2);
        agent.signal(signal);
        let status = agent.wait();
        let outcome = run.outcome(0, status);
        assert_eq!(outcome.code, Some(128 + number));
        assert_eq!(outcome.seal(), Seal { code: None, signal: Some(number), stopped: true, lines: 0, dropped: 0 });
        assert_eq!(outcome.events.len(), 2);
    }
}

#[test]
fn the_trainer_starts_after_a_preflight_that_succeeds() {
    let run = Run::new();
    run.go();
    let mut command = run.command(0, 1, &["echo", "trained"]);
    command.env(env::PREFLIGHT, "echo");
    let status = Agent::spawn(command).wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.text(), "preflight\ntrained\n");
    assert_eq!(outcome.seal(), done(2));
    let started = outcome.events.iter().filter(|event| matches!(event, Event::Started { .. })).count();
    assert_eq!(started, 2);
}

#[test]
fn what_a_preflight_found_out_the_trainer_is_started_with() {
    let run = Run::new();
    run.go();
    let preflight = run.root().join("check");
    let event = r#"{"kind":"preflight","ok":true,"bytes_per_second":1.0,"transport":"SHM","message":null,"environment":{"NCCL_P2P_DISABLE":"1","LD_PRELOAD":"x"}}"#;
    fs::write(&preflight, format!("#!/bin/sh\necho '{event}' >&$EVENKEEL_EVENTS_FD\n")).expect("our folder");
    fs::set_permissions(&preflight, fs::Permissions::from_mode(0o755)).expect("our file");
    let mut command = run.command(0, 1, &["sh", "-c", "echo ${NCCL_P2P_DISABLE-unset} ${LD_PRELOAD-unset}"]);
    command.env(env::PREFLIGHT, &preflight).env_remove("NCCL_P2P_DISABLE").env_remove("LD_PRELOAD");
    let status = Agent::spawn(command).wait();
    assert_eq!(run.outcome(0, status).text(), "1 unset\n");
}

#[test]
fn a_preflight_that_fails_ends_the_rank() {
    let run = Run::new();
    run.go();
    let preflight = run.root().join("check");
    fs::write(&preflight, "#!/bin/sh\nprintf 'peer 1 is missing'\nexit 3\n").expect("our folder");
    fs::set_permissions(&preflight, fs::Permissions::from_mode(0o755)).expect("our file");
    let mut command = run.command(0, 1, &["echo", "trained"]);
    command.env(env::PREFLIGHT, &preflight);
    let status = Agent::spawn(command).wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.text(), "peer 1 is missing");
    assert_eq!(outcome.code, Some(3));
    assert_eq!(outcome.seal(), Seal { code: Some(3), ..done(1) });
}

#[test]
fn the_code_and_the_signal_of_the_program_are_told() {
    let run = Run::new();
    let outcome = run.shell("exit 7");
    assert_eq!(outcome.code, Some(7));
    assert_eq!(outcome.seal(), Seal { code: Some(7), ..done(0) });

    let run = Run::new();
    let outcome = run.shell("kill -SEGV $$");
    assert_eq!(outcome.code, Some(139));
    assert_eq!(outcome.seal(), Seal { code: None, signal: Some(11), ..done(0) });
}

#[test]
fn a_program_that_cannot_run_is_explained() {
    let run = Run::new();
    let file = |name: &str, content: &str, mode: u32| {
        let path = run.root().join(name);
        fs::write(&path, content).expect("our folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our file");
        path.to_string_lossy().into_owned()
    };
    let cases = [
        ("no-such-program".into(), 127, "program `no-such-program` is not found in the PATH of the image"),
        ("/no/such/program".into(), 127, "does not exist in the image"),
        (file("data", "x", 0o644), 126, "permission denied"),
        (file("script", "#!/no/such/python\n", 0o755), 126, "its interpreter `/no/such/python` does not exist"),
        ("/usr".into(), 126, "it is a folder"),
    ];
    run.go();
    for (rank, (program, code, reason)) in cases.into_iter().enumerate() {
        let rank = rank as u32;
        let mut command = run.command(rank, 5, &[&program]);
        command.env(env::POD_LOCAL_RANK, "0").env(env::POD_LOCAL_SIZE, "1");
        let status = Agent::spawn(command).wait();
        let outcome = run.outcome(rank, status);
        assert_eq!(outcome.code, Some(code), "{program}");
        assert!(outcome.text().contains(reason), "{}", outcome.text());
        assert_eq!(outcome.seal(), Seal { code: Some(code), ..done(1) });
        let Event::Failure { class: FailureClass::Code, message, .. } = &outcome.events[1] else {
            panic!("{:?}", outcome.events)
        };
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn a_wrong_call_is_refused() {
    let run = Run::new();
    let mut without_rank = run.command(0, 1, &["true"]);
    without_rank.env_remove(env::POD_RANK);
    let mut without_program = run.command(0, 1, &[]);
    let mut outside = run.command(0, 1, &["true"]);
    outside.env(env::POD_LOCAL_RANK, "1");
    for (command, reason) in [
        (&mut without_rank, "`EVENKEEL_POD_RANK` is not set"),
        (&mut without_program, "usage"),
        (&mut outside, "LOCAL_RANK"),
    ] {
        let output = command.output().expect("the agent starts");
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{output:?}");
    }
}

#[test]
fn the_leader_stays_until_every_other_rank_has_ended() {
    let run = Run::new();
    let mut leader = run.start(0, 3, &["echo", "leads"]);
    let mut follower = run.start(1, 3, &["sleep", "3"]);
    run.go();
    run.wait_for_event(0, |event| matches!(event, Event::Exit { .. }));
    run.wait_for_event(1, |event| matches!(event, Event::Started { .. }));
    // The third comes late: the leader waits for it to appear, too.
    let mut late = run.start(2, 3, &["sh", "-c", "read x < $EVENKEEL_ROOT/output/end"]);
    rustix::fs::mkfifoat(rustix::fs::CWD, run.root().join("output/end"), rustix::fs::Mode::RWXU).expect("our folder");
    run.wait_for_event(2, |event| matches!(event, Event::Started { .. }));

    follower.signal(Signal::KILL);
    follower.wait();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!leader.has_ended());
    fs::write(run.root().join("output/end"), "now\n").expect("the reader is there");
    late.wait();
    assert_eq!(leader.wait().code(), Some(0));
}

#[test]
fn a_signal_ends_the_leaders_stay() {
    for signal in [Signal::TERM, Signal::USR1] {
        let run = Run::new();
        run.go();
        let mut leader = run.start(0, 2, &["sh", "-c", "exit 4"]);
        run.wait_for_event(0, |event| matches!(event, Event::Exit { .. }));
        assert!(!leader.has_ended());
        leader.signal(signal);
        let status = leader.wait();
        assert_eq!(status.code(), Some(4));
        // It came after the end: it has stopped nothing.
        assert_eq!(run.outcome(0, status).seal(), Seal { code: Some(4), ..done(0) });
    }
}

#[test]
fn a_follower_leaves_at_once() {
    let run = Run::new();
    run.go();
    let mut follower = run.start(1, 2, &["true"]);
    assert_eq!(follower.wait().code(), Some(0));
}

#[test]
fn the_lock_is_not_inherited() {
    let run = Run::new();
    run.go();
    let mut agent = run.start(0, 1, &["sleep", "1000"]);
    let Event::Started { pid, .. } = run.wait_for_event(0, |event| matches!(event, Event::Started { .. })) else {
        unreachable!("asked for it")
    };
    agent.signal(Signal::KILL);
    agent.wait();
    eventually("the lock's end", || (!is_locked(&run, 0)).then_some(()));
    assert!(is_alive(pid), "outside of a container nobody ends the orphan: this one proves that it holds no lock");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a small number")).expect("a process");
    rustix::process::kill_process(pid, Signal::KILL).expect("it is alive");
}
