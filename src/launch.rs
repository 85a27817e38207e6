//! From a plan to containers: what each rank's container is made of. Pure; nothing here talks to an engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evenkeel_wire::{env, path};

use crate::job::{Containers, Job, Network, Trainer};
use crate::plan::Plan;

/// Labels that every container of ours carries: by them it is found again, and told from other people's.
pub mod label {
    /// The run, as `name/id`.
    pub const RUN: &str = "evenkeel.run";
    /// The launch within the run, from 1.
    pub const GENERATION: &str = "evenkeel.generation";
    /// The rank.
    pub const RANK: &str = "evenkeel.rank";
    /// The run's directory.
    pub const DIRECTORY: &str = "evenkeel.directory";
    /// The uid of who started it.
    pub const OWNER: &str = "evenkeel.owner";
}

/// Host name of a pod without a network.
pub const HOST_NAME: &str = "evenkeel";

/// Everything that decides what the containers of one generation are made of.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The job.
    pub job: &'a Job,
    /// How it is split.
    pub plan: &'a Plan,
    /// Identifier of the run, unique under the job's name.
    pub run: &'a str,
    /// The run's directory, absolute.
    pub directory: &'a Path,
    /// Launch within the run, from 1.
    pub generation: u32,
    /// The image, by name or identifier.
    pub image: &'a str,
    /// What the trainer's program is.
    pub program: &'a [String],
    /// Path of the preflight program inside the image, where it has one.
    pub preflight: Option<&'a str>,
    /// The agent's program on the host.
    pub agent: &'a Path,
    /// `/etc/hosts` of a pod without a network, which names [`HOST_NAME`].
    pub hosts: &'a Path,
    /// The device of each rank, in rank order.
    pub devices: &'a [RankDevice],
    /// Folders of the host that the data and the weights need.
    pub data: &'a [Mount],
    /// Who calls.
    pub caller: Caller,
    /// What the engine is like.
    pub engine: EngineTraits,
    /// Port at which rank 0 listens.
    pub master_port: u16,
    /// Values of the caller's environment for names that the job takes over.
    pub caller_environment: &'a BTreeMap<String, String>,
}

/// What a rank computes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RankDevice {
    /// UUID of its GPU; absent: a CPU device.
    pub gpu: Option<String>,
    /// Threads that it computes with.
    pub threads: u32,
    /// Processors that it may use at most; absent: all.
    pub cpu_limit: Option<f64>,
    /// Bytes of data that it may allocate at most; absent: all.
    pub memory_cap: Option<u64>,
}

/// Who runs the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// What must be known of the engine to make containers for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineTraits {
    /// It runs without root: uid 0 inside is the caller outside.
    pub rootless: bool,
    /// It maps uids: files would belong to nobody, so containers step out of it.
    pub userns_remap: bool,
    /// Memory of its machine in bytes.
    pub memory_bytes: u64,
    /// Its driver for the containers' own logs.
    pub log_driver: String,
}

/// The containers of one generation, in rank order; the first leads the pod.
#[must_use]
pub fn specs(launch: &Launch<'_>) -> Vec<ContainerSpec> {
    let containers = match launch.job.containers {
        Containers::PerDevice => launch.devices.len(),
        Containers::PerHost => 1,
    };
    (0..containers).map(|rank| spec(launch, rank, containers)).collect()
}

/// Name of a rank's container: unique on the engine, and the same whenever it is asked for.
#[must_use]
pub fn container_name(launch: &Launch<'_>, rank: usize) -> String {
    name(launch.run, launch.directory, launch.generation, rank)
}

/// The same of a run's identifier and directory.
#[must_use]
pub fn name(run: &str, directory: &Path, generation: u32, rank: usize) -> String {
    // Runs in different folders may share their identifier, a second of the clock; the folder tells them apart.
    let folder = short_hash(&directory.display().to_string());
    format!("evenkeel-{run}-{folder}-g{generation}-r{rank}")
}

