//! `evenkeel train`: from a job file to a record.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use evenkeel_wire::Event as Told;
use serde_json::json;

use crate::agent::{self, AgentError};
use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::event::{Event, Signal};
use crate::failure::{self, Diagnosis};
use crate::job::Trainer;
use crate::launch::{self, EngineTraits};
use crate::output::printer::Printer;
use crate::output::{self, Screen, print, say};
use crate::record::{Journal, RecordError, RunDir};
use crate::settings::Settings;
use crate::signal::Signals;
use crate::watch::state::How;
use crate::watch::{self, WatchError, Watched};

use super::prepare::{self, Prepared};

/// Trains what the job describes.
pub async fn run(args: &cli::Train, settings: &Settings, mut screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let begin = Instant::now();
    // Before the signals are ours: whoever waits for a job or data on a slow disk can end us as any program.
    let prepared = plan(args, settings, &screen)?;
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let ready = tokio::select! {
        ready = get_ready(prepared, settings, &mut screen) => ready?,
        signal = stopped(&mut signals) => {
            screen.clear();
            say("stopped before any container was made");
            return Ok(interrupted(signal));
        }
    };
    let finished = train(&ready, settings, &mut signals, &mut screen, json).await;
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
    screen.line(prepared.describe().trim_end());
    Ok(prepared)
}

/// The next signal that asks for an end. A lost terminal is none.
async fn stopped(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::Hangup => {}
            signal => return signal,
        }
    }
}

fn interrupted(signal: Signal) -> ExitCode {
    match signal {
        Signal::Interrupt | Signal::Quit => ExitCode::Interrupted,
        Signal::Terminate | Signal::Hangup => ExitCode::Terminated,
    }
}

/// Everything that is decided and there before the first container is created.
struct Ready {
    prepared: Prepared,
    engine: Engine,
    traits: EngineTraits,
    image: prepare::Program,
}

