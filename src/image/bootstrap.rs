//! Debian, which every image starts from: pulled from a registry, or where none answers, bootstrapped from a package
//! mirror by mmdebstrap. Neither needs more than the other reaches: closed networks often have one of the two.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::docker::{self, Engine};

use super::Progress;
use super::error::ImageError;
use super::output::cause;
use super::redact::redact;

/// The suite that is bootstrapped: that of the pinned image.
pub const SUITE: &str = "trixie";

/// Makes the image `tag` of Debian. `pinned` is the registry's image, `mirror` replaces the package mirror.
///
/// # Errors
/// If neither way works.
pub async fn debian(
    engine: &Engine,
    tag: &str,
    pinned: &str,
    mirror: Option<&str>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError> {
    let reason = match pull(engine, pinned, progress).await {
        Ok(()) => return Ok(engine.tag(pinned, tag).await?),
        Err(reason) => reason,
    };
    progress(Progress::Note(format!(
        "`{pinned}` cannot be pulled ({reason}); bootstrapping Debian {SUITE} from the package mirror instead"
    )));
    let Some(program) = find("mmdebstrap") else {
        return install_and_bootstrap(engine, tag, pinned, reason, mirror, progress).await;
    };
    bootstrap(engine, tag, &program, mirror, progress).await
}

/// Pulls, and gives up on a registry that shows no sign of life.
async fn pull(engine: &Engine, name: &str, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<(), String> {
    const SILENCE: Duration = Duration::from_secs(60);
    let mut pull = std::pin::pin!(engine.pull(name));
    loop {
        match tokio::time::timeout(SILENCE, pull.next()).await {
            Err(_) => return Err("the registry went silent".into()),
            Ok(None) => return Ok(()),
            Ok(Some(Ok(docker::Progress::Line(line)))) => progress(Progress::Line(line)),
            Ok(Some(Ok(docker::Progress::Layer { id, current, total }))) => {
                progress(Progress::Layer { id, current, total });
            }
            Ok(Some(Ok(docker::Progress::Step { command, .. }))) => progress(Progress::Line(command)),
            Ok(Some(Err(docker::DockerError::Failed { message, .. }))) => return Err(message),
            Ok(Some(Err(error))) => return Err(error.to_string()),
        }
    }
}

async fn install_and_bootstrap(
    engine: &Engine,
    tag: &str,
    pinned: &str,
    reason: String,
    mirror: Option<&str>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError> {
    const KEYRING: &str = "debian-archive-keyring";
    const INSTALL: &str = "sudo apt-get install -y mmdebstrap debian-archive-keyring";
    let apt = find("apt-get");
    let root = rustix::process::geteuid().is_root();
    let Some(apt) = apt.filter(|_| root) else {
        let command = find("apt-get").map(|_| INSTALL);
        return Err(ImageError::NeedsMmdebstrap { image: pinned.to_owned(), reason, command });
    };
    progress(Progress::Note("installing mmdebstrap with apt-get".into()));
    for words in [&["update", "-q"][..], &["install", "-qy", "--no-install-recommends", "mmdebstrap", KEYRING]] {
        let mut command = Command::new(&apt);
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        let mut child = Child::spawn(command, "apt-get")?;
        child.succeeded(progress).await?;
    }
    match find("mmdebstrap") {
        Some(program) => bootstrap(engine, tag, &program, mirror, progress).await,
        None => Err(ImageError::NeedsMmdebstrap { image: pinned.to_owned(), reason, command: Some(INSTALL) }),
    }
}

async fn bootstrap(
    engine: &Engine,
    tag: &str,
    program: &Path,
    mirror: Option<&str>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError> {
    let mut command = Command::new(program);
    command.args(arguments(mirror)).stdout(Stdio::piped());
    let mut child = Child::spawn(command, "mmdebstrap")?;
    let (ended, end) = oneshot::channel();
    let archive = until_success(child.stdout(), end);
    let changes = ["CMD [\"/bin/bash\"]", "LABEL evenkeel.image=debian"];
    let import = engine.import(tag, &changes, archive);
    let watch = async {
        let result = child.succeeded(progress).await;
        // A half-written archive is a valid one to the engine's eyes: only our word makes it whole.
        let heard = ended.send(result.is_ok()).is_ok();
        (result, heard)
    };
    let (imported, (result, heard)) = futures_util::future::join(import, watch).await;
    match (imported, result) {
        (Ok(()), Ok(())) => Ok(()),
        // An engine that refuses the archive ends the program that writes it: the engine's word is the cause.
        (Err(error), _) if !heard => Err(error.into()),
        (_, Err(error)) => Err(error),
        (Err(error), Ok(())) => Err(error.into()),
    }
}

fn arguments(mirror: Option<&str>) -> Vec<String> {
    let mut words: Vec<String> = vec!["--variant=minbase".into(), "--format=tar".into()];
    // What the registry's slim images leave out as well: nobody reads manuals in a training container.
    for option in [
        "path-exclude=/usr/share/doc/*",
        "path-include=/usr/share/doc/*/copyright",
        "path-exclude=/usr/share/man/*",
        "path-exclude=/usr/share/locale/*",
        "path-exclude=/usr/share/info/*",
        "force-unsafe-io",
    ] {
        words.push(format!("--dpkgopt={option}"));
    }
    words.extend([SUITE.to_owned(), "-".to_owned()]);
    if let Some(mirror) = mirror.map(|mirror| mirror.trim_end_matches('/')) {
        words.push(format!("deb {mirror} {SUITE} main"));
        words.push(format!("deb {mirror} {SUITE}-updates main"));
        words.push(format!("deb {mirror}-security {SUITE}-security main"));
    }
    words
}

/// What the program writes, and at its end an error unless the program has ended well.
fn until_success(
    stdout: impl AsyncRead + Send + Unpin + 'static,
    end: oneshot::Receiver<bool>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    const CHUNK: usize = 128 << 10;
    stream::unfold(Some((stdout, end)), |state| async {
        let (mut stdout, end) = state?;
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match stdout.read_buf(&mut chunk).await {
            Ok(0) => {
                drop(stdout);
                let whole = end.await.unwrap_or(false);
                (!whole).then(|| (Err(io::ErrorKind::UnexpectedEof.into()), None))
            }
            Ok(_) => Some((Ok(chunk.freeze()), Some((stdout, end)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// A program that is asked to end when nobody waits for it any more, so that it can clean up behind itself.
struct Child {
    child: tokio::process::Child,
    program: &'static str,
    ended: bool,
}

impl Child {
    fn spawn(mut command: Command, program: &'static str) -> Result<Self, ImageError> {
        let fail = |source| ImageError::File { what: "run", path: program.into(), source };
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(fail)?;
        Ok(Self { child, program, ended: false })
    }

    fn stdout(&mut self) -> impl AsyncRead + Send + Unpin + 'static {
        self.child.stdout.take().expect("it was piped and is taken once")
    }

    /// Passes its messages on until it ends.
    async fn succeeded(&mut self, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<(), ImageError> {
        const REMEMBERED_LINES: usize = 12;
        let program = self.program;
        let fail = |source| ImageError::File { what: "run", path: program.into(), source };
        let mut lines = BufReader::new(self.child.stderr.take().expect("it was piped and is taken once")).lines();
        let mut last = VecDeque::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let line = redact(line.trim_end()).into_owned();
            if last.len() == REMEMBERED_LINES {
                last.pop_front();
            }
            last.push_back(line.clone());
            progress(Progress::Line(line));
        }
        let status = self.child.wait().await.map_err(fail)?;
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        let cause = cause(last.iter().map(String::as_str));
        Err(ImageError::Bootstrap { program, status: status.to_string(), lines: last.into(), cause })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let id = self.child.id().filter(|_| !self.ended).and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself in this moment; then there is nobody to ask.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    // Programs for the administrator may be off the caller's PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::super::output::Cause;
    use super::*;

    #[test]
    fn a_mirror_serves_updates_and_security_too() {
        let words = arguments(Some("http://mirror.lab/debian/"));
        assert!(words.contains(&format!("deb http://mirror.lab/debian-security {SUITE}-security main")));
        assert_eq!(arguments(None).last().map(String::as_str), Some("-"), "mmdebstrap knows its own mirror");
    }

    #[tokio::test]
    async fn an_archive_is_whole_only_if_its_writer_ended_well() {
        for well in [true, false] {
            let (ended, end) = oneshot::channel();
            ended.send(well).expect("somebody listens");
            let read: Result<Vec<Bytes>, _> = until_success(&b"archive"[..], end).try_collect().await;
            assert_eq!(read.is_ok(), well);
        }
    }

    #[tokio::test]
    async fn a_failed_program_is_told_with_its_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'E: Temporary failure in name resolution' >&2; exit 3"]);
        let mut child = Child::spawn(command, "mmdebstrap").expect("a shell");
        let mut told = Vec::new();
        let error = child.succeeded(&mut |progress| told.push(progress.to_string())).await.expect_err("a failure");
        assert_eq!(told, ["E: Temporary failure in name resolution"]);
        assert!(matches!(&error, ImageError::Bootstrap { cause: Cause::Network, .. }), "{error}");
    }
}
