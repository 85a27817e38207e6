//! The state machine of one generation: events in, actions out. It knows no engine, no file and no clock.
//!
//! The way of a rank: created, started, running, ended, removed. The leader (rank 0) goes ahead: the others join its
//! namespaces, for which it must exist when they are created and run when they start. Trainers start when all run. The first bad end ends the whole generation.

use std::time::Duration;

use evenkeel_wire::{Event as Told, FailureClass};

use crate::event::{Action, Ending, Event, Operation, Signal};

/// How long agents may take to kill, drain and seal before the engine kills the container.
pub const SEAL_TIME: Duration = Duration::from_millis(500);
/// How long the engine may take to kill and remove before the containers are left to it.
pub const ENGINE_TIME: Duration = Duration::from_secs(90);

/// One generation of containers.
#[derive(Debug)]
pub struct RunState {
    ranks: Vec<Rank>,
    grace: Duration,
    leader_first: bool,
    /// Whether the trainers were told to start.
    under_way: bool,
    broken: bool,
    /// How firmly the generation was asked to end, if it was, and when the next degree is due.
    ending: Option<(Ending, Option<Duration>)>,
    signal: Option<Signal>,
    /// Whether the engine was away for a while.
    away: bool,
    /// One that came when all had ended: it changes nothing here, but what would follow.
    late: Option<Signal>,
    arrivals: u32,
}

/// A bad end of a program.
#[derive(Clone, Copy, Debug)]
struct Fall {
    /// Its place in the order of ends.
    order: u32,
    program: ProgramEnd,
    /// Nobody had been asked to end by then.
    unasked: bool,
}

#[derive(Debug, Default)]
struct Rank {
    stage: Stage,
    failure: Option<Reason>,
    /// That the generation was ended because it stood still, and its place in the order of ends.
    stalled: Option<u32>,
    /// That its program ended badly, told before its spool is sealed.
    fell: Option<Fall>,
    end: Option<RankEnd>,
    /// Whether its container was left on the engine, as far as anybody knows.
    left: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Absent,
    Creating,
    Created,
    Starting,
    Running,
    Removing,
    Removed,
}

/// How a program ended: by itself with a code, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramEnd {
    /// Exit code.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
}

/// How a rank ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RankEnd {
    /// Rank.
    pub rank: u32,
    /// Its place in the order in which ends became known, from 0: those of programs where they were told.
    pub order: u32,
    /// What the seal or the engine said.
    pub how: How,
    /// Whether we had asked it to end before its program did.
    pub asked: bool,
    /// How its program ended, where that was told before the seal, or without one.
    pub program: Option<ProgramEnd>,
    /// Why, in the trainer's own words.
    pub failure: Option<Reason>,
}

/// Why a trainer says that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Class of the failure.
    pub class: FailureClass,
    /// One line for a person.
    pub message: String,
    /// Another launch may help if its micro-batches are smaller than this one, of so many images.
    pub retry_below: Option<u32>,
}

/// What is known of a rank's end.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// The agent sealed the spool.
    Sealed {
        /// Exit code of the trainer.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
        /// Whether it was asked to end.
        stopped: bool,
        /// Whether the kernel killed something in the container for memory.
        oom_killed: bool,
        /// Lines of its log for which there was no room on the disk.
        dropped: u64,
    },
    /// The container ended without a seal: its log may miss its last lines.
    Unsealed {
        /// Exit code that the engine saw.
        code: Option<i64>,
        /// Whether the engine saw the kernel kill something for memory.
        oom_killed: bool,
        /// Last words of an agent that could not do its own work.
        words: Option<String>,
    },
    /// The engine could not create or start it.
    NotStarted {
        /// What was asked of the engine.
        operation: Operation,
        /// The engine's answer.
        message: String,
    },
}

impl RankEnd {
    /// Whether the rank did what it was to do. A trainer that somebody else asked to end has not, however well it ended.
    #[must_use]
    pub fn is_good(&self) -> bool {
        match self.how {
            How::Sealed { code: Some(0), signal: None, stopped, .. } => self.asked || !stopped,
            _ => false,
        }
    }

    /// Whether the rank ended because we asked it to. An agent that could not do its own work would have ended unasked.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.asked && matches!(self.how, How::Sealed { stopped: true, .. } | How::Unsealed { words: None, .. })
    }
}

