//! `evenkeel autobatch`: what fits, found out by trial steps or known from earlier ones.

use serde_json::{Value, json};

use super::fitting::{self, Fit, Fitted};
use super::prepare::{self, Prepared};
use super::train::{self, Ready};
use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::fit::render;
use crate::output::{Screen, print, say};
use crate::plan::Knowledge;
use crate::settings::Settings;
use crate::signal::Signals;

/// Finds out what fits, and prints it.
pub async fn run(
    args: &cli::Autobatch,
    settings: &Settings,
    mut screen: Screen,
    json: bool,
) -> Result<ExitCode, Failure> {
    let mut signals = None;
    if args.table {
        return table(args, settings, &mut screen, &mut signals, json).await;
    }
    let (ready, found) = match find(args, &[], settings, &mut screen, &mut signals).await? {
        Ok(found) => found,
        Err(code) => return Ok(code),
    };
    let prepared = ready.prepared();
    let (knowledge, fit) = match &found {
        Known::Before(knowledge) => (&**knowledge, None),
        Known::Now(fit) => (&fit.knowledge, Some(fit)),
    };
    screen.clear();
    if json {
        print(
            &serde_json::to_string_pretty(&as_json(prepared, knowledge, fit.map(|fit| &**fit))).expect("plain data"),
        )?;
    } else {
        let table = render::kinds(prepared.devices(), knowledge, prepared.images(knowledge));
        print(&format!("{table}\n{}", prepared.describe().trim_end()))?;
    }
    match fit {
        Some(fit) => screen.line(&format!("{} launches; record: {}", fit.launches, fit.record.display())),
        None => screen.line("as earlier trials found it; `--again` tries again"),
    }
    Ok(ExitCode::Done)
}

/// Where the knowledge is from.
enum Known {
    Before(Box<Knowledge>),
    Now(Box<Fit>),
}

/// A job that was looked at, or made ready to start.
enum Job {
    Planned(Box<Prepared>),
    Ready(Box<Ready>),
}

impl Job {
    fn prepared(&self) -> &Prepared {
        match self {
            Self::Planned(prepared) => prepared,
            Self::Ready(ready) => &ready.prepared,
        }
    }
}

/// Plans a job, with overrides beside those of the command line, with what is known or what is found out. An exit code is that of a person who
/// had enough.
async fn find(
    args: &cli::Autobatch,
    overrides: &[String],
    settings: &Settings,
    screen: &mut Screen,
    signals: &mut Option<Signals>,
) -> Result<Result<(Job, Known), ExitCode>, Failure> {
    let job = cli::JobArgs {
        job: args.job.job.clone(),
        overrides: args.job.overrides.iter().chain(overrides).cloned().collect(),
    };
    let inventory = super::devices::inventory(settings);
    let mut prepared = prepare::job(&job, inventory, settings.cuda_visible_devices.as_deref(), false)?;
    if !prepared.is_fittable() {
        let failure =
            Failure::bad("only a trainer whose steps are known can be tried; this job runs a program of its own");
        return Err(failure.hint("it is told its micro-batch, and begins again with half of it where memory runs out"));
    }
    prepared.find(screen)?;
    prepared.check_paths()?;
    if let Some(knowledge) = prepared.knowledge(settings).filter(|_| !args.again) {
        prepared.plan_again(&knowledge)?;
        return Ok(Ok((Job::Planned(Box::new(prepared)), Known::Before(Box::new(knowledge)))));
    }
    if args.dry_run {
        let failure = Failure::bad("nothing is known of this job on these devices yet");
        return Err(failure.hint("without `--dry-run` it is found out in a few trial steps"));
    }
    if signals.is_none() {
        *signals = Some(Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?);
    }
    let signals = signals.as_mut().expect("taken");
    let mut ready = tokio::select! {
        ready = train::get_ready(prepared, settings, screen) => ready?,
        signal = train::stopped(signals) => {
            screen.clear();
            say("stopped before any container was made");
            return Ok(Err(train::interrupted(signal)));
        }
    };
    match fitting::fit(&mut ready, settings, signals, screen).await? {
        Fitted::Found(fit) => Ok(Ok((Job::Ready(Box::new(ready)), Known::Now(fit)))),
        Fitted::Stopped(signal) => {
            screen.clear();
            say("stopped");
            Ok(Err(train::interrupted(signal)))
        }
        Fitted::Impossible(why) => {
            let failure = Failure::new(ExitCode::TrainingFailed, format!("trial steps cannot be made: {why}"));
            Err(failure
                .hint("a training begins with micro-batches that mostly fit, and halves them where memory runs out"))
        }
    }
}

