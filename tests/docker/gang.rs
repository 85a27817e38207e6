//! One rank ends badly: all end at once, and the one that began it is named.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Place, Running, containers, docker, entries, is_root, job, nothing_left, sample, until};
use crate::{needs_engine, skip};

/// Starts a job whose ranks wait, and returns when both trainers run.
fn started(place: &Place, script: &str, more: &str) -> Running {
    job(place, script, more);
    let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("both trainers", || {
        let running = |rank| place.has_record() && place.events(rank).iter().any(|it| it["event"]["kind"] == "started");
        let there = |rank: u32| {
            let runs = std::fs::read_dir(place.path().join("runs/job")).ok()?;
            let name = format!("events/rank-{rank}.events.jsonl");
            runs.flatten().any(|run| run.path().join(&name).exists()).then_some(())
        };
        (there(0).is_some() && there(1).is_some() && running(0) && running(1)).then_some(())
    });
    run
}

/// Process on this machine whose command line holds `words`, in the container of a rank.
fn trainer(place: &Place, rank: u32, words: &str) -> u32 {
    let names = containers(place);
    let name = names.iter().find(|name| name.ends_with(&format!("-r{rank}"))).expect("its container");
    let table = docker(&["top", name, "-o", "pid,args"]);
    // Not the supervisor, whose arguments hold the same words.
    let line = table.lines().find(|line| line.contains(words) && !line.contains("/evenkeel/agent"));
    let line = line.unwrap_or_else(|| panic!("no `{words}` in\n{table}"));
    line.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a process identifier")
}

/// Milliseconds from an entry of the journal to the last of another kind.
fn milliseconds(journal: &[Value], from: &str, to: &str) -> u64 {
    let time = |entry: &Value| entry["time_ms"].as_u64().expect("a time");
    let begin = entries(journal, from).first().map(|entry| time(entry)).expect("its beginning");
    let end = entries(journal, to).last().map(|entry| time(entry)).expect("its end");
    end - begin
}

#[test]
fn the_first_bad_end_ends_all_and_is_named() {
    needs_engine!();
    let place = Place::new();
    job(&place, "[ $RANK = 0 ] && exec sleep 60; echo 'last words'; exit 7", "");
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    let ended = ended.saying("error: rank 1 failed first: the trainer ended with exit code 7 (code)");
    let ended = ended.saying("hint: ").saying("logs/rank-1.log");
    assert!(ended.stdout.contains("[1] last words\n"), "{}", ended.stdout);
    let record = place.record();
    assert!(ended.stderr.contains(record.file_name().expect("a name").to_str().expect("text")), "{}", ended.stderr);
    nothing_left(&place);
}

#[test]
fn a_leader_that_fails_is_named_too() {
    needs_engine!();
    let place = Place::new();
    job(&place, "[ $RANK = 1 ] && exec sleep 60; kill -SEGV $$", "");
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    ended.saying("error: rank 0 failed first: the trainer was ended by SIGSEGV");
    nothing_left(&place);
}

