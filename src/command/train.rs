//! `evenkeel train`: from a job file to a record.

pub(super) mod course;
mod finish;
pub(super) mod generation;
mod heard;
pub(super) mod reports;
mod stages;

use std::time::{Instant, SystemTime};

use crate::agent::{self, AgentError};
use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::inventory::lock::DeviceLocks;
use crate::job::{self, Trainer};
use crate::launch::EngineTraits;
use crate::output::printer::Printer;
use crate::output::{Screen, say};
use crate::record::{RecordError, RunDir};
use crate::settings::Settings;
use crate::signal::Signals;
use crate::watch::WatchError;

use super::fitting::{self, Fitted};
use super::locking::{self, Demand, Gathered};
use super::prepare::{self, Prepared};
use course::{Course, How, Opening};
use finish::{Finished, conclude, end_of_run, never_launched, wait_for};
use generation::Ended;
use reports::Reports;
use stages::Running;

pub(super) use finish::Outcome;

/// Trains what the job describes.
pub async fn run(args: &cli::Train, settings: &Settings, screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let resolved = job::load(&args.job.job, &args.job.overrides)?;
    let demand = match &args.locked {
        Some(path) => Demand::Same(locking::reference(path.as_deref(), &resolved.job)?),
        None => Demand::Nothing,
    };
    let inventory = super::devices::inventory(settings);
    let visible = settings.cuda_visible_devices.as_deref();
    let prepared = prepare::resolved_job(resolved, inventory, visible, args.smoke, demand.takeover())?;
    carry_out(prepared, &demand, settings, screen, json).await
}

/// Trains what was prepared, if it is what was demanded.
pub(super) async fn carry_out(
    prepared: Prepared,
    demand: &Demand,
    settings: &Settings,
    mut screen: Screen,
    json: bool,
) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    // Before the signals are ours: whoever waits for a job or data on a slow disk can end us as any program.
    let prepared = plan(prepared, settings, &screen)?;
    let reports = Reports::prepare(prepared.resolved(), settings)?;
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let begun = async {
        let ready = get_ready(prepared, settings, &mut screen).await?;
        let gathered = locking::gather(&ready, demand, settings, &mut screen).await?;
        demand.check(&gathered, &screen)?;
        Ok::<_, Failure>((ready, gathered))
    };
    let (mut ready, mut gathered) = tokio::select! {
        begun = begun => begun?,
        signal = stopped(&mut signals) => {
            screen.clear();
            say("stopped before any container was made");
            return Ok(interrupted(signal));
        }
    };
    if let Some(signal) = settle_split(&mut ready, settings, &mut signals, &mut screen).await? {
        screen.clear();
        say("stopped before the training began");
        return Ok(interrupted(signal));
    }
    let told = (&mut signals, &mut screen, reports);
    see_through(&mut ready, &mut gathered, None, settings, told, (begin, json)).await
}

/// Trains what is ready, in a new run or in one that is there, and says what came of it.
pub(super) async fn see_through(
    ready: &mut Ready,
    gathered: &mut Gathered,
    course: Option<Course>,
    settings: &Settings,
    (signals, screen, mut reports): (&mut Signals, &mut Screen, Reports),
    (begin, json): (Instant, bool),
) -> Result<ExitCode, Failure> {
    let mut begun = course.as_ref().map(|course| course.run.clone());
    let told = (&mut *signals, &mut *screen, &mut reports);
    let finished = train(ready, gathered, (course, &mut begun), settings, told, json).await;
    screen.clear();
    let (outcome, mut run) = match finished {
        Ok(finished) => finished,
        Err(failure) => {
            begun.iter().for_each(|run| never_launched(run, &failure));
            reports.gave_up(&failure);
            reports.settle(None, stopped(signals)).await.iter().for_each(|line| screen.line(line));
            return Err(failure);
        }
    };
    let time = begin.elapsed();
    // The run is over, its record whole and its devices free: a reader who is slow or gone holds up only these last words.
    if let Some(printer) = run.printer.take() {
        wait_for(printer, signals).await;
    }
    run.incomplete.extend(super::report::at_the_end(&run.run, stopped(signals)).await);
    run.untold = reports.settle(Some(&mut run.journal), stopped(signals)).await;
    // Containers that hold GPUs are no good end, whatever the trainers did.
    let held = !run.left.is_empty() && outcome.exit() == ExitCode::Done;
    let exit = if held { ExitCode::MachineNotReady } else { outcome.exit() };
    conclude(ready, (&outcome, exit), &run, time, screen, json)?;
    Ok(exit)
}

