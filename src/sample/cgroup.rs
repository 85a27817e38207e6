//! What a container takes, as the kernel counts it: its control group's files, of either version.

use std::path::{Path, PathBuf};

/// Where the kernel shows control groups.
const ROOT: &str = "/sys/fs/cgroup";
/// A limit of the first version that is none.
const NO_LIMIT: u64 = 1 << 60;

/// Where a container is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    Files(Files),
    /// Its files are not to be seen from here: the engine is asked.
    Engine,
}

/// The folders of a container's control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    memory: PathBuf,
    cpu: PathBuf,
    second: bool,
}

/// What a container takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Processor time since its start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in bytes, without what the kernel would give back at once.
    pub memory: u64,
    /// The most memory so far in bytes, with that.
    pub peak: Option<u64>,
    /// Its limit in bytes.
    pub limit: Option<u64>,
}

impl Cgroup {
    /// The control group of a container, by its first process. Where numbers of processes mean others here than to the engine, the identifier, which
    /// stands in the group's name, tells.
    pub fn of(pid: i64, id: &str) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        match Files::of(&text, id, Path::new(ROOT)) {
            Some(files) if files.read().is_some() => Self::Files(files),
            _ => Self::Engine,
        }
    }
}

impl Files {
    fn of(text: &str, id: &str, root: &Path) -> Option<Self> {
        if id.is_empty() {
            return None;
        }
        let path = |controller: &str| {
            text.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                let found = controllers.split(',').any(|name| name == controller) && path.contains(id);
                found.then(|| path.trim_start_matches('/').to_owned())
            })
        };
        if let (Some(memory), Some(cpu)) = (path("memory"), path("cpuacct")) {
            // Two controllers of one folder are found under either's name as well.
            return Some(Self {
                memory: root.join("memory").join(memory),
                cpu: root.join("cpuacct").join(cpu),
                second: false,
            });
        }
        let all = root.join(path("")?);
        Some(Self { memory: all.clone(), cpu: all, second: true })
    }

    /// What it takes now; nothing where that cannot be read.
    pub fn read(&self) -> Option<Taken> {
        let text = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| text(&self.memory, name)?.trim().parse::<u64>().ok();
        let entry = |text: &str, key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        let stat = text(&self.memory, "memory.stat").unwrap_or_default();
        if self.second {
            let cpu = text(&self.cpu, "cpu.stat")?;
            let given_back = entry(&stat, "inactive_file").unwrap_or(0);
            return Some(Taken {
                cpu_nanos: entry(&cpu, "usage_usec")?.saturating_mul(1000),
                memory: number("memory.current")?.saturating_sub(given_back),
                peak: number("memory.peak"),
                limit: number("memory.max"),
            });
        }
        let given_back = entry(&stat, "total_inactive_file").unwrap_or(0);
        Some(Taken {
            cpu_nanos: text(&self.cpu, "cpuacct.usage")?.trim().parse().ok()?,
            memory: number("memory.usage_in_bytes")?.saturating_sub(given_back),
            peak: number("memory.max_usage_in_bytes"),
            limit: number("memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("written");
        }
    }

    #[test]
    fn both_versions_are_read() {
        let root = tempfile::tempdir().expect("a folder");
        let stat = "anon 1\ninactive_file 100\ntotal_inactive_file 100\n";
        write(
            &root.path().join("system.slice/docker-abc.scope"),
            &[
                ("memory.current", "1100\n"),
                ("memory.peak", "2000\n"),
                ("memory.max", "max\n"),
                ("memory.stat", stat),
                ("cpu.stat", "usage_usec 5\n"),
            ],
        );
        let second = Files::of("0::/system.slice/docker-abc.scope\n", "abc", root.path()).expect("found");
        assert_eq!(second.read(), Some(Taken { cpu_nanos: 5000, memory: 1000, peak: Some(2000), limit: None }));
        write(
            &root.path().join("memory/docker/abc"),
            &[
                ("memory.usage_in_bytes", "1100"),
                ("memory.max_usage_in_bytes", "2000"),
                ("memory.limit_in_bytes", "9223372036854771712"),
                ("memory.stat", stat),
            ],
        );
        write(&root.path().join("cpuacct/docker/abc"), &[("cpuacct.usage", "7")]);
        let text = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n";
        let first = Files::of(text, "abc", root.path()).expect("found");
        assert_eq!(first.read(), Some(Taken { cpu_nanos: 7, memory: 1000, peak: Some(2000), limit: None }));
    }

    #[test]
    fn another_process_of_the_number_is_nobody() {
        assert_eq!(Files::of("0::/user.slice\n", "abc", Path::new("/")), None);
        assert_eq!(Files::of("0::/\n", "", Path::new("/")), None);
    }
}
