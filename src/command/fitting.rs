//! Finding out what fits: a few launches of trial steps, with all ranks of the job, before it is planned.
//!
//! ```text
//! sizes that double, without a cap ─▶ model ─▶ plan ─▶ its size, under the cap ─▶ as predicted? ─▶ plan
//!                                       ▲                                            │ no
//!                                       └────────────────────────────────────────────┘
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
use crate::inventory::Device;
use crate::output::Screen;
use crate::plan::Knowledge;
use crate::record::{Journal, RunDir};
use crate::settings::Settings;
use crate::signal::Signals;

/// Launches in all.
const LAUNCHES: u32 = 4;
/// A prediction that was exceeded by this part is made anew.
const WRONG: f64 = 0.01;
/// Where memory ran out, so much less than was predicted is what fits.
const BELOW: f64 = 0.98;

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
    /// Launches that it took.
    pub launches: u32,
    /// The most memory that each rank needed in the last of them, in bytes.
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
    let run = RunDir::create(&prepared.job().runs, &format!("{}-fit", prepared.job().name), SystemTime::now())?;
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
        let mut knowledge = ready.prepared.learn(&heard, &kinds, self.settings).map_err(unwritable)?;
        let mut reserve = knowledge.reserve;
        loop {
            knowledge.reserve = reserve;
            ready.prepared.plan_again(&knowledge)?;
            let measured = vec![None; ready.prepared.plan.ranks.len()];
            if self.launches == LAUNCHES {
                return Ok(self.found(knowledge, measured));
            }
            let ranks: Vec<(u32, Option<u64>)> = (0..)
                .zip(&ready.prepared.plan.ranks)
                .map(|(rank, planned)| (ready.prepared.plan.micro_batch_of(rank), planned.memory.predicted_bytes))
                .collect();
            let sizes = ranks.iter().map(|(micro, _)| *micro).collect();
            let (outcome, confirmed) = self.launch(ready, &Trial { sizes, limits: Vec::new(), most }, true).await?;
            if let Outcome::Stopped(signal) = outcome {
                return Ok(Fitted::Stopped(signal));
            }
            let planned = ready.prepared.devices().to_vec();
            let (mut measured, mut wrong, mut out) = (Vec::new(), false, false);
            for ((rank, device), (micro, predicted)) in (0..).zip(&planned).zip(&ranks) {
                let peak = confirmed.peak(rank);
                measured.push(peak);
                let (Some(predicted), Some(budget)) = (*predicted, device.memory_budget_bytes) else { continue };
                #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
                let (predicted, budget) = (predicted as f64, budget as f64);
                #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
                let exceeded = peak.is_some_and(|peak| peak as f64 > predicted * (1.0 + WRONG));
                if confirmed.ran_out(rank).is_some() && *micro > 0 {
                    // What was predicted for this size is more than there is, whatever the sum says.
                    reserve = reserve.max(1.0 - BELOW * predicted / budget);
                    out = true;
                }
                wrong |= exceeded;
            }
            let failed = match outcome {
                // Python tells of its end, and of nothing else.
                Outcome::Failed(diagnosis) if diagnosis.class == FailureClass::OutOfMemoryDevice && !out => {
                    let rank = diagnosis.rank as usize;
                    let (predicted, budget) =
                        (ranks.get(rank).and_then(|rank| rank.1), planned[rank].memory_budget_bytes);
                    if let (Some(predicted), Some(budget)) = (predicted, budget) {
                        #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
                        let share = predicted as f64 / budget as f64;
                        reserve = reserve.max(1.0 - BELOW * share);
                    }
                    true
                }
                Outcome::Failed(diagnosis) if !out => return Ok(Fitted::Impossible(diagnosis.message)),
                _ => out,
            };
            if !failed && !wrong {
                return Ok(self.found(knowledge, measured));
            }
            // Ranks are numbered by the devices of the plan: those of the first launch, unless it leaves some idle.
            if planned == devices {
                heard.join(confirmed);
                knowledge = ready.prepared.learn(&heard, &kinds, self.settings).map_err(unwritable)?;
            }
        }
    }

    fn found(&self, knowledge: Knowledge, measured: Vec<Option<u64>>) -> Fitted {
        let record = self.run.path().to_owned();
        Fitted::Found(Box::new(Fit { knowledge, launches: self.launches, measured, record }))
    }

    async fn launch(&mut self, ready: &Ready, trial: &Trial, capped: bool) -> Result<(Outcome, Heard), Failure> {
        self.launches += 1;
        let plan = &ready.prepared.plan;
        let (settings, files, run) = (self.settings, &self.files, &self.run);
        let number = self.launches;
        let generation = Generation { ready, settings, files, run, number, plan, trial: Some(trial), capped };
        let ended: Ended = generation.launch(&mut self.journal, self.signals, self.screen).await?;
        if let Some(complaint) = ended.unwritten.first() {
            return Err(Failure::new(ExitCode::MachineNotReady, complaint.clone()));
        }
        if !ended.left.is_empty() {
            let message = format!("the engine did not remove every container: docker rm -f {}", ended.left.join(" "));
            return Err(Failure::new(ExitCode::MachineNotReady, message));
        }
        let outcome = ended.outcome(&self.run, ready.prepared.job(), self.screen);
        let mut heard = ended.tried;
        for (rank, device) in (0..).zip(ready.prepared.devices()) {
            heard.forget_taken(rank, ready.prepared.taken(device));
        }
        Ok((outcome, heard))
    }
}

/// The failure of a device on which not even one image fits, seen while it was tried.
fn too_small(heard: &Heard, rank: u32, device: &Device) -> Option<Failure> {
    let one = heard.ran_out(rank) == Some(1) && heard.peak(rank).is_none();
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
