//! From a plan to containers: what each rank's container is made of. Pure; nothing here talks to an engine.

use std::collections::BTreeMap;
use std::path::PathBuf;

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
    /// Memory in bytes after which the kernel kills; absent: all.
    pub memory_bytes: Option<u64>,
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
    /// Its own, which others may join.
    Own {
        /// The engine's network mode: `none`, `bridge` or `host`.
        network: String,
    },
    /// Those of the container of this name.
    Of {
        /// Name of the pod's leader.
        leader: String,
    },
}
