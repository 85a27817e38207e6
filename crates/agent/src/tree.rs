//! The processes below the agent. As their subreaper the agent inherits every orphan, also one that left the trainer's
//! process group or session (torchrun's workers do), so killing its children until none is left ends the whole tree.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};

use crate::end::End;

/// Makes the agent the parent of orphans. As PID 1 it is anyway; where the kernel refuses, only the process group is
/// reached.
pub fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Sends a signal to the trainer's process group.
pub fn signal_group(leader: Pid, signal: i32) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process_group(leader, signal);
    }
}

/// SIGKILLs the trainer's process group and every child of the agent. Their own children become the agent's when they
/// die: call it again at each SIGCHLD until [`reap`] finds no child.
pub fn kill_all(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
    // The agent has one thread while programs run, so this file lists all of its children.
    let me = rustix::process::getpid().as_raw_pid();
    let children = std::fs::read_to_string(format!("/proc/self/task/{me}/children")).unwrap_or_default();
    for child in children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        let _ = kill_process(child, Signal::KILL);
    }
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// End of the program asked about, when it is among the dead.
    pub end: Option<End>,
    /// Whether the agent has children left.
    pub children_left: bool,
}

/// Collects every dead child without waiting.
pub fn reap(program: Pid) -> Reaped {
    let mut end = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program => end = End::from_status(status).or(end),
            Ok(Some(_)) => {}
            Ok(None) => return Reaped { end, children_left: true },
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Reaped { end, children_left: false },
        }
    }
}

/// Collects dead children that are nobody's program: PID 1 inherits them.
pub fn reap_strangers() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
