//! What is said of a run: a title, a few lines for a person, and all facts for a program.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::job::Moment;

/// What does not change while a run goes on.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Name of the experiment.
    pub name: String,
    /// Identifier of the run.
    pub run: String,
    /// Its directory.
    pub record: String,
    /// The machine.
    pub host: String,
    /// Who started it.
    pub user: String,
    /// `native`, `ultralytics` or `command`.
    pub trainer: String,
    /// The model, as the job has it.
    pub model: String,
    /// The data set, as the job has it.
    pub data: Option<String>,
    /// Images of an optimizer step.
    pub target_batch: Option<u32>,
    /// Epochs in all.
    pub epochs: u32,
    /// The devices, in the order of the ranks.
    pub devices: Vec<String>,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Epochs that are over.
    pub epochs_done: u32,
    /// The last validation's numbers.
    pub metrics: BTreeMap<String, f64>,
    /// Images a second over all ranks, in the last epoch.
    pub images_per_second: Option<f64>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// The training is done.
    Done,
    /// It was stopped by a signal, which is named.
    Stopped(String),
    /// It failed.
    Failed {
        /// The rank that failed first; none failed when nothing could be launched.
        rank: Option<u32>,
        /// Class of the failure.
        class: String,
        /// What went wrong.
        message: String,
        /// What to do about it.
        advice: Option<String>,
    },
    /// It was started again after a failure.
    Recovered {
        /// Such starts so far.
        restarts: u32,
        /// What failed, and what is different now.
        because: String,
    },
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What it is about.
    pub moment: Moment,
    /// Unlike that of any other message.
    pub id: String,
    /// What happened, in one line.
    pub title: String,
    /// More, as pairs of a name and a text of one line.
    pub lines: Vec<(&'static str, String)>,
    /// All of it, for programs.
    pub facts: Value,
}

/// Says `news` of a run. `number` counts the messages of a run, `since` is how long it has been going on.
#[must_use]
pub fn message(about: &About, standing: &Standing, news: &News, number: u32, since: Duration, time_ms: u64) -> Message {
    let name = &about.name;
    let (moment, title, outcome) = match news {
        News::Done => (Moment::Finish, format!("{name}: done in {}", human(since)), "done"),
        News::Stopped(signal) => {
            (Moment::Finish, format!("{name}: stopped by {signal} after {}", human(since)), "stopped")
        }
        News::Failed { class, .. } => {
            (Moment::Failure, format!("{name}: failed after {} ({class})", human(since)), "failed")
        }
        News::Recovered { restarts, .. } => {
            (Moment::Recovery, format!("{name}: started again after a failure (restart {restarts})"), "running")
        }
    };
    let mut lines = Vec::new();
    match news {
        News::Failed { rank, message, advice, .. } => {
            let who = rank.map(|rank| format!("rank {rank} failed first: ")).unwrap_or_default();
            lines.push(("what", one_line(&format!("{who}{message}"))));
            lines.extend(advice.as_ref().map(|advice| ("hint", one_line(advice))));
        }
        News::Recovered { because, .. } => lines.push(("what", one_line(because))),
        News::Done | News::Stopped(_) => {}
    }
    let metrics = standing.metrics.iter().filter(|(name, _)| name.starts_with("metrics/"));
    let metrics: Vec<String> = metrics
        .map(|(name, value)| (name.trim_start_matches("metrics/").trim_end_matches("(B)"), value))
        .map(|(name, value)| format!("{name} {value:.3}"))
        .collect();
    let speed = standing.images_per_second.map(|speed| format!(", {speed:.1} images/s")).unwrap_or_default();
    lines.push(("epochs", format!("{} of {}{speed}", standing.epochs_done, about.epochs)));
    if !metrics.is_empty() {
        lines.push(("metrics", metrics.join(", ")));
    }
    lines.push(("devices", format!("{} on {}", about.devices.join(", "), about.host)));
    lines.push(("record", about.record.clone()));
    let failure = match news {
        News::Failed { rank, class, message, advice } => {
            json!({ "rank": rank, "class": class, "message": message, "advice": advice })
        }
        _ => json!(null),
    };
    let recovery = match news {
        News::Recovered { restarts, because } => json!({ "restarts": restarts, "because": because }),
        _ => json!(null),
    };
    // Of every message its own: several controllers may see to a run, one after the other.
    let id = format!("{}-{}-{time_ms}-{number}", about.run, moment.name());
    let facts = json!({
        "version": 1, "id": id, "event": moment.name(), "time_ms": time_ms, "title": title, "outcome": outcome,
        "run": {
            "name": about.name, "id": about.run, "record": about.record, "host": about.host, "user": about.user,
            "trainer": about.trainer, "model": about.model, "data": about.data, "target_batch": about.target_batch,
            "epochs": about.epochs, "devices": about.devices,
        },
        "seconds": since.as_secs_f64(), "epochs_done": standing.epochs_done, "metrics": standing.metrics,
        "images_per_second": standing.images_per_second, "failure": failure, "recovery": recovery,
    });
    Message { moment, id, title, lines, facts }
}

/// Foreign text on one line, no longer than a message bears.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// A duration as people say it.
fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            name: "shapes".into(),
            run: "20261124-034501".into(),
            record: "/runs/shapes/20261124-034501".into(),
            host: "lab".into(),
            epochs: 10,
            devices: vec!["cpu:0".into(), "cpu:1".into()],
            ..About::default()
        }
    }

    #[test]
    fn a_failure_names_the_rank_and_what_to_do() {
        let news = News::Failed {
            rank: Some(1),
            class: "code".into(),
            message: "KeyError:\n 'x'".into(),
            advice: Some("read the log".into()),
        };
        let told = message(&about(), &Standing::default(), &news, 2, Duration::from_secs(7300), 5);
        assert_eq!(told.title, "shapes: failed after 2 h 1 min (code)");
        assert_eq!(told.lines[0], ("what", "rank 1 failed first: KeyError: 'x'".into()));
        assert_eq!((told.moment, told.id.as_str()), (Moment::Failure, "20261124-034501-failure-5-2"));
        assert_eq!((&told.facts["failure"]["rank"], &told.facts["event"]), (&json!(1), &json!("failure")));
    }

    #[test]
    fn a_finish_tells_how_good_it_became() {
        let standing = Standing {
            epochs_done: 10,
            metrics: [("metrics/mAP50(B)".to_owned(), 0.91234), ("train/box_loss".to_owned(), 1.0)].into(),
            images_per_second: Some(64.0),
        };
        let told = message(&about(), &standing, &News::Done, 0, Duration::from_secs(61), 5);
        assert_eq!(told.title, "shapes: done in 61 s");
        let lines: Vec<String> = told.lines.iter().map(|(name, text)| format!("{name}: {text}")).collect();
        assert_eq!(lines[..2], ["epochs: 10 of 10, 64.0 images/s", "metrics: mAP50 0.912"]);
        assert_eq!(told.facts["metrics"]["train/box_loss"], 1.0);
    }
}
