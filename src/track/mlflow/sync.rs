//! From the queue to the server. Every number is there once afterwards, whatever breaks off: before a request is repeated whose answer
//! was never seen, the server is asked what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::api::{self, Metric, Refusal};
use super::queue::{self, Entry, Queue, State};
use super::{Server, server};
use crate::http::{Http, Request};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest pause between two tries while the server is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The server is away: later.
    #[error("{0}")]
    Away(String),
    /// It does not take it.
    #[error("it answers: {0}")]
    Refused(String),
    /// The queue cannot be used.
    #[error("the queue in the record: {0}")]
    Disk(#[from] io::Error),
    /// The queue names no server.
    #[error("`{0}` is no server's address")]
    NoServer(String),
    /// Somebody else sends it.
    #[error("another evenkeel sends it at the moment")]
    Busy,
}

/// Sends what is left of a queue, whose lock the caller holds.
///
/// # Errors
///
/// Something is left.
pub async fn send_left(http: &Http, server: &Server, queue: &Queue) -> Result<(), SyncError> {
    let session = Session { http, server, queue };
    loop {
        let (entries, mut state) = (queue.entries()?, queue.state()?);
        let Some(next) = entries.get(state.sent) else { return Ok(()) };
        let run = match state.run_id.clone() {
            Some(run) => run,
            None => session.run(&entries, &mut state).await?,
        };
        match next {
            Entry::Run { params, tags, .. } => {
                for request in api::log_texts(server, &run, params, tags) {
                    session.ask(&request).await?;
                }
                state.sent += 1;
            }
            Entry::Metrics { .. } => session.metrics(&run, &entries, &mut state).await?,
            Entry::Status { status, time_ms, tags } => {
                let end = (status != "RUNNING").then_some(*time_ms);
                for request in api::log_texts(server, &run, &BTreeMap::new(), tags) {
                    session.ask(&request).await?;
                }
                session.ask(&api::update_run(server, &run, status, end)).await?;
                state.sent += 1;
            }
        }
        state.trying = state.trying.max(state.sent);
        queue.keep(&state)?;
    }
}

/// Requests to one server about one run.
struct Session<'a> {
    http: &'a Http,
    server: &'a Server,
    queue: &'a Queue,
}

