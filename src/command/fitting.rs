//! Finding out what fits: a few launches of trial steps, with all ranks of the job, before it is planned.
//!
//! ```text
//! sizes that double, without a cap ─▶ model ─▶ the largest size, under the cap ─▶ as predicted? ─▶ plan
//!                                       ▲                                               │ no
//!                                       └───────────────────────────────────────────────┘
//! ```
//!
//! The first launch is not held to the caps of CPU devices, whose memory is counted anyway: what a single image needs is known then, though it
//! may be more than there is. The launches have a record of their own, beside those of the job's trainings.

use std::time::SystemTime;

use evenkeel_wire::FailureClass;
use evenkeel_wire::trainer_job::Trial;
use serde_json::json;

use super::train::generation::{Ended, Generation};
use super::train::{Outcome, Ready};
use crate::agent::{self, Files};
use crate::error::{ExitCode, Failure};
use crate::event::Signal;
use crate::failure::Diagnosis;
use crate::fit::Heard;
use crate::fit::render::most_images;
use crate::inventory::Device;
use crate::output::Screen;
use crate::plan::Knowledge;
use crate::plan::memory::Images;
use crate::record::find::FIT;
use crate::record::{Journal, RunDir};
use crate::settings::Settings;
use crate::signal::Signals;

/// Launches in all.
const LAUNCHES: u32 = 4;
/// A size is as good as confirmed when what was tried is this part of it off at most.
const NEAR: u32 = 20;

/// What came of it.
pub enum Fitted {
    /// The job is planned with this.
    Found(Box<Fit>),
    /// Somebody asked for the end.
    Stopped(Signal),
    /// Trial steps cannot be made; why.
    Impossible(String),
}

/// What was found.
pub struct Fit {
    pub knowledge: Knowledge,
    /// Side of the images in pixels.
    pub imgsz: u32,
    /// Launches that it took.
    pub launches: u32,
    /// The most memory that each rank of the trial needed in the last of them, in bytes.
    pub measured: Vec<Option<u64>>,
    /// Where the launches are recorded.
    pub record: std::path::PathBuf,
}

/// Launches with one record.
struct Trials<'a> {
    settings: &'a Settings,
    signals: &'a mut Signals,
    screen: &'a mut Screen,
    files: Files,
    run: RunDir,
    journal: Journal,
    launches: u32,
}

/// Finds out what fits on the devices that the job was given, and plans it with that.
///
/// # Errors
///
/// Not even one image fits, or what the job asks for does not; or engine, disk or cache failed.
pub async fn fit(
    ready: &mut Ready,
    settings: &Settings,
    signals: &mut Signals,
    screen: &mut Screen,
) -> Result<Fitted, Failure> {
    if !ready.image.trial {
        return Ok(Fitted::Impossible(format!("the trainer of image `{}` makes no trial steps", ready.image.image)));
    }
    let prepared = &ready.prepared;
    let files = agent::files(&settings.cache)?;
    let _locks = prepared.lock_devices(settings)?;
    let run = RunDir::create(&prepared.job().runs, &format!("{}{FIT}", prepared.job().name), SystemTime::now())?;
    let mut journal = Journal::create(&run)?;
    prepared.write_job(&run)?;
    journal.append("run", json!({ "run": run.id(), "image": ready.image.image, "image_id": ready.image.id }))?;
    let mut trials = Trials { settings, signals, screen, files, run, journal, launches: 0 };
    let fitted = trials.fit(ready).await;
    let what = match &fitted {
        Ok(Fitted::Found(fit)) => json!({ "found": fit.knowledge, "launches": fit.launches }),
        Ok(Fitted::Stopped(signal)) => json!({ "stopped": format!("{signal:?}") }),
        Ok(Fitted::Impossible(why)) => json!({ "impossible": why }),
        Err(failure) => json!({ "failed": failure.message() }),
    };
    trials.journal.append("end", what)?;
    fitted
}