#[test]
fn a_rank_that_ends_well_ends_nobody() {
    needs_engine!();
    let place = Place::new();
    // The leader first: the others live in its namespaces.
    job(&place, "[ $RANK = 0 ] && exit; sleep 0.7; ls /sys/class/net; echo written > /dev/shm/x && echo on", "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    assert_eq!(ended.stdout, "[1] lo\n[1] on\n");
    nothing_left(&place);
}

#[test]
fn a_killed_trainer_takes_its_peers_along_within_a_second() {
    needs_engine!();
    for round in 0..sample(2, 100) {
        let victim = u32::from(round % 2 == 1);
        let place = Place::new();
        // Deaf to everything that can be ignored, as one that hangs in a collective.
        let script = "trap '' TERM INT HUP USR1; echo up; while :; do sleep 1000; done";
        let run = started(&place, script, "");
        let [killed, peer] = [victim, 1 - victim].map(|rank| trainer(&place, rank, "trap"));
        let begin = Instant::now();
        let sent = Command::new("kill").args(["-KILL", &killed.to_string()]).status().expect("the kill command");
        assert!(sent.success());
        until("the peer's end", || (!is_alive(peer)).then_some(()));
        let gone = begin.elapsed();
        let ended = run.end().with_code(1);
        ended.saying(&format!("error: rank {victim} failed first: the trainer was ended by SIGKILL"));
        nothing_left(&place);
        let journal = place.journal();
        eprintln!(
            "rank {victim} killed: its peer was gone after {} ms; containers removed {} ms after the ask",
            gone.as_millis(),
            milliseconds(&journal, "ask", "removed")
        );
        assert!(gone < Duration::from_secs(1), "the peer lived on for {gone:?}");
        // Its agent did it, and the log is whole: no container had to be killed.
        assert!(entries(&journal, "ask").iter().all(|ask| ask["detail"]["signal"] == "SIGUSR1"), "{journal:?}");
        assert_eq!(entries(&journal, "logs")[0]["detail"]["ranks"][(1 - victim) as usize]["whole"], true);
        assert_eq!(place.log(1 - victim), "up\n");
    }
}

#[test]
fn what_a_killed_trainer_left_running_holds_up_nobody() {
    needs_engine!();
    let place = Place::new();
    // A child that keeps the output open and talks: its agent cannot know yet whether the log is whole.
    let script = "trap '' TERM; [ $RANK = 1 ] && (while :; do echo chat; sleep 0.02; done) & echo up; while :; do sleep 1000; done";
    let run = started(&place, script, "");
    let [killed, peer] = [1, 0].map(|rank| trainer(&place, rank, "trap"));
    let begin = Instant::now();
    let sent = Command::new("kill").args(["-KILL", &killed.to_string()]).status().expect("the kill command");
    assert!(sent.success());
    until("the peer's end", || (!is_alive(peer)).then_some(()));
    let gone = begin.elapsed();
    run.end().with_code(1).saying("error: rank 1 failed first: the trainer was ended by SIGKILL");
    assert!(gone < Duration::from_secs(1), "the peer lived on for {gone:?}");
    nothing_left(&place);
}

#[test]
fn a_peer_that_dies_of_the_loss_is_not_the_culprit() {
    needs_engine!();
    let place = Place::new();
    // Rank 1's seal waits for a silent child; rank 0 notices the loss at once, and says so as gloo does.
    let script = "if [ $RANK = 1 ]; then sleep 300 & touch /place/up; sleep 0.3; touch /place/lost; kill -KILL $$; fi; \
                  until [ -e /place/lost ]; do sleep 0.01; done; sleep 0.02; \
                  echo 'RuntimeError: [../gloo/transport/tcp/pair.cc:598] Connection reset by peer'; exit 1";
    job(&place, script, "volumes: [.:/place]\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    ended.saying("error: rank 1 failed first: the trainer was ended by SIGKILL");
    nothing_left(&place);
}

#[test]
fn a_container_that_somebody_else_stops_is_no_success() {
    needs_engine!();
    // However well it takes it.
    for script in ["echo up; exec sleep 1000", "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"] {
        let place = Place::new();
        let run = started(&place, script, "");
        let names = containers(&place);
        let name = names.iter().find(|name| name.ends_with("-r1")).expect("its container");
        docker(&["stop", name]);
        run.end().with_code(1).saying("error: rank 1 failed first: ").saying("somebody else stopped its container");
        nothing_left(&place);
    }
}

#[test]
fn an_agent_that_cannot_work_says_why() {
    needs_engine!();
    if !is_root() {
        skip!("only root's records are closed to other users");
    }
    let place = Place::new();
    job(&place, "true", "user: '12345:12345'\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    ended.saying("ermission denied").saying("/evenkeel/control").saying("leave `user:` out");
    nothing_left(&place);
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_killed_container_is_named_and_its_log_called_unsealed() {
    needs_engine!();
    for victim in [0, 1] {
        let place = Place::new();
        let run = started(&place, "echo up; exec sleep 1000", "");
        let names = containers(&place);
        let name = names.iter().find(|name| name.ends_with(&format!("-r{victim}"))).expect("its container");
        docker(&["kill", name]);
        let ended = run.end().with_code(1);
        let ended = ended.saying(&format!("error: rank {victim} failed first: "));
        ended.saying(&format!("rank {victim}: its log has no seal"));
        let journal = place.journal();
        let logs = &entries(&journal, "logs")[0]["detail"]["ranks"];
        assert_eq!(logs[victim as usize]["sealed"], false, "{logs}");
        assert_eq!(logs[1 - victim as usize]["whole"], true, "the other one's is sealed: {logs}");
        nothing_left(&place);
    }
}

#[test]
fn a_removed_container_ends_the_run() {
    needs_engine!();
    let place = Place::new();
    let run = started(&place, "exec sleep 1000", "");
    let names = containers(&place);
    let name = names.iter().find(|name| name.ends_with("-r1")).expect("its container");
    docker(&["rm", "-f", name]);
    run.end().with_code(1).saying("error: rank 1 failed first: ");
    nothing_left(&place);
}

#[test]
fn what_a_trainer_leaves_running_is_gone_with_it() {
    needs_engine!();
    let place = Place::new();
    // A child in a session of its own that holds the output open.
    job(&place, "setsid sleep 4321 & echo started; exit 0", "device: cpu\n");
    let begin = Instant::now();
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    assert_eq!(ended.stdout, "started\n");
    assert!(begin.elapsed() < Duration::from_secs(30), "it waited for a stranger");
    let left = Command::new("pgrep").args(["-f", "^sleep 4321"]).output();
    if let Ok(left) = left {
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "a process was left behind");
    }
    nothing_left(&place);
}
