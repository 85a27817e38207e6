//! `evenkeel stop`: ends a run, by its controller where one lives, else in its place.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal as Kill, pidfd_open, pidfd_send_signal};
use serde_json::json;

use super::attach::{self, Heir};
use super::live::{Hand, OnEngine, hand};
use super::train::course::{Course, How};
use crate::cli;
use crate::docker::{Container, Engine};
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::output::{Screen, runs, say};
use crate::record::find::{self, FindError, Found};
use crate::record::past::Past;
use crate::record::{holder, journal, live, read};
use crate::settings::Settings;
use crate::signal::Signals;
use crate::users;

/// How often it is looked whether a run has ended.
const AGAIN: Duration = Duration::from_millis(50);
/// What trainers get between SIGTERM and their end by force, where nobody knows what their job says.
const GRACE: Duration = Duration::from_secs(10);

/// Ends the run that is meant.
pub async fn run(args: &cli::Stop, settings: &Settings, screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let engine = super::connect(settings).await?;
    let meant = meant(args, &OnEngine::all(&engine).await?, settings)?;
    let owner = meant.owner.filter(|owner| *owner != settings.caller.uid);
    if let Some(owner) = owner.filter(|_| !args.force) {
        let message = format!("{} is {}'s", meant.run, users::name(owner));
        return Err(Failure::bad(message).hint("with `--force` it is ended all the same"));
    }
    match (meant.hand(), owner) {
        (Hand::Controller, _) => by_controller(args, &engine, &meant).await?,
        (Hand::Nobody, None) => in_its_place(&engine, &meant, args.now, settings, screen).await?,
        (Hand::Unknown, _) if !args.force => {
            let message =
                format!("the record of {} cannot be looked into from here, nor who has it in hand", meant.run);
            let hint = "end it on the machine that began it; `--force` ends its containers by the engine";
            return Err(Failure::new(ExitCode::MachineNotReady, message).hint(hint));
        }
        _ => {
            by_engine(&engine, &meant.containers, args.now).await?;
            say(&format!("{} had no controller that is known here: its containers are removed", meant.run));
        }
    }
    check_gone(&engine, &meant).await?;
    tell(&meant, json)
}

/// Whether everything of a run that has ended is removed.
pub(super) async fn check_gone(engine: &Engine, run: &OnEngine) -> Result<(), Failure> {
    if run.is_gone(engine).await? {
        return Ok(());
    }
    let message = format!("the engine has not removed every container of {}", run.run);
    Err(Failure::new(ExitCode::MachineNotReady, message).hint(format!("`evenkeel prune {}` tries it again", run.run)))
}

/// The one live run that is meant.
fn meant(args: &cli::Stop, all: &[OnEngine], settings: &Settings) -> Result<OnEngine, Failure> {
    let is_meant = |run: &&OnEngine| match &args.run {
        Some(wanted) => run.is_meant(wanted),
        None => run.owner == Some(settings.caller.uid),
    };
    let mut live: Vec<&OnEngine> = all.iter().filter(is_meant).collect();
    // Of several, those that were begun here: a name is only unique in its folder.
    let here = args.runs.runs.canonicalize().ok();
    let is_named = |run: &OnEngine| args.run.as_ref().is_some_and(|wanted| run.is_at(wanted));
    let is_here = |run: &OnEngine| here.as_ref().is_some_and(|here| run.directory.starts_with(here)) || is_named(run);
    let known = args.run.as_ref().is_some_and(|wanted| find::find(&args.runs.runs, Some(wanted)).is_ok());
    if known || live.iter().any(|run| is_here(run)) {
        live.retain(|run| is_here(run));
    }
    match (live.as_slice(), &args.run) {
        ([one], _) => Ok((*one).clone()),
        ([], Some(wanted)) => without_containers(&args.runs.runs, wanted),
        ([], None) => Err(Failure::bad("no run of yours is live on this engine").hint("`evenkeel ps` lists all")),
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|run| run.run.as_str()).collect();
            Err(Failure::bad(format!("{} live runs are meant: {}", names.len(), names.join(", "))).hint("name one"))
        }
    }
}

