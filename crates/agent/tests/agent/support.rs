//! A run directory and the agents of its ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use evenkeel_wire::{Event, Record, env, path};
use rustix::process::{Pid, Signal};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Nothing here takes that long; who waits so long fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The folders that a container has under `/evenkeel`.
pub struct Run {
    root: PathBuf,
    _folder: Option<TempDir>,
}

impl Run {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let run = Self { root: folder.path().to_owned(), _folder: Some(folder) };
        run.make_folders();
        run
    }

    /// Uses a folder that somebody else removes.
    pub fn at(root: &Path) -> Self {
        let run = Self { root: root.to_owned(), _folder: None };
        run.make_folders();
        run
    }

    fn make_folders(&self) {
        for folder in ["logs", "events", "control", "output"] {
            fs::create_dir(self.root.join(folder)).expect("an empty folder");
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn control(&self, name: &str) -> PathBuf {
        self.root.join("control").join(name)
    }

    pub fn go(&self) {
        fs::write(self.control(&path::go(1)), "").expect("the folder is there");
    }

    pub fn log(&self, rank: u32) -> Vec<u8> {
        fs::read(self.root.join("logs").join(path::log(rank))).expect("the agent has made its log")
    }

    /// The command of an agent; `program` are its words after `--`.
    pub fn command(&self, rank: u32, world_size: u32, program: &[&str]) -> Command {
        // A statically linked agent can be given; the one that cargo has built differs in nothing else.
        let agent =
            std::env::var("EVENKEEL_TEST_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_evenkeel-agent").into());
        let mut command = Command::new(agent);
        command.arg("--").args(program).env_clear();
        let numbers = [
            (env::POD_RANK, rank),
            (env::POD_LOCAL_RANK, rank),
            (env::POD_LOCAL_SIZE, world_size),
            (env::GENERATION, 1),
        ];
        for (name, value) in numbers {
            command.env(name, value.to_string());
        }
        command.env(env::ROOT, &self.root).env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", &self.root);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub fn start(&self, rank: u32, world_size: u32, program: &[&str]) -> Agent {
        Agent::spawn(self.command(rank, world_size, program))
    }

    /// Runs one rank with a shell script from its go to its end.
    pub fn shell(&self, script: &str) -> Outcome {
        self.go();
        let status = self.start(0, 1, &["sh", "-c", script]).wait();
        self.outcome(0, status)
    }

    pub fn outcome(&self, rank: u32, status: ExitStatus) -> Outcome {
        Outcome { code: status.code(), log: self.log(rank), events: self.events(rank) }
    }

    /// The records written so far, checked for their numbers.
    pub fn events(&self, rank: u32) -> Vec<Event> {
        let text = fs::read_to_string(self.root.join("events").join(path::events(rank))).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let records = whole.lines().map(|line| serde_json::from_str::<Record>(line).expect(line));
        let numbered = records.enumerate().map(|(seq, record)| {
            assert_eq!((record.seq, record.rank, record.generation), (seq as u64, rank, 1));
            record.event
        });
        numbered.collect()
    }

    /// Waits until the spool of a rank holds an event of this kind.
    pub fn wait_for_event(&self, rank: u32, what: impl Fn(&Event) -> bool) -> Event {
        eventually("an event", || self.events(rank).into_iter().find(|event| what(event)))
    }
}

/// An agent that runs; killed when the test lets go of it.
pub struct Agent(Child);

impl Agent {
    pub fn spawn(mut command: Command) -> Self {
        Self(command.spawn().expect("the agent starts"))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("the agent is there");
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_some()
    }

    pub fn wait(&mut self) -> ExitStatus {
        eventually("the agent's end", || self.0.try_wait().expect("our child"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a rank has left behind.
pub struct Outcome {
    pub code: Option<i32>,
    pub log: Vec<u8>,
    pub events: Vec<Event>,
}

/// The seal, without what is checked for all of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Seal {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stopped: bool,
    pub lines: u64,
    pub dropped: u64,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.log).into_owned()
    }

    /// The seal, after proving that it is the last record and tells the truth about the log.
    pub fn seal(&self) -> Seal {
        let Some(Event::Exit { code, signal, stopped, oom_killed, lines, bytes, sha256, dropped }) = self.events.last()
        else {
            panic!("no seal: {:?}", self.events)
        };
        assert_eq!(*bytes, self.log.len() as u64);
        let hash: String = Sha256::digest(&self.log).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(*sha256, hash);
        let unfinished = self.log.last().is_some_and(|last| *last != b'\n');
        assert_eq!(*lines, memchr::memchr_iter(b'\n', &self.log).count() as u64 + u64::from(unfinished));
        assert!(!oom_killed);
        Seal { code: *code, signal: *signal, stopped: *stopped, lines: *lines, dropped: *dropped }
    }

    pub fn notes(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Note { message } = event { Some(&**message) } else { None })
            .collect()
    }
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what} has not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

pub fn done(lines: u64) -> Seal {
    Seal { code: Some(0), signal: None, stopped: false, lines, dropped: 0 }
}
