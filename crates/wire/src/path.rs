//! Where things are inside a container. All are bound from the run's directory on the host.

/// Folder that holds all of them. The agent takes another one from [`crate::env::ROOT`].
pub const ROOT: &str = "/evenkeel";
/// The agent's program, read-only.
pub const AGENT: &str = "/evenkeel/agent";
/// The trainer's job file, read-only; see [`crate::TrainerJob`].
pub const JOB: &str = "/evenkeel/job.json";
/// Folder of `rank-N.log`, every output line of every rank, and `rank-N.times` beside it.
pub const LOGS: &str = "/evenkeel/logs";
/// Folder of `rank-N.events.jsonl`: every [`crate::Record`] of every rank.
pub const EVENTS: &str = "/evenkeel/events";
/// Folder in which controller and agents meet: [`GO`] and `rank-N.alive`.
pub const CONTROL: &str = "/evenkeel/control";
/// Folder for what the trainer leaves behind: weights, plots, results.
pub const OUTPUT: &str = "/evenkeel/output";

/// Folder of the weights or the model's configuration that a job brings, read-only.
pub const MODEL: &str = "/evenkeel/model";

/// Folder for what a trainer finds of the data set's files, for the next training on it.
pub const LABEL_CACHE: &str = "/evenkeel/label-cache";

/// File in [`CONTROL`] that the controller creates when all containers of a generation run: trainers may start.
/// Its name carries the generation, so that a left-over cannot start the next launch.
#[must_use]
pub fn go(generation: u32) -> String {
    format!("go-{generation}")
}

/// File in [`CONTROL`] that exists, and is held under an exclusive `flock`, while the agent of `rank` lives. It appears
/// under this name only once it is locked, so "exists and not locked" means: that agent has ended.
#[must_use]
pub fn alive(generation: u32, rank: u32) -> String {
    format!("rank-{rank}.g{generation}.alive")
}

/// Spool of a rank's output in [`LOGS`].
#[must_use]
pub fn log(rank: u32) -> String {
    format!("rank-{rank}.log")
}

/// When what is in a rank's log was written, in [`LOGS`]; see [`crate::stamp`]. Absent in records of earlier writers.
#[must_use]
pub fn times(rank: u32) -> String {
    format!("rank-{rank}.times")
}

/// Spool of a rank's events in [`EVENTS`].
#[must_use]
pub fn events(rank: u32) -> String {
    format!("rank-{rank}.events.jsonl")
}
