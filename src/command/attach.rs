//! `evenkeel attach`: takes up a run whose controller died while its containers train.

use std::time::Instant;

use serde_json::{Value, json};

use super::again::{Again, On};
use super::locking::{Gathered, Reference};
use super::train::course::{Course, How};
use super::train::reports::Reports;
use super::train::{self, Ready};
use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::output::{Screen, say};
use crate::record::past::{Generation, Past, PastError};
use crate::record::{Journal, OpenError, RunDir, find, holder, journal};
use crate::settings::Settings;
use crate::signal::Signals;

/// Takes it up and stays until it has ended, as the controller that began it would have.
pub async fn run(args: &cli::Attach, settings: &Settings, mut screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    let mut course = take(args.run.as_deref(), &args.runs, settings, How::Attached)?;
    let name = name(&course.run);
    if let Some(end) = &course.past.end {
        let state = end["state"].as_str().unwrap_or("ended");
        let message = format!("{name} has ended ({state}): there is nothing to take up");
        return Err(Failure::bad(message).hint(format!("`evenkeel resume {name}` goes on from its last checkpoint")));
    }
    if course.past.last().is_some_and(|last| last.intent.trial) {
        return end_trial(course, &name, settings).await;
    }
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    course.journal.append("attach", json!({ "pid": std::process::id() }))?;
    match Heir::of(&course, settings, &mut signals, &mut screen).await? {
        Ok(heir) => heir.see_through(course, settings, (signals, screen), (begin, json)).await,
        Err(signal) => {
            say("stopped before the run was taken up: its containers are as they were");
            Ok(train::interrupted(signal))
        }
    }
}

/// What it takes to see through a run that another controller began.
pub(super) struct Heir {
    reference: Reference,
    ready: Ready,
    reports: Reports,
}

impl Heir {
    /// Makes it of the run's lock. The signal is what came before it was there.
    ///
    /// # Errors
    ///
    /// What the run was made from is not here any more, or not as it was.
    pub async fn of(
        course: &Course,
        settings: &Settings,
        signals: &mut Signals,
        screen: &mut Screen,
    ) -> Result<Result<Self, Signal>, Failure> {
        let reference = Reference::read(course.run.path())?;
        let prepare = async {
            let on = course.past.last().map_or(On::Same, |last| On::Own(&last.intent.plan));
            let Again { prepared, .. } = Again::of(&reference, &[], on, settings, screen)?;
            let reports = Reports::prepare_as_far_as_possible(prepared.resolved(), settings);
            let prepared = train::found(prepared, settings, screen)?;
            Ok::<_, Failure>((train::get_ready(prepared, settings, screen).await?, reports))
        };
        let (ready, reports) = tokio::select! {
            prepared = prepare => prepared?,
            signal = train::stopped(signals) => return Ok(Err(signal)),
        };
        if let Some(last) = course.past.last() {
            check_devices(&ready, course, last)?;
            let ranks = last.intent.containers.len();
            screen.line(&format!("took up {}: launch {}, {ranks} containers", name(&course.run), last.number));
        }
        Ok(Ok(Self { reference, ready, reports }))
    }

    /// Stays with the run until it has ended.
    ///
    /// # Errors
    ///
    /// Engine or disk failed.
    pub async fn see_through(
        self,
        course: Course,
        settings: &Settings,
        (mut signals, mut screen): (Signals, Screen),
        told: (Instant, bool),
    ) -> Result<ExitCode, Failure> {
        let Self { reference, mut ready, reports } = self;
        let mut gathered = Gathered::reopen(reference);
        let outside = (&mut signals, &mut screen, reports);
        train::see_through(&mut ready, &mut gathered, Some(course), settings, outside, told).await
    }
}

/// Takes hold of a run of the caller's own.
///
/// # Errors
///
/// There is none of this name, it is somebody else's, a controller works on it, or its journal is not understood.
pub(super) fn take(
    wanted: Option<&str>,
    runs: &cli::RunsDir,
    settings: &Settings,
    how: How,
) -> Result<Course, Failure> {
    let found = find::find(&runs.runs, wanted)?;
    check_owner(&found.path, settings)?;
    let run = RunDir::open(&found.path)?;
    let opened = Journal::open(&run).map_err(|error| match error {
        OpenError::Record(error) => error.into(),
        held @ OpenError::Held { .. } => {
            let name = name(&run);
            let who = holder(run.path()).map_or_else(String::new, |pid| format!(" (process {pid})"));
            let hint = format!("`evenkeel logs {name} --follow` shows what its ranks write");
            Failure::bad(format!("{held}{who}")).hint(hint)
        }
    })?;
    let past = Past::of(&journal::read(run.path())?)?;
    Ok(Course { run, journal: opened, past, how, keeps_split: true })
}

/// What a person calls a run.
pub(super) fn name(run: &RunDir) -> String {
    let family = run.path().parent().and_then(|family| family.file_name()).unwrap_or_default();
    format!("{}/{}", family.to_string_lossy(), run.id())
}

/// Files of new containers would be the caller's, among those of somebody else.
fn check_owner(path: &std::path::Path, settings: &Settings) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(path).map(|found| found.uid());
    match owner {
        Ok(owner) if owner != settings.caller.uid => {
            let message = format!("`{}` belongs to user {owner}, and you are {}", path.display(), settings.caller.uid);
            Err(Failure::bad(message).hint("ask them, or copy the record and `evenkeel resume` the copy"))
        }
        _ => Ok(()),
    }
}

/// Later launches of a run need the devices that it has.
fn check_devices(ready: &Ready, course: &Course, last: &Generation) -> Result<(), Failure> {
    let devices =
        |plan: &crate::plan::Plan| -> Vec<String> { plan.ranks.iter().map(|rank| rank.device.to_string()).collect() };
    let (has, here) = (devices(&last.intent.plan), devices(ready.prepared.plan_of(course.stage(ready))));
    if has == here {
        return Ok(());
    }
    let message = format!("the run has {}, and what its job gets here is {}", has.join(", "), here.join(", "));
    let hint =
        "its containers are as they were; with `evenkeel stop` they end, and `evenkeel resume` goes on elsewhere";
    Err(Failure::new(ExitCode::MachineNotReady, message).hint(hint))
}

/// Trial steps are quicker made anew than taken up.
pub(super) async fn end_trial(mut course: Course, name: &str, settings: &Settings) -> Result<ExitCode, Failure> {
    let engine = super::connect(settings).await?;
    course.journal.append("attach", json!({ "pid": std::process::id() }))?;
    course.clear_away(&engine, None).await?;
    let detail = json!({ "exit_code": ExitCode::Interrupted as u8, "state": "stopped", "failure": Value::Null });
    course.journal.append("end", detail)?;
    say(&format!("{name} was trial steps, which are not taken up: its containers are removed"));
    say("hint: `evenkeel train` makes them again, and trains");
    Ok(ExitCode::Done)
}

impl From<PastError> for Failure {
    fn from(error: PastError) -> Self {
        Self::new(ExitCode::CorruptState, error)
            .hint("runs of earlier versions of evenkeel cannot be taken up; `evenkeel reproduce` runs them again")
    }
}
