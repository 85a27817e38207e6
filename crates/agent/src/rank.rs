//! The life of a rank: lock, wait for the go, preflight, trainer, seal, and for the leader: stay.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use evenkeel_wire::{Event, path};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::config::{Config, ConfigError};
use crate::end::End;
use crate::events::Events;
use crate::go::Watch;
use crate::log::Log;
use crate::mirror::Mirror;
use crate::program::Slot;
use crate::signals::{Request, Signals};
use crate::supervise::Spools;
use crate::times::Times;
use crate::{alive, cgroup, home, ready, tree};

/// Why the agent cannot do its own work.
#[derive(Debug, thiserror::Error)]
pub enum RankError {
    /// The call makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel refuses a basic service.
    #[error("failed to {what}: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the run directory.
    #[error("failed to {what} `{}`: {source}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Lives the rank; returns the exit code of the agent.
///
/// # Errors
/// When the agent cannot do its own work. A program that fails is no error.
pub fn run(config: &Config) -> Result<i32, RankError> {
    let (generation, rank) = (config.generation, config.rank);
    let system = |what| move |source: io::Error| RankError::System { what, source };
    let slot = Slot::reserve().map_err(system("reserve a descriptor"))?;
    let signals = Signals::block().map_err(system("block signals"))?;
    tree::adopt_orphans();

    let control = config.locate(path::CONTROL);
    let _alive = alive::hold(&control, generation, rank).map_err(|source| RankError::File {
        what: "take the lock of this rank in",
        path: control.clone(),
        source,
    })?;
    let log = config.locate(path::LOGS).join(path::log(rank));
    let times = Times::open(&config.locate(path::LOGS).join(path::times(rank)), &log);
    let output = File::options().append(true).create(true).open(&log).map_err(|source| RankError::File {
        what: "open",
        path: log,
        source,
    })?;
    let file = config.locate(path::EVENTS).join(path::events(rank));
    let events = Events::open(&file, generation, rank).map_err(|source| RankError::File {
        what: "open",
        path: file.clone(),
        source,
    })?;

    // All that can be done before the go is.
    let variables = home::variables(generation, rank);
    let oom_before = cgroup::oom_kills();
    let mirror = Mirror::new(Instant::now());
    let mut spools = Spools {
        log: Log::new(output),
        times,
        mirror,
        events,
        signals,
        slot,
        requested: false,
        stopped: false,
        killed: false,
    };
    spools.events.append(Event::Waiting);
    let end = match wait_for_go(config, &spools.signals) {
        Some(end) => {
            spools.stopped = true;
            end
        }
        None => run_programs(config, &variables, &mut spools),
    };

    let Spools { log, mut mirror, events, signals, stopped, killed, .. } = spools;
    mirror.finish();
    let (output, totals) = log.finish();
    let exit = Event::Exit {
        code: end.code(),
        signal: end.signal(),
        stopped,
        oom_killed: matches!((oom_before, cgroup::oom_kills()), (Some(before), Some(after)) if after > before),
        lines: totals.lines,
        bytes: totals.bytes,
        sha256: totals.sha256,
        dropped: totals.dropped,
    };
    let sealed = events.seal(exit).and_then(|events| {
        // The seal is there to be read before the disk is waited for; a rank that is to end at once does not wait at all.
        if killed {
            return Ok(());
        }
        output.sync_data()?;
        events.sync_data()
    });
    // A spool without its seal is what the controller must see; the program's code stays the rank's.
    if let Err(error) = sealed {
        eprintln!("evenkeel-agent: failed to seal `{}`: {error}", file.display());
    }
    if config.local_rank == 0 && config.local_world_size > 1 {
        stay(config, &signals, control).map_err(system("wait for the other ranks"))?;
    }
    Ok(end.exit_code())
}

/// Waits until the controller starts the generation. `Some` when a signal ends the rank before that.
fn wait_for_go(config: &Config, signals: &Signals) -> Option<End> {
    let control = config.locate(path::CONTROL);
    let go = control.join(path::go(config.generation));
    let watch = Watch::new(&control);
    loop {
        while let Some(request) = signals.next() {
            match request {
                Request::Pass(signal) => return Some(End::Signal(signal)),
                Request::Kill => return Some(End::Signal(libc::SIGKILL)),
                Request::Child => tree::reap_strangers(),
            }
        }
        if go.exists() {
            return None;
        }
        watch.wait(Some(signals.as_fd()));
    }
}

/// Runs the preflight, where there is one, and the trainer.
fn run_programs(config: &Config, variables: &[(&'static str, OsString)], spools: &mut Spools) -> End {
    if let Some(preflight) = &config.preflight {
        let end = spools.run(&[preflight.clone(), OsString::from("preflight")], variables);
        if end != End::Code(0) {
            return end;
        }
        if spools.requested {
            spools.stopped = true;
            return end;
        }
    }
    // What the preflight found is what the trainer gets, or the trainer would meet what the preflight went round.
    let variables = [variables, spools.events.found()].concat();
    spools.run(&config.command, &variables)
}

/// Keeps the leader's container, whose network the others share, until they have ended or a signal ends it. The locks
/// are waited for by a thread: a signal does not interrupt a blocked one, and the end of the process does.
fn stay(config: &Config, signals: &Signals, control: PathBuf) -> io::Result<()> {
    let (generation, followers) = (config.generation, config.followers());
    // The thread says that it is done by closing its end.
    let (done, alive) = pipe_with(PipeFlags::CLOEXEC)?;
    std::thread::Builder::new().spawn(move || {
        for rank in followers {
            if let Err(error) = alive::wait_for_end(&control, generation, rank) {
                eprintln!("evenkeel-agent: rank {rank} is not waited for: {error}");
            }
        }
        drop(alive);
    })?;
    loop {
        let [_, done] = ready::wait([Some(signals.as_fd()), Some(done.as_fd())], None);
        if done {
            return Ok(());
        }
        while let Some(request) = signals.next() {
            match request {
                Request::Pass(_) | Request::Kill => return Ok(()),
                Request::Child => tree::reap_strangers(),
            }
        }
    }
}