impl RunState {
    /// A generation of `ranks` containers; `grace` is what a trainer gets between SIGTERM and its end by force.
    #[must_use]
    pub fn new(ranks: u32, grace: Duration) -> Self {
        let ranks = (0..ranks).map(|_| Rank::default()).collect();
        Self {
            ranks,
            grace,
            leader_first: false,
            under_way: false,
            broken: false,
            ending: None,
            signal: None,
            away: false,
            late: None,
            arrivals: 0,
        }
    }

    /// Creates the others only when the leader runs: where its container may have to be made anew to start, those that
    /// were already made to join it would look for the old one.
    #[must_use]
    pub fn leader_first(self) -> Self {
        Self { leader_first: true, ..self }
    }

    /// A generation whose trainers somebody else started. What happened since is told by events as ever; the actions that follow from them
    /// have been taken or not, which is for [`Self::take_up`] to settle.
    #[must_use]
    pub fn under_way(ranks: u32, grace: Duration) -> Self {
        let mut state = Self::new(ranks, grace);
        state.ranks.iter_mut().for_each(|rank| rank.stage = Stage::Running);
        state.under_way = true;
        state
    }

    /// What is to be done about a generation of which nothing is known to have been done but what events told: to ask again what was asked,
    /// to remove what was to be removed. Each does no harm twice.
    pub fn take_up(&mut self, now: Duration) -> Vec<Action> {
        for rank in self.ranks.iter_mut().filter(|rank| rank.stage == Stage::Removing) {
            rank.stage = Stage::Running;
        }
        match self.ending {
            Some((how, _)) => self.ask(how, now),
            None => self.proceed(),
        }
    }

    /// Ranks of which nothing is known but that they run.
    #[must_use]
    pub fn running(&self) -> Vec<u32> {
        let runs = |rank: &Rank| rank.stage == Stage::Running && rank.end.is_none();
        (0..).zip(&self.ranks).filter(|(_, rank)| runs(rank)).map(|(number, _)| number).collect()
    }

    /// The first actions.
    pub fn begin(&mut self) -> Vec<Action> {
        self.proceed()
    }