impl Trials<'_> {
    async fn fit(&mut self, ready: &mut Ready) -> Result<Fitted, Failure> {
        let devices = ready.prepared.devices().to_vec();
        let kinds: Vec<_> = devices.iter().map(Device::kind).collect();
        let most = ready.prepared.job().batch.target.unwrap_or(1);
        let limits = devices.iter().map(|device| device.memory_budget_bytes).collect();
        self.screen.line("finding out what fits: trial steps of larger and larger micro-batches");
        let (outcome, mut heard) = self.launch(ready, &Trial { sizes: Vec::new(), limits, most }, false).await?;
        match outcome {
            Outcome::Stopped(signal) => return Ok(Fitted::Stopped(signal)),
            // What came before memory ran out is worth what it is.
            Outcome::Failed(diagnosis) if diagnosis.class == FailureClass::OutOfMemoryDevice => {
                if !heard.any_fits() {
                    return Err(nothing_fits(&diagnosis, &devices));
                }
            }
            Outcome::Failed(diagnosis) => return Ok(Fitted::Impossible(diagnosis.message)),
            Outcome::Done => {}
        }
        if let Some(failure) = (0..).zip(&devices).find_map(|(rank, device)| too_small(&heard, rank, device)) {
            return Err(failure);
        }
        let mut knowledge = ready.prepared.learn(&heard, &kinds, self.settings);
        let like = ready.prepared.images(&knowledge);
        let largest = |knowledge: &Knowledge| -> Vec<u32> {
            let images = Images { labels: knowledge.labels, ..like };
            devices.iter().map(|device| most_images(device, knowledge, images).unwrap_or(most).min(most)).collect()
        };
        let mut measured = vec![None; devices.len()];
        while self.launches < LAUNCHES {
            let sizes = largest(&knowledge);
            if sizes.contains(&0) {
                break;
            }
            let trial = Trial { sizes: sizes.clone(), limits: Vec::new(), most };
            let (outcome, confirmed) = self.launch(ready, &trial, true).await?;
            let failed = match outcome {
                Outcome::Stopped(signal) => return Ok(Fitted::Stopped(signal)),
                Outcome::Failed(diagnosis) if diagnosis.class == FailureClass::OutOfMemoryDevice => {
                    Some(diagnosis.rank)
                }
                Outcome::Failed(diagnosis) => return Ok(Fitted::Impossible(diagnosis.message)),
                Outcome::Done => None,
            };
            measured = (0..).zip(&devices).map(|(rank, _)| confirmed.peak(rank)).collect();
            let out: Vec<u32> = (0..)
                .zip(&devices)
                .filter(|(rank, _)| confirmed.ran_out(*rank).is_some() || failed == Some(*rank))
                .map(|(rank, _)| rank)
                .collect();
            heard.join(confirmed);
            for rank in &out {
                if let Some(budget) = devices[*rank as usize].memory_budget_bytes {
                    heard.bound(*rank, sizes[*rank as usize], budget);
                }
            }
            knowledge = ready.prepared.learn(&heard, &kinds, self.settings);
            let near = |(one, other): (&u32, &u32)| one.abs_diff(*other) <= 1.max(one / NEAR);
            if out.is_empty() && sizes.iter().zip(&largest(&knowledge)).all(near) {
                break;
            }
        }
        // Known to the next run only now: it would not try again what nobody has confirmed.
        ready.prepared.keep(&knowledge, &heard, &kinds, self.settings).map_err(unwritable)?;
        ready.prepared.plan_again(&knowledge)?;
        let (launches, record) = (self.launches, self.run.path().to_owned());
        let imgsz = ready.prepared.stage().imgsz;
        Ok(Fitted::Found(Box::new(Fit { knowledge, imgsz, launches, measured, record })))
    }

    async fn launch(&mut self, ready: &Ready, trial: &Trial, capped: bool) -> Result<(Outcome, Heard), Failure> {
        self.launches += 1;
        let plan = &ready.prepared.plan;
        let (settings, files, run) = (self.settings, &self.files, &self.run);
        let number = self.launches;
        let (restarts, stage, trial) = (0, 0, Some(trial));
        let generation = Generation { ready, settings, files, run, number, restarts, stage, plan, trial, capped };
        let ended: Ended = generation.launch(&mut self.journal, self.signals, self.screen, &mut |_, _| ()).await?;
        if let Some(complaint) = ended.unwritten.first() {
            return Err(Failure::new(ExitCode::MachineNotReady, complaint.clone()));
        }
        if !ended.left.is_empty() {
            let message = format!("the engine did not remove every container: docker rm -f {}", ended.left.join(" "));
            return Err(Failure::new(ExitCode::MachineNotReady, message));
        }
        let outcome = match ended.asked() {
            Some(signal) => Outcome::Stopped(signal),
            None => ended.outcome(&self.run, ready.prepared.job(), self.screen),
        };
        let mut heard = ended.tried;
        for (rank, device) in (0..).zip(ready.prepared.devices()) {
            heard.forget_taken(rank, ready.prepared.taken(device));
        }
        Ok((outcome, heard))
    }
}

/// The failure of a device on which not even one image fits, seen while it was tried.
fn too_small(heard: &Heard, rank: u32, device: &Device) -> Option<Failure> {
    let one = heard.ran_out(rank) == Some(1) && !heard.fits(rank);
    one.then(|| {
        let has = device.memory_budget_bytes.map(crate::inventory::render::bytes);
        let has = has.map_or(String::new(), |has| format!(" ({has})"));
        let message = format!("a micro-batch of 1 image does not fit into the memory of {}{has}", device.name);
        Failure::new(ExitCode::OutOfMemory, message).hint(LIGHTER)
    })
}

const LIGHTER: &str = "a smaller `imgsz`, a lighter model, `args.amp: true` on a GPU, or more memory would help";

fn nothing_fits(diagnosis: &Diagnosis, devices: &[Device]) -> Failure {
    let device = devices.get(diagnosis.rank as usize).map_or("a device", |device| device.name.as_str());
    let message = format!("not even trial steps of 1 image fit on {device}: {}", diagnosis.message);
    Failure::new(ExitCode::OutOfMemory, message).hint(LIGHTER)
}

fn unwritable(error: std::io::Error) -> Failure {
    let failure = Failure::new(ExitCode::MachineNotReady, error);
    failure.hint("what was found is kept in the cache: set XDG_CACHE_HOME to a folder that you may write to")
}
