//! Everything that can happen to a run, and everything that can be done about it: two closed lists.

use evenkeel_wire::Record;

/// What happened. `rank` is that of the container; with one container a host it is the container's first.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The engine created a rank's container.
    Created {
        /// Rank.
        rank: u32,
    },
    /// The engine started a rank's container.
    Started {
        /// Rank.
        rank: u32,
    },
    /// The engine could not do it.
    EngineFailed {
        /// Rank.
        rank: u32,
        /// What was asked of it.
        operation: Operation,
        /// Its answer.
        message: String,
        /// Whether the engine answered at all: without an answer, the thing may have been done.
        answered: bool,
    },
    /// The engine may not lift the limit on locked memory: containers of this run go without.
    LimitKept {
        /// Rank whose container was refused.
        rank: u32,
        /// The engine's answer.
        message: String,
    },
    /// A rank's agent or trainer said something.
    Told {
        /// Rank.
        rank: u32,
        /// What it said.
        record: Box<Record>,
    },
    /// A rank's container has ended, and its spool was read to the end.
    Ended {
        /// Rank.
        rank: u32,
        /// Exit code that the engine saw; absent when the container is gone.
        code: Option<i64>,
        /// Whether the engine saw the kernel kill something for memory.
        oom_killed: bool,
        /// Last words of an agent that could not do its own work.
        words: Option<String>,
    },
    /// A rank's container is removed.
    Removed {
        /// Rank.
        rank: u32,
    },
    /// A rank has held up the others for too long.
    Stalled {
        /// Rank.
        rank: u32,
        /// One line for a person.
        message: String,
    },
    /// The engine was away, and may have taken containers with it.
    EngineAway,
    /// A signal came for the controller.
    Signal(Signal),
    /// The record cannot be kept, or the trainers not be told to start: the launch is given up.
    Broken,
    /// The time that [`crate::watch::state::RunState::deadline`] named has come.
    Deadline,
}

/// What is asked of the engine for one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create its container.
    Create,
    /// Start it.
    Start,
    /// Remove it.
    Remove,
}

/// Signals that the controller understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGQUIT: Ctrl-\, which asks no twice.
    Quit,
    /// SIGHUP: the terminal is gone.
    Hangup,
}

impl Signal {
    const ALL: [Self; 4] = [Self::Interrupt, Self::Terminate, Self::Quit, Self::Hangup];

    /// Its name in a journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "Interrupt",
            Self::Terminate => "Terminate",
            Self::Quit => "Quit",
            Self::Hangup => "Hangup",
        }
    }

    /// The signal of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create a rank's container.
    Create {
        /// Rank.
        rank: u32,
    },
    /// Start it.
    Start {
        /// Rank.
        rank: u32,
    },
    /// Tell all agents that they may start their trainers.
    Go,
    /// Ask a rank to end.
    Ask {
        /// Rank.
        rank: u32,
        /// How firmly.
        how: Ending,
    },
    /// Remove a rank's container.
    Remove {
        /// Rank.
        rank: u32,
    },
}

/// How firmly a rank is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// SIGTERM to the trainer: it may finish what it does.
    Gracefully,
    /// The agent kills the trainer, drains its output and seals the spool.
    AtOnce,
    /// The engine kills the container; the spool stays unsealed.
    ByForce,
}