    /// When [`Event::Deadline`] is wanted, on the clock of [`Self::on_event`].
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.ending.and_then(|(_, due)| due)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ranks.iter().all(|rank| rank.stage == Stage::Removed)
    }

    /// Whether every rank has ended: nobody has anything left to tell.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ranks.iter().all(|rank| rank.end.is_some())
    }

    /// Whether the trainers were told to start.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Whether the launch was given up, see [`Event::Broken`].
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ranks whose containers may still be on the engine, which did not remove them.
    #[must_use]
    pub fn left(&self) -> Vec<u32> {
        (0..).zip(&self.ranks).filter(|(_, rank)| rank.left).map(|(number, _)| number).collect()
    }

    /// Signal that ended the run, if one did. One that came when it was ending already only made that quicker.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        self.signal
    }

    /// The same, or one that came when all had ended: whatever would follow this launch must not begin.
    #[must_use]
    pub fn asked(&self) -> Option<Signal> {
        self.signal.or(self.late)
    }

    /// Whether the engine was away for a while.
    #[must_use]
    pub fn engine_was_away(&self) -> bool {
        self.away
    }

    /// Whether nobody has asked for its end, and trainers run that may stand still.
    #[must_use]
    pub fn may_stall(&self) -> bool {
        self.under_way && self.ending.is_none() && self.ranks.iter().all(|rank| rank.end.is_none())
    }

    /// How the ranks ended that have, in rank order.
    #[must_use]
    pub fn ends(&self) -> Vec<RankEnd> {
        self.ranks.iter().filter_map(|rank| rank.end.clone()).collect()
    }

    /// What follows from an event at the time `now`, on any clock that does not go back.
    pub fn on_event(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Created { rank } => self.stage(rank, Stage::Created),
            Event::Started { rank } => {
                self.stage(rank, Stage::Running);
                // One that started after the end was asked for has not heard of it.
                if let Some((how, _)) = self.ending {
                    return vec![Action::Ask { rank, how }];
                }
            }
            Event::EngineFailed { rank, operation: Operation::Remove, .. } => self.leave(rank),
            Event::Removed { rank } => self.stage(rank, Stage::Removed),
            Event::EngineFailed { rank, operation, message, answered } => {
                self.end(rank, How::NotStarted { operation, message });
                // What the engine refused to create needs no removal; what it gave no answer on may be there.
                let gone = operation == Operation::Create && answered;
                self.stage(rank, if gone { Stage::Removed } else { Stage::Created });
                return self.fail(now);
            }
            Event::LimitKept { .. } => return Vec::new(),
            Event::Told { rank, record } => return self.told(rank, record.event, now),
            Event::Ended { rank, code, oom_killed, words } => {
                if self.end(rank, How::Unsealed { code, oom_killed, words }) && self.ending.is_none() {
                    return self.fail(now);
                }
            }
            Event::Stalled { rank, message } => return self.stalled(rank, message, now),
            Event::EngineAway => self.away = true,
            Event::Signal(signal) => return self.signalled(signal, now),
            Event::Broken => {
                self.broken = true;
                return self.fail(now);
            }
            Event::Deadline => {
                if let Some((how, Some(due))) = self.ending {
                    if now >= due {
                        return match how {
                            Ending::Gracefully => self.ask(Ending::AtOnce, now),
                            Ending::AtOnce => self.ask(Ending::ByForce, now),
                            Ending::ByForce => self.give_up(),
                        };
                    }
                }
            }
        }
        self.proceed()
    }

    fn told(&mut self, rank: u32, told: Told, now: Duration) -> Vec<Action> {
        match told {
            Told::Failure { class, message, retry_below } => {
                if let Some(state) = self.ranks.get_mut(rank as usize) {
                    // The first reason counts; later ones follow from it.
                    state.failure.get_or_insert(Reason { class, message, retry_below });
                }
                Vec::new()
            }
            Told::Ended { code, signal } if code != Some(0) || signal.is_some() => {
                let (order, unasked) = (self.arrivals, self.ending.is_none());
                match self.ranks.get_mut(rank as usize) {
                    // Its agent is asked along with the others, which ends what the program left behind.
                    Some(state) if state.fell.is_none() && state.end.is_none() => {
                        state.fell = Some(Fall { order, program: ProgramEnd { code, signal }, unasked });
                        self.arrivals += 1;
                        self.fail(now)
                    }
                    _ => Vec::new(),
                }
            }
            Told::Exit { code, signal, stopped, oom_killed, dropped, .. } => {
                self.end(rank, How::Sealed { code, signal, stopped, oom_killed, dropped });
                let good =
                    self.ranks.get(rank as usize).and_then(|state| state.end.as_ref()).is_some_and(RankEnd::is_good);
                if good || self.ending.is_some() { self.proceed() } else { self.fail(now) }
            }
            _ => Vec::new(),
        }
    }

    fn stalled(&mut self, rank: u32, message: String, now: Duration) -> Vec<Action> {
        match self.ranks.get_mut(rank as usize) {
            Some(state) if self.ending.is_none() && state.end.is_none() => {
                let reason = Reason { class: FailureClass::Stalled, message, retry_below: None };
                state.failure.get_or_insert(reason);
                // The others end before it does, because of it.
                state.stalled = Some(self.arrivals);
                self.arrivals += 1;
                self.fail(now)
            }
            _ => Vec::new(),
        }
    }

    fn signalled(&mut self, signal: Signal, now: Duration) -> Vec<Action> {
        if signal == Signal::Hangup {
            // The terminal is gone, the run is not: somebody must still end the gang when a rank fails.
            return Vec::new();
        }
        let over = self.has_ended();
        match self.ending {
            // All have ended by themselves, only the engine still has to clear away: the next one no longer waits for it.
            None if over => {
                self.late = Some(signal);
                self.ask(Ending::ByForce, now)
            }
            None => {
                self.signal = Some(signal);
                let how = match signal {
                    Signal::Quit => Ending::ByForce,
                    _ if self.under_way => Ending::Gracefully,
                    // No trainer runs that could want to save something.
                    _ => Ending::AtOnce,
                };
                self.ask(how, now)
            }
            // They are ending of a failure: what came of them stays, and nothing is to follow it.
            Some((how, _)) => {
                if self.signal.is_none() {
                    self.late.get_or_insert(signal);
                }
                if how == Ending::ByForce { self.give_up() } else { self.ask(Ending::ByForce, now) }
            }
        }
    }

    /// Leaves to the engine what it has not removed.
    fn give_up(&mut self) -> Vec<Action> {
        for rank in 0..u32::try_from(self.ranks.len()).unwrap_or(u32::MAX) {
            self.leave(rank);
        }
        Vec::new()
    }

    fn leave(&mut self, rank: u32) {
        if let Some(state) = self.ranks.get_mut(rank as usize).filter(|state| state.stage != Stage::Removed) {
            state.left = state.stage != Stage::Absent;
            state.stage = Stage::Removed;
        }
    }

    fn fail(&mut self, now: Duration) -> Vec<Action> {
        match self.ending {
            Some(_) => self.proceed(),
            None => self.ask(Ending::AtOnce, now),
        }
    }

    fn ask(&mut self, how: Ending, now: Duration) -> Vec<Action> {
        let due = match how {
            Ending::Gracefully => Some(now + self.grace),
            Ending::AtOnce => Some(now + SEAL_TIME),
            Ending::ByForce => Some(now + ENGINE_TIME),
        };
        self.ending = Some((how, due));
        let mut actions = Vec::new();
        for (number, rank) in (0..).zip(&self.ranks) {
            if rank.stage == Stage::Running && rank.end.is_none() {
                actions.push(Action::Ask { rank: number, how });
            }
        }
        actions.extend(self.proceed());
        actions
    }

    /// The next step that the stages of all ranks allow.
    fn proceed(&mut self) -> Vec<Action> {
        if self.ending.is_some() || self.has_ended() {
            return self.clear();
        }
        let leader = self.ranks[0].stage;
        let joinable = if self.leader_first { Stage::Running } else { Stage::Created };
        let mut actions = Vec::new();
        for (number, rank) in (0..).zip(&mut self.ranks) {
            let follows = number > 0;
            match rank.stage {
                Stage::Absent if !follows || leader >= joinable => {
                    rank.stage = Stage::Creating;
                    actions.push(Action::Create { rank: number });
                }
                Stage::Created if !follows || leader >= Stage::Running => {
                    rank.stage = Stage::Starting;
                    actions.push(Action::Start { rank: number });
                }
                _ => {}
            }
        }
        if !self.under_way && self.ranks.iter().all(|rank| rank.stage >= Stage::Running) {
            self.under_way = true;
            actions.push(Action::Go);
        }
        actions
    }

    /// Removes every container as soon as none of them has anything left to say.
    fn clear(&mut self) -> Vec<Action> {
        let busy = |rank: &Rank| match rank.stage {
            Stage::Creating | Stage::Starting => true,
            Stage::Running => rank.end.is_none(),
            _ => false,
        };
        if self.ranks.iter().any(busy) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        for (number, rank) in (0..).zip(&mut self.ranks) {
            match rank.stage {
                Stage::Absent => rank.stage = Stage::Removed,
                Stage::Created | Stage::Running => {
                    rank.stage = Stage::Removing;
                    actions.push(Action::Remove { rank: number });
                }
                _ => {}
            }
        }
        actions
    }

    fn stage(&mut self, rank: u32, stage: Stage) {
        if let Some(state) = self.ranks.get_mut(rank as usize) {
            state.stage = stage;
        }
    }

    /// Notes how a rank ended; the first word on it counts. Whether this was the first.
    fn end(&mut self, rank: u32, how: How) -> bool {
        let (arrival, ending) = (self.arrivals, self.ending.is_some());
        let Some(state) = self.ranks.get_mut(rank as usize).filter(|state| state.end.is_none()) else {
            return false;
        };
        let order = state.stalled.or(state.fell.map(|fall| fall.order)).unwrap_or(arrival);
        let program = state.fell.map(|fall| fall.program);
        // A trainer that we end falls as well, a moment before its log is sealed.
        let by_us = match how {
            How::Sealed { stopped, .. } => stopped && state.fell.is_some_and(|fall| !fall.unasked),
            How::Unsealed { .. } | How::NotStarted { .. } => false,
        };
        let asked = ending && (program.is_none() || by_us) && state.stalled.is_none();
        state.end = Some(RankEnd { rank, order, how, asked, program, failure: state.failure.clone() });
        self.arrivals += 1;
        true
    }
}

#[cfg(test)]
mod tests;