/// Finds out what fits where that is still open. The signal is what ended it.
pub(super) async fn settle_split(
    ready: &mut Ready,
    settings: &Settings,
    signals: &mut Signals,
    screen: &mut Screen,
) -> Result<Option<Signal>, Failure> {
    if ready.prepared.wants_fit() && !ready.prepared.all_known() {
        if let Some(signal) = fit_first(ready, settings, signals, screen).await? {
            return Ok(Some(signal));
        }
    }
    if ready.prepared.wants_ladder() {
        ready.prepared.begin_ladder("a program of your own makes no trial steps");
        screen.line(ready.prepared.describe().trim_end());
    }
    Ok(None)
}

/// The job with what this machine has of its files, and what earlier trials found.
pub(super) fn found(mut prepared: Prepared, settings: &Settings, screen: &Screen) -> Result<Prepared, Failure> {
    prepared.find(screen)?;
    prepared.check_paths()?;
    prepared.use_knowledge(settings)?;
    Ok(prepared)
}

fn plan(prepared: Prepared, settings: &Settings, screen: &Screen) -> Result<Prepared, Failure> {
    let prepared = found(prepared, settings, screen)?;
    if prepared.all_known() || !(prepared.wants_fit() || prepared.wants_ladder()) {
        screen.line(prepared.describe().trim_end());
    }
    Ok(prepared)
}

/// Finds out what fits before the training is planned. Where that is not possible, it begins with micro-batches that fit mostly, and steps down
/// from there. The signal is what ended it.
async fn fit_first(
    ready: &mut Ready,
    settings: &Settings,
    signals: &mut Signals,
    screen: &mut Screen,
) -> Result<Option<Signal>, Failure> {
    // Weights and data may have been fetched only now.
    ready.prepared.use_knowledge(settings)?;
    for at in 0..ready.prepared.stages() {
        ready.prepared.begin_stage(at);
        if ready.prepared.is_known() {
            continue;
        }
        match fitting::fit(ready, settings, signals, screen).await? {
            Fitted::Found(_) => {}
            Fitted::Stopped(signal) => return Ok(Some(signal)),
            Fitted::Impossible(why) => ready.prepared.begin_ladder(&why),
        }
    }
    ready.prepared.begin_stage(0);
    screen.line(ready.prepared.describe().trim_end());
    Ok(None)
}

/// The next signal that asks for an end. A lost terminal is none.
pub(super) async fn stopped(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::Hangup => {}
            signal => return signal,
        }
    }
}

pub(super) fn interrupted(signal: Signal) -> ExitCode {
    match signal {
        Signal::Interrupt | Signal::Quit => ExitCode::Interrupted,
        Signal::Terminate | Signal::Hangup => ExitCode::Terminated,
    }
}

/// Everything that is decided and there before the first container is created.
pub(super) struct Ready {
    pub prepared: Prepared,
    pub engine: Engine,
    traits: EngineTraits,
    /// The image, and what runs in it.
    pub image: prepare::Program,
}

/// What could refuse the job comes first, what takes gigabytes last.
pub(super) async fn get_ready(
    mut prepared: Prepared,
    settings: &Settings,
    screen: &mut Screen,
) -> Result<Ready, Failure> {
    let engine = super::connect(settings).await?;
    let info = engine.info().await?;
    prepared.check_machine(settings, &info)?;
    prepared.fetch(settings, screen).await?;
    prepared.make_label_cache(settings);
    let image = prepared.image(&engine, settings, screen).await?;
    if let Some(reason) = prepared.settle_preflight(&image) {
        screen.line(reason);
    }
    let traits = EngineTraits {
        rootless: info.rootless,
        userns_remap: info.userns_remap,
        memory_bytes: info.memory_bytes,
        log_driver: info.log_driver,
    };
    Ok(Ready { prepared, engine, traits, image })
}