fn spec(launch: &Launch<'_>, rank: usize, containers: usize) -> ContainerSpec {
    let job = launch.job;
    let mine = match job.containers {
        Containers::PerDevice => &launch.devices[rank..=rank],
        Containers::PerHost => launch.devices,
    };
    let gpus: Vec<String> = launch.devices.iter().filter_map(|device| device.gpu.clone()).collect();
    let namespace = match rank {
        0 if job.network == Network::None => Namespace::Loopback { name: HOST_NAME.to_owned() },
        0 => Namespace::Own { network: job.network.name().to_owned() },
        _ => Namespace::Of { leader: container_name(launch, 0) },
    };
    ContainerSpec {
        name: container_name(launch, rank),
        image: launch.image.to_owned(),
        entrypoint: vec![path::AGENT.to_owned(), "--".to_owned()],
        command: program(launch, rank),
        environment: environment(launch, rank, containers, mine, &gpus),
        user: Some(user(launch)),
        groups: groups(launch),
        log_driver: launch.engine.log_driver.clone(),
        working_dir: job.working_dir.clone(),
        labels: labels(launch, rank),
        mounts: mounts(launch),
        namespace,
        // The kernel's own rule for a tmpfs: half of the memory, taken only as it fills.
        shm_bytes: job.shm_size.unwrap_or(launch.engine.memory_bytes / 2),
        memlock: !gpus.is_empty(),
        gpus,
        cpus: mine.iter().map(|device| device.cpu_limit).sum(),
        // Our own trainer keeps the cap itself: an error at the tensor that does not fit, as on a GPU.
        data_bytes: if job.trainer == Trainer::Native { None } else { memory_cap(mine) },
        host_users: launch.engine.userns_remap,
    }
}

/// A rank's batch in the names under which a program of the user's own is told of it; nothing where there is no target.
fn batch(launch: &Launch<'_>, rank: usize) -> Option<[(&'static str, &'static str, String); 3]> {
    let own = &launch.plan.ranks.get(rank)?.micro_batches;
    let (target, micro) = (launch.plan.target_batch?, own.first()?);
    Some([
        (env::TARGET_BATCH, "{target_batch}", target.to_string()),
        (env::MICRO_BATCH, "{micro_batch}", micro.to_string()),
        (env::ACCUMULATE, "{accumulate}", own.len().to_string()),
    ])
}

/// The program's words. Those of a program of the user's own may name its batch in braces.
fn program(launch: &Launch<'_>, rank: usize) -> Vec<String> {
    let mut words = launch.program.to_vec();
    if launch.job.trainer == Trainer::Command {
        for (_, name, value) in batch(launch, rank).into_iter().flatten() {
            words.iter_mut().for_each(|word| *word = word.replace(name, &value));
        }
    }
    words
}

fn user(launch: &Launch<'_>) -> String {
    match &launch.job.user {
        Some(user) => user.clone(),
        None if launch.engine.rootless => "0:0".to_owned(),
        None => format!("{}:{}", launch.caller.uid, launch.caller.gid),
    }
}

/// The caller's other groups, by which a lab shares its data. Those of another user are not known here.
fn groups(launch: &Launch<'_>) -> Vec<u32> {
    if launch.job.user.is_some() || launch.engine.rootless {
        return Vec::new();
    }
    launch.caller.groups.iter().copied().filter(|group| *group != launch.caller.gid).collect()
}

fn labels(launch: &Launch<'_>, rank: usize) -> BTreeMap<String, String> {
    BTreeMap::from([
        (label::RUN.to_owned(), format!("{}/{}", launch.job.name, launch.run)),
        (label::GENERATION.to_owned(), launch.generation.to_string()),
        (label::RANK.to_owned(), rank.to_string()),
        (label::DIRECTORY.to_owned(), launch.directory.display().to_string()),
        (label::OWNER.to_owned(), launch.caller.uid.to_string()),
    ])
}

fn mounts(launch: &Launch<'_>) -> Vec<Mount> {
    let run = launch.directory;
    let ours = |source: PathBuf, target: &str, read_only| Mount { source, target: target.to_owned(), read_only };
    let mut mounts = vec![
        ours(launch.agent.to_owned(), path::AGENT, true),
        ours(run.join("job.json"), path::JOB, true),
        ours(run.join("logs"), path::LOGS, false),
        ours(run.join("events"), path::EVENTS, false),
        ours(run.join("control"), path::CONTROL, false),
        ours(run.join("output"), path::OUTPUT, false),
    ];
    // The engine writes none for a pod that it gives no network.
    const HOSTS: &str = "/etc/hosts";
    if launch.job.network == Network::None && launch.job.volumes.iter().all(|volume| volume.target != HOSTS) {
        mounts.push(ours(launch.hosts.to_owned(), HOSTS, true));
    }
    mounts.extend(launch.data.iter().cloned());
    mounts
        .extend(launch.job.volumes.iter().map(|volume| ours(volume.source.clone(), &volume.target, volume.read_only)));
    mounts
}

