//! What a prepared job is made of, as a lock has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evenkeel_wire::trainer_job::DataSet;

use super::{Planned, Prepared, Program};
use crate::command::image::options;
use crate::error::Failure;
use crate::image;
use crate::inventory::host;
use crate::plan::Plan;
use crate::runlock::code::Named;
use crate::runlock::{LockedDevice, LockedImage, LockedJob, LockedModel, LockedStage, secret};
use crate::settings::Settings;

impl Prepared {
    /// What was asked for.
    #[must_use]
    pub fn locked_job(&self) -> LockedJob {
        let here = std::env::current_dir().unwrap_or_default();
        let file = &self.resolved.file;
        let folder = || {
            let whole = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            whole.parent().map(Path::to_owned).unwrap_or_default()
        };
        let (file, folder, called_from) =
            self.takeover.places.clone().unwrap_or_else(|| (file.clone(), folder(), here));
        let settings = self.resolved.settings().into_iter().map(|(path, value, origin)| {
            let setting = secret::setting(&path, value, origin);
            (path, setting)
        });
        LockedJob { file, folder, called_from, max_images: self.max_images(), settings: settings.collect() }
    }

    /// The secrets that stand in the job.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        secret::values(&self.resolved.settings())
    }

    /// The image that was found for it.
    #[must_use]
    pub fn locked_image(&self, program: &Program) -> LockedImage {
        let ours = match &self.takeover.image {
            Some(locked) if locked.id == program.id => locked.ours,
            _ => self.job().image.is_none() && self.job().build.is_none(),
        };
        LockedImage { name: program.image.clone(), id: program.id.clone(), digests: program.digests.clone(), ours }
    }

    /// Folder of the project: where the job file is, or where a job without one runs again.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        let folder = self.locked_job().folder;
        if folder.is_dir() { folder } else { std::env::current_dir().unwrap_or_default() }
    }

    /// Files of the project that the job names.
    #[must_use]
    pub fn named_files(&self) -> Vec<Named> {
        let job = match &self.takeover.places {
            // What is run again has no job file of its own.
            Some(_) => None,
            None => std::path::absolute(&self.resolved.file).ok(),
        };
        let files = job.into_iter().map(|path| Named { key: "job", path });
        let volumes = self.job().volumes.iter().filter(|volume| volume.source.is_file());
        let volumes = volumes.map(|volume| Named { key: "volumes", path: volume.source.clone() });
        let all = files.chain(volumes);
        // Git knows files by their true place.
        all.map(|named| Named { path: named.path.canonicalize().unwrap_or(named.path), ..named }).collect()
    }

    /// The data set: its file, what is in it, and its numbers of images.
    #[must_use]
    pub fn found_data(&self) -> Option<(&Path, &DataSet, [u64; 2])> {
        let data = self.data.as_ref()?;
        Some((&data.yaml, &data.data, [data.train.images as u64, data.val.images as u64]))
    }

    /// The model, with the hash of its file.
    #[must_use]
    pub fn locked_model(&self) -> Option<LockedModel> {
        let model = self.model.as_ref()?;
        let content = model.content().unwrap_or_else(|| "unreadable".to_owned());
        Some(LockedModel { path: model.mount.as_ref().map(|mount| mount.source.clone()), content })
    }

    /// The device of each rank.
    #[must_use]
    pub fn locked_devices(&self) -> Vec<LockedDevice> {
        let processor = host::processor();
        let kind = |device: &crate::inventory::Device| match (&processor, device.id.uuid()) {
            (Some(processor), None) => format!("{} ({processor})", device.kind()),
            _ => device.kind().to_string(),
        };
        let threads = self.rank_devices().into_iter().map(|device| device.threads);
        self.devices
            .iter()
            .zip(threads)
            .map(|(device, threads)| LockedDevice {
                id: device.id.to_string(),
                kind: kind(device),
                threads,
                memory_cap_bytes: device.memory_cap_bytes,
            })
            .collect()
    }

    /// Versions by name, as far as they are known.
    ///
    /// # Errors
    ///
    /// The settings of images are wrong.
    pub fn versions(&self, program: &Program, settings: &Settings) -> Result<BTreeMap<String, String>, Failure> {
        let mut versions = image::versions(&program.image, &options(settings, &[])?);
        versions.insert("evenkeel".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        // What a training on processors does not touch says nothing about it.
        if self.devices.iter().any(|device| device.id.uuid().is_some()) {
            let host = &self.inventory.host;
            versions.extend(host.driver.clone().map(|driver| ("driver".to_owned(), driver)));
            versions.extend(host.cuda_driver.map(|cuda| ("cuda_driver".to_owned(), cuda.to_string())));
        } else {
            versions.remove("nccl");
            versions.remove("cudnn");
        }
        Ok(versions)
    }

    /// How the steps of each stage are planned to be split.
    #[must_use]
    pub fn locked_stages(&self) -> Vec<LockedStage> {
        let stage = |planned: &Planned| {
            let Planned { stage, plan, .. } = planned;
            let micro_from_step = self.takeover.micro_from_step(stage.imgsz);
            let (from_epoch, imgsz) = (stage.from_epoch, stage.imgsz);
            LockedStage {
                from_epoch,
                imgsz,
                target: plan.target_batch,
                micro_batches: micro_batches(plan),
                micro_from_step,
                amp: plan.amp.map(|amp| amp.name().to_owned()),
            }
        };
        self.stages.iter().map(stage).collect()
    }
}

/// The micro-batches of each rank.
pub fn micro_batches(plan: &Plan) -> Vec<Vec<u32>> {
    plan.ranks.iter().map(|rank| rank.micro_batches.clone()).collect()
}