fn as_json(prepared: &Prepared, knowledge: &Knowledge, fit: Option<&Fit>) -> Value {
    let images = prepared.images(knowledge);
    let devices = prepared.devices().iter().map(|device| {
        let known = knowledge.of(&device.kind());
        let most = render::most_images(device, knowledge, images);
        json!({
            "device": device.id.to_string(), "kind": device.kind(), "budget_bytes": device.memory_budget_bytes,
            "largest_micro_batch": most,
            "predicted_bytes": most.zip(known.memory).map(|(most, model)| model.predict(most, images).peak_bytes()),
            "time": known.time, "memory": known.memory,
        })
    });
    json!({
        "version": 1, "imgsz": images.side, "labels": images.labels, "devices": devices.collect::<Vec<_>>(),
        "all_reduce_seconds": knowledge.all_reduce_seconds, "plan": prepared.plan,
        "launches": fit.map(|fit| fit.launches), "measured_bytes": fit.map(|fit| &fit.measured),
        "record": fit.map(|fit| &fit.record),
    })
}

/// All sizes of the job's model at the usual image sizes.
async fn table(
    args: &cli::Autobatch,
    settings: &Settings,
    screen: &mut Screen,
    signals: &mut Option<Signals>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let inventory = super::devices::inventory(settings);
    let job = prepare::job(&args.job, inventory, settings.cuda_visible_devices.as_deref(), false)?;
    let models = prepare::family(&job.job().model);
    if models.is_empty() {
        let failure = Failure::bad(format!("`model: {}` is none of a family of sizes", job.job().model));
        return Err(failure.hint("a table is made for models by name, such as `yolov8n.yaml`"));
    }
    let mut rows = Vec::new();
    for model in models {
        screen.line(&format!("{model}:"));
        let overrides = [format!("model={model}"), "batch.micro=auto".to_owned()];
        let known = match find(args, &overrides, settings, screen, signals).await {
            Ok(Ok((_, Known::Before(knowledge)))) => Some(*knowledge),
            Ok(Ok((_, Known::Now(fit)))) => Some(fit.knowledge),
            Ok(Err(code)) => return Ok(code),
            // That it does not fit at the job's size is an entry like any other.
            Err(failure) => {
                screen.line(&failure.message());
                known_of(args, &overrides, settings, screen)?
            }
        };
        rows.push((model, known));
    }
    screen.clear();
    let devices = job.devices();
    if json {
        print(&serde_json::to_string_pretty(&render::table_json(devices, &rows)).expect("plain data"))?;
    } else {
        print(render::table(devices, &rows).trim_end())?;
    }
    Ok(ExitCode::Done)
}

/// What the cache knows of a job with these overrides.
fn known_of(
    args: &cli::Autobatch,
    overrides: &[String],
    settings: &Settings,
    screen: &Screen,
) -> Result<Option<Knowledge>, Failure> {
    let job = cli::JobArgs {
        job: args.job.job.clone(),
        overrides: args.job.overrides.iter().chain(overrides).cloned().collect(),
    };
    let inventory = super::devices::inventory(settings);
    let mut prepared = prepare::job(&job, inventory, settings.cuda_visible_devices.as_deref(), false)?;
    prepared.find(screen)?;
    Ok(prepared.knowledge(settings))
}