/// What could refuse the job comes first, what takes gigabytes last.
async fn get_ready(mut prepared: Prepared, settings: &Settings, screen: &mut Screen) -> Result<Ready, Failure> {
    let engine = super::connect(settings).await?;
    let info = engine.info().await?;
    prepared.check_machine(settings, &info)?;
    prepared.fetch(settings, screen).await?;
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
enum Outcome {
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
    ready: &Ready,
    settings: &Settings,
    signals: &mut Signals,
    screen: &mut Screen,
    json: bool,
) -> Result<(Outcome, Finished), Failure> {
    const GENERATION: u32 = 1;
    let prepared = &ready.prepared;
    let job = prepared.job();
    let files = agent::files(&settings.cache)?;
    // Held until this function returns, and freed by the system should we die.
    let locks = prepared.lock_devices(settings)?;
    let run = RunDir::create(&job.runs, &job.name, SystemTime::now())?;
    let mut journal = Journal::create(&run)?;
    prepared.write_record(&run, GENERATION, &ready.image)?;
    journal.append("run", json!({ "run": run.id(), "image": ready.image.image, "image_id": ready.image.id }))?;

    let devices = prepared.rank_devices();
    let data = prepared.data_mounts();
    let specs = launch::specs(&launch::Launch {
        job,
        run: run.id(),
        directory: run.path(),
        generation: GENERATION,
        image: &ready.image.id,
        program: &ready.image.program,
        preflight: ready.image.preflight.as_deref(),
        agent: &files.program,
        hosts: &files.hosts,
        devices: &devices,
        data: &data,
        caller: settings.caller.clone(),
        engine: ready.traits.clone(),
        master_port: prepared.master_port(),
        caller_environment: &settings.all,
    });
    let ranks = u32::try_from(specs.len()).unwrap_or(u32::MAX);
    // Programs without progress of ours show their own output, where stdout is not for JSON.
    let printer = (job.trainer == Trainer::Command && !json)
        .then(|| {
            screen.clear();
            Printer::start(&run.logs(), ranks)
        })
        .transpose()
        .map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let generation = watch::Launch {
        engine: &ready.engine,
        specs: &specs,
        generation: GENERATION,
        events: run.events(),
        control: run.control(),
        grace: job.stop_grace_period,
    };
    let mut seals = Seals::default();
    let mut limit_kept = false;
    let Watched { state, trouble } = watch::watch(&generation, &mut journal, signals, &mut |event| {
        seals.hear(event);
        limit_kept |= matches!(event, Event::LimitKept { .. });
        screen.event(event);
    })
    .await?;
    drop(locks);

    let tail = |rank: u32| tail(&run.logs().join(evenkeel_wire::path::log(rank)));
    let ends = state.ends();
    let outcome = match (state.signal(), failure::diagnose(&ends, tail)) {
        (Some(signal), _) => Outcome::Stopped(signal),
        (None, Some(diagnosis)) => Outcome::Failed(diagnosis),
        (None, None) if job.trainer != Trainer::Command && !screen.has_steps() => Outcome::Failed(failure::no_step()),
        (None, None) => Outcome::Done,
    };
    // From here on what cannot be written is told beside the outcome, never in its place.
    let mut unwritten = run.adopt_output().map_err(WatchError::from);
    if limit_kept {
        let plan = prepared.plan_with(&run, "locked memory is limited: the engine may not lift the limit");
        unwritten = unwritten.and(plan.map_err(WatchError::from));
    }
    let ran = |rank| ends.iter().any(|end| end.rank == rank && !matches!(end.how, How::NotStarted { .. }));
    let logs = seals.verify(&run, ranks, ran);
    let facts = [
        ("logs", json!(logs.iter().map(|log| &log.fact).collect::<Vec<_>>())),
        ("end", json!({ "exit_code": outcome.exit() as u8, "outcome": format!("{outcome:?}") })),
    ];
    for (fact, detail) in facts {
        unwritten = unwritten.and(journal.append(fact, detail).map_err(WatchError::from));
    }
    let tail = match &outcome {
        Outcome::Failed(diagnosis) => tail(diagnosis.rank),
        _ => String::new(),
    };
    let left = state.left().into_iter().map(|rank| specs[rank as usize].name.clone()).collect();
    let incomplete = trouble.or(unwritten.err()).map(|error| crate::error::chain(&error));
    let incomplete = incomplete.into_iter().chain(logs.into_iter().filter_map(|log| log.complaint)).collect();
    Ok((outcome, Finished { run, metrics: screen.metrics(), tail, printer, incomplete, left }))
}

/// Lets the printer print what is left, unless the user has enough.
async fn wait_for(printer: Printer, signals: &mut Signals) {
    let mut finish = tokio::task::spawn_blocking(move || printer.finish());
    tokio::select! {
        _ = &mut finish => {}
        _ = stopped(signals) => {}
    }
}

/// What the ranks' last words say of their logs.
#[derive(Default)]
struct Seals(Vec<(u32, Told)>);

/// Whether a log is whole: a fact for the record, and a complaint for the person if it is not.
struct LogState {
    fact: serde_json::Value,
    complaint: Option<String>,
}

impl Seals {
    fn hear(&mut self, event: &Event) {
        if let Event::Told { rank, record } = event {
            if let Told::Exit { .. } = record.event {
                self.0.push((*rank, record.event.clone()));
            }
        }
    }

    /// Compares what each agent counted with what is on disk. A rank that never `ran` has nothing that could be missing.
    fn verify(&self, run: &RunDir, ranks: u32, ran: impl Fn(u32) -> bool) -> Vec<LogState> {
        (0..ranks)
            .map(|rank| {
                let seal = self.0.iter().find(|(sealed, _)| *sealed == rank).map(|(_, seal)| seal);
                let Some(Told::Exit { lines, bytes, sha256, dropped, .. }) = seal else {
                    let fact = json!({ "rank": rank, "sealed": false });
                    let complaint = format!("rank {rank}: its log has no seal; the last lines may be missing");
                    return LogState { fact, complaint: ran(rank).then_some(complaint) };
                };
                let found = crate::record::log_digest(&run.logs().join(evenkeel_wire::path::log(rank)));
                let whole = found.as_ref().is_ok_and(|found| found.bytes == *bytes && found.sha256 == *sha256);
                let fact = json!({
                    "rank": rank, "sealed": true, "lines": lines, "bytes": bytes, "sha256": sha256,
                    "dropped": dropped, "whole": whole,
                });
                let complaint = match (whole, dropped) {
                    (true, 0) => None,
                    (true, dropped) => Some(format!("rank {rank}: {dropped} lines did not fit on the disk")),
                    (false, _) => Some(format!("rank {rank}: its log differs from what its agent wrote")),
                };
                LogState { fact, complaint }
            })
            .collect()
    }
}

/// The last lines of a log, enough to hold a traceback.
fn tail(path: &Path) -> String {
    const BYTES: u64 = 8 << 10;
    const LINES: usize = 15;
    let text = crate::record::last_bytes(path, BYTES).unwrap_or_default();
    let text = output::plain(&String::from_utf8_lossy(&text));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
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
