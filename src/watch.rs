//! The one loop of a run: what happens comes in, the state machine decides, what it decides is done.
//!
//! Actions run as tasks beside the loop and answer with events, so that nothing the engine takes its time for delays a
//! signal or a rank's last word. The loop ends when every container is gone.

pub mod pace;
pub mod spool;
pub mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::docker::{DockerError, Engine};
use crate::event::{Action, Ending, Event, Operation};
use crate::launch::ContainerSpec;
use crate::record::{Journal, RecordError};
use crate::signal::Signals;
use pace::{Pace, Stall};
use spool::{Growth, Spools};
use state::RunState;

/// What a generation needs to be launched and watched.
pub struct Launch<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// Names of the containers, one a rank, in rank order.
    pub containers: Vec<String>,
    /// How it begins.
    pub begin: Begin<'a>,
    /// Number of the launch within the run, from 1.
    pub generation: u32,
    /// Folder of the ranks' events.
    pub events: PathBuf,
    /// Folder in which controller and agents meet.
    pub control: PathBuf,
    /// What a trainer gets between SIGTERM and its end by force.
    pub grace: Duration,
}

/// How a generation begins.
pub enum Begin<'a> {
    /// With containers that are to be made, in rank order.
    Specs(&'a [ContainerSpec]),
    /// With trainers that another controller started: what its journal says of them, by time in milliseconds.
    Facts(&'a [(u64, Event)]),
}

/// When an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Now.
    Now,
    /// Before this controller took the generation up.
    Before,
}

