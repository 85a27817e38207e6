//! The real program, one process a rank, from outside: exit codes, events, the line on stdout, the port it gives back.

// Limits of time are wide: the machine may be busy with other builds, and a rank loads 450 MB of libtorch first.

mod support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_wire::{Event, FailureClass};
use support::{Rank, free_port};
use tch_distributed::Store;

fn start(variables: &[(&str, &str)]) -> Rank {
    support::start("preflight", variables)
}

fn rank(rank: u32, world_size: u32, port: u16, timeout: &str, more: &[(&str, &str)]) -> Rank {
    let more: Vec<_> = more.iter().copied().chain([("EVENKEEL_TIMEOUT", timeout)]).collect();
    support::rank("preflight", rank, world_size, port, &more)
}

#[test]
fn ranks_that_reach_each_other_pass() {
    for world_size in 2..=3 {
        let port = free_port();
        let ranks: Vec<_> = (0..world_size).map(|own| rank(own, world_size, port, "30", &[])).collect();
        for (own, ended) in ranks.into_iter().map(Rank::end).enumerate() {
            assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.stderr, "");
            assert!(ended.stdout.starts_with(&format!("preflight: rank {own} of {world_size}: ok, all-reduce ")));
            assert_eq!(ended.stdout.lines().count(), 1);
            let [joined, preflight] = &ended.events[..] else { panic!("{:?}", ended.events) };
            let expected = Event::Joined { world_size, backend: "gloo".into(), device: "cpu".into() };
            assert_eq!(*joined, expected);
            let Event::Preflight { ok: true, bytes_per_second: Some(rate), transport, message: None, .. } = preflight
            else {
                panic!("{preflight:?}")
            };
            assert!(*rate > 1e6, "{rate}");
            assert_eq!(transport.as_deref(), Some("tcp"));
        }
    }
}

#[test]
fn one_rank_passes_alone() {
    let ended = start(&[("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")]).end();
    assert_eq!(ended.code, Some(0));
    let message = Some("one rank: nobody to join".into());
    let environment = Default::default();
    assert_eq!(
        ended.events,
        [Event::Preflight { ok: true, bytes_per_second: None, transport: None, message, environment }]
    );
}

#[test]
fn on_gpus_it_says_that_nccl_was_not_checked() {
    let port = free_port();
    let ranks = [0, 1].map(|own| rank(own, 2, port, "30", &[("EVENKEEL_DEVICE", "cuda")]));
    for ended in ranks.map(Rank::end) {
        assert_eq!(ended.code, Some(0));
        let Some(Event::Preflight { ok: true, message: Some(message), .. }) = ended.events.last() else {
            panic!("{:?}", ended.events)
        };
        let (checked, reason) = message.split_once(": ").expect("a reason");
        assert_eq!(checked, "checked by gloo over `lo`; NCCL between the GPUs was not checked");
        // Which of libtorch's CUDA libraries is missing, or that there is no GPU.
        let expected = if cfg!(feature = "nccl") { ["lib", "no GPU"] } else { ["built without", "built without"] };
        assert!(expected.iter().any(|part| reason.contains(part)), "{reason}");
    }
}

