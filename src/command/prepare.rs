//! What `plan` and `train` have in common: from a job file to everything that is decided before a container exists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel_wire::trainer_job::{DataSet, TrainerJob, Trial};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cli::JobArgs;
use crate::dataset::ResolvedData;
use crate::docker::{Engine, EngineInfo};
use crate::error::{ExitCode, Failure};
use crate::image::{self, ImageName};
use crate::inventory::lock::{self, DeviceLocks, Holder};
use crate::inventory::ready::{self, EngineFacts};
use crate::inventory::{CudaVersion, Device, DeviceId, DeviceRequest, Inventory, SelectOptions, Selection, select};
use crate::job::{self, Containers, Job, Micro, Network, OnOom, Origin, ResolvedJob, SplitWish, Stage, Trainer};
use crate::launch::{Mount, RankDevice};
use crate::output::Screen;
use crate::plan::{self, Abilities, Knowledge, Plan};
use crate::record::{RecordError, RunDir};
use crate::runlock::secret;
use crate::settings::Settings;

mod facts;
mod known;
mod takeover;

pub use facts::micro_batches;
pub use known::family;
pub use takeover::Takeover;

/// The CUDA that our images hold.
const IMAGE_CUDA: CudaVersion = CudaVersion { major: 13, minor: 0 };
/// Our own trainer, in every image of ours that trains.
const NATIVE_PROGRAM: [&str; 2] = ["/usr/local/bin/evenkeel-trainer", "train"];
/// Images per forward/backward of a quick look.
const SMOKE_MICRO: u32 = 4;
/// Steps of a quick look's only epoch.
const SMOKE_STEPS: u32 = 4;

/// A job, the devices that it gets, and how it is split over them.
pub struct Prepared {
    resolved: ResolvedJob,
    inventory: Inventory,
    /// What the job gets, of which the plan may leave some idle.
    selection: Selection,
    /// The stage that [`Self::plan`] is of: each image size has one.
    at: usize,
    stages: Vec<Planned>,
    /// The plan.
    pub plan: Plan,
    /// The devices that it uses, in the order of the ranks.
    devices: Vec<Device>,
    smoke: bool,
    /// What is as in an earlier run.
    takeover: Takeover,
    /// Whether the ranks check each other first, once the image is known.
    preflight: Option<bool>,
    /// What trials found, by image size.
    found: BTreeMap<u32, Knowledge>,
    data: Option<ResolvedData>,
    model: Option<Model>,
    /// Folder of this machine for what is found of the data set's files.
    label_cache: Option<PathBuf>,
}

/// A stage with its plan.
struct Planned {
    stage: Stage,
    plan: Plan,
    devices: Vec<Device>,
}

/// The model as the trainer is told of it.
#[derive(Default)]
struct Model {
    name: String,
    mount: Option<Mount>,
    /// What its file holds, as a name, once somebody has asked.
    content: std::cell::OnceCell<Option<String>>,
}

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

/// Reads the job, chooses from the inventory's devices and plans. `visible` is `CUDA_VISIBLE_DEVICES` where the inventory
/// is this machine's.
pub fn job(args: &JobArgs, inventory: Inventory, visible: Option<&str>, smoke: bool) -> Result<Prepared, Failure> {
    let resolved = job::load(&args.job, &args.overrides)?;
    resolved_job(resolved, inventory, visible, smoke, Takeover::default())
}

