//! Who is told of a run beside its record and its screen: webhooks, TensorBoard's files, MLflow. None of them delays the training or
//! changes its outcome; what did not arrive is said at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Outcome;
use crate::error::{self, Failure};
use crate::event::{Event, Signal};
use crate::follow::{Fact, Follow};
use crate::http::Http;
use crate::image::redact;
use crate::job::{Job, ResolvedJob};
use crate::notify::message::{About, News, Standing, message};
use crate::notify::send::Sender;
use crate::notify::{self, Hook};
use crate::plan::Plan;
use crate::record::{Journal, RunDir};
use crate::runlock::secret;
use crate::settings::Settings;
use crate::track::mlflow::queue::{self, Entry, Queue};
use crate::track::mlflow::sync::{self, Courier};
use crate::track::mlflow::{self, Target};
use crate::track::tensorboard;

/// How long the end of a run waits for what is still on its way.
const SETTLE: Duration = Duration::from_secs(5);

/// All that is told of a run.
pub struct Reports {
    environment: BTreeMap<String, String>,
    hooks: Vec<Hook>,
    target: Option<Target>,
    follow: Follow,
    about: About,
    values: Vec<(String, Value)>,
    begin: Instant,
    messages: u32,
    restarts: u32,
    sender: Option<Sender>,
    tensorboard: Option<tensorboard::Writer>,
    mlflow: Option<Tracked>,
    /// What could not be told, one sentence each.
    trouble: Vec<String>,
}

/// A run in MLflow.
struct Tracked {
    queue: Queue,
    courier: Courier,
    epochs: BTreeSet<u32>,
    entries: usize,
    runs: std::path::PathBuf,
    run: String,
    uri: String,
}

impl Reports {
    /// Finds addresses and secrets, before anything is started.
    ///
    /// # Errors
    ///
    /// Some are not there.
    pub fn prepare(resolved: &ResolvedJob, settings: &Settings) -> Result<Self, Failure> {
        let job = &resolved.job;
        let target = mlflow::target(&job.track.mlflow, &settings.all, &job.name)?;
        Ok(Self::of(resolved, settings, notify::resolve(&job.notify, &settings.all)?, target))
    }

    /// The same of a run that goes on whether its addresses and secrets are here or not: who cannot be told is named at the end.
    pub fn prepare_as_far_as_possible(resolved: &ResolvedJob, settings: &Settings) -> Self {
        let job = &resolved.job;
        let mut reports = Self::of(resolved, settings, Vec::new(), None);
        for hook in notify::resolve_each(&job.notify, &settings.all) {
            match hook {
                Ok(hook) => reports.hooks.push(hook),
                Err(error) => reports.fail("notify", &error),
            }
        }
        match mlflow::target(&job.track.mlflow, &settings.all, &job.name) {
            Ok(target) => reports.target = target,
            Err(error) => reports.fail("mlflow", &error),
        }
        reports
    }

    fn of(resolved: &ResolvedJob, settings: &Settings, hooks: Vec<Hook>, target: Option<Target>) -> Self {
        Self {
            hooks,
            target,
            environment: settings.all.clone(),
            follow: Follow::default(),
            about: about(&resolved.job, settings),
            values: told(resolved),
            begin: Instant::now(),
            messages: 0,
            restarts: 0,
            sender: None,
            tensorboard: None,
            mlflow: None,
            trouble: Vec::new(),
        }
    }

    /// Begins to tell of a run, or goes on with one that an earlier controller told of. `restarts` of its launches
    /// followed a failure. The line says where, if anywhere.
    pub fn begin(&mut self, run: &RunDir, plan: &Plan, restarts: u32) -> Option<String> {
        (self.begin, self.restarts) = (Instant::now(), restarts);
        // Each container tells as one, of however many ranks its program starts.
        self.follow = Follow::new(plan.containers as usize);
        self.about.run = run.id().to_owned();
        self.about.record = run.path().display().to_string();
        self.about.devices = plan.ranks.iter().map(|rank| rank.device.to_string()).collect();
        self.tensorboard = Some(tensorboard::Writer::new(run.path(), &self.about.host));
        if self.hooks.is_empty() && self.target.is_none() {
            return None;
        }
        let http = match Http::new() {
            Ok(http) => http,
            Err(error) => {
                self.fail("nobody outside can be told", &error);
                return None;
            }
        };
        if !self.hooks.is_empty() {
            self.sender = Some(Sender::new(http.clone(), self.hooks.clone()));
        }
        let target = self.target.clone()?;
        match self.begin_mlflow(run, plan, http, &target) {
            Ok(tracked) => self.mlflow = Some(tracked),
            Err(error) => {
                self.fail("mlflow", &error);
                return None;
            }
        }
        Some(format!("mlflow:  experiment {} at {}", target.experiment, target.server.uri))
    }

