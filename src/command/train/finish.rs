//! How a run ended: what its journal, its caller and a person are told.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Ready, interrupted, stopped};
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::failure::Diagnosis;
use crate::job::Trainer;
use crate::output::printer::Printer;
use crate::output::words::human;
use crate::output::{Screen, print, say};
use crate::plan::Plan;
use crate::record::{Journal, RunDir, journal};
use crate::signal::Signals;

/// How a run ended.
#[derive(Debug)]
pub(in crate::command) enum Outcome {
    Done,
    Stopped(Signal),
    Failed(Diagnosis),
}

impl Outcome {
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Done => ExitCode::Done,
            Self::Stopped(signal) => interrupted(*signal),
            Self::Failed(diagnosis) => diagnosis.exit,
        }
    }
}

/// What is left of a run when it has ended.
pub(super) struct Finished {
    pub run: RunDir,
    pub metrics: std::collections::BTreeMap<String, f64>,
    /// Last lines of the culprit's log, as a terminal would show them.
    pub tail: String,
    /// Names of containers that the engine did not remove.
    pub left: Vec<String>,
    /// Still printing what the ranks wrote.
    pub printer: Option<Printer>,
    pub incomplete: Vec<String>,
    /// What was not told to those outside, one sentence each.
    pub untold: Vec<String>,
    pub journal: Journal,
}

/// The last entry of a journal: all that a list of runs says of one, so that nothing else need be read for it.
pub(super) fn end_of_run(outcome: &Outcome, generations: u32, plan: &Plan, screen: &Screen) -> Value {
    let (state, failure) = match outcome {
        Outcome::Done => ("done", Value::Null),
        Outcome::Stopped(_) => ("stopped", Value::Null),
        Outcome::Failed(it) => ("failed", failure(it)),
    };
    let (epochs_done, epochs) = screen.epochs();
    json!({
        "exit_code": outcome.exit() as u8, "state": state, "failure": failure, "generations": generations,
        "devices": plan.ranks.iter().map(|rank| &rank.device).collect::<Vec<_>>(),
        "epochs_done": epochs_done, "epochs": epochs, "metrics": screen.metrics(),
        "outcome": format!("{outcome:?}"),
    })
}

/// Ends the record of a run that failed before its first container, or before that with which it was to go on: nobody could tell otherwise, and
/// what was put back for a trainer would stay there. Where there may be containers an heir decides.
pub(super) fn never_launched(run: &RunDir, failure: &Failure) {
    let Ok(entries) = journal::read(run.path()) else { return };
    let begun = entries.iter().rposition(|entry| matches!(entry.entry.as_str(), "run" | "resume"));
    let since = &entries[begun.unwrap_or(0)..];
    if begun.is_none() || since.iter().any(|entry| matches!(entry.entry.as_str(), "create" | "attach" | "end")) {
        return;
    }
    let failed =
        json!({ "rank": null, "class": "infrastructure", "message": failure.message(), "advice": failure.advice() });
    let detail = json!({
        "exit_code": failure.code() as u8, "state": "failed", "failure": failed, "generations": 0, "devices": [],
        "epochs_done": null, "epochs": null, "metrics": {},
    });
    let written = run.adopt_output().map_err(|error| error.to_string()).and_then(|()| {
        let mut journal = Journal::open(run).map_err(|error| error.to_string())?;
        journal.append("end", detail).map_err(|error| error.to_string())
    });
    if let Err(error) = written {
        tracing::warn!("the record has no end: {error}");
    }
}

pub(super) fn failure(it: &Diagnosis) -> Value {
    json!({ "rank": it.rank, "class": it.class.name(), "message": it.message, "advice": it.advice })
}

/// Lets the printer print what is left, unless the user has enough.
pub(super) async fn wait_for(printer: Printer, signals: &mut Signals) {
    let mut finish = tokio::task::spawn_blocking(move || printer.finish());
    tokio::select! {
        _ = &mut finish => {}
        _ = stopped(signals) => {}
    }
}

pub(super) fn conclude(
    ready: &Ready,
    (outcome, exit): (&Outcome, ExitCode),
    finished: &Finished,
    time: Duration,
    screen: &Screen,
    json: bool,
) -> Result<(), Failure> {
    let record = shown(finished.run.path());
    let weights = ["weights/best.safetensors", "weights/best.pt"].map(|name| finished.run.path().join(name));
    let best = weights.iter().find(|path| path.exists()).unwrap_or(&weights[0]);
    let weights = best.exists().then(|| shown(best));
    if json {
        let value = json!({
            "version": 1,
            "run": finished.run.id(), "name": ready.prepared.job().name, "record": finished.run.path(),
            "exit_code": exit as u8, "seconds": time.as_secs_f64(),
            "metrics": finished.metrics, "weights": best.exists().then_some(best), "untold": finished.untold,
            "failure": match outcome {
                Outcome::Failed(it) => {
                    let mut failure = failure(it);
                    failure["tail"] = finished.tail.clone().into();
                    failure
                }
                _ => json!(null),
            },
        });
        print(&value.to_string())?;
    }
    for complaint in finished.incomplete.iter().chain(&finished.untold) {
        screen.line(complaint);
    }
    if !finished.left.is_empty() {
        let names = finished.left.join(" ");
        say(&format!("the engine did not remove every container; when it answers again: docker rm -f {names}"));
    }
    match outcome {
        Outcome::Done => {
            let map = finished.metrics.get("metrics/mAP50(B)").map(|map| format!(", mAP50 {map:.3}"));
            screen.line(&format!("done in {}{}", human(time), map.unwrap_or_default()));
            if let Some(weights) = weights {
                screen.line(&format!("weights: {weights}"));
            }
            screen.line(&format!("record:  {record}"));
        }
        Outcome::Stopped(_) => screen.line(&format!("stopped after {}\nrecord: {record}", human(time))),
        Outcome::Failed(diagnosis) => {
            let Diagnosis { rank, class, message, advice, .. } = diagnosis;
            let mut text = String::new();
            // What the ranks printed here needs no repeating.
            if !finished.tail.is_empty() && (json || ready.prepared.job().trainer != Trainer::Command) {
                text = finished.tail.lines().map(|line| format!("  | {line}\n")).collect();
            }
            text += &format!("error: rank {rank} failed first: {message} ({})", class.name());
            text += &format!("\nhint: {advice}\nrecord: {record} (logs/rank-{rank}.log has every line)");
            say(&text);
        }
    }
    Ok(())
}

/// A path as the person would type it from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