/// The same for a job that was read already, with what it takes over from an earlier run.
pub fn resolved_job(
    mut resolved: ResolvedJob,
    inventory: Inventory,
    visible: Option<&str>,
    smoke: bool,
    takeover: Takeover,
) -> Result<Prepared, Failure> {
    let ours = resolved.job.trainer != Trainer::Command;
    let oldest = ours.then(|| ready::oldest_card(IMAGE_CUDA.major)).flatten();
    let options = SelectOptions { cuda_visible_devices: visible, oldest };
    let selection = select(&inventory, &resolved.job.device, &options)?;
    if smoke {
        quick_look(&mut resolved, u32::try_from(selection.devices.len()).unwrap_or(u32::MAX))?;
    }
    let stages = resolved.job.imgsz.stages(resolved.job.epochs).into_iter().map(|stage| {
        let (plan, devices) = planned(&resolved, &inventory, &selection, (smoke, &takeover), stage.imgsz, None)?;
        Ok(Planned { stage, plan, devices })
    });
    let stages = stages.collect::<Result<Vec<_>, Failure>>()?;
    let (plan, devices) = (stages[0].plan.clone(), stages[0].devices.clone());
    Ok(Prepared {
        resolved,
        inventory,
        selection,
        at: 0,
        stages,
        plan,
        devices,
        smoke,
        takeover,
        preflight: None,
        found: BTreeMap::new(),
        data: None,
        model: None,
        label_cache: None,
    })
}

/// The plan of a stage with images of side `imgsz`, and the devices that it uses.
fn planned(
    resolved: &ResolvedJob,
    inventory: &Inventory,
    selection: &Selection,
    (smoke, takeover): (bool, &Takeover),
    imgsz: u32,
    knowledge: Option<&Knowledge>,
) -> Result<(Plan, Vec<Device>), Failure> {
    let abilities = Abilities::of(resolved.job.trainer);
    let mut job = Job { imgsz: imgsz.into(), ..resolved.job.clone() };
    takeover.pin(&mut job, imgsz);
    // A device of which nothing is known beside others that are known was idle when they were tried, and stays so.
    let known = |device: &&Device| knowledge.is_none_or(|knowledge| knowledge.kinds.contains_key(&device.kind()));
    let given: Vec<Device> = selection.devices.iter().filter(known).cloned().collect();
    let mut plan = plan::plan(&job, &given, &abilities, knowledge)?;
    if smoke {
        for reason in &mut plan.reasons {
            *reason = reason.replace("as `batch.micro` says", "as `--smoke` has it");
        }
    }
    takeover.cut(&mut plan, imgsz);
    plan.reasons.splice(0..0, selection.reasons.iter().cloned());
    plan.warnings.splice(0..0, resolved.notes.iter().cloned());
    if resolved.job.trainer != Trainer::Command {
        // What keeps it from training is said by a plan, too; only a training ends of it.
        let trouble = ready::check_cuda(&inventory.host, &selection.devices, IMAGE_CUDA);
        plan.warnings.extend(trouble.err().map(|trouble| trouble.to_string()));
    }
    // The ranks are in the order of the devices, of which any may be idle.
    let used = |device: &&Device| plan.ranks.iter().any(|rank| rank.device == device.id.to_string());
    let devices = selection.devices.iter().filter(used).cloned().collect();
    Ok((plan, devices))
}

/// One short epoch of small micro-batches, whatever the job says of the long run.
fn quick_look(resolved: &mut ResolvedJob, devices: u32) -> Result<(), Failure> {
    let job = &mut resolved.job;
    if job.trainer == Trainer::Command {
        let failure =
            Failure::bad("`--smoke` is for trainers whose settings are known; this job runs a program of its own");
        return Err(failure.hint("give the program its own short settings, in `command` or `environment`"));
    }
    job.name.push_str("-smoke");
    job.epochs = 1;
    job.batch.micro = Micro::Fixed(SMOKE_MICRO);
    job.batch.target = Some(SMOKE_MICRO * devices);
    job.batch.max_accumulation = None;
    job.batch.split = SplitWish::Auto;
    job.args.insert("plots".to_owned(), Value::Bool(false));
    for path in ["name", "epochs", "batch.target", "batch.micro", "batch.max_accumulation", "batch.split", "args.plots"]
    {
        resolved.origins.insert(path.to_owned(), Origin::Derived("--smoke".to_owned()));
    }
    Ok(())
}