    fn begin_mlflow(&self, run: &RunDir, plan: &Plan, http: Http, target: &Target) -> Result<Tracked, sync::SyncError> {
        let queue = Queue::of(run.path());
        let uri = target.server.uri.clone();
        if queue.exists() {
            queue.mend()?;
        } else {
            queue.create(&uri, &target.experiment)?;
        }
        let family = run.path().parent().unwrap_or(run.path());
        let runs = family.parent().unwrap_or(family).to_owned();
        let name = run.path().strip_prefix(&runs).unwrap_or(run.path()).display().to_string();
        queue::note_unsent(&runs, &name)?;
        match queue.entries()?.last() {
            None => queue.add(&self.run_entry(plan))?,
            Some(Entry::Status { status, .. }) if status != "RUNNING" => {
                let again = Entry::Status { status: "RUNNING".into(), time_ms: now_ms(), tags: BTreeMap::new() };
                queue.add(&again)?;
            }
            Some(_) => {}
        }
        let (epochs, entries) = (queue.epochs()?, queue.entries()?.len());
        let courier = Courier::start(http.clone(), target.server.clone(), queue.clone())?;
        let (environment, folder, own) = (self.environment.clone(), runs.clone(), name.clone());
        tokio::spawn(async move { sync::send_others(&http, &folder, &own, &environment).await });
        Ok(Tracked { queue, courier, epochs, entries, runs, run: name, uri })
    }

    /// What MLflow is told of a run before its first epoch.
    fn run_entry(&self, plan: &Plan) -> Entry {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let given = self.values.iter().filter(|(_, value)| !value.is_null());
        let mut params: BTreeMap<String, String> = given.map(|(key, value)| (key.clone(), text(value))).collect();
        let micro: Vec<String> = plan.ranks.iter().map(|rank| format!("{:?}", rank.micro_batches)).collect();
        params.insert("world_size".into(), plan.ranks.len().to_string());
        params.insert("micro_batches".into(), micro.join(" "));
        params.insert("devices".into(), self.about.devices.join(", "));
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let tags = [
            tag("mlflow.user", &self.about.user),
            tag("mlflow.source.name", "evenkeel"),
            tag("evenkeel.run", &self.about.run),
            tag("evenkeel.record", &self.about.record),
            tag("evenkeel.host", &self.about.host),
        ];
        Entry::Run { name: self.about.run.clone(), time_ms: now_ms(), params, tags: tags.into() }
    }

    /// Takes note of an event.
    pub fn hear(&mut self, event: &Event) {
        let Event::Told { rank, record } = event else { return };
        for fact in self.follow.hear(*rank, record) {
            if let Some(Err(error)) = self.tensorboard.as_mut().map(|writer| writer.write(&fact)) {
                self.tensorboard = None;
                self.fail("tensorboard", &error);
            }
            let (Fact::Epoch(row), Some(tracked)) = (&fact, &mut self.mlflow) else { continue };
            if !tracked.epochs.insert(row.epoch) {
                continue;
            }
            let mut values = row.values.clone();
            values.extend(row.images_per_second.map(|speed| ("images_per_second".to_owned(), speed)));
            self.queue(Entry::Metrics { epoch: row.epoch, time_ms: row.time_ms, values });
        }
    }

    fn queue(&mut self, entry: Entry) {
        let Some(tracked) = &mut self.mlflow else { return };
        match tracked.queue.add(&entry) {
            Ok(()) => {
                tracked.entries += 1;
                tracked.courier.wake();
            }
            Err(error) => self.fail("mlflow", &error),
        }
    }

    /// The run is started again after a failure.
    pub fn recovered(&mut self, because: &str) {
        self.restarts += 1;
        self.tell(&News::Recovered { restarts: self.restarts, because: because.to_owned() });
    }

    /// The run is over.
    pub fn ended(&mut self, outcome: &Outcome) {
        let (news, status) = match outcome {
            Outcome::Done => (News::Done, "FINISHED"),
            Outcome::Stopped(signal) => (News::Stopped(signal_name(*signal).to_owned()), "KILLED"),
            Outcome::Failed(it) => {
                let (rank, class) = (Some(it.rank), it.class.name().to_owned());
                let (message, advice) = (it.message.clone(), Some(it.advice.to_string()));
                (News::Failed { rank, class, message, advice }, "FAILED")
            }
        };
        self.over(&news, status);
    }

    /// A launch was given up before its trainers ran, or what it needs is gone.
    pub fn gave_up(&mut self, failure: &Failure) {
        // Nothing was begun.
        if self.about.run.is_empty() {
            return;
        }
        let message = failure.to_json()["error"].as_str().unwrap_or_default().to_owned();
        let (rank, class) = (None, "infrastructure".to_owned());
        self.over(&News::Failed { rank, class, message, advice: None }, "FAILED");
    }