impl Session<'_> {
    async fn try_to(&self, request: &Request) -> Result<Result<Value, Refusal>, SyncError> {
        let answer = self.http.send(request, LIMIT).await.map_err(|silence| SyncError::Away(silence.to_string()))?;
        match api::content(&answer) {
            Err(refusal) if refusal.later => Err(SyncError::Away(refusal.code)),
            content => Ok(content),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Value, SyncError> {
        self.try_to(request).await?.map_err(refused)
    }

    /// Makes the run, or finds it where its creation was never answered.
    async fn run(&self, entries: &[Entry], state: &mut State) -> Result<String, SyncError> {
        let nothing = || SyncError::Refused("nothing that names the run".into());
        let Some(Entry::Run { name, time_ms, .. }) = entries.first() else { return Err(nothing()) };
        let experiment = self.experiment(&state.experiment).await?;
        let mut found = None;
        if state.creating {
            found = api::run_id(&self.ask(&api::find_run(self.server, &experiment, &state.key)).await?);
        }
        let run = match found {
            Some(run) => run,
            None => {
                state.creating = true;
                self.queue.keep(state)?;
                let request = api::create_run(self.server, &experiment, &state.key, name, *time_ms);
                api::run_id(&self.ask(&request).await?).ok_or_else(nothing)?
            }
        };
        (state.run_id, state.creating) = (Some(run.clone()), false);
        self.queue.keep(state)?;
        Ok(run)
    }

    async fn experiment(&self, name: &str) -> Result<String, SyncError> {
        let by_name = api::experiment_by_name(self.server, name);
        let mut content = self.try_to(&by_name).await?;
        if content.as_ref().is_err_and(|refusal| refusal.code == "RESOURCE_DOES_NOT_EXIST") {
            content = self.try_to(&api::create_experiment(self.server, name)).await?;
            // Another run of the experiment was quicker.
            if content.as_ref().is_err_and(|refusal| refusal.code == "RESOURCE_ALREADY_EXISTS") {
                content = self.try_to(&by_name).await?;
            }
        }
        let content = content.map_err(refused)?;
        api::experiment_id(&content).ok_or_else(|| SyncError::Refused("an answer without an experiment".into()))
    }

    /// Sends the numbers of the entries that come next, as many as one request may carry.
    async fn metrics(&self, run: &str, entries: &[Entry], state: &mut State) -> Result<(), SyncError> {
        let mut metrics: Vec<Metric> = Vec::new();
        let mut end = state.sent;
        for entry in &entries[state.sent..] {
            let more = api::metrics_of(entry);
            if !matches!(entry, Entry::Metrics { .. })
                || metrics.len() + more.len() > api::MOST_METRICS && end > state.sent
            {
                break;
            }
            metrics.extend(more);
            end += 1;
        }
        if state.trying > state.sent {
            metrics = self.without_told(run, metrics).await?;
        }
        if state.trying < end {
            state.trying = end;
            self.queue.keep(state)?;
        }
        for some in metrics.chunks(api::MOST_METRICS) {
            self.ask(&api::log_metrics(self.server, run, some)).await?;
        }
        state.sent = end;
        Ok(())
    }

    /// The numbers that the server does not have.
    async fn without_told(&self, run: &str, metrics: Vec<Metric>) -> Result<Vec<Metric>, SyncError> {
        let keys: BTreeSet<String> = metrics.iter().map(|metric| metric.key.clone()).collect();
        let mut told = BTreeSet::new();
        for key in keys {
            let mut page: Option<String> = None;
            loop {
                let asked = self.try_to(&api::history(self.server, run, &key, page.as_deref())).await?;
                let content = match asked {
                    Ok(content) => content,
                    // Some servers do not know a number that has no value yet.
                    Err(refusal) if refusal.code == "RESOURCE_DOES_NOT_EXIST" => break,
                    Err(refusal) => return Err(refused(refusal)),
                };
                let (seen, next) = api::told(&content);
                told.extend(seen.into_iter().map(|(step, time)| (key.clone(), step, time)));
                page = next;
                if page.is_none() {
                    break;
                }
            }
        }
        let known = |metric: &Metric| told.contains(&(metric.key.clone(), metric.step, metric.time_ms));
        Ok(metrics.into_iter().filter(|metric| !known(metric)).collect())
    }
}

fn refused(refusal: Refusal) -> SyncError {
    SyncError::Refused(format!("{} {}", refusal.code, refusal.message).trim_end().to_owned())
}

/// What is known of the sending of a run.
#[derive(Clone, Debug, Default)]
struct Status {
    /// Entries that were told.
    sent: usize,
    /// Tries so far.
    tries: usize,
    /// Why the last one left something.
    trouble: Option<String>,
}

/// Sends a run's queue beside its training.
#[derive(Debug)]
pub struct Courier {
    wake: Arc<Notify>,
    hurry: Arc<Notify>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Courier {
    /// Begins to send.
    ///
    /// # Errors
    ///
    /// Somebody else does.
    pub fn start(http: Http, server: Server, queue: Queue) -> Result<Self, SyncError> {
        let lock = queue.lock()?.ok_or(SyncError::Busy)?;
        let (wake, hurry) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, status) = watch::channel(Status::default());
        let (woken, hurried) = (wake.clone(), hurry.clone());
        let task = tokio::spawn(async move {
            let _lock = lock;
            let mut pause = Duration::from_secs(1);
            loop {
                let outcome = send_left(&http, &server, &queue).await;
                let sent = queue.state().map_or(0, |state| state.sent);
                tell.send_modify(|status| {
                    status.sent = sent;
                    status.tries += 1;
                    status.trouble = outcome.as_ref().err().map(ToString::to_string);
                });
                if let Err(SyncError::Away(_)) = outcome {
                    // What comes meanwhile waits with the rest.
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = hurried.notified() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                } else {
                    pause = Duration::from_secs(1);
                    woken.notified().await;
                }
            }
        });
        Ok(Self { wake, hurry, status, task })
    }

    /// Something was added.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until `entries` were told, or one more try has failed.
    pub async fn settle(&mut self, entries: usize) {
        let before = self.status.borrow().tries;
        self.wake.notify_one();
        self.hurry.notify_one();
        let settled = |status: &Status| status.sent >= entries || (status.trouble.is_some() && status.tries > before);
        // The task ends only with us.
        let _ = self.status.wait_for(settled).await;
    }

    /// Ends the sending, and says how many entries were told and why the others were not.
    #[must_use]
    pub fn end(self) -> (usize, Option<String>) {
        self.task.abort();
        let status = self.status.borrow().clone();
        (status.sent, status.trouble)
    }
}

/// What was done about a run's queue.
#[derive(Debug)]
pub struct Sent {
    /// Entries that were told now.
    pub told: usize,
    /// Entries that are left.
    pub left: usize,
    /// Why.
    pub trouble: Option<SyncError>,
}

/// Sends what is left of the run in a directory, once.
///
/// # Errors
///
/// The queue cannot be used at all.
pub async fn send_run(http: &Http, run: &Path, environment: &BTreeMap<String, String>) -> Result<Sent, SyncError> {
    let queue = Queue::of(run);
    let before = queue.state()?;
    let _lock = queue.lock()?.ok_or(SyncError::Busy)?;
    let server = server(&before.uri, environment).ok_or_else(|| SyncError::NoServer(before.uri.clone()))?;
    queue.mend()?;
    let outcome = send_left(http, &server, &queue).await;
    let (state, entries) = (queue.state()?, queue.entries()?.len());
    Ok(Sent { told: state.sent - before.sent, left: entries.saturating_sub(state.sent), trouble: outcome.err() })
}

/// Sends what is left of the other runs in a folder of runs. Those of which nothing is left are no longer noted there.
pub async fn send_others(http: &Http, runs: &Path, own: &str, environment: &BTreeMap<String, String>) {
    for run in queue::unsent(runs).into_iter().filter(|run| run != own) {
        let path = runs.join(&run);
        let done = match send_run(http, &path, environment).await {
            Ok(sent) => {
                tracing::info!("mlflow: {run}: {} sent, {} left", sent.told, sent.left);
                sent.left == 0
            }
            Err(SyncError::Busy) => false,
            // A record that was removed has nothing left to tell.
            Err(_) => !Queue::of(&path).exists(),
        };
        if done {
            let _ = queue::note_sent(runs, &[run]);
        }
    }
}