impl Prepared {
    /// The job with where its values came from.
    pub fn resolved(&self) -> &ResolvedJob {
        &self.resolved
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.resolved.job
    }

    /// Finds what this machine has of volumes, data and weights. What is only known by name is left to [`Self::fetch`].
    pub fn find(&mut self, screen: &Screen) -> Result<(), Failure> {
        for volume in &self.resolved.job.volumes {
            // One that only the engine may look into is left to it.
            let found = std::fs::metadata(&volume.source);
            if let Some(error) = found.err().filter(|error| error.kind() == std::io::ErrorKind::NotFound) {
                let named = NoVolume { path: volume.source.clone(), source: error };
                return Err(Failure::new(ExitCode::BadRequest, named).hint("paths are relative to the job file"));
            }
        }
        let to_build = self.resolved.job.build.as_ref().filter(|_| self.takeover.image.is_none());
        if let Some(build) = to_build.filter(|build| !build.context.is_dir()) {
            let message = format!("the build context `{}` is no folder", build.context.display());
            return Err(
                Failure::bad(message).hint("`build` names the folder with the Dockerfile, relative to the job file")
            );
        }
        if let Some(named) = self.data_named() {
            self.data = super::fetch::local_data(named)?;
        }
        if self.resolved.job.trainer != Trainer::Command {
            self.model = local_model(self.model_named())?;
        }
        self.tell_warnings(screen);
        Ok(())
    }

    /// Fetches data and weights that are known by name and not here yet. That can be gigabytes: it comes after whatever
    /// could refuse the job.
    pub async fn fetch(&mut self, settings: &Settings, screen: &mut Screen) -> Result<(), Failure> {
        if let (None, Some(named)) = (&self.data, self.data_named()) {
            self.data = Some(super::fetch::data(named, settings, screen).await?);
            self.tell_warnings(screen);
        }
        let job = &self.resolved.job;
        if self.model.is_none() && job.trainer != Trainer::Command {
            let weights = super::fetch::known_weights(self.model_named())?;
            self.model = Some(mounted_model(&super::fetch::weights(weights, settings, screen).await?));
        }
        Ok(())
    }

    /// Makes the folder in which our trainer keeps what it finds of the data set's files. Without one it looks at them every time.
    pub fn make_label_cache(&mut self, settings: &Settings) {
        let Some(name) = self.place_of_data().filter(|_| self.resolved.job.trainer == Trainer::Native) else { return };
        let folder = settings.cache.join("labels").join(name);
        let made = folder.to_str().is_some() && std::fs::create_dir_all(&folder).is_ok();
        self.label_cache = made.then(|| std::path::absolute(&folder).unwrap_or(folder));
    }

