//! What a test needs another process for: the stub reads its document's name from the environment, and locks are held
//! by processes. The other process is this test program again, told what to do through its environment.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use evenkeel::inventory::lock::{DeviceLocks, Holder};
use evenkeel::inventory::{DeviceId, Inventory, nvml};

/// What the child does: `inventory` or `hold`.
const TASK: &str = "EVENKEEL_TEST_TASK";
const PLACE: &str = "EVENKEEL_TEST_PLACE";
const DEVICES: &str = "EVENKEEL_TEST_DEVICES";
/// Stands before what a child says, as the test harness prints lines of its own.
const MARK: &str = "child says: ";

/// The child's side. In the test run itself there is no task, and it does nothing.
#[test]
fn child() {
    let place = || PathBuf::from(std::env::var_os(PLACE).expect("the parent names the place"));
    match std::env::var(TASK).as_deref() {
        Ok("inventory") => {
            let inventory = nvml::inventory(Some(&place()));
            tell(&serde_json::to_string(&inventory).expect("an inventory is plain data"));
        }
        Ok("hold") => {
            let devices = std::env::var(DEVICES).expect("the parent names the devices");
            let devices: Vec<DeviceId> = devices.split(',').map(gpu).collect();
            let _locks = DeviceLocks::acquire(&place(), &devices, &holder("child")).expect("the devices are free");
            let mut heir = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep starts");
            tell(&heir.id().to_string());
            // Held until the parent ends this process, or lets go of its end of the pipe.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = heir.kill();
            let _ = heir.wait();
        }
        _ => {}
    }
}

/// Keeps the tests of this program from starting processes: one that is started has every open file, locks too, until
/// it becomes another program. Whoever asks whether a lock is free right after giving it back holds this.
pub fn no_forks() -> MutexGuard<'static, ()> {
    static FORKS: Mutex<()> = Mutex::new(());
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(command: &mut Command) -> Child {
    let _alone = no_forks();
    command.spawn().expect("the program starts")
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Output {
    let child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    child.wait_with_output().expect("the program ends")
}

fn tell(text: &str) {
    println!("\n{MARK}{text}");
    std::io::stdout().flush().expect("the parent reads");
}

/// A GPU of this UUID.
pub fn gpu(uuid: &str) -> DeviceId {
    DeviceId::Gpu { index: 0, uuid: uuid.to_owned() }
}

/// This process as the holder of a lock.
pub fn holder(run: &str) -> Holder {
    let uid = rustix::process::getuid().as_raw();
    Holder { pid: std::process::id(), uid, user: None, run: run.to_owned(), since: 1_700_000_000 }
}

/// Takes the inventory through the stub, as the file `document` describes the machine.
pub fn inventory(document: &Path) -> Inventory {
    let mut command = task(&this_program(), "inventory", library());
    let output = run(command.env("EVENKEEL_NVML_STUB", document));
    let text = String::from_utf8(output.stdout).expect("text");
    let said = text.lines().find_map(|line| line.strip_prefix(MARK));
    let said = said.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(said).expect("an inventory")
}

/// Takes the inventory of a machine that a fixture describes.
pub fn fixture(name: &str) -> Inventory {
    inventory(&fixture_path(name))
}

/// The document of a fixture.
pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/nvml-stub/fixtures/{name}.json"))
}

/// A process that holds locks, and a child of its own that must not.
pub struct HoldingProcess {
    process: Child,
    heir: u32,
}

impl HoldingProcess {
    /// Starts `program`, a copy of this one, and returns when it holds the locks.
    pub fn start(program: &Path, directory: &Path, devices: &str, uid: Option<u32>) -> Self {
        let mut command = task(program, "hold", directory);
        command.env(DEVICES, devices).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(uid) = uid {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
        }
        let mut process = spawn(&mut command);
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let said = lines.find_map(|line| line.expect("text").strip_prefix(MARK).map(str::to_owned));
        let heir = said.expect("the child holds the devices").parse().expect("a process");
        Self { process, heir }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it by SIGKILL. Its own child lives on until this is dropped.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Whether its own child still lives.
    pub fn heir_lives(&self) -> bool {
        Path::new(&format!("/proc/{}/comm", self.heir)).exists()
    }
}

impl Drop for HoldingProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let heir = i32::try_from(self.heir).ok().and_then(rustix::process::Pid::from_raw);
        let _ = rustix::process::kill_process(heir.expect("a process"), rustix::process::Signal::KILL);
    }
}

pub fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

fn task(program: &Path, task: &str, place: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "child::child", "--nocapture"]);
    command.env(TASK, task).env(PLACE, place);
    command
}

/// The stub, built by the same cargo: a `cdylib` cannot be a dependency of a test.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--locked", "-p", "evenkeel-nvml-stub", "--message-format=json"]);
        let output = run(command.current_dir(env!("CARGO_MANIFEST_DIR")));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8(output.stdout).expect("cargo speaks JSON");
        let artifact = messages.lines().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_stub = message["target"]["name"] == "evenkeel_nvml_stub" && message["reason"] == "compiler-artifact";
            is_stub.then(|| message["filenames"][0].as_str().map(PathBuf::from))?
        });
        artifact.expect("cargo names the library")
    })
}