/// A run between two launches has a controller and no container. Every other one without containers is over.
fn without_containers(runs: &Path, wanted: &str) -> Result<OnEngine, Failure> {
    let found = find::find(runs, Some(wanted)).map_err(|error| match error {
        FindError::Unknown { .. } | FindError::None { .. } | FindError::Folder { .. } => {
            let message = format!("no live run is called `{wanted}`, and none in `{}`", runs.display());
            Failure::bad(message).hint("`evenkeel ps` lists those that are live")
        }
        other => other.into(),
    })?;
    let run = format!("{}/{}", found.name, found.id);
    let directory = found.path.canonicalize().unwrap_or_else(|_| found.path.clone());
    if hand(&directory) == Hand::Controller {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(&directory).ok().map(|found| found.uid());
        return Ok(OnEngine { run, directory, owner, containers: Vec::new() });
    }
    Err(Failure::bad(format!("{run} is not live: {}", state(&found))))
}

fn state(found: &Found) -> String {
    let glance = read::glance(found, super::now_ms());
    glance.map_or_else(|_| "unknown".to_owned(), |glance| runs::state(glance.state, glance.class.as_deref()))
}

/// Asks the run's controller, and waits for what comes of it.
async fn by_controller(args: &cli::Stop, engine: &Engine, meant: &OnEngine) -> Result<(), Failure> {
    match ask(&meant.directory, args.now) {
        Asked::Yes(pid) => say(&format!("asked the controller of {} (process {pid}) to end it", meant.run)),
        Asked::Gone if meant.hand() != Hand::Controller => return Ok(()),
        Asked::Gone if !args.force => {
            let message = format!("the controller of {} lives, and its process cannot be told from here", meant.run);
            let hint = "it may be in another container or on another machine: end it there; `--force` ends its containers by the engine";
            return Err(Failure::new(ExitCode::MachineNotReady, message).hint(hint));
        }
        Asked::Refused(pid) if !args.force => {
            let message = format!("the controller of {} (process {pid}) takes no signal of yours", meant.run);
            return Err(Failure::bad(message).hint("`--force` ends its containers by the engine"));
        }
        // Its controller sees them end, and takes it for what it is: somebody else's doing.
        Asked::Refused(_) | Asked::Gone => by_engine(engine, &meant.containers, args.now).await?,
    }
    let begin = Instant::now();
    while meant.hand() == Hand::Controller {
        if begin.elapsed() > Duration::from_secs(args.timeout) {
            let message = format!("{} has not ended after {} s", meant.run, args.timeout);
            return Err(
                Failure::new(ExitCode::MachineNotReady, message).hint("`evenkeel stop --now` leaves trainers no time")
            );
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// Says what came of it.
fn tell(meant: &OnEngine, json: bool) -> Result<ExitCode, Failure> {
    let state = meant.record().map_or_else(|| "unknown".to_owned(), |found| state(&found));
    if json {
        let told = json!({ "version": 1, "run": meant.run, "directory": meant.directory, "state": state });
        crate::output::print(&told.to_string())?;
    } else {
        say(&format!("{}: {state}", meant.run));
    }
    Ok(ExitCode::Done)
}

enum Asked {
    Yes(i32),
    /// It ended meanwhile.
    Gone,
    Refused(i32),
}

/// Sends the controller what Ctrl-C would send, or Ctrl-\. Whose number it was a moment ago may be another process's now: it is asked for its
/// lock once more, when there can be no other.
fn ask(directory: &Path, now: bool) -> Asked {
    let pid = || Pid::from_raw(i32::try_from(holder(directory)?).ok()?);
    let Some(found) = pid() else { return Asked::Gone };
    let Ok(process) = pidfd_open(found, PidfdFlags::empty()) else { return Asked::Gone };
    if pid() != Some(found) {
        return Asked::Gone;
    }
    let number = found.as_raw_nonzero().get();
    match pidfd_send_signal(process, if now { Kill::QUIT } else { Kill::INT }) {
        Ok(()) => Asked::Yes(number),
        Err(rustix::io::Errno::SRCH) => Asked::Gone,
        Err(_) => Asked::Refused(number),
    }
}

/// Ends a run that has lost its controller as that one would have: with the trainers' last checkpoints, logs that are looked at, and an end in the
/// journal.
pub(super) async fn in_its_place(
    engine: &Engine,
    orphan: &OnEngine,
    now: bool,
    settings: &Settings,
    mut screen: Screen,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let runs = cli::RunsDir { runs: Default::default() };
    let taken = attach::take(Some(&orphan.directory.display().to_string()), &runs, settings, How::Attached);
    let mut course = match taken {
        Ok(course) => course,
        Err(held) if orphan.hand() == Hand::Controller => return Err(held),
        // A record that is not understood, or cannot be written, is no reason for its containers to hold the devices.
        Err(failure) => {
            screen.line(&format!("warning: nothing is written down of its end: {}", failure.message()));
            return by_engine(engine, &orphan.containers, now).await;
        }
    };
    if course.past.end.is_some() {
        // An engine may have made it for a controller that was dead by then.
        return course.clear_away(engine, None).await.map(drop);
    }
    if course.past.last().is_some_and(|last| last.intent.trial) {
        return attach::end_trial(course, &orphan.run, settings).await.map(drop);
    }
    course.journal.append("attach", json!({ "pid": std::process::id() }))?;
    let asked = if now { Signal::Quit } else { Signal::Interrupt };
    let generation = course.past.last().map(|last| last.number);
    course.journal.append("signal", json!({ "generation": generation, "signal": asked.name() }))?;
    course.past = Past::of(&journal::read(course.run.path())?)?;
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    match Heir::of(&course, settings, &mut signals, &mut screen).await {
        Ok(Ok(heir)) => heir.see_through(course, settings, (signals, screen), (begin, false)).await.map(drop),
        Ok(Err(_)) => Err(Failure::new(ExitCode::Interrupted, "stopped before the run was taken up")),
        // What it was made from need not be here for its containers to end.
        Err(failure) => {
            screen.line(&format!(
                "warning: the run cannot be taken up ({}): its containers end without it",
                failure.message()
            ));
            end_plainly(engine, course, orphan, now).await
        }
    }
}

async fn end_plainly(engine: &Engine, mut course: Course, orphan: &OnEngine, now: bool) -> Result<(), Failure> {
    by_engine(engine, &orphan.containers, now).await?;
    let detail = json!({ "exit_code": ExitCode::Interrupted as u8, "state": "stopped", "failure": null });
    course.journal.append("end", detail)?;
    Ok(())
}

/// Ends containers and removes them, as far as the engine alone can. One that it cannot remove keeps none of the others.
pub(super) async fn by_engine(engine: &Engine, containers: &[Container], now: bool) -> Result<(), Failure> {
    let running = containers.iter().filter(|container| container.running);
    if !now {
        for container in running.clone() {
            // Who has ended meanwhile needs no signal, and who gets none is removed all the same.
            let _ = engine.signal(&container.id, "SIGTERM").await;
        }
        let ended = async {
            for container in running {
                let _ = engine.wait(&container.id).await;
            }
        };
        // Who has not ended by then is removed by force.
        let _ = tokio::time::timeout(GRACE, ended).await;
    }
    let mut failed = None;
    for container in containers {
        failed = engine.remove(&container.id).await.err().or(failed);
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Whether agents of the run still work, on this machine.
pub(super) fn trains(run: &OnEngine) -> bool {
    run.runs() || live::has_agents(&run.directory)
}
