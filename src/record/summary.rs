//! What a run's journal comes to when it is replayed. Pure: entries in, a summary out; `read.rs` brings the files.

use serde::Serialize;
use serde_json::Value;

use super::journal::{self, Entry};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It ended well.
    Done,
    /// Somebody ended it.
    Stopped,
    /// It failed.
    Failed,
    /// Somebody works on it.
    Running,
    /// It has no end, and nobody works on it: its controller died, or this is a copy of a record that was not finished.
    Unknown,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a run or a rank failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The rank that failed first.
    pub rank: Option<u64>,
    /// Class of the failure, by its name in the record.
    pub class: Option<String>,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How a run ended, as its last entry says. What an earlier Evenkeel did not write is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct End {
    /// When.
    pub time_ms: u64,
    /// Which way.
    pub state: State,
    /// Why, where it failed.
    pub failure: Option<Failure>,
    /// Ranks and their devices, by rank.
    pub devices: Option<Vec<String>>,
    /// Epochs that were finished.
    pub epochs_done: Option<u64>,
    /// Epochs that were asked for.
    pub epochs: Option<u64>,
    /// The last validation's mAP at an overlap of one half.
    pub map50: Option<f64>,
}

impl End {
    /// Reads an `end` entry: of a training, or of trial steps.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        let detail = &entry.detail;
        let outcome = detail["outcome"].as_str().unwrap_or_default();
        let state = match detail["state"].as_str() {
            Some("done") => State::Done,
            Some("stopped") => State::Stopped,
            Some(_) => State::Failed,
            None if detail["exit_code"] == 0 || detail.get("found").is_some() => State::Done,
            None if detail.get("stopped").is_some() || outcome.starts_with("Stopped") => State::Stopped,
            None => State::Failed,
        };
        let told = ["failed", "impossible"].iter().find_map(|key| detail[key].as_str());
        let failure = match (&detail["failure"], told) {
            (failure @ Value::Object(_), _) => Some(failure_of(failure)),
            (_, Some(message)) => Some(Failure { message: message.to_owned(), ..Failure::default() }),
            // An earlier Evenkeel wrote it in a form that was not made to be read.
            _ => (state == State::Failed).then(|| Failure {
                message: if outcome.is_empty() { "for a reason that was not recorded" } else { outcome }.to_owned(),
                ..Failure::default()
            }),
        };
        Self {
            time_ms: entry.time_ms,
            state,
            failure,
            devices: detail["devices"].as_array().map(|devices| devices.iter().map(text).collect()),
            epochs_done: detail["epochs_done"].as_u64(),
            epochs: detail["epochs"].as_u64(),
            map50: detail["metrics"]["metrics/mAP50(B)"].as_f64(),
        }
    }
}

/// One launch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Generation {
    /// From 1.
    pub number: u64,
    /// When its first container was to be made.
    pub begun_ms: u64,
    /// When the trainers were told to start.
    pub go_ms: Option<u64>,
    /// When the last that is known of it was written, once it is over.
    pub ended_ms: Option<u64>,
    /// Images of an optimizer step.
    pub target_batch: Option<u64>,
    /// Side of the images in pixels.
    pub imgsz: Option<u64>,
    /// What each rank was given and took, once it is over.
    pub ranks: Vec<Attempt>,
    /// The last optimizer step, from 0.
    pub last_step: Option<u64>,
    /// Images a second over all its steps.
    pub images_per_second: Option<f64>,
    /// Micro-batches that were made smaller on the way.
    pub step_downs: Vec<StepDown>,
    /// What failed, in the order in which it is known; the first is the cause, as far as one launch can tell.
    pub failures: Vec<Failure>,
    /// A signal that asked for its end.
    pub signal: Option<String>,
    /// The logs of its ranks, once it is over.
    pub logs: Vec<Log>,
}

/// What a rank of a launch was given and took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Attempt {
    /// The rank.
    pub rank: u64,
    /// Its device.
    pub device: String,
    /// Images of each of its micro-batches.
    pub micro_batches: Vec<u64>,
    /// Memory it was expected to need, in bytes.
    pub predicted_bytes: Option<u64>,
    /// Memory it was seen to need, in bytes.
    pub measured_bytes: Option<u64>,
    /// Memory that its device has for it, in bytes.
    pub budget_bytes: Option<u64>,
}

