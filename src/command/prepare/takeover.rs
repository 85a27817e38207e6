//! What a run takes over from the lock of an earlier one: the image, the split of its steps, and where data and model were.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Prepared, SMOKE_STEPS};
use crate::error::{ExitCode, Failure};
use crate::image::ImageName;
use crate::job::{Job, Micro, SplitWish, Trainer};
use crate::plan::{Plan, Split};
use crate::runlock::{LockedImage, LockedStage};

/// What is as it was. Nothing, by default.
#[derive(Clone, Debug, Default)]
pub struct Takeover {
    /// The run, for people.
    pub of: String,
    /// Its splits.
    pub stages: Vec<LockedStage>,
    /// Its image.
    pub image: Option<LockedImage>,
    /// Where its data is, if not where the job says.
    pub data: Option<String>,
    /// Where its model is, if not where the job says.
    pub model: Option<String>,
    /// At most so many images, in a quick look.
    pub max_images: Option<u32>,
    /// The job file, its folder, and where the command was given, as far as they are those of the earlier run.
    pub places: Option<(PathBuf, PathBuf, PathBuf)>,
}

impl Takeover {
    /// Whether the splits are.
    pub fn is_split(&self) -> bool {
        self.stages.iter().any(|stage| !stage.micro_batches.iter().all(Vec::is_empty))
    }

    /// The split for images of this size: that of the same size, else of the only one that there was.
    fn stage(&self, imgsz: u32) -> Option<&LockedStage> {
        let same = self.stages.iter().find(|stage| stage.imgsz == imgsz);
        same.or_else(|| self.stages.first().filter(|_| self.stages.len() == 1))
    }

    /// Asks for micro-batches of the same size.
    pub fn pin(&self, job: &mut Job, imgsz: u32) {
        if let (Micro::Auto, Some(micro)) = (job.batch.micro, self.stage(imgsz).and_then(LockedStage::micro)) {
            job.batch.micro = Micro::Fixed(micro);
            job.batch.split = SplitWish::Auto;
        }
    }

    /// Cuts the steps as they were where micro-batches differ, if there are as many ranks; and says what was done.
    pub fn cut(&self, plan: &mut Plan, imgsz: u32) {
        let Some(stage) = self.stage(imgsz).filter(|_| self.is_split()) else { return };
        if let Some(micro) = stage.micro() {
            for reason in &mut plan.reasons {
                *reason = reason.replace("as `batch.micro` says", &format!("as the lock of {} has it", self.of));
            }
            if plan.ranks.iter().all(|rank| rank.micro_batches.first().is_none_or(|found| *found == micro)) {
                return;
            }
        }
        let target: u32 = stage.micro_batches.iter().flatten().sum();
        if stage.micro_batches.len() == plan.ranks.len() && plan.target_batch == Some(target) {
            for (rank, cut) in plan.ranks.iter_mut().zip(&stage.micro_batches) {
                rank.images_per_step = Some(cut.iter().sum());
                rank.micro_batches.clone_from(cut);
            }
            plan.split = Some(if stage.micro().is_some() { Split::Uniform } else { Split::Uneven });
            plan.reasons.push(format!("each rank has the micro-batches that it had in {}", self.of));
        } else {
            plan.warnings.push(format!(
                "the micro-batches of {} were not of one size: on other devices its steps are cut in another way",
                self.of
            ));
        }
    }

    /// Where the earlier run went over to smaller micro-batches.
    pub fn micro_from_step(&self, imgsz: u32) -> BTreeMap<u64, u32> {
        self.stage(imgsz).map(|stage| stage.micro_from_step.clone()).unwrap_or_default()
    }
}

impl Prepared {
    /// The data set by its name or path.
    pub(super) fn data_named(&self) -> Option<&str> {
        self.takeover.data.as_deref().or(self.job().data.as_deref())
    }

    /// The model by its name or path.
    pub(super) fn model_named(&self) -> &str {
        self.takeover.model.as_deref().unwrap_or(&self.job().model)
    }

    /// At most so many images.
    pub(super) fn max_images(&self) -> Option<u32> {
        let target = self.job().batch.target.unwrap_or(0);
        self.smoke.then_some(target * SMOKE_STEPS).or(self.takeover.max_images)
    }

    /// Whether the earlier run's image can run this one: what trains on CPUs lacks CUDA's libraries.
    pub(super) fn serves(&self, locked: &LockedImage) -> bool {
        let job = self.job();
        let small = locked.ours && locked.name.starts_with(&format!("{}:", ImageName::Worker.repository()));
        let ours = job.image.is_none() && job.build.is_none() && job.trainer == Trainer::Native;
        !(ours && small && self.own_image() != ImageName::Worker)
    }
}

/// The failure of an engine that does not have the image.
pub(super) fn not_here(locked: &LockedImage) -> Failure {
    let LockedImage { name, id, digests, .. } = locked;
    let message = format!("the engine does not have the image {id} (`{name}`) that the run was made with");
    let hint = match digests.first() {
        Some(digest) => format!("`evenkeel image pull {digest}` where its registry can be reached"),
        None => format!(
            "where the run was made: `evenkeel image save {name} -o image.tar.gz`; here: `evenkeel image load image.tar.gz`"
        ),
    };
    let other = "; or take another one with `image=NAME`, which the new record says";
    Failure::new(ExitCode::MachineNotReady, message).hint(hint + other)
}
