//! What a journal says of a run that somebody else began: enough to take it up again. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::journal::Entry;
use crate::event::{Event, Signal};
use crate::plan::Plan;

/// A run as its journal tells of it.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Its launches, in order.
    pub generations: Vec<Generation>,
    /// The entry that ended it, unless it has gone on since.
    pub end: Option<Value>,
    /// Whether a signal asked for its end when no trainer had been started.
    pub asked: Option<Signal>,
}

/// A launch, from the intent to make it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its number, from 1.
    pub number: u32,
    /// What was intended.
    pub intent: Intent,
    /// What was seen of it, with the time in milliseconds since 1970. What its ranks told is in their spools.
    pub facts: Vec<(u64, Event)>,
    /// Whether the journal says of its logs whether they are whole.
    pub logs: bool,
    /// What came of it, if the journal says so.
    pub attempt: Option<Attempt>,
    /// Whether the journal says why another launch followed, or was to.
    pub again: bool,
    /// Ranks whose containers were to be made, and nothing says whether they were: an engine may yet make them.
    pub unsettled: Vec<u32>,
}

impl Generation {
    /// Names of the containers that an engine may yet make.
    pub fn unsettled(&self) -> impl Iterator<Item = &str> {
        self.unsettled.iter().filter_map(|rank| self.intent.containers.get(*rank as usize)).map(String::as_str)
    }
}

/// What a journal says of a launch before its first container.
#[derive(Clone, Debug, PartialEq, Deserialize, serde::Serialize)]
pub struct Intent {
    /// The stage of the training, from 0.
    pub stage: usize,
    /// Earlier launches that followed a failure.
    pub restarts: u32,
    /// Whether these were trial steps.
    pub trial: bool,
    /// How it was split.
    pub plan: Plan,
    /// Bytes of each rank's log that earlier launches wrote.
    pub begins: Vec<u64>,
    /// Names of the containers, in the order of ranks.
    pub containers: Vec<String>,
}

/// What a lock is told of a launch that is over.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Attempt {
    /// Its first optimizer step, if there was one.
    #[serde(default)]
    pub first_step: Option<u64>,
    /// Where micro-batches became smaller within it.
    #[serde(default)]
    pub step_downs: Vec<StepDown>,
}

/// Micro-batches became smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct StepDown {
    /// From this optimizer step on.
    pub step: u64,
    /// Images of a micro-batch since then.
    pub to: u32,
}

/// An entry does not hold what entries of its kind do.
#[derive(Debug, thiserror::Error)]
#[error("the journal's entry `{entry}` is not understood")]
pub struct PastError {
    /// Its kind.
    pub entry: String,
    /// What is wrong with it.
    pub source: serde_json::Error,
}

impl Past {
    /// Reads the entries of a journal, in order.
    ///
    /// # Errors
    ///
    /// An entry of a kind that matters here is not understood.
    pub fn of(entries: &[Entry]) -> Result<Self, PastError> {
        let mut past = Self::default();
        entries.iter().try_for_each(|entry| past.take(entry))?;
        Ok(past)
    }

    fn take(&mut self, entry: &Entry) -> Result<(), PastError> {
        let detail = &entry.detail;
        let number = detail["generation"].as_u64().and_then(|number| u32::try_from(number).ok());
        match entry.entry.as_str() {
            "generation" => {
                let intent = read(entry, detail)?;
                let number = number.unwrap_or_else(|| self.generations.last().map_or(1, |last| last.number + 1));
                let generation = Generation {
                    number,
                    intent,
                    facts: Vec::new(),
                    logs: false,
                    attempt: None,
                    again: false,
                    unsettled: Vec::new(),
                };
                self.generations.push(generation);
                self.went_on();
            }
            // A run that goes on is asked for by somebody who knows that it was to end.
            "resume" => self.went_on(),
            "end" => self.end = Some(detail.clone()),
            _ => {}
        }
        let Some(generation) = self.generations.iter_mut().find(|generation| Some(generation.number) == number) else {
            return Ok(());
        };
        match entry.entry.as_str() {
            "logs" => generation.logs = true,
            "again" => generation.again = true,
            "create" => generation.unsettled.extend(rank(detail)),
            "created" | "engine_failed" | "removed" => {
                let settled = rank(detail);
                generation.unsettled.retain(|rank| Some(*rank) != settled);
            }
            "attempt" => generation.attempt = Some(read(entry, detail)?),
            _ => {}
        }
        if let Some(event) = fact(entry) {
            match event {
                Event::Signal(Signal::Hangup) => {}
                Event::Signal(signal) => self.asked = self.asked.or(Some(signal)),
                _ => {}
            }
            generation.facts.push((entry.time_ms, event));
        }
        Ok(())
    }

