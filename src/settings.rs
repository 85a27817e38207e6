//! The environment, read in one place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::endpoint;
use crate::launch::Caller;

/// What the environment says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the engine is.
    pub docker: endpoint::Environment,
    /// Folder for what can be made again: the agent's program, downloads.
    pub cache: PathBuf,
    /// NVIDIA's management library, where it is not in its usual place (`EVENKEEL_NVML`).
    pub nvml: Option<PathBuf>,
    /// Folder of device locks, where it is not the usual one (`EVENKEEL_LOCKS`).
    pub locks: Option<PathBuf>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub cuda_visible_devices: Option<String>,
    /// Who calls.
    pub caller: Caller,
    /// Where a controller in the background says that there is a run. Given on the command line, by the program itself.
    pub background: Option<PathBuf>,
    /// Everything, for jobs that take over values by name.
    pub all: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the environment of this process.
    #[must_use]
    pub fn read() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            // What is not UTF-8 cannot stand in a job either.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let all: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
        let groups = rustix::process::getgroups().unwrap_or_default();
        let caller = Caller {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
        };
        Self::from(all, caller)
    }

    fn from(all: BTreeMap<String, String>, caller: Caller) -> Self {
        let get = |name: &str| all.get(name).filter(|value| !value.is_empty()).cloned();
        let home = get("HOME").map(PathBuf::from);
        let cache = get("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join(".cache")));
        Self {
            docker: endpoint::Environment {
                host: get("DOCKER_HOST"),
                context: get("DOCKER_CONTEXT"),
                config: get("DOCKER_CONFIG").map(PathBuf::from).or_else(|| home.map(|home| home.join(".docker"))),
            },
            cache: cache.map_or_else(|| format!("/tmp/evenkeel-{}", caller.uid).into(), |cache| cache.join("evenkeel")),
            nvml: get("EVENKEEL_NVML").map(PathBuf::from),
            locks: get("EVENKEEL_LOCKS").map(PathBuf::from),
            // Set and empty means: no GPU.
            cuda_visible_devices: all.get("CUDA_VISIBLE_DEVICES").cloned(),
            caller,
            background: None,
            all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_desktop_wants_it() {
        let caller = Caller { uid: 7, gid: 7, groups: Vec::new() };
        let cache = |pairs: &[(&str, &str)]| {
            let all = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Settings::from(all, caller.clone()).cache
        };
        assert_eq!(cache(&[("HOME", "/home/a")]), PathBuf::from("/home/a/.cache/evenkeel"));
        assert_eq!(cache(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")]), PathBuf::from("/c/evenkeel"));
        assert_eq!(cache(&[]), PathBuf::from("/tmp/evenkeel-7"));
    }
}
