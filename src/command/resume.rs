//! `evenkeel resume`: goes on from the last checkpoint of a run that has ended, or was copied here.

use std::time::Instant;

use serde_json::json;

use super::again::{Again, On};
use super::attach::{name, take};
use super::locking::{Gathered, Reference};
use super::train;
use super::train::course::How;
use super::train::reports::Reports;
use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::output::{Screen, say};
use crate::record::live;
use crate::settings::Settings;
use crate::signal::Signals;

/// Goes on with it, in the same record.
pub async fn run(args: &cli::Resume, settings: &Settings, mut screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    let mut course = take(Some(&args.run), &args.runs, settings, How::Resumed)?;
    let name = name(&course.run);
    if course.past.last().is_some_and(|last| last.intent.trial) {
        return Err(Failure::bad(format!("{name} is trial steps, which leave nothing to go on from")));
    }
    match &course.past.end {
        None if live::has_agents(course.run.path()) => {
            let message = format!("the containers of {name} still run");
            return Err(Failure::bad(message).hint(format!("`evenkeel attach {name}` takes them up")));
        }
        Some(end) if end["state"] == "done" && args.overrides.is_empty() => {
            let message = format!("{name} is done");
            return Err(Failure::bad(message).hint("ask for more, such as `epochs=200`"));
        }
        _ => {}
    }
    let reference = Reference::read(course.run.path())?;
    let Again { prepared, overrides, .. } = Again::of(&reference, &args.overrides, On::Any, settings, &screen)?;
    let reports = Reports::prepare(prepared.resolved(), settings)?;
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let prepare = async {
        let prepared = train::found(prepared, settings, &screen)?;
        train::get_ready(prepared, settings, &mut screen).await
    };
    let mut ready = tokio::select! {
        ready = prepare => ready?,
        signal = train::stopped(&mut signals) => {
            say("stopped before any container was made");
            return Ok(train::interrupted(signal));
        }
    };
    if let Some(signal) = train::settle_split(&mut ready, settings, &mut signals, &mut screen).await? {
        screen.clear();
        say("stopped before the training went on");
        return Ok(train::interrupted(signal));
    }
    course.keeps_split = !overrides.iter().any(|key| decides_on_split(key));
    screen.line(&format!("going on with {name}"));
    let detail = json!({ "pid": std::process::id(), "overrides": overrides, "image": ready.image.image, "image_id": ready.image.id });
    course.journal.append("resume", detail)?;
    course.past.went_on();
    course.run.return_output()?;
    ready.prepared.write_resolved(&course.run)?;
    let mut gathered = Gathered::reopen(reference);
    gathered.go_on(&course.run, &ready, settings)?;
    let told = (&mut signals, &mut screen, reports);
    train::see_through(&mut ready, &mut gathered, Some(course), settings, told, (begin, json)).await
}

/// Whether a setting has a say in how a step is split. What a launch had to learn of its devices stays otherwise.
fn decides_on_split(key: &str) -> bool {
    const KEYS: [&str; 8] = ["args.amp", "batch", "device", "gpus", "imgsz", "model", "nproc_per_node", "trainer"];
    KEYS.iter().any(|of| key.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