fn environment(
    launch: &Launch<'_>,
    rank: usize,
    containers: usize,
    mine: &[RankDevice],
    gpus: &[String],
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    let device = if gpus.is_empty() { "cpu" } else { "cuda" };
    set(env::RUN, launch.run.to_owned());
    set(env::GENERATION, launch.generation.to_string());
    set(env::JOB, path::JOB.to_owned());
    set(env::DEVICE, device.to_owned());
    set(env::TIMEOUT, launch.job.timeout.as_secs().max(1).to_string());
    set(env::POD_RANK, rank.to_string());
    set(env::POD_LOCAL_RANK, rank.to_string());
    set(env::POD_LOCAL_SIZE, containers.to_string());
    // A log that is behind by a buffer is of no use when its program is killed.
    set("PYTHONUNBUFFERED", "1".to_owned());
    if let Some(preflight) = launch.preflight {
        set(env::PREFLIGHT, preflight.to_owned());
    }
    // A program that starts its own ranks must not take itself for one of them.
    if launch.job.containers == Containers::PerDevice {
        set(env::RANK, rank.to_string());
        set(env::LOCAL_RANK, rank.to_string());
        set(env::WORLD_SIZE, containers.to_string());
        set(env::LOCAL_WORLD_SIZE, containers.to_string());
        set(env::MASTER_ADDR, "127.0.0.1".to_owned());
        set(env::MASTER_PORT, launch.master_port.to_string());
    }
    set("OMP_NUM_THREADS", mine.iter().map(|device| device.threads).sum::<u32>().max(1).to_string());
    for (name, _, value) in batch(launch, rank).into_iter().flatten() {
        set(name, value);
    }
    if launch.job.network != Network::Host {
        // Peers meet on the pod's loopback; a container without a network cannot look up its own name.
        set("GLOO_SOCKET_IFNAME", "lo".to_owned());
        set("NCCL_SOCKET_IFNAME", "lo".to_owned());
    }
    if gpus.is_empty() {
        match memory_cap(mine) {
            Some(bytes) if launch.job.trainer == Trainer::Native => drop(set(env::MEMORY, bytes.to_string())),
            // Freed memory goes back at once, so that the cap of a CPU device measures what is in use.
            Some(_) => {
                set("MALLOC_ARENA_MAX", "1".to_owned());
                set("MALLOC_MMAP_THRESHOLD_", (8 << 20).to_string());
                set("MALLOC_TRIM_THRESHOLD_", (8 << 20).to_string());
            }
            None => {}
        }
    } else {
        // The container toolkit numbers devices its own way; by UUID, and in rank order, LOCAL_RANK means the same to
        // everybody.
        set("CUDA_VISIBLE_DEVICES", gpus.join(","));
    }
    for (name, value) in &launch.job.environment {
        match value.as_ref().or_else(|| launch.caller_environment.get(name)) {
            Some(value) => all.insert(name.clone(), value.clone()),
            None => None,
        };
    }
    all
}

/// Bytes that devices may allocate together, if each has a cap.
fn memory_cap(devices: &[RankDevice]) -> Option<u64> {
    devices.iter().map(|device| device.memory_cap).sum()
}

fn short_hash(text: &str) -> String {
    // FNV-1a: a name needs to differ, not to resist.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:06x}", hash & 0xff_ffff)
}

/// A container that is to be created. The engine adds nothing to it but defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// Unique name.
    pub name: String,
    /// Image by name or digest.
    pub image: String,
    /// First words of the command line.
    pub entrypoint: Vec<String>,
    /// The rest of it.
    pub command: Vec<String>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// `uid:gid`; absent: the image's.
    pub user: Option<String>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The engine's driver for the container's own log.
    pub log_driver: String,
    /// Working directory; absent: the image's.
    pub working_dir: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Folders and files of the host.
    pub mounts: Vec<Mount>,
    /// Network and IPC namespaces.
    pub namespace: Namespace,
    /// Size of /dev/shm in bytes; a follower has its leader's.
    pub shm_bytes: u64,
    /// UUIDs of the GPUs that are visible.
    pub gpus: Vec<String>,
    /// Whether locked memory is unlimited, as GPU peers need.
    pub memlock: bool,
    /// Processors; absent: all.
    pub cpus: Option<f64>,
    /// Bytes of data that each process may allocate (RLIMIT_DATA); absent: all.
    pub data_bytes: Option<u64>,
    /// Whether to step out of the engine's user-namespace remapping, so that files keep their owner.
    pub host_users: bool,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Network and IPC namespaces of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Its own, which others may join, with loopback alone. The engine has no part in it, which halves the time of a start.
    Loopback {
        /// Host name.
        name: String,
    },
    /// Its own, which others may join, on a network of the engine.
    Own {
        /// The engine's network mode: `bridge` or `host`.
        network: String,
    },
    /// Those of the container of this name.
    Of {
        /// Name of the pod's leader.
        leader: String,
    },
}
