//! What the tests of the real binary share: a place of their own, the program, and a look at the engine.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder with a job in it, and the records of its runs.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// An empty place, open to every user: containers may run as another one.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("evenkeel-test-").tempdir().expect("a temporary folder");
        open_to_all(folder.path());
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("inside the place")).expect("folders");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// `evenkeel` with these arguments, in this place.
    pub fn evenkeel(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", cache()).env("EVENKEEL_LOCKS", self.path().join("locks"));
        for ours in ["CUDA_VISIBLE_DEVICES", "EVENKEEL_NVML_STUB", "MLFLOW_TRACKING_URI", "NO_COLOR"] {
            command.env_remove(ours);
        }
        // What listens in a test is on loopback.
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        // The tests say themselves what GPUs there are.
        command.env("EVENKEEL_NVML", "/nonexistent/libnvidia-ml.so");
        command
    }

    /// Runs `evenkeel` to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::from(self.evenkeel(args).output().expect("the program starts"))
    }

    /// Folders of the experiments in this place. Trial steps are none.
    fn experiments(&self) -> Vec<PathBuf> {
        let trial = |path: &PathBuf| path.to_string_lossy().ends_with("-fit");
        folders(&self.path().join("runs")).into_iter().filter(|path| !trial(path)).collect()
    }

    /// The directory of the only run in this place.
    pub fn record(&self) -> PathBuf {
        let names = self.experiments();
        assert_eq!(names.len(), 1, "one experiment: {names:?}");
        let runs = folders(&names[0]);
        assert_eq!(runs.len(), 1, "one run: {runs:?}");
        runs[0].clone()
    }

    /// Whether a run was begun here.
    pub fn has_record(&self) -> bool {
        self.path().join("runs").exists() && !self.experiments().is_empty()
    }

    /// The journal of the only run.
    pub fn journal(&self) -> Vec<Value> {
        lines_of_json(&self.recorded("journal.jsonl"))
    }

    /// The journal of a run that may just have begun.
    pub fn journal_so_far(&self) -> Vec<Value> {
        let journals = std::fs::read_dir(self.path().join("runs/job")).into_iter().flatten().flatten();
        let texts = journals.filter_map(|run| std::fs::read_to_string(run.path().join("journal.jsonl")).ok());
        texts.take(1).flat_map(|text| lines_of_json(&text)).collect()
    }

    /// What the agents and trainers of a rank told.
    pub fn events(&self, rank: u32) -> Vec<Value> {
        lines_of_json(&self.recorded(&format!("events/rank-{rank}.events.jsonl")))
    }

    /// A rank's whole output, from the record.
    pub fn log(&self, rank: u32) -> String {
        self.recorded(&format!("logs/rank-{rank}.log"))
    }

    /// A file of the only run's record, as text.
    pub fn recorded(&self, name: &str) -> String {
        let path = self.record().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// A job that runs a bash script in a bare image, on two CPU devices without a network; `more` are further lines of it.
/// Written as `job.yaml`, so that its runs are in `runs/job`.
pub fn job(place: &Place, script: &str, more: &str) {
    let command = serde_json::json!(["bash", "-c", script]);
    let devices = if more.contains("device:") || more.contains("gpus:") { "" } else { "device: cpu:2\n" };
    let network = if more.contains("network:") { "" } else { "network: none\n" };
    let text = format!("trainer: command\nimage: {}\n{devices}{network}command: {command}\n{more}\n", image());
    place.write("job.yaml", &text);
}

/// A bare Debian image, with none of our files in it.
pub fn image() -> String {
    std::env::var("EVENKEEL_TEST_IMAGE").unwrap_or_else(|_| "evenkeel/debian:trixie".into())
}

/// How often something is tried: a sample, or with `EVENKEEL_TEST_LONG` (`make check-long`) all of it.
pub fn sample(some: usize, all: usize) -> usize {
    if std::env::var_os("EVENKEEL_TEST_LONG").is_some_and(|long| !long.is_empty()) { all } else { some }
}

/// Why no test with an engine can run here, if none can.
pub fn no_engine() -> Option<String> {
    let try_to = |args: &[&str], without: &str| {
        let output = Command::new("docker").args(args).output();
        let why = match output {
            Ok(output) if output.status.success() => return None,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        Some(format!("{without} ({why})"))
    };
    let why = try_to(&["version", "--format", "{{.Server.Version}}"], "no Docker engine answers")
        .or_else(|| try_to(&["image", "inspect", &image()], "the engine has no bare image to test with"));
    if let Some(why) = &why {
        assert!(std::env::var("EVENKEEL_TEST_ENGINE").as_deref() != Ok("required"), "{why}");
    }
    why
}

/// Whether this user may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn lines_of_json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The journal's entries of one kind.
pub fn entries<'a>(journal: &'a [Value], kind: &str) -> Vec<&'a Value> {
    journal.iter().filter(|entry| entry["entry"] == kind).collect()
}

