//! Ranks of the real program, one process each.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use evenkeel_wire::{Event, FailureClass};

/// What a rank left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub events: Vec<Event>,
}

impl Ended {
    /// The failure that it told last.
    pub fn failure(&self) -> (FailureClass, &str) {
        match self.events.last() {
            Some(Event::Failure { class, message, .. }) => (*class, message),
            other => panic!("not a failure: {other:?}\n{}{}", self.stdout, self.stderr),
        }
    }
}

/// A rank that runs.
pub struct Rank {
    pub child: Child,
    pub events: PathBuf,
    _dir: tempfile::TempDir,
}

impl Rank {
    /// Waits for its end.
    pub fn end(self) -> Ended {
        let Output { status, stdout, stderr } = self.child.wait_with_output().expect("our child");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr), events: events(&self.events) }
    }
}

/// The events in a file, whole lines of them.
pub fn events(file: &Path) -> Vec<Event> {
    let text = fs::read_to_string(file).expect("events");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Starts a subcommand with an environment of just these variables.
pub fn start(subcommand: &str, variables: &[(&str, &str)]) -> Rank {
    let dir = tempfile::tempdir().expect("a folder");
    let events = dir.path().join("events");
    File::create(&events).expect("writable");
    // The shell opens the descriptor that the program inherits.
    let child = Command::new("sh")
        .args(["-c", r#"exec "$0" "$1" 7>>"$2""#, env!("CARGO_BIN_EXE_evenkeel-trainer"), subcommand])
        .arg(&events)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LD_LIBRARY_PATH", std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default())
        .env("EVENKEEL_EVENTS_FD", "7")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    Rank { child, events, _dir: dir }
}

/// Starts one rank of several.
pub fn rank(subcommand: &str, rank: u32, world_size: u32, port: u16, more: &[(&str, &str)]) -> Rank {
    let (rank, world_size, port) = (rank.to_string(), world_size.to_string(), port.to_string());
    let mut variables = vec![
        ("RANK", rank.as_str()),
        ("LOCAL_RANK", rank.as_str()),
        ("WORLD_SIZE", world_size.as_str()),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port.as_str()),
    ];
    variables.extend(more);
    start(subcommand, &variables)
}
