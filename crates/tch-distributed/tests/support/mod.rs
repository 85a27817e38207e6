//! Ranks as real processes: a test starts its own binary again, once for each rank, and asks it for one case.

// Compiled into every test program anew; none of them uses all of it.
#![allow(dead_code, clippy::allow_attributes, reason = "what is unused differs between the test programs")]

pub mod net;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};

use tch_distributed::{GlooOptions, Interface, ProcessGroup, Store};

const CASE: &str = "TCHD_CASE";
/// Longer than any case takes, even under a sanitizer: a rank that is still there then is killed, and the test fails.
const LIMIT: Duration = Duration::from_secs(240);

/// What a rank's process knows.
pub struct Rank {
    pub rank: u32,
    pub world_size: u32,
    /// A folder that all ranks of the case share.
    pub dir: PathBuf,
}

impl Rank {
    /// A store in the shared folder.
    pub fn store(&self, timeout: Duration) -> Store {
        Store::file(&self.dir.join("store"), Some(self.world_size), timeout).expect("a file store")
    }

    /// A gloo group of all ranks over loopback.
    pub fn group(&self, timeout: Duration) -> ProcessGroup {
        let options = GlooOptions::new(Interface::Name("lo".into()), timeout);
        ProcessGroup::gloo(&self.store(timeout), self.rank, self.world_size, &options).expect("all ranks come")
    }

    /// Tells the other ranks, and the test, that this rank has come to `point`.
    pub fn reach(&self, point: &str) {
        let path = self.dir.join(format!("{point}.{}", self.rank));
        File::create(path).expect("the shared folder is writable");
    }

    /// How long ago the test killed a rank.
    pub fn since_kill(&self) -> Duration {
        let path = self.dir.join("killed");
        assert!(appears(&path), "nobody was killed");
        let killed: u64 = fs::read_to_string(path).expect("readable").parse().expect("milliseconds");
        (UNIX_EPOCH + Duration::from_millis(killed)).elapsed().expect("the clock goes forward")
    }

    /// Waits until `rank` has come to `point`.
    pub fn await_peer(&self, rank: u32, point: &str) {
        let path = self.dir.join(format!("{point}.{rank}"));
        assert!(appears(&path), "rank {rank} did not come to `{point}`");
    }
}

/// The processes of one case.
pub struct Ranks {
    dir: tempfile::TempDir,
    children: Vec<(u32, Child)>,
}

/// How a rank ended.
pub struct Outcome {
    pub status: ExitStatus,
    pub output: String,
}

