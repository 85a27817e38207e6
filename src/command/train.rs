//! `evenkeel train`: from a job file to a record.

pub(super) mod generation;
mod heard;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::agent::{self, AgentError};
use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::failure::Diagnosis;
use crate::job::{Job, Trainer};
use crate::launch::EngineTraits;
use crate::output::printer::Printer;
use crate::output::{Screen, print, say};
use crate::plan::Plan;
use crate::record::{Journal, RecordError, RunDir};
use crate::recovery::{self, Next};
use crate::settings::Settings;
use crate::signal::Signals;
use crate::watch::WatchError;

use super::fitting::{self, Fitted};
use super::prepare::{self, Prepared};
use generation::{Ended, Generation};

/// Trains what the job describes.
pub async fn run(args: &cli::Train, settings: &Settings, mut screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    // Before the signals are ours: whoever waits for a job or data on a slow disk can end us as any program.
    let prepared = plan(args, settings, &screen)?;
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let mut ready = tokio::select! {
        ready = get_ready(prepared, settings, &mut screen) => ready?,
        signal = stopped(&mut signals) => {
            screen.clear();
            say("stopped before any container was made");
            return Ok(interrupted(signal));
        }
    };
    if ready.prepared.wants_fit() && !ready.prepared.all_known() {
        if let Some(signal) = fit_first(&mut ready, settings, &mut signals, &mut screen).await? {
            screen.clear();
            say("stopped before the training began");
            return Ok(interrupted(signal));
        }
    }
    if ready.prepared.wants_ladder() {
        ready.prepared.begin_ladder("a program of your own makes no trial steps");
        screen.line(ready.prepared.describe().trim_end());
    }
    let finished = train(&mut ready, settings, &mut signals, &mut screen, json).await;
    screen.clear();
    let (outcome, mut run) = finished?;
    let time = begin.elapsed();
    // The run is over, its record whole and its devices free: a reader who is slow or gone holds up only these last words.
    if let Some(printer) = run.printer.take() {
        wait_for(printer, &mut signals).await;
    }
    conclude(&ready, &outcome, &run, time, &screen, json)?;
    // Containers that hold GPUs are no good end, whatever the trainers did.
    Ok(if run.left.is_empty() || outcome.exit() != ExitCode::Done { outcome.exit() } else { ExitCode::MachineNotReady })
}

fn plan(args: &cli::Train, settings: &Settings, screen: &Screen) -> Result<Prepared, Failure> {
    let inventory = super::devices::inventory(settings);
    let mut prepared = prepare::job(&args.job, inventory, settings.cuda_visible_devices.as_deref(), args.smoke)?;
    prepared.find(screen)?;
    prepared.check_paths()?;
    prepared.use_knowledge(settings)?;
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
    engine: Engine,
    traits: EngineTraits,
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
}

async fn train(
    ready: &mut Ready,
    settings: &Settings,
    signals: &mut Signals,
    screen: &mut Screen,
    json: bool,
) -> Result<(Outcome, Finished), Failure> {
    let prepared = &ready.prepared;
    let job = &prepared.job().clone();
    let files = agent::files(&settings.cache)?;
    // Held until this function returns, and freed by the system should we die.
    let _locks = prepared.lock_devices(settings)?;
    let run = RunDir::create(&job.runs, &job.name, SystemTime::now())?;
    let mut journal = Journal::create(&run)?;
    prepared.write_job(&run)?;
    journal.append("run", json!({ "run": run.id(), "image": ready.image.image, "image_id": ready.image.id }))?;
    // Programs without progress of ours show their own output, where stdout is not for JSON.
    let printer = (job.trainer == Trainer::Command && !json)
        .then(|| {
            screen.clear();
            Printer::start(&run.logs(), prepared.plan.containers)
        })
        .transpose()
        .map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;

    let mut run_of =
        Running { settings, files: &files, run: &run, number: 0, restarts: 0, incomplete: Vec::new(), job };
    let mut stage = 0;
    let (outcome, ended, plan) = loop {
        let (outcome, ended, plan) = run_of.stage(ready, &mut journal, signals, screen).await?;
        stage += 1;
        let outcome = match (outcome, ended.asked()) {
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
    let Running { number, mut incomplete, .. } = run_of;
    let prepared = &ready.prepared;
    // From here on what cannot be written is told beside the outcome, never in its place.
    let mut unwritten = run.adopt_output();
    if ended.limit_kept {
        let warned = prepared.plan_with(&run, &plan, "locked memory is limited: the engine may not lift the limit");
        unwritten = unwritten.and(warned);
    }
    let end = json!({ "exit_code": outcome.exit() as u8, "outcome": format!("{outcome:?}"), "generations": number });
    unwritten = unwritten.and(journal.append("end", end));
    let tail = match &outcome {
        Outcome::Failed(diagnosis) => ended.tail(&run, diagnosis.rank),
        _ => String::new(),
    };
    incomplete.extend(unwritten.err().map(|error| crate::error::chain(&error)));
    Ok((outcome, Finished { run, metrics: screen.metrics(), tail, printer, incomplete, left: ended.left }))
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
}

impl Running<'_> {
    /// Trains a stage, by as many launches as it takes.
    async fn stage(
        &mut self,
        ready: &Ready,
        journal: &mut Journal,
        signals: &mut Signals,
        screen: &mut Screen,
    ) -> Result<(Outcome, Ended, Plan), Failure> {
        let mut plan = ready.prepared.plan.clone();
        loop {
            self.number += 1;
            let Self { settings, files, run, number, .. } = *self;
            let generation = Generation { ready, settings, files, run, number, plan: &plan, trial: None, capped: true };
            let mut ended = generation.launch(journal, signals, screen).await?;
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
                    screen.line(&because);
                    plan = *finer;
                    self.restarts += 1;
                }
                Next::Over(why) => {
                    if let (Outcome::Failed(diagnosis), Some(why)) = (&mut outcome, why) {
                        diagnosis.message = format!("{}; {why}", diagnosis.message);
                    }
                    return Ok((outcome, ended, plan));
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
            "metrics": finished.metrics, "weights": best.exists().then_some(best),
            "failure": match outcome {
                Outcome::Failed(it) => json!({
                    "rank": it.rank, "class": it.class.name(), "message": it.message, "advice": it.advice,
                    "tail": finished.tail,
                }),
                _ => json!(null),
            },
        });
        print(&value.to_string())?;
    }
    for complaint in &finished.incomplete {
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

fn human(time: Duration) -> String {
    match time.as_secs() {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
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