/// Identifiers of the runs of this place.
fn runs(place: &Place) -> Vec<String> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(&place.path().join("runs"))
        .flat_map(|family| entries(&family).collect::<Vec<_>>())
        .filter(|run| run.is_dir() && !run.is_symlink())
        .filter_map(|run| run.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect();
    found.sort();
    found
}

/// The program under test. Another user may be given a copy that he can reach.
pub fn program() -> PathBuf {
    std::env::var_os("EVENKEEL_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_evenkeel").into(), PathBuf::from)
}

/// A cache for all tests of a build, so that the agent is laid down once.
fn cache() -> PathBuf {
    let given = std::env::var_os("EVENKEEL_TEST_CACHE").map(PathBuf::from);
    let cache = given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    std::fs::create_dir_all(&cache).expect("a cache");
    open_to_all(&cache);
    cache
}

pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // Another user's test may have made it; then it is open already.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777));
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Checks the exit code; shows everything when it is another.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that stderr says something.
    #[track_caller]
    pub fn saying(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "no `{words}` in stderr:\n{}", self.stderr);
        self
    }
}

/// What a docker command prints.
pub fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("the docker command");
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A child that is ended with the test that started it, however that ends.
pub struct Running(pub Child);

impl Running {
    /// Starts `evenkeel` with its output in pipes.
    pub fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts"))
    }

    pub fn signal(&self, name: &str) {
        signal(&self.0, name);
    }

    /// Sends SIGINT once it is listened for. Until then it does what whoever started the tests has set: a shell's background ignores it.
    pub fn interrupt(&self) {
        let status = format!("/proc/{}/status", self.0.id());
        until("a handler of SIGINT", || {
            let status = std::fs::read_to_string(&status).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
            (caught & (1 << 1) != 0).then_some(())
        });
        self.signal("INT");
    }

    /// Waits for its end. A minute is for a broken program.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let drain = |pipe: Option<Box<dyn Read + Send>>| {
            let mut pipe = pipe.expect("piped, and taken once");
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let stdout = drain(self.0.stdout.take().map(|pipe| Box::new(pipe) as _));
        let stderr = drain(self.0.stderr.take().map(|pipe| Box::new(pipe) as _));
        let status = until("the program's end", || self.0.try_wait().expect("a child of ours"));
        let text = |thread: std::thread::JoinHandle<String>| thread.join().expect("a reader does not panic");
        Ended {
            code: status.code().or_else(|| status.signal().map(|signal| 128 + signal)),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // In order first: a killed controller could not remove its containers.
            signal(&self.0, "TERM");
            let begin = Instant::now();
            while matches!(self.0.try_wait(), Ok(None)) {
                if begin.elapsed() > Duration::from_secs(15) {
                    let _ = self.0.kill();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Our containers whose run's directory lies in `place`, by name; running or not.
pub fn containers(place: &Place) -> Vec<String> {
    let format = "{{.Names}}\t{{.Label \"evenkeel.directory\"}}";
    let all = docker(&["ps", "-a", "--filter", "label=evenkeel.run", "--format", format]);
    let here = place.path().canonicalize().expect("it exists");
    all.lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(_, directory)| Path::new(directory).starts_with(&here))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Checks that nothing of this place is left on the engine.
#[track_caller]
pub fn nothing_left(place: &Place) {
    assert_eq!(containers(place), Vec::<String>::new(), "containers were left behind");
    // Others may have networks of evenkeel's, as a workbench has: ours would bear the run's name or its label.
    let names = |kind: &str| {
        let labelled = docker(&[kind, "ls", "-q", "--filter", "label=evenkeel.run"]);
        assert_eq!(labelled, "", "a {kind} was left behind");
        docker(&[kind, "ls", "--format", "{{.Name}}"])
    };
    let (networks, volumes) = (names("network"), names("volume"));
    for run in runs(place) {
        assert!(!networks.contains(&run) && !volumes.contains(&run), "{run} is left in\n{networks}\n{volumes}");
    }
}

/// Waits until something holds; the limit is for a broken program, not for a slow one.
#[track_caller]
pub fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until both ranks have made their file, `up-RANK` in the place.
pub fn both_up(place: &Place) {
    until("both", || (0..2).all(|rank| place.path().join(format!("up-{rank}")).exists()).then_some(()));
}

/// Sends a signal to a program of ours.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("the kill command");
    assert!(sent.success(), "kill -s {name} {pid}");
}

/// Why a test cannot run here is printed; it then counts as passed, as cargo knows no other way.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        use std::io::Write;
        // Not by `eprintln!`: the output of a test that passes is not shown.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}: {}", std::thread::current().name().unwrap_or("?"), format_args!($($why)*));
        return;
    }};
}

/// Ends the test here where no engine answers.
#[macro_export]
macro_rules! needs_engine {
    () => {
        if let Some(why) = $crate::support::no_engine() {
            $crate::skip!("{why}");
        }
    };
}
