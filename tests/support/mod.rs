//! What the tests of the real binary share: a place of their own, the program, and a look at the engine.

#![expect(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", cache()).env("EVENKEEL_LOCKS", self.path().join("locks"));
        // The tests say themselves what GPUs there are.
        command.env("EVENKEEL_NVML", "/nonexistent/libnvidia-ml.so");
        command
    }

    /// Runs `evenkeel` to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::from(self.evenkeel(args).output().expect("the program starts"))
    }

    /// The directory of the only run in this place.
    pub fn record(&self) -> PathBuf {
        let names: Vec<PathBuf> = folders(&self.path().join("runs"));
        assert_eq!(names.len(), 1, "one experiment: {names:?}");
        let runs = folders(&names[0]);
        assert_eq!(runs.len(), 1, "one run: {runs:?}");
        runs[0].clone()
    }

    /// A file of the only run's record, as text.
    pub fn recorded(&self, name: &str) -> String {
        let path = self.record().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
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

/// A cache for all tests of a build, so that the agent is laid down once.
fn cache() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
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
        eprintln!("SKIPPED: {}", format_args!($($why)*));
        return;
    }};
}
