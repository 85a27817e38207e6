//! What `plan` and `train` have in common: from a job file to everything that is decided before a container exists.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::cli::JobArgs;
use crate::dataset::ResolvedData;
use crate::docker::EngineInfo;
use crate::error::Failure;
use crate::inventory::lock::{self, DeviceLocks, Holder};
use crate::inventory::ready::{self, EngineFacts};
use crate::inventory::{CudaVersion, Device, DeviceId, DeviceRequest, Inventory, SelectOptions, Selection, select};
use crate::job::{self, Job, Micro, Network, Origin, ResolvedJob, SplitWish, Stage, Trainer};
use crate::launch::RankDevice;
use crate::plan::{self, Abilities, Knowledge, Plan};
use crate::settings::Settings;

mod facts;
mod files;
mod known;
mod model;
mod program;
mod takeover;
mod told;

use model::Model;

pub use facts::micro_batches;
pub use known::family;
pub use program::Program;
pub use takeover::Takeover;

/// The CUDA that our images hold.
const IMAGE_CUDA: CudaVersion = CudaVersion { major: 13, minor: 0 };
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
    let schedule = &resolved.job.imgsz;
    let mut plan = plan::plan(&job, &given, &abilities, knowledge).map_err(|error| {
        if schedule.is_schedule() { error.of_stage(|side| schedule.written_with(imgsz, side)) } else { error }
    })?;
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

    fn on_gpus(&self) -> bool {
        self.devices.iter().any(|device| device.id.uuid().is_some())
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
        if !self.on_gpus() {
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
