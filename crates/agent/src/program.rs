//! Starting a program under supervision, and saying clearly why it cannot be started.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evenkeel_wire::env as names;
use rustix::fs::{Access, access};
use rustix::io::{DupFlags, dup2, dup3, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::Pid;

use crate::signals;

/// Size asked for the output pipe: how far the program may run ahead of the spool, in bytes. The kernel's limit for users
/// without privileges.
const PIPE_BYTES: usize = 1024 * 1024;

/// A program that runs, in a process group of its own.
#[derive(Debug)]
pub struct Program {
    /// Its process, which is also its process group.
    pub pid: Pid,
    /// Reading end of its stdout and stderr; does not block.
    pub output: OwnedFd,
    /// Reading end of its events; does not block.
    pub events: OwnedFd,
}

/// A low descriptor number that is kept free, on which every program finds its events pipe: a POSIX shell can only write
/// `>&3`, with one digit.
#[derive(Debug)]
pub struct Slot(OwnedFd);

impl Slot {
    /// Takes the lowest number that is free; to be called before anything else is opened.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn reserve() -> io::Result<Self> {
        Ok(Self(fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?))
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such program.
    #[error("program `{0}` is not found in the PATH of the image")]
    NotInPath(String),
    /// No such file.
    #[error("program `{0}` does not exist in the image")]
    NoSuchFile(String),
    /// It is there, and cannot be executed.
    #[error("program `{program}` cannot be executed: {why}")]
    NotExecutable {
        /// Path of the program.
        program: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel gave no pipe or no process.
    #[error("no process for program `{program}`: {source}")]
    System {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code that a shell gives for it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotInPath(_) | Self::NoSuchFile(_) => 127,
            Self::NotExecutable { .. } | Self::System { .. } => 126,
        }
    }
}

/// Starts `command` with the variables added to the environment of the agent.
///
/// # Errors
/// When the program cannot be found or executed.
pub fn start(
    slot: &mut Slot,
    command: &[OsString],
    variables: &[(&'static str, OsString)],
) -> Result<Program, StartError> {
    let (name, args) = command.split_first().expect("the configuration has a program");
    let file = find(name, env::var_os("PATH").as_deref())?;
    let system = |source: io::Error| StartError::System { program: name.to_string_lossy().into_owned(), source };

    let (output, output_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| system(error.into()))?;
    let (events, events_end) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| system(error.into()))?;
    let _ = fcntl_setpipe_size(&output, PIPE_BYTES);
    for end in [&output, &events] {
        rustix::io::ioctl_fionbio(end, true).map_err(|error| system(error.into()))?;
    }
    // One descriptor for both, so that the order of what the program writes to stdout and stderr is kept.
    let errors_end = output_end.try_clone().map_err(system)?;
    // The agent has one thread here: nothing else can be started while this descriptor can be inherited.
    dup2(&events_end, &mut slot.0).map_err(|error| system(error.into()))?;
    drop(events_end);
    let mut command = Command::new(&file);
    // SAFETY: between fork and exec it changes signals only, by async-signal-safe calls, and allocates nothing.
    unsafe { command.pre_exec(signals::give_back) };
    let child = command
        .arg0(name)
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env(names::EVENTS_FD, slot.0.as_raw_fd().to_string())
        .env_remove(names::POD_RANK)
        .env_remove(names::POD_LOCAL_RANK)
        .env_remove(names::POD_LOCAL_SIZE)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output_end)
        .stderr(errors_end)
        .spawn();
    dup3(rustix::stdio::stdin(), &mut slot.0, DupFlags::CLOEXEC).map_err(|error| system(error.into()))?;
    let child = child.map_err(|error| explain(&file, error))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a process identifier");
    Ok(Program { pid, output, events })
}

/// Finds the file of a program as a shell does.
fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, StartError> {
    let shown = || name.to_string_lossy().into_owned();
    if name.as_encoded_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return if file.exists() { Ok(file) } else { Err(StartError::NoSuchFile(shown())) };
    }
    let path = path.unwrap_or(OsStr::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    let files = || env::split_paths(path).map(|folder| folder.join(name)).filter(|file| file.is_file());
    // A file that cannot be executed does not hide one further on, but is worth naming when it is the only one.
    files()
        .find(|file| access(file, Access::EXEC_OK).is_ok())
        .or_else(|| files().next())
        .ok_or_else(|| StartError::NotInPath(shown()))
}

/// Says what an error of `execve` means for this file.
fn explain(file: &Path, error: io::Error) -> StartError {
    let program = file.display().to_string();
    let why = match error.kind() {
        _ if file.is_dir() => "it is a folder".to_owned(),
        io::ErrorKind::NotFound => match interpreter(file) {
            Some(interpreter) => format!("its interpreter `{interpreter}` does not exist in the image"),
            None => "it is made for another C library (its loader does not exist in the image)".to_owned(),
        },
        io::ErrorKind::PermissionDenied => "permission denied (is it marked as executable?)".to_owned(),
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => {
            "it is no program of this machine, or a script without a `#!` line".to_owned()
        }
        _ => return StartError::System { program, source: error },
    };
    StartError::NotExecutable { program, why }
}

/// The interpreter that the first line of a script names.
fn interpreter(file: &Path) -> Option<String> {
    let mut start = Vec::new();
    File::open(file).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let interpreter = text.split_whitespace().next()?.to_owned();
    fs::metadata(&interpreter).is_err().then_some(interpreter)
}