/// A micro-batch that did not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepDown {
    /// Optimizer step, from 0.
    pub step: u64,
    /// The rank that ran out of memory.
    pub rank: u64,
    /// Images before.
    pub from: u64,
    /// And after.
    pub to: u64,
}

/// What a rank's log holds of one launch, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    /// The rank.
    pub rank: u64,
    /// Lines; absent where its agent did not live to count them.
    pub lines: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Lines that did not fit on the disk.
    pub dropped: u64,
    /// Whether all that its agent wrote is there, and nothing is missing; absent while nobody knows.
    pub complete: Option<bool>,
}

/// What the journal comes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Replayed {
    /// Identifier of the run.
    pub run: Option<String>,
    /// The image, as it was named.
    pub image: Option<String>,
    /// When the first entry was written.
    pub begun_ms: Option<u64>,
    /// When the last one was.
    pub last_ms: Option<u64>,
    /// The launches.
    pub generations: Vec<Generation>,
    /// How it ended, if it did.
    pub end: Option<End>,
}

/// Replays a journal. Entries of kinds that are not known change nothing.
#[must_use]
pub fn replay(entries: &[Entry]) -> Replayed {
    let mut replayed = Replayed::default();
    let mut asked: Vec<(u64, u64)> = Vec::new();
    for entry in entries {
        let detail = &entry.detail;
        replayed.begun_ms.get_or_insert(entry.time_ms);
        replayed.last_ms = Some(entry.time_ms);
        if journal::begins(entry) {
            replayed.end = None;
        }
        match entry.entry.as_str() {
            "run" => {
                replayed.run = detail["run"].as_str().map(str::to_owned);
                replayed.image = detail["image"].as_str().map(str::to_owned);
            }
            "end" => replayed.end = Some(End::of(entry)),
            _ => {}
        }
        let Some(number) = detail["generation"].as_u64() else { continue };
        let at = replayed.generations.iter().position(|generation| generation.number == number).unwrap_or_else(|| {
            let begun_ms = entry.time_ms;
            replayed.generations.push(Generation { number, begun_ms, ..Generation::default() });
            replayed.generations.len() - 1
        });
        let generation = &mut replayed.generations[at];
        match entry.entry.as_str() {
            "go" => generation.go_ms = Some(entry.time_ms),
            "signal" => generation.signal = detail["signal"].as_str().map(str::to_owned),
            "ask" => asked.extend(detail["rank"].as_u64().map(|rank| (number, rank))),
            "ended" | "engine_failed" => {
                let rank = detail["rank"].as_u64();
                if !rank.is_some_and(|rank| asked.contains(&(number, rank))) {
                    generation.failures.extend(end_of_container(rank, &entry.entry, &detail["detail"]));
                }
            }
            "logs" => {
                generation.ended_ms = Some(entry.time_ms);
                generation.logs = array(&detail["ranks"]).iter().map(log_of).collect();
                // How a container of a rank that sealed its log ended says nothing: the engine may have removed it by force.
                let sealed = |rank: Option<u64>| {
                    array(&detail["ranks"]).iter().any(|log| log["sealed"] == true && log["rank"].as_u64() == rank)
                };
                generation.failures.retain(|failure| failure.class.is_some() || !sealed(failure.rank));
            }
            "attempt" => {
                generation.ended_ms = Some(entry.time_ms);
                attempt(generation, detail);
            }
            "again" => {
                let cause = failure_of(&detail["failure"]);
                generation.failures.retain(|seen| seen.rank != cause.rank);
                generation.failures.insert(0, cause);
            }
            _ => {}
        }
    }
    replayed
}

impl Replayed {
    /// The logs of all launches, by rank.
    #[must_use]
    pub fn logs(&self) -> Vec<Log> {
        let mut all: Vec<Log> = Vec::new();
        for log in self.generations.iter().flat_map(|generation| &generation.logs) {
            match all.iter_mut().find(|sum| sum.rank == log.rank) {
                None => all.push(log.clone()),
                Some(sum) => {
                    let add = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
                    (sum.lines, sum.bytes) = (add(sum.lines, log.lines), add(sum.bytes, log.bytes));
                    sum.dropped += log.dropped;
                    sum.complete = match (sum.complete, log.complete) {
                        (Some(one), Some(other)) => Some(one && other),
                        _ => None,
                    };
                }
            }
        }
        all.sort_by_key(|log| log.rank);
        all
    }