    /// An end that was asked for, or has been, is none any more.
    pub fn went_on(&mut self) {
        (self.end, self.asked) = (None, None);
    }

    /// The launch that is the run's last.
    #[must_use]
    pub fn last(&self) -> Option<&Generation> {
        self.generations.last()
    }
}

fn rank(detail: &Value) -> Option<u32> {
    detail["rank"].as_u64().and_then(|rank| u32::try_from(rank).ok())
}

fn read<'a, T: Deserialize<'a>>(entry: &Entry, detail: &'a Value) -> Result<T, PastError> {
    T::deserialize(detail).map_err(|source| PastError { entry: entry.entry.clone(), source })
}

/// The event that an entry noted, where a state machine that is told of it again comes to the same. What the engine refused is not among
/// them: it is asked again.
fn fact(entry: &Entry) -> Option<Event> {
    let rank = || rank(&entry.detail);
    let detail = &entry.detail["detail"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match entry.entry.as_str() {
        "ended" => Some(Event::Ended {
            rank: rank()?,
            code: detail["code"].as_i64(),
            oom_killed: detail["oom_killed"].as_bool().unwrap_or_default(),
            words: text(&detail["words"]),
        }),
        "stalled" => Some(Event::Stalled { rank: rank()?, message: text(&detail["message"]).unwrap_or_default() }),
        "engine_away" => Some(Event::EngineAway),
        "removed" => Some(Event::Removed { rank: rank()? }),
        "limit_kept" => Some(Event::LimitKept { rank: rank()?, message: text(&detail["message"]).unwrap_or_default() }),
        "signal" => Signal::named(entry.detail["signal"].as_str()?).map(Event::Signal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(entry: &str, detail: Value) -> Entry {
        Entry { v: 1, time_ms: 5, entry: entry.into(), detail }
    }

    fn plan() -> Value {
        json!({
            "version": 1, "target_batch": 8, "world_size": 1, "split": "uniform", "ranks": [], "containers": 1, "yolo": null,
            "preflight": null, "reasons": [], "warnings": [],
        })
    }

    fn generation(number: u32) -> Entry {
        let detail = json!({
            "generation": number, "stage": 1, "restarts": 2, "trial": false, "plan": plan(), "begins": [7], "containers": ["c"],
        });
        entry("generation", detail)
    }

    #[test]
    fn a_journal_tells_of_launches_and_what_was_seen_of_them() {
        let entries = [
            entry("run", json!({})),
            generation(1),
            entry("created", json!({ "generation": 1, "rank": 0 })),
            entry("go", json!({ "generation": 1 })),
            entry(
                "ended",
                json!({ "generation": 1, "rank": 0, "detail": { "code": 3, "oom_killed": true, "words": null } }),
            ),
            entry("removed", json!({ "generation": 1, "rank": 0 })),
            entry("logs", json!({ "generation": 1 })),
            entry(
                "attempt",
                json!({ "generation": 1, "first_step": 4, "step_downs": [{ "step": 6, "rank": 0, "from": 8, "to": 4 }] }),
            ),
            generation(2),
            entry("signal", json!({ "generation": 2, "signal": "Hangup" })),
        ];
        let past = Past::of(&entries).expect("sound");
        let [one, two] = past.generations.as_slice() else { panic!("two launches") };
        let ended = Event::Ended { rank: 0, code: Some(3), oom_killed: true, words: None };
        assert_eq!(one.facts, [(5, ended), (5, Event::Removed { rank: 0 })]);
        assert_eq!((one.logs, two.logs, past.asked), (true, false, None));
        let attempt = one.attempt.as_ref().expect("said");
        assert_eq!((attempt.first_step, attempt.step_downs[0]), (Some(4), StepDown { step: 6, to: 4 }));
        assert_eq!((two.intent.stage, two.intent.restarts, &two.intent.begins[..]), (1, 2, &[7][..]));
        assert!(past.end.is_none());
    }

    #[test]
    fn an_end_stands_until_the_run_goes_on() {
        let mut entries = vec![
            generation(1),
            entry("signal", json!({ "generation": 1, "signal": "Interrupt" })),
            entry("end", json!({ "state": "stopped" })),
        ];
        let past = Past::of(&entries).expect("sound");
        assert!(past.end.is_some() && past.asked == Some(Signal::Interrupt));
        entries.push(entry("resume", json!({})));
        let past = Past::of(&entries).expect("sound");
        assert!(past.end.is_none() && past.asked.is_none());
    }
}
