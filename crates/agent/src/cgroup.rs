//! Whether the kernel's out-of-memory killer was at work in this container.

use std::fs;

/// Processes that the killer has ended in this control group so far. `None` when no control group is readable.
pub fn oom_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    candidates(&groups).into_iter().find_map(|file| oom_kill_count(&fs::read_to_string(file).ok()?))
}

/// Files that may hold the count, the likeliest first. With a private cgroup namespace the own group is the root of the
/// mount; without one it is the path that the kernel tells, or the engine has mounted that path as the root.
fn candidates(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = path.trim_end_matches('/');
        if controllers.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/memory.events"));
            files.push("/sys/fs/cgroup/memory.events".into());
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(format!("/sys/fs/cgroup/memory{path}/memory.oom_control"));
            files.push("/sys/fs/cgroup/memory/memory.oom_control".into());
        }
    }
    files
}

fn oom_kill_count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found() {
        assert_eq!(
            candidates("5:cpu,memory:/docker/x\n0::/\n"),
            [
                "/sys/fs/cgroup/memory/docker/x/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/memory.events",
                "/sys/fs/cgroup/memory.events"
            ]
        );
    }

    #[test]
    fn the_count_is_read_and_not_its_neighbours() {
        assert_eq!(oom_kill_count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(oom_kill_count("low 0\noom 7\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(oom_kill_count("oom_kill_disable 0\n"), None);
    }
}
