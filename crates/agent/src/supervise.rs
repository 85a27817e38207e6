//! One program from its start to its last byte: a loop over its output, its events and the agent's signals.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use evenkeel_wire::{Event, FailureClass};
use rustix::process::Pid;

use crate::end::End;
use crate::events::Events;
use crate::log::Log;
use crate::mirror::Mirror;
use crate::program::{self, Program, Slot, StartError};
use crate::ready;
use crate::signals::{Request, Signals};
use crate::times::Times;
use crate::tree;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// A program that writes little at a time is left alone for so long after each read, so that a flood of short lines costs
/// one wake-up a millisecond and not one a line. The pipe holds what comes meanwhile.
const PAUSE: Duration = Duration::from_millis(1);
/// After the program's end, what still holds its pipes may write until it has been silent for so long,
const SILENCE: Duration = Duration::from_millis(100);
/// and no longer than this in all.
const LINGER: Duration = Duration::from_secs(2);
/// How long to wait for killed processes to be gone before the spool is sealed without them.
const KILLED: Duration = Duration::from_secs(2);
/// Reads that empty the pipe of events at a program's end. What it left behind may go on writing.
const ENDED_READS: u32 = 16;
/// How often to try again to write what a full disk did not take.
const RETRY: Duration = Duration::from_secs(1);

/// What a rank writes to and hears.
#[derive(Debug)]
pub struct Spools {
    /// Its output.
    pub log: Log<File>,
    /// When it wrote what.
    pub times: Times,
    /// The copy of the output for `docker logs`.
    pub mirror: Mirror,
    /// Its events.
    pub events: Events,
    /// Signals from outside.
    pub signals: Signals,
    /// Where programs find their events pipe.
    pub slot: Slot,
    /// Whether a signal has asked for the end, which keeps the next program from starting.
    pub requested: bool,
    /// Whether it came while a program ran. One that has ended by itself was not stopped, and its failure stays its own.
    pub stopped: bool,
    /// Whether the end was to be at once.
    pub killed: bool,
}

/// Where a program stands.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    /// It has ended; others may still write.
    Lingering {
        end: Instant,
        silent_since: Instant,
    },
    /// Everything was killed.
    Killed {
        since: Instant,
    },
}

