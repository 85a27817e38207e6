//! What is known of a job's time and memory: found by trials, kept in the cache, and what a plan makes of it.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Prepared, local_model, planned};
use crate::command::fetch::local_data;
use crate::command::image::options;
use crate::error::Failure;
use crate::fit::Heard;
use crate::fit::store::{self, Found, Key, Of};
use crate::image;
use crate::inventory::{Device, Kind};
use crate::job::{Micro, Stage, Trainer};
use crate::plan::memory::Images;
use crate::plan::{Abilities, Knowledge, Lighter, Plan};
use crate::settings::Settings;

/// Of a device's memory, what a plan leaves free: our trainer's is counted to the byte, but what an epoch brings is chance.
const NATIVE_RESERVE: f64 = 0.01;
/// What others allocate around their tensors differs from run to run.
const OTHER_RESERVE: f64 = 0.04;
/// Images of the first micro-batch to try where nothing is known: what people begin with.
const LADDER: u32 = 32;
/// Sizes of YOLO's models, the lightest first.
const SIZES: [char; 5] = ['n', 's', 'm', 'l', 'x'];

impl Prepared {
    /// Whether it is worth a few trial steps to find out what fits: memory has a limit, or unlike devices wait for each other.
    #[must_use]
    pub fn wants_fit(&self) -> bool {
        let devices = &self.selection.devices;
        let unlike = devices.windows(2).any(|pair| pair[0].kind() != pair[1].kind());
        self.is_fittable() && self.job().batch.micro == Micro::Auto && !self.smoke && (self.is_limited() || unlike)
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
        let validation = Abilities::of(self.job().trainer).validation;
        Images { side: self.stage().imgsz, labels: knowledge.labels, validation }
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
        let model = match &self.model.as_ref()?.mount {
            None => job.model.clone(),
            Some(mount) => content(&mount.source)?,
        };
        Some(Key {
            trainer: job.trainer.name().to_owned(),
            model,
            imgsz: self.stage().imgsz,
            classes: self.data.as_ref()?.data.names.len(),
            image,
            amp: self.plan.amp.map(|amp| amp.name().to_owned()),
            distributed: self.selection.devices.len() > 1,
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
        let labels = *found.labels.get(&self.data_name()?)?;
        let of = |device: &Device| {
            let kind = device.kind();
            let of = found.kinds.get(&kind).filter(|of| of.labels >= labels)?;
            Some((kind, *of))
        };
        let kinds: Vec<(Kind, Of)> = self.selection.devices.iter().map(of).collect::<Option<_>>()?;
        let all_reduce_seconds = kinds.iter().map(|(_, of)| of.all_reduce_seconds).fold(0.0, f64::max);
        let kinds = kinds.into_iter().map(|(kind, of)| (kind, of.known)).collect();
        let lighter = lighter(&key, settings);
        Some(Knowledge { kinds, labels, all_reduce_seconds, reserve: self.reserve(), lighter })
    }

    /// What is known of each stage of which anything is.
    #[must_use]
    pub fn known_stages(&self, settings: &Settings) -> Vec<(Stage, Knowledge)> {
        let known = |planned: &super::Planned| Some((planned.stage, self.knowledge_of(planned.stage.imgsz, settings)?));
        self.stages.iter().filter_map(known).collect()
    }

    /// What a trial found, as knowledge; and kept for the next run, as far as that can be named.
    ///
    /// # Errors
    ///
    /// The cache cannot be written.
    pub fn learn(&mut self, heard: &Heard, kinds: &[Kind], settings: &Settings) -> std::io::Result<Knowledge> {
        let kinds = heard.kinds(kinds);
        let (labels, all_reduce_seconds) = (heard.labels(), heard.all_reduce_seconds());
        let key = self.key(settings);
        let lighter = key.as_ref().map(|key| lighter(key, settings)).unwrap_or_default();
        if let (Some(key), Some(data)) = (&key, self.data_name()) {
            let of = |(kind, known): (&Kind, &_)| (kind.clone(), Of { known: *known, labels, all_reduce_seconds });
            let found = Found { kinds: kinds.iter().map(of).collect(), labels: [(data, labels)].into() };
            store::write(&settings.cache, key, found)?;
        }
        let knowledge = Knowledge { kinds, labels, all_reduce_seconds, reserve: self.reserve(), lighter };
        self.found.insert(self.stage().imgsz, knowledge.clone());
        Ok(knowledge)
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
        let Some(named) = self.resolved.job.data.clone().filter(|_| self.is_fittable()) else { return Ok(()) };
        if let (Ok(Some(data)), Ok(model)) = (local_data(&named), local_model(&self.resolved.job.model)) {
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
        plan.warnings.push(format!(
            "what fits was not found out ({why}): micro-batches begin at {} and are halved where memory runs out",
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
        let (plan, devices) =
            planned(&self.resolved, &self.inventory, &self.selection, self.smoke, side, Some(knowledge))?;
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

    fn reserve(&self) -> f64 {
        if self.job().trainer == Trainer::Native { NATIVE_RESERVE } else { OTHER_RESERVE }
    }

    /// What names the data: its place, and how many images are there.
    fn data_name(&self) -> Option<String> {
        let data = self.data.as_ref()?;
        Some(format!("{} {}", self.place_of_data()?, data.train.images))
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

/// What a file holds, as a name.
fn content(path: &Path) -> Option<String> {
    let mut digest = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path).ok()?, &mut digest).ok()?;
    Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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
