//! What is known of a job's time and memory: found by trials, kept in the cache, and what a plan makes of it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::model::local_model;
use super::{Prepared, planned};
use crate::command::fetch::local_data;
use crate::command::image::options;
use crate::dataset::hex;
use crate::error::Failure;
use crate::fit::Heard;
use crate::fit::render::most_images;
use crate::fit::store::{self, Found, Key, Of};
use crate::image;
use crate::inventory::{Device, Kind};
use crate::job::{Micro, OnOom, Stage, Trainer};
use crate::plan::memory::Images;
use crate::plan::{Abilities, Knowledge, Lighter, Plan};
use crate::settings::Settings;

/// Of a device's memory, what a plan leaves free: our trainer's is counted to the byte, but what an epoch brings is chance.
const NATIVE_RESERVE: f64 = 0.01;
/// The heap of a trainer in Python, which a CPU device's cap counts whole, is a percent larger in one run than in another.
const HEAP_RESERVE: f64 = 0.02;
/// What torch's allocator on a GPU leaves unused between tensors of other sizes.
const CACHE_RESERVE: f64 = 0.04;
/// Images of the first micro-batch to try where nothing is known: what people begin with.
const LADDER: u32 = 32;
/// A fit says little of micro-batches that are so many times larger than any that was tried.
const BEYOND: u32 = 3;
/// Epochs without mosaics at the end of a training, unless the job says otherwise; both trainers have it so.
const CLOSE_MOSAIC: u64 = 10;
/// Steps from which on both trainers take SGD where the optimizer is left to them, about: another number of images is added to them.
const LONG: u64 = 10_000;
/// Sizes of YOLO's models, the lightest first.
const SIZES: [char; 5] = ['n', 's', 'm', 'l', 'x'];

impl Prepared {
    /// Whether it is worth a few trial steps to find out what fits: memory has a limit, or unlike devices wait for each other.
    #[must_use]
    pub fn wants_fit(&self) -> bool {
        let devices = &self.selection.devices;
        let unlike = devices.windows(2).any(|pair| pair[0].kind() != pair[1].kind());
        self.is_fittable() && self.is_split_open() && !self.smoke && (self.is_limited() || unlike)
    }

    /// Whether a training should begin with micro-batches that mostly fit: memory has a limit, and trial steps cannot be made.
    #[must_use]
    pub fn wants_ladder(&self) -> bool {
        let job = self.job();
        let asked = job.batch.target.is_some() && self.is_split_open() && job.batch.on_oom == OnOom::StepDown;
        asked && !self.is_fittable() && self.is_limited() && self.plan.micro_batch_of(0) > LADDER
    }

    /// Whether the sizes of micro-batches are left to us.
    fn is_split_open(&self) -> bool {
        self.job().batch.micro == Micro::Auto && !self.takeover.is_split()
    }