/// Why a run could not be launched or watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The spools cannot be followed.
    #[error("failed to follow the spools in `{}`", folder.display())]
    Spool {
        /// Their folder.
        folder: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The record cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The trainers cannot be told to start.
    #[error("failed to write the go to `{}`", path.display())]
    Go {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A generation whose last container is gone.
#[derive(Debug)]
pub struct Watched {
    /// How its ranks ended.
    pub state: RunState,
    /// The first thing that could not be written or followed while trainers ran. They ran on: a full disk costs lines of
    /// the record, not the training.
    pub trouble: Option<WatchError>,
}

/// What tasks beside the loop send it.
enum Message {
    Happened(Event),
    /// The engine says that a container has ended; its spool is still to be read to the end.
    ContainerEnded {
        rank: u32,
        code: Option<i64>,
        oom_killed: bool,
        words: Option<String>,
    },
}

/// How often the spools are read though nothing said that they grew: not every file system tells.
const TICK: Duration = Duration::from_secs(1);
/// How long to wait before asking an engine again that gave no answer.
const AGAIN: Duration = Duration::from_millis(500);

/// Launches a generation, or takes it up, and stays with it until its last container is gone. `on` hears every event, in order, after
/// the state machine did.
///
/// # Errors
///
/// What kept the trainers from starting. Nothing is left then.
pub async fn watch(
    launch: &Launch<'_>,
    journal: &mut Journal,
    signals: &mut Signals,
    on: &mut dyn FnMut(&Event, When),
) -> Result<Watched, WatchError> {
    let ranks = u32::try_from(launch.containers.len()).unwrap_or(u32::MAX);
    let mut growth = Some(
        Growth::watch(&[&launch.events])
            .map_err(|source| WatchError::Spool { folder: launch.events.clone(), source })?,
    );
    let mut spools = Spools::new(&launch.events, ranks, launch.generation);
    let (sender, mut receiver) = unbounded_channel();
    let mut hands = Hands { launch, journal, sender, limits: Limits::default(), trouble: None };
    let begin = Instant::now();
    let mut pace = Pace::default();
    let mut state = match launch.begin {
        Begin::Specs(specs) => {
            let state = RunState::new(ranks, launch.grace);
            let mut state = if specs.iter().any(|spec| spec.memlock) { state.leader_first() } else { state };
            hands.perform(state.begin());
            state
        }
        Begin::Facts(facts) => {
            let mut state = RunState::under_way(ranks, launch.grace);
            for event in in_order(facts, hands.read(&mut spools)) {
                // What followed from it is settled below, by where it has come to.
                pace.hear_event(&event, begin.elapsed());
                let _ = state.on_event(event.clone(), begin.elapsed());
                on(&event, When::Before);
            }
            hands.perform(state.take_up(begin.elapsed()));
            state.running().into_iter().for_each(|rank| hands.wait(rank));
            state
        }
    };
    while !state.is_over() {
        let mut events = Vec::new();
        if hands.trouble.is_some() && !state.is_under_way() && !state.is_broken() {
            events.push(Event::Broken);
        } else {
            tokio::select! {
                message = next(&mut receiver) => match message {
                    Message::Happened(event) => events.push(event),
                    Message::ContainerEnded { rank, code, oom_killed, words } => {
                        events.extend(hands.read(&mut spools));
                        events.push(Event::Ended { rank, code, oom_killed, words });
                    }
                },
                grown = changed(growth.as_ref()) => {
                    if grown.is_err() {
                        growth = None;
                    }
                    hands.followed(grown);
                    events.extend(hands.read(&mut spools));
                }
                () = tokio::time::sleep(TICK) => events.extend(hands.read(&mut spools)),
                signal = signals.next() => events.push(Event::Signal(signal)),
                () = until(begin, state.deadline()) => events.push(Event::Deadline),
                () = until(begin, pace.due().filter(|_| state.may_stall())) => {
                    // What was told but not heard comes first.
                    events.extend(hands.read(&mut spools));
                    if events.is_empty() {
                        events.extend(pace.stall(begin.elapsed()).map(|Stall { rank, message }| Event::Stalled { rank, message }));
                    }
                }
            }
        }
        for event in events {
            hands.note(&event);
            pace.hear_event(&event, begin.elapsed());
            let actions = state.on_event(event.clone(), begin.elapsed());
            on(&event, When::Now);
            hands.perform(actions);
        }
        if state.has_ended() {
            // The kernel takes its time (15 ms were seen) to close what watched: meanwhile the engine removes the containers.
            if let Some(growth) = growth.take() {
                tokio::task::spawn_blocking(move || drop(growth));
            }
        }
    }
    match hands.trouble {
        Some(trouble) if state.is_broken() => Err(trouble),
        trouble => Ok(Watched { state, trouble }),
    }
}

/// What a journal and the spools tell, by time. Of what happened in the same millisecond the spool's comes first: a controller reads it before it
/// notes what it sees.
fn in_order(facts: &[(u64, Event)], told: Vec<Event>) -> Vec<Event> {
    let time = |event: &Event| match event {
        Event::Told { record, .. } => record.time_ms,
        _ => 0,
    };
    // The spools' own order is kept, whatever a rank's clock did.
    let (mut facts, mut all) = (facts.iter().peekable(), Vec::new());
    for event in told {
        let now = time(&event);
        while let Some((_, fact)) = facts.next_if(|(time, _)| *time < now) {
            all.push(fact.clone());
        }
        all.push(event);
    }
    all.extend(facts.map(|(_, fact)| fact.clone()));
    all
}

async fn next(receiver: &mut UnboundedReceiver<Message>) -> Message {
    match receiver.recv().await {
        Some(message) => message,
        // We hold a sender ourselves: the channel never closes.
        None => std::future::pending().await,
    }
}

async fn changed(growth: Option<&Growth>) -> std::io::Result<()> {
    match growth {
        Some(growth) => growth.changed().await,
        None => std::future::pending().await,
    }
}

async fn until(begin: Instant, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until((begin + deadline).into()).await,
        None => std::future::pending().await,
    }
}

/// What does the actions, and keeps the journal of them.
struct Hands<'a> {
    launch: &'a Launch<'a>,
    journal: &'a mut Journal,
    sender: UnboundedSender<Message>,
    limits: Limits,
    /// The first thing that failed here. Whether that ends the run is the loop's to say.
    trouble: Option<WatchError>,
}