/// A case by its name: what each of its ranks does.
pub type Case = (&'static str, fn(&Rank));

/// In the rank's process: runs the case that the test asked for. In the test's own: nothing.
pub fn rank_process(cases: &[Case]) {
    let Ok(name) = env::var(CASE) else { return };
    let number = |variable: &str| env::var(variable).expect(variable).parse::<u32>().expect(variable);
    let rank = Rank {
        rank: number("RANK"),
        world_size: number("WORLD_SIZE"),
        dir: env::var_os("TCHD_DIR").expect("TCHD_DIR").into(),
    };
    let (_, case) = cases.iter().find(|(case, _)| *case == name).expect("a case of this file");
    case(&rank);
}

/// Starts `case` on all ranks of a world.
pub fn start(case: &str, world_size: u32) -> Ranks {
    start_some(case, world_size, 0..world_size)
}

/// Starts `case` on some ranks of a world.
pub fn start_some(case: &str, world_size: u32, ranks: impl IntoIterator<Item = u32>) -> Ranks {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let child = |rank: u32| {
        let output = File::create(dir.path().join(format!("output.{rank}"))).expect("an output file");
        let errors = output.try_clone().expect("another handle");
        let mut command = Command::new(env::current_exe().expect("this test's own program"));
        if shares_a_gpu() {
            command.env("NCCL_HOSTID", format!("rank-{rank}"));
        }
        let child = command
            .args(["rank", "--exact", "--nocapture"])
            .env(CASE, case)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", world_size.to_string())
            .env("TCHD_DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .expect("a rank's process starts");
        (rank, child)
    };
    let children = ranks.into_iter().map(child).collect();
    Ranks { dir, children }
}

/// Whether ranks may be on the same GPU (`TCHD_SHARE=1`), which NCCL refuses within a host: so each is told to be on a host of its own.
pub fn shares_a_gpu() -> bool {
    env::var("TCHD_SHARE").is_ok_and(|share| share == "1")
}

impl Ranks {
    /// Waits until `rank` has come to `point`.
    pub fn await_point(&self, rank: u32, point: &str) {
        assert!(appears(&self.dir.path().join(format!("{point}.{rank}"))), "rank {rank} did not come to `{point}`");
    }

    /// Kills a rank with SIGKILL, and notes who and when.
    pub fn kill(&mut self, rank: u32) {
        self.note_victim(rank);
        self.end(rank);
    }

    /// Stops a rank with SIGSTOP, and notes who and when.
    pub fn stop(&mut self, rank: u32) {
        self.note_victim(rank);
        let pid = self.child(rank).id();
        // The shell has it built in.
        let status = Command::new("sh").args(["-c", &format!("kill -STOP {pid}")]).status().expect("a shell");
        assert!(status.success());
    }

    /// Ends a rank with SIGKILL, even a stopped one, without a note.
    pub fn end(&mut self, rank: u32) {
        self.child(rank).kill().expect("it runs");
    }

    fn note_victim(&self, rank: u32) {
        fs::write(self.dir.path().join("victim"), rank.to_string()).expect("the shared folder is writable");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis();
        // Renamed into its place: whoever sees it sees it whole.
        let (new, path) = (self.dir.path().join("killed.new"), self.dir.path().join("killed"));
        fs::write(&new, now.to_string()).and_then(|()| fs::rename(new, path)).expect("the shared folder is writable");
    }

    fn child(&mut self, rank: u32) -> &mut Child {
        let (_, child) = self.children.iter_mut().find(|(own, _)| *own == rank).expect("a rank of this case");
        child
    }

    /// How all ranks ended, in the order they were started.
    pub fn outcomes(mut self) -> Vec<Outcome> {
        let deadline = Instant::now() + LIMIT;
        let mut outcomes = Vec::new();
        for (rank, child) in &mut self.children {
            let status = loop {
                if let Some(status) = child.try_wait().expect("our child") {
                    break status;
                }
                if Instant::now() > deadline {
                    child.kill().expect("it runs");
                    break child.wait().expect("our child");
                }
                thread::sleep(Duration::from_millis(5));
            };
            let output = fs::read_to_string(self.dir.path().join(format!("output.{rank}"))).expect("text");
            outcomes.push(Outcome { status, output });
        }
        self.children.clear();
        outcomes
    }

    /// Asserts that all ranks passed.
    pub fn pass(self) {
        // All that failed, as the first one may only have lost the one that is to blame.
        let failed: Vec<_> = self
            .outcomes()
            .into_iter()
            .enumerate()
            .filter(|(_, outcome)| !outcome.passed())
            .map(|(rank, outcome)| format!("rank {rank} ended with {}:\n{}", outcome.status, outcome.output))
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // Only those are left that a failed assertion has left behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Outcome {
    /// Whether the case held in this rank, and ran at all.
    pub fn passed(&self) -> bool {
        self.status.success() && self.output.contains("1 passed")
    }

    /// Asserts it.
    pub fn assert_passed(&self, rank: usize) {
        assert!(self.passed(), "rank {rank} ended with {}:\n{}", self.status, self.output);
    }
}

fn appears(path: &Path) -> bool {
    let deadline = Instant::now() + LIMIT / 2;
    while !path.exists() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}
