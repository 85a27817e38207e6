//! An engine that goes away and comes back, or does not: nothing is left on it, or it is said what.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::needs_engine;
use crate::support::{Place, Running, containers, docker, entries, job, nothing_left, until};

/// A socket that leads to the engine while it is open. To whoever uses it, closing it is an engine that dies.
struct Door {
    path: PathBuf,
    open: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<UnixStream>>>,
}

impl Door {
    fn at(path: PathBuf) -> Self {
        let door = Self { path, open: Arc::default(), connections: Arc::default() };
        door.open();
        door
    }

    fn open(&self) {
        let listener = UnixListener::bind(&self.path).expect("a socket");
        self.open.store(true, Ordering::SeqCst);
        let (open, connections) = (Arc::clone(&self.open), Arc::clone(&self.connections));
        std::thread::spawn(move || {
            for inside in listener.incoming() {
                if !open.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(inside), Ok(outside)) = (inside, UnixStream::connect(engine())) else { continue };
                let another = |stream: &UnixStream| stream.try_clone().expect("another handle");
                connections.lock().expect("no panic").extend([another(&inside), another(&outside)]);
                let (back, forth) = (another(&inside), another(&outside));
                std::thread::spawn(move || pass(inside, forth));
                std::thread::spawn(move || pass(outside, back));
            }
        });
    }

    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        // The thread that accepts wakes up once more, and sees it.
        let _ = UnixStream::connect(&self.path);
        std::fs::remove_file(&self.path).expect("our socket");
        for connection in self.connections.lock().expect("no panic").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Starts `evenkeel train` for an engine behind this door.
    fn train(&self, place: &Place) -> Running {
        let mut command = place.evenkeel(&["train", "job.yaml"]);
        command.env("DOCKER_HOST", format!("unix://{}", self.path.display()));
        Running::start(command)
    }
}

/// The engine's own socket.
fn engine() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    Path::new(host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock")).to_owned()
}

fn pass(mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _: io::Result<()> = to.shutdown(Shutdown::Write);
}

fn marks(place: &Place, name: &str) -> bool {
    (0..2).all(|rank| place.path().join(format!("{name}-{rank}")).exists())
}

#[test]
fn an_end_that_was_asked_for_while_it_was_away_comes_when_it_is_back() {
    needs_engine!();
    let place = Place::new();
    let door = Door::at(place.path().join("engine.sock"));
    job(&place, "trap 'exit 0' TERM; touch /place/up-$RANK; while :; do sleep 0.05; done", "volumes: [.:/place]\n");
    let run = door.train(&place);
    until("both trainers", || marks(&place, "up").then_some(()));
    door.close();
    run.signal("INT");
    until("the signal in the journal", || (!entries(&place.journal(), "signal").is_empty()).then_some(()));
    assert_eq!(containers(&place).len(), 2, "nobody could tell them");
    door.open();
    run.end().with_code(130);
    nothing_left(&place);
}

#[test]
fn containers_that_ended_while_it_was_away_are_removed_when_it_is_back() {
    needs_engine!();
    let place = Place::new();
    let door = Door::at(place.path().join("engine.sock"));
    let script = "touch /place/up-$RANK; until [ -e /place/go ]; do sleep 0.02; done; touch /place/done-$RANK";
    job(&place, script, "volumes: [.:/place]\n");
    let run = door.train(&place);
    until("both trainers", || marks(&place, "up").then_some(()));
    door.close();
    place.write("go", "");
    until("their end", || marks(&place, "done").then_some(()));
    // Both seals are heard without the engine, and the removal is tried in vain.
    until("the seals", || {
        (0..2).all(|rank| place.events(rank).iter().any(|it| it["event"]["kind"] == "exit")).then_some(())
    });
    door.open();
    run.end().with_code(0).saying("done in");
    nothing_left(&place);
}

#[test]
fn one_that_stays_away_holds_nobody_and_what_is_left_is_named() {
    needs_engine!();
    let place = Place::new();
    let door = Door::at(place.path().join("engine.sock"));
    job(&place, "trap '' TERM; touch /place/up-$RANK; while :; do sleep 0.05; done", "volumes: [.:/place]\n");
    let run = door.train(&place);
    until("both trainers", || marks(&place, "up").then_some(()));
    let names = containers(&place);
    door.close();
    let begin = Instant::now();
    for count in 1..=3 {
        run.signal("INT");
        until("the signal", || (entries(&place.journal(), "signal").len() >= count || count == 3).then_some(()));
    }
    let ended = run.end();
    let took = begin.elapsed();
    docker(&[&["rm", "-f"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    let ended = ended.with_code(130).saying("docker rm -f evenkeel-");
    for name in &names {
        assert!(ended.stderr.contains(name), "{name} is not named in\n{}", ended.stderr);
    }
    assert!(took < Duration::from_secs(20), "it waited for {took:?}");
    nothing_left(&place);
}
