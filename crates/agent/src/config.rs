//! What the controller tells the agent: arguments and environment, read in this one place.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use evenkeel_wire::{env as names, path};

/// How the agent was called.
#[derive(Debug)]
pub struct Config {
    /// The trainer and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Program to run with `preflight` before the trainer.
    pub preflight: Option<OsString>,
    /// Rank in the whole job.
    pub rank: u32,
    /// Rank on this host; 0 leads.
    pub local_rank: u32,
    /// Ranks on this host.
    pub local_world_size: u32,
    /// Launch within the run, from 1.
    pub generation: u32,
    root: PathBuf,
}

/// Why the call makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is not `agent -- PROGRAM ARGS...`.
    #[error("usage: agent -- PROGRAM ARGS...")]
    Usage,
    /// A variable that the controller always sets.
    #[error("`{0}` is not set")]
    Missing(&'static str),
    /// A variable that is no number.
    #[error("`{name}` is `{value}`, not a whole number")]
    NotANumber {
        /// Name of the variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// The local rank lies outside of the ranks of this host.
    #[error("`EVENKEEL_POD_LOCAL_RANK` {local_rank} does not fit rank {rank} and a pod of {local_world_size}")]
    Ranks {
        /// Rank in the job.
        rank: u32,
        /// Number in the pod.
        local_rank: u32,
        /// Containers in the pod.
        local_world_size: u32,
    },
}

impl Config {
    /// Reads the arguments and the environment of this process.
    ///
    /// # Errors
    /// When a variable is missing or the command line names no program.
    pub fn from_process() -> Result<Self, ConfigError> {
        let mut args = env::args_os().skip(1);
        if args.next().is_none_or(|first| first != "--") {
            return Err(ConfigError::Usage);
        }
        let command: Vec<_> = args.collect();
        if command.is_empty() {
            return Err(ConfigError::Usage);
        }
        let config = Self {
            command,
            preflight: env::var_os(names::PREFLIGHT).filter(|value| !value.is_empty()),
            rank: number(names::POD_RANK)?,
            local_rank: number(names::POD_LOCAL_RANK)?,
            local_world_size: number(names::POD_LOCAL_SIZE)?,
            generation: number(names::GENERATION)?,
            root: env::var_os(names::ROOT).map_or_else(|| PathBuf::from(path::ROOT), PathBuf::from),
        };
        let Config { rank, local_rank, local_world_size, .. } = config;
        if local_rank >= local_world_size || local_rank > rank {
            return Err(ConfigError::Ranks { rank, local_rank, local_world_size });
        }
        Ok(config)
    }

    /// Where a path of [`evenkeel_wire::path`] is for this process.
    pub fn locate(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches(path::ROOT).trim_start_matches('/'))
    }

    /// The other ranks of this host: those that the leader stays for.
    pub fn followers(&self) -> impl Iterator<Item = u32> + use<> {
        let (rank, first) = (self.rank, self.rank - self.local_rank);
        (first..first + self.local_world_size).filter(move |other| *other != rank)
    }
}

fn number(name: &'static str) -> Result<u32, ConfigError> {
    let value = env::var_os(name).ok_or(ConfigError::Missing(name))?.to_string_lossy().into_owned();
    value.parse().map_err(|_| ConfigError::NotANumber { name, value })
}
