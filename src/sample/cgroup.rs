//! The control group of a container: what the kernel counts of its processors and memory, in either version of cgroups.

use std::io;
use std::path::{Path, PathBuf};

use crate::docker::ContainerUsage;

/// Where the kernel counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// Two hierarchies of their own.
    V1 {
        /// Folder of `cpuacct.usage`.
        cpu: PathBuf,
        /// Folder of `memory.stat`.
        memory: PathBuf,
    },
    /// One for all.
    V2 {
        /// Folder of `cpu.stat` and `memory.current`.
        folder: PathBuf,
        /// Folders above it, whose limits hold as well.
        above: Vec<PathBuf>,
    },
}

impl Cgroup {
    /// That of the container `id`, whose first process is `pid` on the engine's machine. None where the kernel here shows no such process
    /// in such a container: then the engine is elsewhere, or this process sees neither.
    pub fn of(pid: u32, id: &str) -> Option<Self> {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let found = find(&groups, &mounts, id)?;
        found.read().is_ok().then_some(found)
    }

    /// What it counts now.
    ///
    /// # Errors
    ///
    /// The container has ended, or its counters are not ours to read.
    pub fn read(&self) -> io::Result<ContainerUsage> {
        let text = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name));
        let number = |folder: &Path, name: &str| text(folder, name).ok().and_then(|text| text.trim().parse().ok());
        Ok(match self {
            Self::V1 { cpu, memory } => {
                let stat = text(memory, "memory.stat")?;
                let usage = number(memory, "memory.usage_in_bytes");
                ContainerUsage {
                    cpu_ns: text(cpu, "cpuacct.usage")?.trim().parse().ok(),
                    memory_bytes: without_cache(usage, counter(&stat, "total_inactive_file")),
                    memory_peak_bytes: number(memory, "memory.max_usage_in_bytes"),
                    memory_limit_bytes: counter(&stat, "hierarchical_memory_limit").filter(|limit| *limit < NO_LIMIT),
                }
            }
            Self::V2 { folder, above } => {
                let usage = text(folder, "memory.current")?.trim().parse().ok();
                let stat = text(folder, "memory.stat")?;
                let limits = std::iter::once(folder).chain(above).filter_map(|folder| number(folder, "memory.max"));
                ContainerUsage {
                    cpu_ns: counter(&text(folder, "cpu.stat")?, "usage_usec").map(|micros| micros * 1000),
                    memory_bytes: without_cache(usage, counter(&stat, "inactive_file")),
                    // Since Linux 5.19.
                    memory_peak_bytes: number(folder, "memory.peak"),
                    memory_limit_bytes: limits.min(),
                }
            }
        })
    }
}

/// Version 1 has no word for "no limit", but the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

/// Memory without what was read from files and not used since: the kernel gives that away before anything fails.
fn without_cache(usage: Option<u64>, inactive: Option<u64>) -> Option<u64> {
    usage.map(|usage| usage.saturating_sub(inactive.unwrap_or(0)))
}

/// `name value` among lines of such.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The groups of a process by its `/proc/PID/cgroup`, as this process can reach them by its own `/proc/self/mountinfo`. A process
/// that is in no group of the container `id` has none: it only happens to have the same number.
fn find(groups: &str, mounts: &str, id: &str) -> Option<Cgroup> {
    if id.is_empty() {
        return None;
    }
    let group = |controller: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            (controllers.split(',').any(|one| one == controller) && path.contains(id)).then_some(path)
        })
    };
    let v1 = |controller: &str| {
        let path = group(controller)?;
        let is_of = |mount: &Mount<'_>| mount.kind == "cgroup" && mount.options.split(',').any(|one| one == controller);
        mounts.lines().filter_map(Mount::of).filter(is_of).find_map(|mount| mount.folder(path))
    };
    if let (Some((cpu, _)), Some((memory, _))) = (v1("cpuacct"), v1("memory")) {
        return Some(Cgroup::V1 { cpu, memory });
    }
    let path = group("")?;
    let is_v2 = |mount: &Mount<'_>| mount.kind == "cgroup2";
    let (folder, top) = mounts.lines().filter_map(Mount::of).filter(is_v2).find_map(|mount| mount.folder(path))?;
    let above = folder.ancestors().skip(1).take_while(|folder| folder.starts_with(&top)).map(Path::to_owned).collect();
    Some(Cgroup::V2 { folder, above })
}