    /// A name for the data's place on this machine: inside containers all sets lie at the same one.
    fn place_of_data(&self) -> Option<String> {
        let data = self.data.as_ref()?;
        let mut digest = Sha256::new();
        for mount in &data.mounts {
            digest.update(mount.source.as_os_str().as_encoded_bytes());
            digest.update([0]);
        }
        digest.update(data.data.path.as_bytes());
        Some(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    fn tell_warnings(&self, screen: &Screen) {
        for warning in self.data.iter().flat_map(|data| &data.warnings) {
            screen.line(&format!("warning: {warning}"));
        }
    }

    /// Refuses paths that cannot be told to the engine, whose interface is JSON, before anything is made.
    pub fn check_paths(&self) -> Result<(), Failure> {
        let runs = std::path::absolute(&self.job().runs).unwrap_or_else(|_| self.job().runs.clone());
        let volumes = self.job().volumes.iter().map(|volume| volume.source.clone());
        let data = self.data_mounts().into_iter().map(|mount| mount.source);
        match std::iter::once(runs).chain(volumes).chain(data).find(|path| path.to_str().is_none()) {
            None => Ok(()),
            Some(path) => {
                let failure = Failure::bad(format!("the path `{}` is not UTF-8", path.display()));
                Err(failure.hint("the engine can mount only paths that are: rename the folder, or work in another one"))
            }
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

    /// Stages of the training: one for each image size.
    #[must_use]
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// The stage that is planned.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stages[self.at].stage
    }

    /// The plan of a stage.
    #[must_use]
    pub fn plan_of(&self, stage: usize) -> &Plan {
        self.stages.get(stage).map_or(&self.plan, |planned| &planned.plan)
    }

    /// The epoch, from 0, that a stage begins with.
    #[must_use]
    pub fn first_epoch(&self, stage: usize) -> u32 {
        self.stages.get(stage).map_or(0, |planned| planned.stage.from_epoch)
    }

    /// Goes over to another stage and its plan.
    pub fn begin_stage(&mut self, at: usize) {
        let Planned { plan, devices, .. } = &self.stages[at];
        (self.plan, self.devices, self.at) = (plan.clone(), devices.clone(), at);
    }

    /// The plan, as a person reads it; of several stages all.
    #[must_use]
    pub fn describe(&self) -> String {
        let [_, _, ..] = self.stages.as_slice() else { return plan::table(&self.plan) };
        let describe = |planned: &Planned| {
            let Stage { from_epoch, until_epoch, imgsz } = planned.stage;
            format!("epochs {} to {until_epoch}, {imgsz} px: {}", from_epoch + 1, plan::table(&planned.plan))
        };
        self.stages.iter().map(describe).collect::<Vec<_>>().join("\n")
    }

    /// The plan as other programs read it: the first stage's, and where there are several all of them.
    #[must_use]
    pub fn plan_as_json(&self) -> Value {
        let json = |plan: &Plan| serde_json::to_value(plan).expect("plain data");
        let mut value = json(&self.stages[0].plan);
        if self.stages.len() > 1 {
            let stage = |Planned { stage, plan, .. }: &Planned| {
                serde_json::json!({
                    "from_epoch": stage.from_epoch, "until_epoch": stage.until_epoch, "imgsz": stage.imgsz, "plan": json(plan),
                })
            };
            value["stages"] = self.stages.iter().map(stage).collect();
        }
        value
    }

    /// Refuses a machine on which the job's devices could not be used, before anything is built.
    pub fn check_machine(&self, settings: &Settings, info: &EngineInfo) -> Result<(), Failure> {
        if self.devices.iter().all(|device| device.id.uuid().is_none()) {
            return Ok(());
        }
        let on_path = |program: &str| {
            std::env::split_paths(settings.all.get("PATH").map_or("", String::as_str))
                .any(|folder| folder.join(program).is_file())
        };
        let facts = EngineFacts {
            runtimes: info.runtimes.clone(),
            cdi_spec_found: info
                .cdi_spec_dirs
                .iter()
                .any(|folder| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())),
            hook_on_path: on_path("nvidia-container-runtime-hook"),
            configurator_on_path: on_path("nvidia-ctk"),
        };
        // A program of the user's brings its own CUDA, of which nothing is known here.
        if self.job().trainer != Trainer::Command {
            ready::check_cuda(&self.inventory.host, &self.devices, IMAGE_CUDA)?;
        }
        ready::check_toolkit(&self.devices, &facts)?;
        Ok(())
    }

    /// The image, built or pulled where the engine does not have it, and what runs in it.
    pub async fn image(&self, engine: &Engine, settings: &Settings, screen: &mut Screen) -> Result<Program, Failure> {
        let job = self.job();
        let options = super::image::options(settings, &[])?;
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
    fn own_image(&self) -> ImageName {
        // What trains natively on a CPU is small; on GPUs CUDA's libraries are most of any image, and this one has them all.
        let on_gpus = self.devices.iter().any(|device| device.id.uuid().is_some());
        match self.job().trainer {
            Trainer::Native if !on_gpus => ImageName::Worker,
            Trainer::Native | Trainer::Ultralytics => ImageName::Ultralytics,
            Trainer::Command => ImageName::Worker,
        }
    }

    /// Takes the job's devices; they are free again when the value is dropped or the process ends.
    pub fn lock_devices(&self, settings: &Settings) -> Result<DeviceLocks, Failure> {
        let directory = settings.locks.clone().unwrap_or_else(lock::default_directory);
        // Those of all stages: a device that is idle in one may be needed in the next.
        let used = |device: &&Device| self.stages.iter().any(|planned| planned.devices.contains(device));
        let ids: Vec<DeviceId> = self.selection.devices.iter().filter(used).map(|device| device.id.clone()).collect();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let holder = Holder {
            pid: std::process::id(),
            uid: settings.caller.uid,
            user: settings.all.get("USER").cloned(),
            run: self.job().name.clone(),
            since,
        };
        Ok(DeviceLocks::acquire(&directory, &ids, &holder)?)
    }

    /// Writes the job, as given and as understood, without the secrets in it.
    pub fn write_job(&self, run: &RunDir) -> Result<(), RecordError> {
        run.write("job.yaml", secret::masked(&self.resolved.source, &self.secrets()).as_bytes())?;
        self.write_resolved(run)
    }

    /// Writes the job as understood.
    pub fn write_resolved(&self, run: &RunDir) -> Result<(), RecordError> {
        run.write("resolved.yaml", secret::masked(&self.resolved.to_yaml(), &self.secrets()).as_bytes()).map(drop)
    }

    /// Writes what a generation begins with: its plan, and what trainers are told, a trial or a training.
    pub fn write_generation(
        &self,
        run: &RunDir,
        generation: u32,
        plan: &Plan,
        trial: Option<&Trial>,
    ) -> Result<(), Failure> {
        run.write("plan.json", &pretty(plan))?;
        let told = TrainerJob { trial: trial.cloned(), ..self.trainer_job(run, generation, plan) };
        run.write("job.json", &pretty(&told))?;
        Ok(())
    }

    /// Writes the plan again, with something that turned out when it was carried out.
    pub fn plan_with(&self, run: &RunDir, plan: &Plan, warning: &str) -> Result<(), RecordError> {
        let mut plan = plan.clone();
        plan.warnings.push(warning.to_owned());
        run.write("plan.json", &pretty(&plan)).map(|_| ())
    }

    fn trainer_job(&self, run: &RunDir, generation: u32, plan: &Plan) -> TrainerJob {
        let job = self.job();
        let nothing = || DataSet { path: String::new(), train: Vec::new(), val: Vec::new(), names: BTreeMap::new() };
        let target_batch = job.batch.target.unwrap_or(0);
        TrainerJob {
            version: evenkeel_wire::VERSION,
            run: run.id().to_owned(),
            generation,
            device: if self.devices.iter().any(|device| device.id.uuid().is_some()) { "cuda" } else { "cpu" }.into(),
            model: self.model.as_ref().map_or_else(|| job.model.clone(), |model| model.name.clone()),
            data: self.data.as_ref().map_or_else(nothing, |data| data.data.clone()),
            epochs: job.epochs,
            until_epoch: Some(self.stage().until_epoch).filter(|until| *until < job.epochs),
            imgsz: self.stage().imgsz,
            seed: job.seed,
            target_batch,
            micro_from_step: self.takeover.micro_from_step(self.stage().imgsz),
            step_down: job.batch.on_oom == OnOom::StepDown,
            micro_batches: plan.ranks.iter().map(|rank| rank.micro_batches.clone()).collect(),
            output: evenkeel_wire::path::OUTPUT.to_owned(),
            label_cache: self.label_cache.as_ref().map(|_| evenkeel_wire::path::LABEL_CACHE.to_owned()),
            amp: plan.amp.map(|amp| amp.name().to_owned()),
            trial: None,
            max_images: self.max_images(),
            args: job.args.clone(),
        }
    }

    /// The device of each rank, as a container is made for it.
    #[must_use]
    pub fn rank_devices(&self) -> Vec<RankDevice> {
        let host = self.inventory.host.cpus;
        let ranks = u32::try_from(self.devices.len()).unwrap_or(u32::MAX).max(1);
        // Equal devices are kept apart by their threads alone: a quota would throttle a rank whose loader and optimizer
        // overlap for a moment.
        let sized = match &self.job().device {
            DeviceRequest::Cpus(shares) => shares.iter().any(|share| share.cpus.is_some()),
            _ => false,
        };
        self.devices
            .iter()
            .map(|device| RankDevice {
                gpu: device.id.uuid().map(str::to_owned),
                threads: device.threads().unwrap_or_else(|| (host / ranks).max(1)),
                cpu_limit: device.cpus.filter(|_| sized),
                memory_cap: device.memory_cap_bytes,
            })
            .collect()
    }

    /// What the containers must see of data and weights.
    #[must_use]
    pub fn data_mounts(&self) -> Vec<Mount> {
        let data = self.data.iter().flat_map(|data| &data.mounts).map(|mount| Mount {
            source: mount.source.clone(),
            target: mount.target.display().to_string(),
            read_only: true,
        });
        let labels = self.label_cache.iter().map(|folder| Mount {
            source: folder.clone(),
            target: evenkeel_wire::path::LABEL_CACHE.to_owned(),
            read_only: false,
        });
        data.chain(self.model.iter().filter_map(|model| model.mount.clone())).chain(labels).collect()
    }

    /// Port at which rank 0 listens: torchrun's own in a pod's private network, any free one in the host's.
    #[must_use]
    pub fn master_port(&self) -> u16 {
        const USUAL: u16 = 29_500;
        if self.job().network != Network::Host {
            return USUAL;
        }
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        free.map_or(USUAL, |address| address.port())
    }
}

/// A model by name (`yolov8n.yaml`) or by path. Absent: weights that can be fetched.
fn local_model(named: &str) -> Result<Option<Model>, Failure> {
    let path = Path::new(named);
    if path.is_file() {
        let absolute = path.canonicalize().map_err(|error| Failure::new(ExitCode::BadRequest, error))?;
        return Ok(Some(mounted_model(&absolute)));
    }
    if named.ends_with(".yaml") || named.ends_with(".yml") {
        if is_builtin(named) {
            return Ok(Some(Model { name: named.to_owned(), ..Model::default() }));
        }
        let hint = "the trainer brings along those of YOLO, such as `yolov8n.yaml`; others are files of yours";
        return Err(Failure::bad(format!("no model configuration at `{named}`")).hint(hint));
    }
    super::fetch::known_weights(named).map(|_| None)
}

/// Whether a configuration may be one that the trainer brings along, by how these are named: a generation of YOLO and a size.
fn is_builtin(named: &str) -> bool {
    let stem = named.trim_end_matches(".yaml").trim_end_matches(".yml");
    if named.contains('/') {
        return false;
    }
    let Some(rest) = stem.strip_prefix("yolo") else { return stem.starts_with("rtdetr-") };
    let rest = rest.trim_start_matches('v');
    let generation = rest.chars().take_while(char::is_ascii_digit).count();
    // Of a size, or of what follows it (`-p6`, `-ghost`), only the size is checked here.
    let size = rest[generation..].chars().next();
    generation > 0 && size.is_none_or(|size| "nstmblxce-".contains(size))
}

fn mounted_model(path: &Path) -> Model {
    // In a folder of ours, whatever the host's folder is called: only the name means something to a trainer.
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let target = format!("{}/{file}", evenkeel_wire::path::MODEL);
    let mount = Mount { source: path.to_owned(), target: target.clone(), read_only: true };
    Model { name: target, mount: Some(mount), ..Model::default() }
}

#[derive(Debug, thiserror::Error)]
#[error("failed to find the volume `{}` that the job names", path.display())]
struct NoVolume {
    path: PathBuf,
    source: std::io::Error,
}

fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain data");
    text.push(b'\n');
    text
}
