//! `evenkeel sync`: what MLflow was not told while its server was away.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::http::Http;
use crate::output::{print, say};
use crate::settings::Settings;
use crate::track::mlflow::queue::{self, Queue};
use crate::track::mlflow::sync::send_run;

/// A place holds nothing to send.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is neither a run that MLflow is told of nor a folder of such runs", .0.display())]
struct NoRun(PathBuf);

/// Sends what is left of runs.
pub async fn run(args: &cli::Sync, settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let mut runs = Vec::new();
    let here = [PathBuf::from("runs")];
    for place in if args.runs.is_empty() { &here[..] } else { &args.runs[..] } {
        if Queue::of(place).exists() {
            runs.push((place.clone(), None));
        } else if args.runs.is_empty() || (place.is_dir() && !place.join("journal.jsonl").exists()) {
            runs.extend(queue::unsent(place).into_iter().map(|run| (place.join(&run), Some((place.clone(), run)))));
        } else {
            let hint = "`evenkeel sync runs/NAME/ID` names a run, `evenkeel sync runs` all of that folder";
            return Err(Failure::bad(NoRun(place.clone())).hint(hint));
        }
    }
    let http = Http::new().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let (mut told, mut failed) = (Vec::new(), false);
    for (path, noted) in runs {
        let (sent, left, why) = match send_run(&http, &path, &settings.all).await {
            Ok(sent) => (sent.told, Some(sent.left), sent.trouble),
            Err(error) => (0, None, Some(error)),
        };
        if left == Some(0) {
            let (folder, run) = noted.unwrap_or_else(|| place_of(&path));
            // The list is for convenience: a run that stays on it is asked about once more.
            let _ = queue::note_sent(&folder, &[run]);
        }
        let why = why.map(|error| error.to_string());
        failed |= why.is_some();
        match (&why, left) {
            (Some(why), _) => say(&format!("{}: not all was sent: {why}", path.display())),
            (None, _) => say(&format!("{}: {sent} entries sent", path.display())),
        }
        told.push(json!({ "record": path, "sent": sent, "left": left, "message": why }));
    }
    if told.is_empty() {
        say("nothing is left to send");
    }
    if json {
        let exit_code = if failed { ExitCode::MachineNotReady } else { ExitCode::Done };
        print(&json!({ "version": 1, "exit_code": exit_code as u8, "runs": told }).to_string())?;
    }
    Ok(if failed { ExitCode::MachineNotReady } else { ExitCode::Done })
}

/// The folder of runs that a run's directory is in, and the run's place below it.
fn place_of(run: &Path) -> (PathBuf, String) {
    let run = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    let runs = run.ancestors().nth(2).unwrap_or(&run).to_owned();
    let name = run.strip_prefix(&runs).unwrap_or(&run).display().to_string();
    (runs, name)
}