    /// Images a second over the steps of all launches, each as long as it trained.
    #[must_use]
    pub fn images_per_second(&self) -> Option<f64> {
        let mut last = self.generations.iter().rev();
        last.find_map(|generation| generation.images_per_second)
    }
}

/// What a container's end says of its rank, where nothing better is known.
fn end_of_container(rank: Option<u64>, entry: &str, detail: &Value) -> Option<Failure> {
    let message = match (entry, detail["code"].as_i64(), detail["words"].as_str()) {
        ("engine_failed", ..) if detail["operation"] == "Remove" => return None,
        ("engine_failed", ..) => text(&detail["message"]),
        (_, Some(0), _) => return None,
        (_, _, Some(words)) => words.to_owned(),
        (_, Some(code), None) => format!("its container ended with code {code}"),
        (_, None, None) => "its container is gone".to_owned(),
    };
    Some(Failure { rank, message, ..Failure::default() })
}

fn attempt(generation: &mut Generation, detail: &Value) {
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or_default();
    generation.target_batch = detail["target_batch"].as_u64();
    generation.imgsz = detail["imgsz"].as_u64();
    generation.last_step = detail["last_step"].as_u64();
    generation.images_per_second = match (detail["images"].as_f64(), detail["step_seconds"].as_f64()) {
        (Some(images), Some(seconds)) if seconds > 0.0 => Some(images / seconds),
        _ => None,
    };
    generation.ranks = array(&detail["ranks"])
        .iter()
        .map(|rank| Attempt {
            rank: number(rank, "rank"),
            device: text(&rank["device"]),
            micro_batches: array(&rank["micro_batches"]).iter().filter_map(Value::as_u64).collect(),
            predicted_bytes: rank["predicted_bytes"].as_u64(),
            measured_bytes: rank["measured_bytes"].as_u64(),
            budget_bytes: rank["budget_bytes"].as_u64(),
        })
        .collect();
    generation.step_downs = array(&detail["step_downs"])
        .iter()
        .map(|down| StepDown {
            step: number(down, "step"),
            rank: number(down, "rank"),
            from: number(down, "from"),
            to: number(down, "to"),
        })
        .collect();
    let told: Vec<Failure> = array(&detail["failures"]).iter().map(failure_of).collect();
    // A trainer's own words come before what its container's end shows of it.
    let (mut first, rest): (Vec<Failure>, Vec<Failure>) =
        told.into_iter().partition(|failure| generation.failures.first().is_some_and(|seen| seen.rank == failure.rank));
    first.extend(rest);
    generation.failures.retain(|seen| first.iter().all(|failure| failure.rank != seen.rank));
    first.append(&mut generation.failures);
    generation.failures = first;
}

fn log_of(fact: &Value) -> Log {
    let dropped = fact["dropped"].as_u64().unwrap_or_default();
    let sealed = fact["sealed"] == true;
    Log {
        rank: fact["rank"].as_u64().unwrap_or_default(),
        lines: fact["lines"].as_u64(),
        bytes: fact["bytes"].as_u64(),
        dropped,
        complete: Some(sealed && fact["whole"] == true && dropped == 0),
    }
}

