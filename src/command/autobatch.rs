//! `evenkeel autobatch`: what fits, found out by trial steps or known from earlier ones.

use serde_json::{Value, json};

use super::fitting::{self, Fit, Fitted};
use super::prepare::{self, Prepared};
use super::train::{self, Ready};
use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::fit::render;
use crate::job::Stage;
use crate::output::{Screen, print, say};
use crate::plan::Knowledge;
use crate::plan::memory::Images;
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
    let (job, fits) = match find(args, &[], settings, &mut screen, &mut signals).await? {
        Ok(found) => found,
        Err(code) => return Ok(code),
    };
    let prepared = job.prepared();
    screen.clear();
    let stages: Vec<(Stage, Knowledge)> = prepared.known_stages(settings);
    if json {
        let mut stages = stages.iter().map(|(stage, knowledge)| as_json(prepared, *stage, knowledge, &fits));
        let mut value = stages.next().unwrap_or_default();
        let more: Vec<Value> = stages.collect();
        if !more.is_empty() {
            value["further_stages"] = more.into();
        }
        value["plan"] = prepared.plan_as_json();
        print(&serde_json::to_string_pretty(&value).expect("plain data"))?;
    } else {
        let tables = stages.iter().map(|(stage, knowledge)| {
            let images = Images { side: stage.imgsz, ..prepared.images(knowledge) };
            render::kinds(prepared.devices(), knowledge, images)
        });
        print(&format!("{}\n{}", tables.collect::<String>(), prepared.describe().trim_end()))?;
    }
    for fit in &fits {
        screen.line(&format!("{} launches; record: {}", fit.launches, fit.record.display()));
    }
    if fits.is_empty() {
        screen.line("as earlier trials found it; `--again` tries again");
    }
    Ok(ExitCode::Done)
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

/// Plans a job, with overrides beside those of the command line, with what is known or what is found out: one fit for each image size of which
/// nothing was known. An exit code is that of a person who had enough.
async fn find(
    args: &cli::Autobatch,
    overrides: &[String],
    settings: &Settings,
    screen: &mut Screen,
    signals: &mut Option<Signals>,
) -> Result<Result<(Job, Vec<Fit>), ExitCode>, Failure> {
    let mut prepared = look(args, overrides, settings, screen)?;
    if !prepared.is_fittable() {
        let failure =
            Failure::bad("only a trainer whose steps are known can be tried; this job runs a program of its own");
        return Err(failure.hint("it is told its micro-batch, and begins again with half of it where memory runs out"));
    }
    prepared.check_paths()?;
    if !args.again {
        prepared.use_knowledge(settings)?;
        if prepared.all_known() {
            return Ok(Ok((Job::Planned(Box::new(prepared)), Vec::new())));
        }
    }
    if args.dry_run {
        let failure = Failure::bad("not everything is known of this job on these devices yet");
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
    let mut fits = Vec::new();
    for stage in 0..ready.prepared.stages() {
        ready.prepared.begin_stage(stage);
        if ready.prepared.is_known() && !args.again {
            continue;
        }
        match fitting::fit(&mut ready, settings, signals, screen).await? {
            Fitted::Found(fit) => fits.push(*fit),
            Fitted::Stopped(signal) => {
                screen.clear();
                say("stopped");
                return Ok(Err(train::interrupted(signal)));
            }
            Fitted::Impossible(why) => {
                let failure = Failure::new(ExitCode::TrainingFailed, format!("trial steps cannot be made: {why}"));
                return Err(failure.hint(
                    "a training begins with micro-batches that mostly fit, and halves them where memory runs out",
                ));
            }
        }
    }
    ready.prepared.begin_stage(0);
    Ok(Ok((Job::Ready(Box::new(ready)), fits)))
}

/// Reads the job and finds what this machine has of it.
fn look(
    args: &cli::Autobatch,
    overrides: &[String],
    settings: &Settings,
    screen: &Screen,
) -> Result<Prepared, Failure> {
    let job = cli::JobArgs {
        job: args.job.job.clone(),
        overrides: args.job.overrides.iter().chain(overrides).cloned().collect(),
    };
    let inventory = super::devices::inventory(settings);
    let mut prepared = prepare::job(&job, inventory, settings.cuda_visible_devices.as_deref(), false)?;
    prepared.find(screen)?;
    Ok(prepared)
}

fn as_json(prepared: &Prepared, stage: Stage, knowledge: &Knowledge, fits: &[Fit]) -> Value {
    let images = Images { side: stage.imgsz, ..prepared.images(knowledge) };
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
    let fit = fits.iter().find(|fit| fit.imgsz == stage.imgsz);
    json!({
        "version": 1, "imgsz": images.side, "labels": images.labels, "devices": devices.collect::<Vec<_>>(),
        "all_reduce_seconds": knowledge.all_reduce_seconds, "launches": fit.map(|fit| fit.launches),
        "measured_bytes": fit.map(|fit| &fit.measured), "record": fit.map(|fit| &fit.record),
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
    let job = look(args, &[], settings, screen)?;
    let models = prepare::family(&job.job().model);
    if models.is_empty() {
        let failure = Failure::bad(format!("`model: {}` is none of a family of sizes", job.job().model));
        return Err(failure.hint("a table is made for models by name, such as `yolov8n.yaml`"));
    }
    let size = job.stage().imgsz;
    let mut rows = Vec::new();
    for model in models {
        screen.line(&format!("{model}:"));
        let overrides = [format!("model={model}"), "batch.micro=auto".to_owned(), format!("imgsz={size}")];
        match find(args, &overrides, settings, screen, signals).await {
            Ok(Ok(_)) => {}
            Ok(Err(code)) => return Ok(code),
            // That it does not fit at the job's size is an entry like any other.
            Err(failure) if failure.code() == ExitCode::OutOfMemory => screen.line(&failure.message()),
            Err(failure) if args.dry_run && failure.code() == ExitCode::BadRequest => {}
            Err(failure) => return Err(failure),
        }
        rows.push((model, look(args, &overrides, settings, screen)?.knowledge(settings)));
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
