//! Names of environment variables.

/// Rank of this process in the whole job, as torchrun sets it.
pub const RANK: &str = "RANK";
/// Number of ranks in the job, as torchrun sets it.
pub const WORLD_SIZE: &str = "WORLD_SIZE";
/// Rank within this host, and index of the rank's device among the visible ones, as torchrun sets it.
pub const LOCAL_RANK: &str = "LOCAL_RANK";
/// Number of ranks on this host, as torchrun sets it.
pub const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
/// Address at which rank 0 listens, as torchrun sets it.
pub const MASTER_ADDR: &str = "MASTER_ADDR";
/// Port on which rank 0 listens, as torchrun sets it.
pub const MASTER_PORT: &str = "MASTER_PORT";

/// Number of the open descriptor on which a trainer writes its [`crate::Event`]s, one JSON object a line.
pub const EVENTS_FD: &str = "EVENKEEL_EVENTS_FD";
/// Path of the job file ([`crate::TrainerJob`] as JSON) inside the container.
pub const JOB: &str = "EVENKEEL_JOB";
/// Identifier of the run.
pub const RUN: &str = "EVENKEEL_RUN";
/// Number of the launch within the run, from 1.
pub const GENERATION: &str = "EVENKEEL_GENERATION";
/// Path of the program that the agent runs with the argument `preflight` before the trainer; absent: no preflight.
pub const PREFLIGHT: &str = "EVENKEEL_PREFLIGHT";
/// Seconds that a rank waits for its peers in the preflight and in a process group before it gives up.
pub const TIMEOUT: &str = "EVENKEEL_TIMEOUT";
/// `cuda` or `cpu`: what this rank computes on.
pub const DEVICE: &str = "EVENKEEL_DEVICE";
/// Bytes that the tensors of a CPU device may take at most; absent: all there are.
pub const MEMORY: &str = "EVENKEEL_MEMORY";

/// Images of an optimizer step over all ranks, for a program that is told. As `{target_batch}` also in its arguments.
pub const TARGET_BATCH: &str = "EVENKEEL_TARGET_BATCH";
/// Images of this rank's micro-batches, for a program that is told. As `{micro_batch}` also in its arguments.
pub const MICRO_BATCH: &str = "EVENKEEL_MICRO_BATCH";
/// Micro-batches of this rank in an optimizer step, for a program that is told. As `{accumulate}` also in its arguments.
pub const ACCUMULATE: &str = "EVENKEEL_ACCUMULATE";

/// Variables that a preflight may find out and the agent then sets for the trainer: a way round what does not work here.
pub const FOUND: [&str; 1] = ["NCCL_P2P_DISABLE"];

/// Rank of the container in the job: names its spools. Unlike [`RANK`] it is there also where the program inside starts
/// its own ranks, and the agent keeps it from the program.
pub const POD_RANK: &str = "EVENKEEL_POD_RANK";
/// Number of the container among those of this host; 0 leads the pod. For the agent alone.
pub const POD_LOCAL_RANK: &str = "EVENKEEL_POD_LOCAL_RANK";
/// Number of containers in the pod. For the agent alone.
pub const POD_LOCAL_SIZE: &str = "EVENKEEL_POD_LOCAL_SIZE";
/// Folder that the agent uses in place of [`crate::path::ROOT`]; how it is tested without a container.
pub const ROOT: &str = "EVENKEEL_ROOT";