/// A line of mountinfo.
struct Mount<'a> {
    /// What of the file system is mounted.
    root: &'a str,
    /// Where.
    place: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let mut system = system.split(' ');
        let kind = system.next()?;
        Some(Self { root: mount.get(3)?, place: mount.get(4)?, kind, options: system.nth(1)? })
    }

    /// Where a group is, and where the mount's own top is.
    fn folder(&self, group: &str) -> Option<(PathBuf, PathBuf)> {
        let below = Path::new(group).strip_prefix(self.root).ok()?;
        // `..` leads out of what is mounted.
        let inside = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        inside.then(|| (Path::new(self.place).join(below), PathBuf::from(self.place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "fe39e8d190a5a7a233fc505435b950b539b5b9ee30f748cdd19be5cdfd66af97";

    #[test]
    fn both_versions_are_found_where_they_are_mounted() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let groups = format!(
            "9:name=systemd:/docker/{ID}\n4:memory:/docker/{ID}\n2:cpu,cpuacct:/docker/{ID}\n0::/docker/{ID}\n"
        );
        let folder = |top: &str| PathBuf::from(format!("/sys/fs/cgroup/{top}/docker/{ID}"));
        let v1 = Cgroup::V1 { cpu: folder("cpu,cpuacct"), memory: folder("memory") };
        assert_eq!(find(&groups, mounts, ID), Some(v1));
        let mounts = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let groups = format!("0::/system.slice/docker-{ID}.scope\n");
        let top = PathBuf::from("/sys/fs/cgroup");
        let folder = top.join(format!("system.slice/docker-{ID}.scope"));
        let v2 = Cgroup::V2 { folder, above: vec![top.join("system.slice"), top] };
        assert_eq!(find(&groups, mounts, ID), Some(v2));
    }

    #[test]
    fn what_is_not_the_containers_is_not_read() {
        let mounts = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        // A process of this machine that bears the number of one elsewhere.
        assert_eq!(find("0::/user.slice/session-1.scope\n", mounts, ID), None);
        assert_eq!(find("0::/\n", mounts, ""), None);
        // A controller in a container of its own sees another's group outside of what it has mounted.
        assert_eq!(find(&format!("0::/../{ID}\n"), mounts, ID), None);
        let mounts = "35 24 0:30 /docker/other /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(&format!("0::/docker/{ID}\n"), mounts, ID), None);
        assert_eq!(find("nonsense", "nonsense", ID), None);
        assert_eq!(Cgroup::of(u32::MAX, ID), None);
    }

    #[test]
    fn counters_of_both_versions_are_read() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).expect("written");
        write("cpuacct.usage", "50788524\n");
        write("memory.usage_in_bytes", "2670592\n");
        write("memory.max_usage_in_bytes", "3821568\n");
        write(
            "memory.stat",
            "cache 5\ninactive_file 7\nhierarchical_memory_limit 9223372036854771712\ntotal_inactive_file 592\n",
        );
        let folder = || place.path().to_owned();
        let v1 = Cgroup::V1 { cpu: folder(), memory: folder() };
        let usage = |limit| ContainerUsage {
            cpu_ns: Some(50_788_524),
            memory_bytes: Some(2_670_000),
            memory_peak_bytes: Some(3_821_568),
            memory_limit_bytes: limit,
        };
        assert_eq!(v1.read().expect("there"), usage(None));
        let inner = place.path().join("inner");
        std::fs::create_dir(&inner).expect("made");
        write("memory.max", "4000000\n");
        write("inner/memory.max", "max\n");
        write("inner/memory.current", "2670592\n");
        write("inner/memory.stat", "anon 1\ninactive_file 592\n");
        write("inner/cpu.stat", "usage_usec 50788\nuser_usec 1\n");
        let v2 = Cgroup::V2 { folder: inner, above: vec![folder()] };
        let old = ContainerUsage { cpu_ns: Some(50_788_000), memory_peak_bytes: None, ..usage(Some(4_000_000)) };
        assert_eq!(v2.read().expect("there"), old);
        drop(place);
        assert!(v2.read().is_err() && v1.read().is_err());
    }
}