impl Spools {
    /// Runs a program to its end. What it could not be started for is told in the log and as an event.
    pub fn run(&mut self, command: &[OsString], variables: &[(&'static str, OsString)]) -> End {
        if self.log.is_inside_line() {
            self.output(b"\n", Instant::now());
        }
        let end = match program::start(&mut self.slot, command, variables) {
            Ok(program) => {
                let command = command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
                let pid = program.pid.as_raw_nonzero().get().unsigned_abs();
                self.events.append(Event::Started { command, pid });
                self.follow(program)
            }
            Err(error) => {
                self.tell_failure(&error);
                End::Code(error.exit_code())
            }
        };
        self.events.take_last();
        end
    }

    fn tell_failure(&mut self, error: &StartError) {
        let class = match error {
            StartError::System { .. } => FailureClass::Infrastructure,
            _ => FailureClass::Code,
        };
        self.output(format!("evenkeel: {error}\n").as_bytes(), Instant::now());
        self.events.append(Event::Failure { class, message: error.to_string(), retry_below: None });
    }

    fn follow(&mut self, program: Program) -> End {
        let Program { pid, output, events } = program;
        let (mut output, mut events) = (Some(output), Some(events));
        let mut buffer = vec![0; READ_BYTES];
        let mut phase = Phase::Running;
        let mut ended = None;
        let mut children_left = true;
        let mut pause_until = None;
        loop {
            let now = Instant::now();
            let paused = pause_until.is_some_and(|until| until > now);
            let readable = output.as_ref().filter(|_| !paused).map(AsFd::as_fd);
            let fds = [Some(self.signals.as_fd()), readable, events.as_ref().map(AsFd::as_fd)];
            let wake = earliest([pause_until.filter(|_| paused), deadline(phase, now), self.retry(now)]);
            let timeout = wake.map(|wake| wake.saturating_duration_since(now));
            let [signalled, has_output, has_events] = ready::wait(fds, timeout);
            let now = Instant::now();

            if signalled {
                let requests: Vec<_> = std::iter::from_fn(|| self.signals.next()).collect();
                let reaped = tree::reap(pid);
                if let (None, Some(end)) = (ended, reaped.end) {
                    // First what it told before: the reason of its end, most of all.
                    for _ in 0..ENDED_READS {
                        if self.read_events(&mut events, &mut buffer) == 0 {
                            break;
                        }
                    }
                    // Peers that hang in a collective must not wait for what the program left behind.
                    self.events.append(Event::Ended { code: end.code(), signal: end.signal() });
                    ended = Some(end);
                }
                children_left = reaped.children_left;
                for request in requests {
                    self.obey(request, pid, ended.is_some());
                }
                match phase {
                    _ if self.killed => {
                        // At each end of a child, too: its own children have come to the agent.
                        tree::kill_all(pid);
                        if !matches!(phase, Phase::Killed { .. }) {
                            phase = Phase::Killed { since: now };
                        }
                    }
                    Phase::Killed { .. } => tree::kill_all(pid),
                    Phase::Running if ended.is_some() => phase = Phase::Lingering { end: now, silent_since: now },
                    _ => {}
                }
            }
            if has_events {
                self.read_events(&mut events, &mut buffer);
            }
            if has_output {
                let read = self.read_output(&mut output, &mut buffer, now);
                pause_until = (read < READ_BYTES / 4 && matches!(phase, Phase::Running)).then(|| now + PAUSE);
            }
            match &mut phase {
                Phase::Lingering { silent_since, .. } if has_events || has_output => *silent_since = now,
                _ => {}
            }
            if self.retry(now).is_some() {
                self.events.flush();
            }

            let closed = output.is_none() && events.is_none();
            if matches!(phase, Phase::Lingering { .. }) && (closed || deadline(phase, now).is_none()) {
                tree::kill_all(pid);
                children_left = tree::reap(pid).children_left;
                phase = Phase::Killed { since: now };
            }
            match (phase, ended) {
                (Phase::Killed { since }, Some(end)) if !children_left || now >= since + KILLED => {
                    self.drain(output, events, &mut buffer);
                    return end;
                }
                _ => {}
            }
        }
    }

    fn obey(&mut self, request: Request, program: Pid, ended: bool) {
        match request {
            Request::Child => return,
            Request::Pass(signal) if !ended => tree::signal_group(program, signal),
            Request::Pass(_) => {}
            Request::Kill => self.killed = true,
        }
        self.requested = true;
        self.stopped |= !ended;
    }

    /// When to try the disk again.
    fn retry(&self, now: Instant) -> Option<Instant> {
        self.events.is_waiting().then(|| now + RETRY)
    }

    /// Reads what is in the pipes, now that nobody of ours writes to them any more.
    fn drain(&mut self, mut output: Option<OwnedFd>, mut events: Option<OwnedFd>, buffer: &mut [u8]) {
        let until = Instant::now() + LINGER;
        while Instant::now() < until && self.read_output(&mut output, buffer, Instant::now()) > 0 {}
        while Instant::now() < until && self.read_events(&mut events, buffer) > 0 {}
    }

    /// Reads once; closes the pipe at its end. Returns how many bytes came.
    fn read_output(&mut self, pipe: &mut Option<OwnedFd>, buffer: &mut [u8], now: Instant) -> usize {
        let read = read(pipe, buffer);
        if read > 0 {
            self.output(&buffer[..read], now);
        }
        read
    }

    fn read_events(&mut self, pipe: &mut Option<OwnedFd>, buffer: &mut [u8]) -> usize {
        let read = read(pipe, buffer);
        self.events.take(&buffer[..read]);
        read
    }

    fn output(&mut self, bytes: &[u8], now: Instant) {
        let (was, before) = (self.log.trouble(), self.log.dropped());
        self.times.stamp(self.log.bytes(), now);
        self.log.write(bytes);
        match (was, self.log.trouble()) {
            (None, Some(trouble)) => {
                let message = format!("the log cannot be written ({trouble}): lines are left out until it can");
                self.events.append(Event::Note { message });
            }
            (Some(_), None) => {
                let message = format!("the log is written again, {before} lines are missing so far");
                self.events.append(Event::Note { message });
            }
            _ => {}
        }
        self.mirror.write(bytes, now);
    }
}

/// When the phase ends by itself; `None` when that does not happen, or has.
fn deadline(phase: Phase, now: Instant) -> Option<Instant> {
    let deadline = match phase {
        Phase::Running => return None,
        Phase::Lingering { end, silent_since } => (silent_since + SILENCE).min(end + LINGER),
        Phase::Killed { since } => since + KILLED,
    };
    (deadline > now).then_some(deadline)
}

fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

fn read(pipe: &mut Option<OwnedFd>, buffer: &mut [u8]) -> usize {
    let Some(fd) = pipe else { return 0 };
    loop {
        match rustix::io::read(&*fd, &mut *buffer) {
            Ok(0) => {
                *pipe = None;
                return 0;
            }
            Ok(read) => return read,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return 0,
            Err(_) => {
                *pipe = None;
                return 0;
            }
        }
    }
}
