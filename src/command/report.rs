//! `evenkeel report`: a run as one HTML file, on demand and at a training's end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli;
use crate::error::{ExitCode, Failure, chain};
use crate::output::{print, say, write};
use crate::record::find::{self, Found};
use crate::record::{RecordError, RunDir};
use crate::report::{self, read};

/// What a report at a training's end may take. One of the longest trainings takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes the report.
pub fn run(args: &cli::Report, json: bool) -> Result<ExitCode, Failure> {
    let found = find::find(&args.runs.runs, args.run.as_deref())?;
    let report = read::report(&found, super::now_ms())?;
    let html = report::html(&report, &TimeZone::system());
    if args.output.as_deref() == Some(Path::new("-")) {
        if json {
            return Err(Failure::bad("`--json` and `--output -` both print").hint("leave one of them out"));
        }
        write(html.as_bytes())?;
        return Ok(ExitCode::Done);
    }
    let (path, written) = match &args.output {
        Some(path) => (path.clone(), lay_down(path, html.as_bytes())),
        None => (found.path.join(report::FILE), lay_down(&found.path.join(report::FILE), html.as_bytes())),
    };
    written.map_err(|source| {
        Failure::new(ExitCode::MachineNotReady, RecordError { path: path.clone(), source })
            .hint("`--output FILE` writes it elsewhere, `--output -` prints it")
    })?;
    for gap in &report.gaps {
        say(gap);
    }
    if json {
        let path = path.canonicalize().unwrap_or(path);
        print(&json!({ "version": 1, "report": path, "bytes": html.len(), "gaps": report.gaps }).to_string())?;
    } else {
        print(&path.display().to_string())?;
    }
    Ok(ExitCode::Done)
}

/// Writes it whole or not at all.
fn lay_down(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    // What is no file, such as a device or a pipe, is written to and not replaced.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, content);
    }
    let part: PathBuf = folder.join(format!(".{name}.{}.part", std::process::id()));
    let written = std::fs::write(&part, content).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Writes the report of a training that is over, in a thread beside the loop: neither a slow disk nor what a trainer left may hold up the end.
/// What went wrong is one sentence.
pub(super) async fn at_the_end(run: &RunDir, stopped: impl Future<Output = crate::event::Signal>) -> Option<String> {
    let run = run.clone();
    let written = tokio::task::spawn_blocking(move || {
        let name = run.path().parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let found = Found { path: run.path().to_owned(), name, id: run.id().to_owned() };
        let report = read::report(&found, super::now_ms()).map_err(|error| chain(&error))?;
        let html = report::html(&report, &TimeZone::system());
        run.write(report::FILE, html.as_bytes()).map(drop).map_err(|error| chain(&error))
    });
    let why = tokio::select! {
        written = written => match written {
            Ok(Ok(())) => return None,
            Ok(Err(why)) => why,
            // A panic has said what it is about already.
            Err(_) => "its writer broke down".to_owned(),
        },
        () = tokio::time::sleep(PATIENCE) => format!("it took more than {} s", PATIENCE.as_secs()),
        _ = stopped => "it was not waited for".to_owned(),
    };
    Some(format!("warning: there is no {}: {why}; `evenkeel report` writes it", report::FILE))
}