#[test]
fn a_rank_that_never_comes_is_named_by_all_who_came() {
    let port = free_port();
    let start = Instant::now();
    let ranks = [0, 1, 3].map(|own| rank(own, 5, port, "2", &[]));
    for ended in ranks.map(Rank::end) {
        assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.failure(), (FailureClass::Collective, "ranks 2, 4 of 5 did not come within 2 s"));
        assert_eq!(ended.stdout, "preflight: failed: ranks 2, 4 of 5 did not come within 2 s\n");
        assert_eq!(ended.stderr, "");
        assert!(matches!(&ended.events[0], Event::Preflight { ok: false, message: Some(_), .. }));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_rank_0_that_never_comes_is_named_with_its_address() {
    let port = free_port();
    let start = Instant::now();
    let ended = rank(1, 2, port, "2", &[]).end();
    assert_eq!(ended.code, Some(1));
    let (class, message) = ended.failure();
    assert_eq!(class, FailureClass::Collective);
    let expected = format!("rank 0 did not come within 2 s: nothing answers on 127.0.0.1:{port}");
    assert!(message.starts_with(&expected), "{message}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let ended = rank(0, 2, port, "30", &[]).end();
    assert_eq!(ended.code, Some(1));
    let (class, message) = ended.failure();
    assert_eq!(class, FailureClass::Infrastructure);
    assert!(message.starts_with(&format!("failed to listen on 127.0.0.1:{port}: Address already in use")), "{message}");
}

#[test]
fn a_stranger_on_the_port_is_no_rank_0() {
    let stranger = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = stranger.local_addr().expect("bound").port();
    // It takes connections and says nothing.
    let silent = thread::spawn(move || stranger.accept().map(|(connection, _)| (stranger, connection)));
    let start = Instant::now();
    let ended = rank(1, 2, port, "1", &[]).end();
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.failure().0, FailureClass::Collective);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    drop(silent.join().expect("no panic"));
}

/// The test plays rank 1: it answers the roll and ends.
#[test]
fn a_rank_that_dies_after_the_roll_ends_the_others() {
    let port = free_port();
    let zero = rank(0, 2, port, "2", &[]);
    let store = Store::tcp_client("127.0.0.1", port, Duration::from_secs(10)).expect("rank 0 serves");
    store.set("evenkeel/preflight/joined/1", b"1").expect("set");
    store.wait(&["evenkeel/preflight/roll"], Duration::from_secs(10)).expect("the roll is called");
    drop(store);
    let start = Instant::now();
    let ended = zero.end();
    assert_eq!(ended.code, Some(1));
    let (class, message) = ended.failure();
    assert_eq!(class, FailureClass::Collective);
    assert!(message.starts_with("failed to connect the ranks: timed out: "), "{message}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn the_port_is_free_when_any_rank_has_ended() {
    let port = free_port();
    for _ in 0..5 {
        let [zero, one] = [0, 1].map(|own| rank(own, 2, port, "30", &[]));
        assert_eq!(one.end().code, Some(0));
        // What starts after rank 1 must not find the preflight's rank 0 where it looks for its own.
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "still listening");
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        assert_eq!(zero.end().code, Some(0));
        drop(listener);
    }
}

#[test]
fn an_environment_that_makes_no_sense_is_refused_with_the_variables_name() {
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("RANK", "0")], "`WORLD_SIZE` is not set"),
        (&[("RANK", "2"), ("WORLD_SIZE", "2")], "`RANK` is `2`"),
        (&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")], "`MASTER_PORT` is not set"),
        (&[("RANK", "0"), ("WORLD_SIZE", "1"), ("EVENKEEL_DEVICE", "tpu")], "`EVENKEEL_DEVICE` is `tpu`"),
    ];
    for (variables, expected) in cases {
        let ended = start(variables).end();
        assert_eq!(ended.code, Some(2));
        assert!(ended.stderr.starts_with(&format!("preflight: {expected}")), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);
        assert!(ended.failure().1.starts_with(expected));
    }
    let ended = start(&[("RANK", "0"), ("WORLD_SIZE", "1"), ("EVENKEEL_EVENTS_FD", "99")]).end();
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("`EVENKEEL_EVENTS_FD` cannot be written to"), "{}", ended.stderr);
}

#[test]
fn the_version_names_torchs() {
    let program = Path::new(env!("CARGO_BIN_EXE_evenkeel-trainer"));
    let output = Command::new(program).arg("--version").output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text, format!("evenkeel-trainer {} (torch 2.11.0)\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(Command::new(program).arg("fly").output().expect("it runs").status.code(), Some(2));
}