    /// Whether the memory of a device is.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        let limited = |device: &Device| device.id.uuid().is_some() || device.memory_cap_bytes.is_some();
        self.selection.devices.iter().any(limited)
    }

    /// Whether trial steps can say anything of the job.
    #[must_use]
    pub fn is_fittable(&self) -> bool {
        self.job().trainer != Trainer::Command && self.job().batch.target.is_some()
    }

    /// The devices that the plan uses, in the order of the ranks.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// What the job's images are like, as far as memory cares.
    #[must_use]
    pub fn images(&self, knowledge: &Knowledge) -> Images {
        knowledge.images(self.stage().imgsz, Abilities::of(self.job().trainer).validation)
    }

    /// Memory of a GPU that is taken before the job is there, in bytes; 0 where that is unknown.
    #[must_use]
    pub fn taken(&self, device: &Device) -> u64 {
        let gpus = self.inventory.gpus.iter().flat_map(|card| std::iter::once(card).chain(card.instances()));
        let memory = gpus.filter(|gpu| gpu.uuid.as_deref() == device.id.uuid()).find_map(|gpu| gpu.memory);
        memory.map_or(0, |memory| memory.total_bytes - memory.free_bytes)
    }

    /// What decides how much memory and time a micro-batch takes. Nothing where that cannot be told yet: an image that is still to be
    /// built, weights or data that are still to be fetched.
    #[must_use]
    pub fn key(&self, settings: &Settings) -> Option<Key> {
        let job = self.job();
        let image = match (&job.build, &job.image) {
            (Some(_), _) => return None,
            (None, Some(name)) => name.clone(),
            (None, None) => image::tags(&options(settings, &[]).ok()?).of(self.own_image()).to_owned(),
        };
        let model = self.model.as_ref()?.content()?;
        let data = self.data.as_ref()?;
        let steps = u64::from(job.epochs) * (data.train.images as u64).div_ceil(job.batch.target?.into());
        let closing = job.args.get("close_mosaic").and_then(serde_json::Value::as_u64).unwrap_or(CLOSE_MOSAIC);
        Some(Key {
            trainer: job.trainer.name().to_owned(),
            model,
            imgsz: self.stage().imgsz,
            classes: data.data.names.len(),
            image,
            amp: self.plan.amp.map(|amp| amp.name().to_owned()),
            distributed: self.selection.devices.len() > 1,
            data: self.data_name()?,
            mosaics: u64::from(job.epochs) > closing,
            long: steps > LONG,
            args: Key::settings_that_matter(&job.args),
        })
    }

    /// What is known of the stage on the devices that the job was given, by a trial just now or from the cache, if that is enough for a plan.
    #[must_use]
    pub fn knowledge(&self, settings: &Settings) -> Option<Knowledge> {
        self.knowledge_of(self.stage().imgsz, settings)
    }

    fn knowledge_of(&self, imgsz: u32, settings: &Settings) -> Option<Knowledge> {
        if let Some(found) = self.found.get(&imgsz) {
            return Some(found.clone());
        }
        let key = Key { imgsz, ..self.key(settings)? };
        let found = store::read(&settings.cache, &key);
        let devices = self.devices.iter();
        let kinds: Vec<(&Device, Kind, Of)> = devices
            .map(|device| (device, device.kind()))
            .map(|(device, kind)| found.kinds.get(&kind).map(|of| (device, kind, *of)))
            .collect::<Option<_>>()?;
        let all_reduce_seconds = kinds.iter().map(|(.., of)| of.all_reduce_seconds).fold(0.0, f64::max);
        let labels = kinds.iter().map(|(.., of)| of.labels).max()?;
        let lighter = lighter(&key, settings);
        let known = kinds.iter().map(|(_, kind, of)| (kind.clone(), of.known)).collect();
        let knowledge = Knowledge {
            kinds: known,
            labels,
            validation_images: self.validation_images(),
            all_reduce_seconds,
            reserve: self.reserve(),
            lighter,
        };
        // Sizes that are much larger than any that was tried are as unknown as if nothing was.
        let images = Images { side: imgsz, ..self.images(&knowledge) };
        let target = self.job().batch.target.unwrap_or(1);
        let seen = kinds.iter().all(|(device, _, of)| {
            most_images(device, &knowledge, images)
                .is_none_or(|most| most.min(target) <= of.tried.saturating_mul(BEYOND))
        });
        seen.then_some(knowledge)
    }

    /// What is known of each stage of which anything is.
    #[must_use]
    pub fn known_stages(&self, settings: &Settings) -> Vec<(Stage, Knowledge)> {
        let known = |planned: &super::Planned| Some((planned.stage, self.knowledge_of(planned.stage.imgsz, settings)?));
        self.stages.iter().filter_map(known).collect()
    }

    /// What a trial found, as knowledge.
    #[must_use]
    pub fn learn(&self, heard: &Heard, kinds: &[Kind], settings: &Settings) -> Knowledge {
        let lighter = self.key(settings).map(|key| lighter(&key, settings)).unwrap_or_default();
        Knowledge {
            kinds: heard.kinds(kinds),
            labels: heard.labels(),
            validation_images: self.validation_images(),
            all_reduce_seconds: heard.all_reduce_seconds(),
            reserve: self.reserve(),
            lighter,
        }
    }

    /// Keeps it for the next stage of this size and, as far as what it is of can be named, for the next run.
    ///
    /// # Errors
    ///
    /// The cache cannot be written.
    pub fn keep(
        &mut self,
        knowledge: &Knowledge,
        heard: &Heard,
        kinds: &[Kind],
        settings: &Settings,
    ) -> std::io::Result<()> {
        self.found.insert(self.stage().imgsz, knowledge.clone());
        let Some(key) = self.key(settings) else { return Ok(()) };
        let tried = heard.largest(kinds);
        let of = |(kind, known): (&Kind, &_)| {
            let tried = tried.get(kind).copied().unwrap_or(0);
            let Knowledge { labels, all_reduce_seconds, .. } = *knowledge;
            (kind.clone(), Of { known: *known, labels, tried, all_reduce_seconds })
        };
        store::write(&settings.cache, &key, Found { kinds: knowledge.kinds.iter().map(of).collect() }).map(drop)
    }

    /// Plans every stage of which enough is known with that.
    ///
    /// # Errors
    ///
    /// The job does not fit.
    pub fn use_knowledge(&mut self, settings: &Settings) -> Result<(), Failure> {
        if !self.is_fittable() || self.smoke {
            return Ok(());
        }
        for at in 0..self.stages() {
            self.begin_stage(at);
            if let Some(knowledge) = self.knowledge(settings) {
                self.plan_again(&knowledge)?;
            }
        }
        self.begin_stage(0);
        Ok(())
    }

    /// The same for a plan alone, for which data and model need not be there.
    ///
    /// # Errors
    ///
    /// The job does not fit.
    pub fn use_knowledge_of(&mut self, settings: &Settings) -> Result<(), Failure> {
        let Some(named) = self.data_named().map(str::to_owned).filter(|_| self.is_fittable()) else { return Ok(()) };
        if let (Ok(Some(data)), Ok(model)) = (local_data(&named), local_model(self.model_named())) {
            (self.data, self.model) = (Some(data), model);
            return self.use_knowledge(settings);
        }
        Ok(())
    }

    /// Whether the stage was planned with what is known of memory.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.plan.ranks.iter().all(|rank| rank.memory.predicted_bytes.is_some())
    }

    /// Whether all stages were.
    #[must_use]
    pub fn all_known(&self) -> bool {
        let plans = self.stages.iter().map(|planned| &planned.plan);
        plans.flat_map(|plan| &plan.ranks).all(|rank| rank.memory.predicted_bytes.is_some())
    }

    /// Plans the stage with micro-batches that mostly fit, to step down from: `why` nothing better can be done.
    pub fn begin_ladder(&mut self, why: &str) {
        let mut plan = self.plan.at_most(LADDER).unwrap_or_else(|| self.plan.clone());
        let after = match self.job().batch.on_oom {
            OnOom::StepDown => " and are halved where memory runs out",
            OnOom::Fail => "",
        };
        plan.warnings.push(format!(
            "what fits was not found out ({why}): micro-batches begin at {}{after}",
            plan.micro_batch_of(0)
        ));
        self.set(plan, self.devices.clone());
    }

    /// Plans the stage again, with what is known.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub fn plan_again(&mut self, knowledge: &Knowledge) -> Result<(), Failure> {
        let side = self.stage().imgsz;
        let (plan, devices) = planned(
            &self.resolved,
            &self.inventory,
            &self.selection,
            (self.smoke, &self.takeover),
            side,
            Some(knowledge),
        )?;
        self.set(plan, devices);
        Ok(())
    }

    fn set(&mut self, mut plan: Plan, devices: Vec<Device>) {
        if let Some(preflight) = self.preflight {
            plan.settle_preflight(preflight);
        }
        let planned = &mut self.stages[self.at];
        (planned.plan, planned.devices) = (plan.clone(), devices.clone());
        (self.plan, self.devices) = (plan, devices);
    }

    /// All ranks' together: which of them validates how many is known only with the plan.
    fn validation_images(&self) -> Option<u32> {
        self.data.as_ref().and_then(|data| data.val.images.try_into().ok())
    }

    fn reserve(&self) -> f64 {
        match self.job().trainer {
            Trainer::Native => NATIVE_RESERVE,
            _ if self.on_gpus() => CACHE_RESERVE,
            _ => HEAP_RESERVE,
        }
    }

    /// What names the data: its place, how many images are there, and when its folders changed. A label file that was edited in place is
    /// not seen.
    fn data_name(&self) -> Option<String> {
        let data = self.data.as_ref()?;
        let changed = |folder: &String| {
            let folder = Path::new(&data.data.path).join(folder);
            let labels = folder.to_string_lossy().replacen("images", "labels", 1);
            [folder, labels.into()]
                .map(|path| std::fs::metadata(path).ok().map(|found| (found.mtime(), found.mtime_nsec())))
        };
        let times: Vec<_> = data.data.train.iter().chain(&data.data.val).map(changed).collect();
        let mut digest = Sha256::new();
        digest.update(format!("{times:?}"));
        let stamp = hex(&digest.finalize()[..4]);
        Some(format!("{} {} {stamp}", self.place_of_data()?, data.train.images))
    }
}