fn failure_of(value: &Value) -> Failure {
    Failure {
        rank: value["rank"].as_u64(),
        class: value["class"].as_str().map(str::to_owned),
        message: text(&value["message"]),
        advice: value["advice"].as_str().map(str::to_owned),
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(time_ms: u64, entry: &str, detail: Value) -> Entry {
        Entry { v: 1, time_ms, entry: entry.into(), detail }
    }

    #[test]
    fn a_run_that_was_started_again_is_two_launches() {
        let log = |rank, lines| json!({ "rank": rank, "sealed": true, "lines": lines, "bytes": lines * 10, "dropped": 0, "whole": true });
        let given = |micro| json!([{ "rank": 0, "device": "cpu:0", "micro_batches": [micro], "predicted_bytes": 100, "measured_bytes": 90, "budget_bytes": null }]);
        let out = json!({ "rank": 1, "class": "out_of_memory.device", "message": "no memory" });
        let entries = [
            entry(1, "run", json!({ "run": "20261124-034501", "image": "debian" })),
            entry(2, "create", json!({ "generation": 1, "rank": 0, "container": "c" })),
            entry(3, "go", json!({ "generation": 1 })),
            entry(
                4,
                "ended",
                json!({ "generation": 1, "rank": 1, "detail": { "code": 1, "oom_killed": false, "words": null } }),
            ),
            entry(5, "ask", json!({ "generation": 1, "rank": 0, "signal": "SIGUSR1" })),
            entry(
                6,
                "ended",
                json!({ "generation": 1, "rank": 0, "detail": { "code": 137, "oom_killed": false, "words": null } }),
            ),
            entry(7, "logs", json!({ "generation": 1, "ranks": [log(0, 5), { "rank": 1, "sealed": false }] })),
            entry(
                7,
                "attempt",
                json!({ "generation": 1, "target_batch": 16, "imgsz": 64, "ranks": given(16), "last_step": 3,
                "images": 64, "step_seconds": 2.0, "step_downs": [{ "step": 2, "rank": 1, "from": 32, "to": 16 }], "failures": [out] }),
            ),
            entry(8, "create", json!({ "generation": 2, "rank": 0, "container": "c" })),
            entry(9, "logs", json!({ "generation": 2, "ranks": [log(0, 7), log(1, 8)] })),
            entry(9, "attempt", json!({ "generation": 2, "ranks": given(8), "last_step": 9, "failures": [] })),
            entry(
                10,
                "end",
                json!({ "exit_code": 0, "state": "done", "epochs_done": 2, "epochs": 2, "devices": ["cpu:0", "cpu:1"],
                "metrics": { "metrics/mAP50(B)": 0.5 } }),
            ),
        ];
        let replayed = replay(&entries);
        assert_eq!((replayed.begun_ms, replayed.last_ms, replayed.generations.len()), (Some(1), Some(10), 2));
        let first = &replayed.generations[0];
        assert_eq!((first.begun_ms, first.go_ms, first.ended_ms, first.last_step), (2, Some(3), Some(7), Some(3)));
        // The peer that was ended for it is no failure, and the trainer's own words stand for the container's code.
        assert_eq!(first.failures.len(), 1, "{:?}", first.failures);
        assert_eq!(first.failures[0].class.as_deref(), Some("out_of_memory.device"));
        assert_eq!(first.step_downs, [StepDown { step: 2, rank: 1, from: 32, to: 16 }]);
        assert_eq!(first.images_per_second, Some(32.0));
        assert_eq!(replayed.generations[1].ranks[0].micro_batches, [8]);
        let logs = replayed.logs();
        assert_eq!((logs[0].lines, logs[0].bytes, logs[0].complete), (Some(12), Some(120), Some(true)));
        assert_eq!((logs[1].lines, logs[1].complete), (None, Some(false)));
        let end = replayed.end.expect("ended");
        assert_eq!((end.state, end.map50, end.epochs_done), (State::Done, Some(0.5), Some(2)));
        // Gone on with afterwards.
        let mut entries = entries.to_vec();
        entries.push(entry(11, "create", json!({ "generation": 3, "rank": 0, "container": "c" })));
        assert_eq!(replay(&entries).end, None);
    }

    #[test]
    fn ends_of_all_kinds_are_understood() {
        let end = |detail| End::of(&entry(1, "end", detail));
        let state = |detail| end(detail).state;
        assert_eq!(state(json!({ "exit_code": 0, "outcome": "Done" })), State::Done);
        assert_eq!(state(json!({ "exit_code": 130, "outcome": "Stopped(Interrupt)" })), State::Stopped);
        assert_eq!(state(json!({ "found": {}, "launches": 3 })), State::Done);
        assert_eq!(state(json!({ "stopped": "Interrupt" })), State::Stopped);
        assert_eq!(end(json!({ "impossible": "too small" })).failure.expect("a failure").message, "too small");
        let old = end(json!({ "exit_code": 1, "outcome": "Failed(Diagnosis {})" }));
        assert_eq!(
            (old.state, old.failure.expect("a failure").message.as_str()),
            (State::Failed, "Failed(Diagnosis {})")
        );
        let failure = json!({ "rank": 1, "class": "code", "message": "it broke", "advice": "mend it" });
        let failed = end(json!({ "exit_code": 1, "state": "failed", "failure": failure })).failure.expect("a failure");
        assert_eq!(
            (failed.rank, failed.class.as_deref(), failed.advice.as_deref()),
            (Some(1), Some("code"), Some("mend it"))
        );
    }
}
