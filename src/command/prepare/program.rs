//! The image that a job runs in, and what runs in it.

use super::{Prepared, takeover};
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::image::{self, ImageName};
use crate::job::{Containers, Trainer};
use crate::output::Screen;
use crate::settings::Settings;

/// Our own trainer, in every image of ours that trains.
const NATIVE_PROGRAM: [&str; 2] = ["/usr/local/bin/evenkeel-trainer", "train"];

/// The image that runs, and what runs in it.
#[derive(Debug)]
pub struct Program {
    /// Name of the image.
    pub image: String,
    /// Its content identifier; containers are made from this.
    pub id: String,
    /// Digests by which registries have it.
    pub digests: Vec<String>,
    /// Program and arguments.
    pub program: Vec<String>,
    /// Path of the preflight program, where the image holds one.
    pub preflight: Option<String>,
    /// Whether its trainer makes trial steps when it is asked to.
    pub trial: bool,
}

impl Prepared {
    /// The image, built or pulled where the engine does not have it, and what runs in it.
    pub async fn image(&self, engine: &Engine, settings: &Settings, screen: &mut Screen) -> Result<Program, Failure> {
        let job = self.job();
        let options = crate::command::image::options(settings, &[])?;
        let mut progress = |progress| screen.image(&progress);
        let locked = self.takeover.image.as_ref().filter(|locked| self.serves(locked));
        let ready = if let Some(locked) = locked {
            let found = image::find_locked(engine, &locked.name, &locked.id, &locked.digests, &mut progress).await?;
            found.ok_or_else(|| takeover::not_here(locked))?
        } else if let Some(build) = &job.build {
            let lookup = |(name, value): (&String, &Option<String>)| {
                let value = value.clone().or_else(|| settings.all.get(name).cloned())?;
                Some((name.clone(), value))
            };
            let build = image::OwnBuild {
                context: build.context.clone(),
                dockerfile: build.dockerfile.clone(),
                target: build.target.clone(),
                args: build.args.iter().filter_map(lookup).collect(),
            };
            image::build_own(engine, &build, &options, &mut progress).await?
        } else if let Some(name) = &job.image {
            image::find_own(engine, name, &mut progress).await?
        } else {
            image::ensure(engine, self.own_image(), &options, &mut progress).await?
        };
        let image = ready.image;
        let mut program = job.entrypoint.clone().unwrap_or_else(|| image.entrypoint.clone());
        program.extend(match (&job.command, &job.entrypoint) {
            // An image may hold both of our trainers.
            (None, None) if job.trainer == Trainer::Native => NATIVE_PROGRAM.map(str::to_owned).to_vec(),
            (Some(command), _) => command.clone(),
            // As compose has it: another entry point makes the image's command meaningless.
            (None, Some(_)) => Vec::new(),
            (None, None) => image.command.clone(),
        });
        if program.is_empty() {
            let message = format!("image `{}` names no program to run, and neither does the job", ready.name);
            return Err(Failure::new(ExitCode::BadRequest, message).hint("say `command: [...]` in the job"));
        }
        let preflight = match job.containers {
            Containers::PerDevice => image.labels.get("evenkeel.preflight").cloned(),
            Containers::PerHost => None,
        };
        let trial = image.labels.contains_key("evenkeel.trial");
        Ok(Program { image: ready.name, id: image.id, digests: image.digests, program, preflight, trial })
    }

    /// The image of ours that a job runs in which names none.
    pub(super) fn own_image(&self) -> ImageName {
        // What trains natively on a CPU is small; on GPUs CUDA's libraries are most of any image, and this one has them all.
        match self.job().trainer {
            Trainer::Native if !self.on_gpus() => ImageName::Worker,
            Trainer::Native | Trainer::Ultralytics => ImageName::Ultralytics,
            Trainer::Command => ImageName::Worker,
        }
    }

    /// The plan with what the image says of the preflight; a line on it where that was open until now.
    pub fn settle_preflight(&mut self, program: &Program) -> Option<&str> {
        let open = self.plan.preflight.is_none();
        self.preflight = Some(program.preflight.is_some());
        for plan in self.stages.iter_mut().map(|planned| &mut planned.plan).chain([&mut self.plan]) {
            plan.settle_preflight(program.preflight.is_some());
        }
        let reason = self.plan.reasons.iter().find(|reason| reason.starts_with("preflight"))?;
        open.then_some(reason)
    }
}