/// What the cache knows of lighter models, the heaviest of them first.
fn lighter(key: &Key, settings: &Settings) -> Vec<Lighter> {
    let lighter = |model: String| {
        let found = store::read(&settings.cache, &Key { model: model.clone(), ..key.clone() });
        let memory: std::collections::BTreeMap<_, _> =
            found.kinds.into_iter().filter_map(|(kind, of)| Some((kind, of.known.memory?))).collect();
        (!memory.is_empty()).then(|| Lighter { change: format!("model={model}"), memory })
    };
    variants(&key.model).into_iter().rev().filter_map(lighter).collect()
}

/// The models that are lighter than this one, if it is one by name: `yolov8m.yaml` has `yolov8n.yaml` and `yolov8s.yaml`.
fn variants(model: &str) -> Vec<String> {
    family(model).into_iter().take_while(|other| other != model).collect()
}

/// All sizes of a model, if it is one by name, the lightest first.
pub fn family(model: &str) -> Vec<String> {
    let stem = model.strip_suffix(".yaml").unwrap_or_default();
    let family = stem.strip_suffix(SIZES).filter(|family| family.starts_with("yolo") && !family.contains('/'));
    let sized = |family: &str| SIZES.iter().map(|size| format!("{family}{size}.yaml")).collect();
    family.map(sized).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lighter_models_are_those_of_the_family() {
        assert_eq!(variants("yolov8m.yaml"), ["yolov8n.yaml", "yolov8s.yaml"]);
        assert!(variants("yolov8n.yaml").is_empty());
        assert!(variants("mine/yolov8m.yaml").is_empty() && variants("custom.yaml").is_empty());
    }
}