    fn over(&mut self, news: &News, status: &str) {
        if let Some(Err(error)) = self.tensorboard.as_mut().map(tensorboard::Writer::finish) {
            self.fail("tensorboard", &error);
        }
        let mut tags = BTreeMap::new();
        if let News::Failed { class, message, .. } = news {
            tags.insert("evenkeel.failure".to_owned(), format!("{class}: {message}"));
        }
        self.queue(Entry::Status { status: status.to_owned(), time_ms: now_ms(), tags });
        self.tell(news);
    }

    fn tell(&mut self, news: &News) {
        let Some(sender) = &mut self.sender else { return };
        let standing = Standing {
            epochs_done: self.follow.epochs_done(),
            metrics: self.follow.metrics.clone(),
            images_per_second: self.follow.images_per_second,
        };
        let number = self.messages;
        self.messages += 1;
        sender.send(message(&self.about, &standing, news, number, self.begin.elapsed(), now_ms()));
    }

    /// Waits a little for what is still on its way; the journal then says what arrived, the lines what did not. `enough` ends the wait.
    pub async fn settle(mut self, journal: Option<&mut Journal>, enough: impl Future<Output = Signal>) -> Vec<String> {
        let all = async {
            let hooks = async {
                if let Some(sender) = &mut self.sender {
                    sender.settle().await;
                }
            };
            let mlflow = async {
                if let Some(tracked) = &mut self.mlflow {
                    tracked.courier.settle(tracked.entries).await;
                }
            };
            futures_util::future::join(hooks, mlflow).await
        };
        tokio::select! {
            _ = all => {}
            () = tokio::time::sleep(SETTLE) => {}
            _ = enough => {}
        }
        let mut facts = Vec::new();
        if let Some(sender) = &mut self.sender {
            let (told, lost) = sender.report();
            facts.extend(told.into_iter().map(|fact| ("notified", fact)));
            self.trouble.extend(lost);
        }
        if let Some(tracked) = self.mlflow.take() {
            let (sent, why) = tracked.courier.end();
            let left = tracked.entries.saturating_sub(sent);
            facts.push(("mlflow", json!({ "uri": tracked.uri, "sent": sent, "left": left, "message": why })));
            if left == 0 {
                let _ = queue::note_sent(&tracked.runs, &[tracked.run]);
            } else {
                let why = why.unwrap_or_else(|| "no answer yet".into());
                self.trouble.push(format!(
                    "mlflow: {left} of {} entries wait in the record ({why}); `evenkeel sync {}` sends them",
                    tracked.entries, self.about.record
                ));
            }
        }
        if let Some(journal) = journal {
            let lost = facts.into_iter().filter_map(|(entry, fact)| journal.append(entry, fact).err());
            self.trouble.extend(lost.map(|lost| error::chain(&lost)));
        }
        self.trouble
    }

    /// Once for each of those that are told: what fails for one epoch fails for the next.
    fn fail(&mut self, what: &str, error: &dyn std::fmt::Display) {
        if !self.trouble.iter().any(|line| line.starts_with(what)) {
            self.trouble.push(format!("{what}: {error}"));
        }
    }
}

fn about(job: &Job, settings: &Settings) -> About {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let user = settings.all.get("USER").cloned().unwrap_or_else(|| settings.caller.uid.to_string());
    About {
        name: job.name.clone(),
        host,
        user,
        trainer: job.trainer.name().to_owned(),
        model: redact(&job.model).into_owned(),
        data: job.data.as_deref().map(|data| redact(data).into_owned()),
        target_batch: job.batch.target,
        epochs: job.epochs,
        ..About::default()
    }
}

/// Settings for those outside: without passwords in addresses, as in the lock.
fn told(resolved: &ResolvedJob) -> Vec<(String, Value)> {
    let without = |(path, value): (String, Value)| {
        let told = secret::setting(&path, value, String::new()).value;
        (path, told)
    };
    resolved.values().into_iter().map(without).collect()
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Interrupt => "SIGINT",
        Signal::Terminate => "SIGTERM",
        Signal::Quit => "SIGQUIT",
        Signal::Hangup => "SIGHUP",
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_outside_is_told_a_password() {
        let text = "trainer: command\nimage: debian\ncommand: [get, \"https://u:hush@h/x\"]\n";
        let bases = crate::job::Bases { folder: "/".into(), home: None };
        let job = crate::job::parse(std::path::Path::new("job.yaml"), text.to_owned(), &[], &bases).expect("a job");
        let told = told(&job);
        let command = told.iter().find(|(path, _)| path == "command").expect("told");
        assert!(command.1.to_string().contains("@h/x"), "{command:?}");
        assert!(told.iter().all(|(_, value)| !value.to_string().contains("hush")), "{told:?}");
    }
}
