//! `evenkeel train`: from a job file to a record.

pub(super) mod course;
pub(super) mod generation;
mod heard;
pub(super) mod reports;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::agent::{self, AgentError};
use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::failure::Diagnosis;
use crate::inventory::lock::DeviceLocks;
use crate::job::{self, Job, Trainer};
use crate::launch::EngineTraits;
use crate::output::printer::Printer;
use crate::output::words::human;
use crate::output::{Screen, print, say};
use crate::plan::Plan;
use crate::record::{Journal, RecordError, RunDir};
use crate::recovery::{self, Next};
use crate::settings::Settings;
use crate::signal::Signals;
use crate::watch::WatchError;

use super::fitting::{self, Fitted};
use super::locking::{self, Demand, Gathered, Launched};
use super::prepare::{self, Prepared};
use course::{Course, How, Opening};
use generation::{Ended, Generation, Report};
use reports::Reports;

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
    let told = (&mut *signals, &mut *screen, &mut reports);
    let finished = train(ready, gathered, course, settings, told, json).await;
    screen.clear();
    let (outcome, mut run) = match finished {
        Ok(finished) => finished,
        Err(failure) => {
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
    conclude(ready, &outcome, &run, time, screen, json)?;
    // Containers that hold GPUs are no good end, whatever the trainers did.
    Ok(if run.left.is_empty() || outcome.exit() != ExitCode::Done { outcome.exit() } else { ExitCode::MachineNotReady })
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

/// How a run ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    Stopped(Signal),
    Failed(Diagnosis),
}

impl Outcome {
    fn exit(&self) -> ExitCode {
        match self {
            Self::Done => ExitCode::Done,
            Self::Stopped(signal) => interrupted(*signal),
            Self::Failed(diagnosis) => diagnosis.exit,
        }
    }
}

/// What is left of a run when it has ended.
struct Finished {
    run: RunDir,
    metrics: std::collections::BTreeMap<String, f64>,
    /// Last lines of the culprit's log, as a terminal would show them.
    tail: String,
    /// Names of containers that the engine did not remove.
    left: Vec<String>,
    /// Still printing what the ranks wrote.
    printer: Option<Printer>,
    incomplete: Vec<String>,
    /// What was not told to those outside, one sentence each.
    untold: Vec<String>,
    journal: Journal,
}

async fn train(
    ready: &mut Ready,
    gathered: &mut Gathered,
    course: Option<Course>,
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

/// The last entry of a journal: all that a list of runs says of one, so that nothing else need be read for it.
fn end_of_run(outcome: &Outcome, generations: u32, plan: &Plan, screen: &Screen) -> Value {
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

fn failure(it: &Diagnosis) -> Value {
    json!({ "rank": it.rank, "class": it.class.name(), "message": it.message, "advice": it.advice })
}

/// What the launches of a run have in common.
struct Running<'a> {
    settings: &'a Settings,
    files: &'a agent::Files,
    run: &'a RunDir,
    job: &'a Job,
    /// Launches so far.
    number: u32,
    /// Of them, those that followed a failure.
    restarts: u32,
    incomplete: Vec<String>,
    /// What the lock says of them.
    launched: Vec<Launched>,
    reports: &'a mut Reports,
}

impl Running<'_> {
    /// Trains a stage, by as many launches as it takes.
    async fn stage(
        &mut self,
        ready: &Ready,
        stage: usize,
        opening: Opening,
        (journal, signals, screen): (&mut Journal, &mut Signals, &mut Screen),
    ) -> Result<(Outcome, Option<Ended>, Plan), Failure> {
        let (mut plan, mut past) = match opening {
            Opening::Launch(plan) => (plan.map_or_else(|| ready.prepared.plan.clone(), |plan| *plan), None),
            Opening::TakeUp(past) => (past.intent.plan.clone(), Some(past)),
            Opening::Stopped(signal, plan) => return Ok((Outcome::Stopped(signal), None, *plan)),
        };
        loop {
            self.number += u32::from(past.is_none());
            let Self { settings, files, run, number, restarts, .. } = *self;
            let (plan_now, trial) = (&plan, None);
            let generation = Generation {
                ready,
                settings,
                files,
                run,
                number,
                restarts,
                stage,
                plan: plan_now,
                trial,
                capped: true,
            };
            let report: Report<'_> = &mut |event, _| self.reports.hear(event);
            let said = past.as_ref().is_some_and(|past| past.again);
            let mut ended = match past.take() {
                Some(past) => generation.take_up(&past, journal, signals, screen, report).await?,
                None => generation.launch(journal, signals, screen, report).await?,
            };
            let (first_step, step_downs) = std::mem::take(&mut ended.steps);
            let from_epoch = ready.prepared.stage().from_epoch;
            self.launched.push(Launched::new(from_epoch, &plan, first_step, step_downs));
            self.incomplete.append(&mut ended.incomplete);
            self.incomplete.extend(ended.unwritten.iter().cloned());
            let mut outcome = ended.outcome(self.run, self.job, screen);
            let next = match &outcome {
                // What could not be removed holds the device, and a record that cannot be written would miss what follows. A peer that had
                // to be killed before it sealed its log stands in no way.
                Outcome::Failed(diagnosis)
                    if ended.left.is_empty() && ended.unwritten.is_empty() && ended.asked().is_none() =>
                {
                    recovery::after(diagnosis, self.job, &plan, self.restarts)
                }
                _ => Next::Over(None),
            };
            match next {
                Next::Again { plan: finer, because } => {
                    if let (Outcome::Failed(diagnosis), false) = (&outcome, said) {
                        let detail = json!({ "generation": number, "failure": failure(diagnosis), "because": because });
                        if let Err(lost) = journal.append("again", detail) {
                            self.incomplete.push(crate::error::chain(&lost));
                            return Ok((outcome, Some(ended), plan));
                        }
                    }
                    screen.line(&because);
                    self.reports.recovered(&because);
                    plan = *finer;
                    self.restarts += 1;
                }
                Next::Over(why) => {
                    if let (Outcome::Failed(diagnosis), Some(why)) = (&mut outcome, why) {
                        diagnosis.message = format!("{}; {why}", diagnosis.message);
                    }
                    return Ok((outcome, Some(ended), plan));
                }
            }
        }
    }
}

/// Lets the printer print what is left, unless the user has enough.
async fn wait_for(printer: Printer, signals: &mut Signals) {
    let mut finish = tokio::task::spawn_blocking(move || printer.finish());
    tokio::select! {
        _ = &mut finish => {}
        _ = stopped(signals) => {}
    }
}

fn conclude(
    ready: &Ready,
    outcome: &Outcome,
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
            "exit_code": outcome.exit() as u8, "seconds": time.as_secs_f64(),
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