impl Hands<'_> {
    fn keep(&mut self, outcome: Result<(), WatchError>) {
        if let Err(error) = outcome {
            tracing::debug!("{error}");
            self.trouble.get_or_insert(error);
        }
    }

    fn followed(&mut self, outcome: std::io::Result<()>) {
        let folder = self.launch.events.clone();
        self.keep(outcome.map_err(|source| WatchError::Spool { folder, source }));
    }

    /// What all ranks have told since the last time, in the order in which they did.
    fn read(&mut self, spools: &mut Spools) -> Vec<Event> {
        let (records, outcome) = spools.read_all();
        self.followed(outcome);
        records.into_iter().map(|record| Event::Told { rank: record.rank, record: Box::new(record) }).collect()
    }

    fn journal(&mut self, entry: &str, detail: serde_json::Value) {
        let written = self.journal.append(entry, detail);
        self.keep(written.map_err(WatchError::from));
    }

    /// Facts that the spools do not hold go to the journal.
    fn note(&mut self, event: &Event) {
        let generation = self.launch.generation;
        let (fact, rank, detail) = match event {
            Event::Created { rank } => ("created", *rank, json!(null)),
            Event::Started { rank } => ("started", *rank, json!(null)),
            Event::Removed { rank } => ("removed", *rank, json!(null)),
            Event::Ended { rank, code, oom_killed, words } => {
                ("ended", *rank, json!({ "code": code, "oom_killed": oom_killed, "words": words }))
            }
            Event::EngineFailed { rank, operation, message, .. } => {
                ("engine_failed", *rank, json!({ "operation": format!("{operation:?}"), "message": message }))
            }
            Event::LimitKept { rank, message } => ("limit_kept", *rank, json!({ "message": message })),
            Event::Stalled { rank, message } => ("stalled", *rank, json!({ "message": message })),
            Event::EngineAway => return self.journal("engine_away", json!({ "generation": generation })),
            Event::Signal(signal) => {
                let detail = json!({ "generation": generation, "signal": signal.name() });
                return self.journal("signal", detail);
            }
            Event::Told { .. } | Event::Deadline | Event::Broken => return,
        };
        self.journal(fact, json!({ "generation": generation, "rank": rank, "detail": detail }));
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Create { rank } => self.create(rank),
                Action::Start { rank } => self.start(rank),
                Action::Go => self.go(),
                Action::Ask { rank, how } => self.ask(rank, how),
                Action::Remove { rank } => self.remove(rank),
            }
        }
    }

    /// The container of a rank that is to be made. One that was taken up is there.
    fn spec(&self, rank: u32) -> Option<ContainerSpec> {
        match self.launch.begin {
            Begin::Specs(specs) => specs.get(rank as usize).cloned(),
            Begin::Facts(_) => None,
        }
    }

    fn name(&self, rank: u32) -> String {
        self.launch.containers[rank as usize].clone()
    }

    fn create(&mut self, rank: u32) {
        let Some(spec) = self.spec(rank) else { return };
        let intent = json!({ "generation": self.launch.generation, "rank": rank, "container": spec.name });
        if let Err(error) = self.journal.append("create", intent) {
            // Without its intent on disk, nobody would look for the container after a crash.
            let message = error.to_string();
            self.keep(Err(error.into()));
            let event = Event::EngineFailed { rank, operation: Operation::Create, message, answered: true };
            let _ = self.sender.send(Message::Happened(event));
            return;
        }
        let (engine, sender, limits) = (self.launch.engine.clone(), self.sender.clone(), self.limits.clone());
        tokio::spawn(async move {
            let created = engine.create(&limits.kept(spec)).await;
            tell(&sender, rank, Operation::Create, created.map(|_| ()), Event::Created { rank });
        });
    }

    fn start(&mut self, rank: u32) {
        let Some(spec) = self.spec(rank) else { return };
        let (engine, sender, limits) = (self.launch.engine.clone(), self.sender.clone(), self.limits.clone());
        tokio::spawn(async move {
            let started = start(&engine, &spec, rank, &limits, &sender).await;
            let runs = started.is_ok();
            tell(&sender, rank, Operation::Start, started, Event::Started { rank });
            if runs {
                tell_end(&engine, &spec.name, rank, &sender).await;
            }
        });
    }

    /// Waits for the end of a container that runs already.
    fn wait(&mut self, rank: u32) {
        let (engine, sender, name) = (self.launch.engine.clone(), self.sender.clone(), self.name(rank));
        tokio::spawn(async move { tell_end(&engine, &name, rank, &sender).await });
    }

    fn go(&mut self) {
        let path = self.launch.control.join(evenkeel_wire::path::go(self.launch.generation));
        match std::fs::write(&path, "") {
            Ok(()) => self.journal("go", json!({ "generation": self.launch.generation })),
            Err(source) => {
                self.keep(Err(WatchError::Go { path, source }));
                // Nobody will start, so nobody would end.
                let _ = self.sender.send(Message::Happened(Event::Broken));
            }
        }
    }

    fn ask(&mut self, rank: u32, how: Ending) {
        let name = self.name(rank);
        let signal = match how {
            Ending::Gracefully => "SIGTERM",
            Ending::AtOnce => "SIGUSR1",
            Ending::ByForce => "SIGKILL",
        };
        self.journal("ask", json!({ "generation": self.launch.generation, "rank": rank, "signal": signal }));
        let engine = self.launch.engine.clone();
        tokio::spawn(async move {
            // One that has ended meanwhile takes every signal, so this ends when the engine answers again.
            while let Err(error) = engine.signal(&name, signal).await {
                tracing::info!("{error}");
                if error.is_answer() {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    fn remove(&mut self, rank: u32) {
        let name = self.name(rank);
        let (engine, sender) = (self.launch.engine.clone(), self.sender.clone());
        tokio::spawn(async move {
            let removed = remove(&engine, &name).await;
            tell(&sender, rank, Operation::Remove, removed, Event::Removed { rank });
        });
    }
}

fn tell(
    sender: &UnboundedSender<Message>,
    rank: u32,
    operation: Operation,
    outcome: Result<(), DockerError>,
    done: Event,
) {
    let event = match outcome {
        Ok(()) => done,
        Err(error) => Event::EngineFailed { rank, operation, answered: error.is_answer(), message: error.to_string() },
    };
    // The receiver is gone only when the loop is.
    let _ = sender.send(Message::Happened(event));
}

/// Whether the engine refused to lift the limit on locked memory, as one without CAP_SYS_RESOURCE does. Known once the
/// first container has started, and before the others are created.
#[derive(Clone, Debug, Default)]
struct Limits(Arc<AtomicBool>);

impl Limits {
    /// The container as this engine can have it.
    fn kept(&self, spec: ContainerSpec) -> ContainerSpec {
        ContainerSpec { memlock: spec.memlock && !self.0.load(Ordering::Relaxed), ..spec }
    }
}

/// Starts a container; where the engine may not lift the limit on locked memory, one without that wish in its place.
async fn start(
    engine: &Engine,
    spec: &ContainerSpec,
    rank: u32,
    limits: &Limits,
    sender: &UnboundedSender<Message>,
) -> Result<(), DockerError> {
    match engine.start(&spec.name).await {
        Err(error) if error.is_rlimit() && spec.memlock => {
            limits.0.store(true, Ordering::Relaxed);
            let _ = sender.send(Message::Happened(Event::LimitKept { rank, message: error.to_string() }));
            engine.remove(&spec.name).await?;
            engine.create(&limits.kept(spec.clone())).await?;
            engine.start(&spec.name).await
        }
        other => other,
    }
}

async fn tell_end(engine: &Engine, name: &str, rank: u32, sender: &UnboundedSender<Message>) {
    let away = || drop(sender.send(Message::Happened(Event::EngineAway)));
    let (code, oom_killed) = ended(engine, name, away).await;
    let words = if code == Some(AGENT_FAILED) { agents_words(engine, name).await } else { None };
    let _ = sender.send(Message::ContainerEnded { rank, code, oom_killed, words });
}

/// Waits for a container's end through restarts of the engine; `away` hears once that there was one.
async fn ended(engine: &Engine, name: &str, away: impl Fn()) -> (Option<i64>, bool) {
    let mut was_away = false;
    loop {
        // A broken wait says nothing of the container; the engine does, once it answers again.
        let _ = engine.wait(name).await;
        match engine.inspect(name).await {
            Ok(status) if !status.running => return (Some(status.exit_code), status.oom_killed),
            Err(error) if error.is_not_found() => return (None, false),
            Err(error) if !error.is_answer() => {
                if !std::mem::replace(&mut was_away, true) {
                    away();
                }
                tokio::time::sleep(AGAIN).await;
            }
            Ok(_) | Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Exit code of an agent that could not do its own work.
const AGENT_FAILED: i64 = 125;

/// What an agent said that could not do its own work. The container's log goes with the container.
async fn agents_words(engine: &Engine, name: &str) -> Option<String> {
    const LINES: u32 = 20;
    let log = engine.last_words(name, LINES).await.ok()?;
    log.lines().rev().find_map(|line| line.strip_prefix("evenkeel-agent: ")).map(str::to_owned)
}

/// Removes a container. A busy disk can hold one back for a moment; an engine that is away, or restarting, for longer.
async fn remove(engine: &Engine, name: &str) -> Result<(), DockerError> {
    const BUSY: u32 = 5;
    const AWAY: u32 = 120;
    let mut tries = 1;
    loop {
        match engine.remove(name).await {
            Err(error) if tries < if error.is_answer() { BUSY } else { AWAY } => {
                tracing::info!("{error}; trying again");
                tokio::time::sleep(AGAIN).await;
                tries += 1;
            }
            other => return other,
        }
    }
}