async fn train(
    ready: &mut Ready,
    gathered: &mut Gathered,
    (course, begun): (Option<Course>, &mut Option<RunDir>),
    settings: &Settings,
    (signals, screen, reports): (&mut Signals, &mut Screen, &mut Reports),
    json: bool,
) -> Result<(Outcome, Finished), Failure> {
    let since = Instant::now();
    let job = &ready.prepared.job().clone();
    let files = agent::files(&settings.cache)?;
    // Held until this function returns, and freed by the system should we die.
    let _locks = lock_devices(ready, course.as_ref(), settings, screen)?;
    let mut course = match course {
        Some(course) => course,
        None => Course::begin(ready, gathered, SystemTime::now())?,
    };
    *begun = Some(course.run.clone());
    crate::background::begun(settings, &course.run);
    let first_stage = course.stage(ready);
    ready.prepared.begin_stage(first_stage);
    if let Some(where_else) = reports.begin(&course.run, &ready.prepared.plan, course.restarts()) {
        screen.line(&where_else);
    }
    let mut opening = Some(course.open(ready).await?);
    if let Some(opening) = &opening {
        for event in course.earlier(opening) {
            screen.catch_up(&event);
            reports.hear(&event);
        }
    }
    // Programs without progress of ours show their own output, where stdout is not for JSON.
    let printer = (job.trainer == Trainer::Command && !json)
        .then(|| {
            screen.clear();
            Printer::start(&course.run.logs(), ready.prepared.plan.containers)
        })
        .transpose()
        .map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;

    let mut run_of = Running {
        settings,
        files: &files,
        run: &course.run.clone(),
        number: course.past.last().map_or(0, |last| last.number),
        restarts: course.restarts(),
        incomplete: Vec::new(),
        job,
        launched: opening.as_ref().map_or_else(Vec::new, |opening| course.launched(ready, opening)),
        reports,
    };
    let mut stage = first_stage;
    let (outcome, ended, plan) = loop {
        let opening = opening.take().unwrap_or(Opening::Launch(None));
        let told = (&mut course.journal, &mut *signals, &mut *screen);
        let (outcome, ended, plan) = run_of.stage(ready, stage, opening, told).await?;
        stage += 1;
        let outcome = match (outcome, ended.as_ref().and_then(Ended::asked)) {
            (Outcome::Done, Some(signal)) if stage < ready.prepared.stages() => Outcome::Stopped(signal),
            (outcome, _) => outcome,
        };
        if stage == ready.prepared.stages() || !matches!(outcome, Outcome::Done) {
            break (outcome, ended, plan);
        }
        ready.prepared.begin_stage(stage);
        let size = ready.prepared.stage();
        screen.line(&format!("from epoch {} on: {} px", size.from_epoch + 1, size.imgsz));
    };
    let Running { number, mut incomplete, launched, reports, .. } = run_of;
    reports.ended(&outcome);
    incomplete.extend(course.sweep(ready, since).await.err().map(|failure| failure.message()));
    let Course { run, mut journal, .. } = course;
    let prepared = &ready.prepared;
    // From here on what cannot be written is told beside the outcome, never in its place.
    let mut unwritten = run.adopt_output();
    unwritten = unwritten.and(gathered.complete(&run, &launched));
    if ended.as_ref().is_some_and(|ended| ended.limit_kept) {
        let warned = prepared.plan_with(&run, &plan, "locked memory is limited: the engine may not lift the limit");
        unwritten = unwritten.and(warned);
    }
    unwritten = unwritten.and(journal.append("end", end_of_run(&outcome, number, &plan, screen)));
    let tail = match (&outcome, &ended) {
        (Outcome::Failed(diagnosis), Some(ended)) => ended.tail(&run, diagnosis.rank),
        _ => String::new(),
    };
    incomplete.extend(unwritten.err().map(|error| crate::error::chain(&error)));
    let (metrics, left, untold) = (screen.metrics(), ended.map_or_else(Vec::new, |ended| ended.left), Vec::new());
    Ok((outcome, Finished { run, metrics, tail, printer, incomplete, left, untold, journal }))
}

/// Takes the devices. Trainers that another controller started compute on them whoever else has taken them since.
fn lock_devices(
    ready: &Ready,
    course: Option<&Course>,
    settings: &Settings,
    screen: &Screen,
) -> Result<Option<DeviceLocks>, Failure> {
    match ready.prepared.lock_devices(settings) {
        Err(taken) if course.is_some_and(|course| course.how == How::Attached) => {
            screen.line(&format!("warning: {}", taken.message()));
            Ok(None)
        }
        locks => locks.map(Some),
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        Self::new(ExitCode::MachineNotReady, error).hint("set XDG_CACHE_HOME to a folder that you may write to")
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        let hint = if error.is_full() {
            "the disk is full: free some, or keep records elsewhere with `runs=/another/disk`"
        } else {
            "records go where `runs` says; the folder must be yours to write to"
        };
        Self::new(ExitCode::MachineNotReady, error).hint(hint)
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Record(error) => error.into(),
            error => Self::new(ExitCode::MachineNotReady, error),
        }
    }
}
