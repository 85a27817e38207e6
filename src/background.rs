//! A controller in the background: the same program once more, in a session of its own, with its words in the run's `controller.log`.
//!
//! ```text
//! evenkeel train -d ──starts──▶ evenkeel --in-background FOLDER train -d
//!        │                            │  words to FOLDER/stderr until there is a run
//!        │◀─────── FOLDER/begun ──────┤  words to RUN/controller.log from then on
//!        ▼                            ▼
//!   says which run                 sees it through
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::output::{print, say};
use crate::record::RunDir;
use crate::settings::Settings;
use crate::signal::Signals;

/// The controller's words, in the run's directory.
pub const LOG: &str = "controller.log";
const BEGUN: &str = "begun";
const STDERR: &str = "stderr";
const STDOUT: &str = "stdout";
/// How often it is looked whether the run has begun.
const AGAIN: Duration = Duration::from_millis(30);

/// What the controller says when there is a run.
#[derive(Debug, Deserialize, Serialize)]
struct Begun {
    /// `NAME/ID`.
    run: String,
    directory: PathBuf,
    /// The controller.
    pid: u32,
}

/// Starts the controller, and waits until there is a run, or none will be.
///
/// # Errors
///
/// It cannot be started, or ended by a signal.
pub async fn begin(settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::new(ExitCode::MachineNotReady, error);
    let mut signals = Signals::take().map_err(failed)?;
    let folder = meeting_place(&settings.cache).map_err(failed)?;
    let _gone = Folder(&folder);
    let create = |name: &str| File::create(folder.join(name));
    let (stderr, stdout) = create(STDERR).and_then(|stderr| Ok((stderr, create(STDOUT)?))).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--in-background").arg(&folder).args(std::env::args_os().skip(1));
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().map_err(failed)?;
    let mut words = File::open(folder.join(STDERR)).map_err(failed)?;
    loop {
        pass(&mut words, &mut io::stderr());
        if let Ok(text) = std::fs::read(folder.join(BEGUN)) {
            let begun: Begun = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
            pass(&mut words, &mut io::stderr());
            return tell(&begun, json);
        }
        if let Some(ended) = child.try_wait().map_err(failed)? {
            pass(&mut words, &mut io::stderr());
            if let Ok(mut said) = File::open(folder.join(STDOUT)) {
                pass(&mut said, &mut io::stdout());
            }
            let code = ended.code().and_then(ExitCode::of);
            return code.ok_or_else(|| {
                let how = ended.signal().map_or_else(String::new, |signal| format!(" by signal {signal}"));
                Failure::new(ExitCode::MachineNotReady, format!("the controller was ended{how} before there was a run"))
            });
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            signal = signals.next() => forward(&child, signal),
        }
    }
}

/// A folder that nobody else has: a process of this number may have left its own, and others with it may share the cache.
fn meeting_place(cache: &Path) -> io::Result<PathBuf> {
    let all = cache.join("background");
    std::fs::create_dir_all(&all)?;
    loop {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let folder = all.join(format!("{}-{time}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| folder),
        }
    }
}

/// Takes this process out of the terminal's session, if it is to be in the background.
pub fn leave_terminal(settings: &Settings) {
    if settings.background.is_some() {
        // It is nobody's leader, for which alone this could fail.
        let _ = rustix::process::setsid();
    }
}

/// There is a run: whoever waits is told, and words go to its directory from here on. Nothing in the foreground.
pub fn begun(settings: &Settings, run: &RunDir) {
    let Some(folder) = &settings.background else { return };
    if let Err(error) = hand_over(folder, run) {
        tracing::warn!("the controller's words stay in `{}`: {error}", folder.display());
    }
}

fn hand_over(folder: &Path, run: &RunDir) -> io::Result<()> {
    let mut log = OpenOptions::new().create(true).append(true).open(run.path().join(LOG))?;
    for name in [STDERR, STDOUT] {
        io::copy(&mut File::open(folder.join(name))?, &mut log)?;
    }
    rustix::stdio::dup2_stderr(&log)?;
    rustix::stdio::dup2_stdout(&log)?;
    let name = run.path().parent().and_then(Path::file_name).unwrap_or_default();
    let begun = Begun {
        run: format!("{}/{}", name.to_string_lossy(), run.id()),
        directory: run.path().to_owned(),
        pid: std::process::id(),
    };
    let part = folder.join(".begun");
    std::fs::write(&part, serde_json::to_vec(&begun).expect("plain data"))?;
    std::fs::rename(part, folder.join(BEGUN))
}

fn tell(begun: &Begun, json: bool) -> Result<ExitCode, Failure> {
    if json {
        let Begun { run, directory, pid } = begun;
        print(&serde_json::json!({ "version": 1, "run": run, "directory": directory, "pid": pid }).to_string())?;
    } else {
        print(&begun.run)?;
        say(&format!(
            "it goes on in the background (process {}), and says in {LOG} of its record what it does",
            begun.pid
        ));
        say(&format!("hint: `evenkeel logs {0} --follow` reads along, `evenkeel stop {0}` ends it", begun.run));
    }
    Ok(ExitCode::Done)
}

fn forward(child: &Child, signal: Signal) {
    use rustix::process::Signal as Kill;
    let signal = match signal {
        Signal::Interrupt => Kill::INT,
        Signal::Terminate => Kill::TERM,
        Signal::Quit => Kill::QUIT,
        // It has no terminal to lose.
        Signal::Hangup => return,
    };
    // A child that was not waited for keeps its number.
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let _ = pid.map(|pid| rustix::process::kill_process(pid, signal));
}

/// Passes on what is new.
fn pass(from: &mut File, to: &mut dyn Write) {
    let mut bytes = Vec::new();
    // The file knows up to where it was read.
    if from.read_to_end(&mut bytes).is_ok() {
        let _ = to.write_all(&bytes).and_then(|()| to.flush());
    }
}

/// A folder that goes with this value.
struct Folder<'a>(&'a Path);

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}
