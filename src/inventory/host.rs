//! What the kernel says of this machine and of the programs on it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Host, Unreadable};

/// Reads this machine's processors and memory. Nothing of NVIDIA's is in it yet.
#[must_use]
pub fn read() -> Host {
    let mut unreadable = Unreadable::new();
    // Counts what an affinity mask or a cgroup leaves, as torch will.
    let cpus = std::thread::available_parallelism().map_or_else(
        |error| {
            unreadable.insert("cpus".into(), format!("{error}; taken to be one"));
            1
        },
        |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX),
    );
    let memory_bytes = match std::fs::read_to_string("/proc/meminfo") {
        Ok(text) => total_memory(&text).or_else(|| {
            unreadable.insert("memory_bytes".into(), "`/proc/meminfo` does not say".into());
            None
        }),
        Err(error) => {
            unreadable.insert("memory_bytes".into(), format!("`/proc/meminfo`: {error}"));
            None
        }
    };
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|text| text.trim().to_owned());
    Host { name, cpus, memory_bytes, unreadable, ..Host::default() }
}

/// What the processors call themselves, where the kernel says it.
#[must_use]
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Name and owner of a process, as far as the kernel shows them to this user.
#[must_use]
pub fn process(pid: u32) -> (Option<String>, Option<String>) {
    let folder = format!("/proc/{pid}");
    let name = std::fs::read_to_string(format!("{folder}/comm")).ok();
    // A program names itself: its name must not steer the terminal of who reads it.
    let name = name.map(|text| text.trim_end().chars().filter(|letter| !letter.is_control()).collect());
    let user =
        std::fs::metadata(&folder).ok().map(|folder| user(folder.uid()).unwrap_or_else(|| folder.uid().to_string()));
    (name, user)
}

/// Name of a user in this machine's own list. Users of a directory service have none there.
#[must_use]
pub fn user(uid: u32) -> Option<String> {
    user_in(&std::fs::read_to_string(Path::new("/etc/passwd")).ok()?, uid)
}

fn user_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_understood() {
        assert_eq!(total_memory("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16_777_216));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(user_in(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(user_in(passwd, 1001), None);
    }

    #[test]
    fn this_process_has_a_name_and_an_owner() {
        let (name, user) = process(std::process::id());
        assert!(name.is_some_and(|name| !name.is_empty()));
        assert!(user.is_some_and(|user| !user.is_empty()));
        assert_eq!(process(u32::MAX), (None, None));
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let host = read();
        assert!(host.cpus >= 1);
        assert!(host.memory_bytes.is_some_and(|bytes| bytes > 0), "{:?}", host.unreadable);
    }
}
