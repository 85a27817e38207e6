//! What the ranks of one launch said, as far as the record sums it up: what their logs must hold, and how far they came.

use std::collections::BTreeMap;

use evenkeel_wire::Event as Told;
use serde_json::{Value, json};

use crate::event::Event;
use crate::fit;
use crate::plan::Plan;
use crate::record::{self, RunDir};

/// What the ranks said.
#[derive(Default)]
pub struct Heard {
    /// Seals, by rank.
    seals: BTreeMap<u32, Told>,
    /// The most bytes of memory that each rank told of.
    peaks: BTreeMap<u32, u64>,
    /// Images that each rank trained on, and the seconds that its steps took.
    work: BTreeMap<u32, (u64, f64)>,
    /// The last optimizer step that was told, from 0.
    last_step: Option<u64>,
    /// The first, where the launch began or went on.
    first_step: Option<u64>,
    /// Steps down within the launch: step, rank, images before and after.
    step_downs: Vec<(u64, u32, u32, u32)>,
    /// Failures by rank: class and message.
    failures: BTreeMap<u32, (&'static str, String)>,
    /// What came of trial steps.
    pub trial: fit::Heard,
}

/// Whether a log is whole: a fact for the record, and a complaint for the person if it is not.
pub struct LogState {
    /// For the journal.
    pub fact: Value,
    /// For the person.
    pub complaint: Option<String>,
}

impl Heard {
    /// Takes note of an event.
    pub fn hear(&mut self, event: &Event) {
        let Event::Told { rank, record } = event else { return };
        self.trial.hear(*rank, &record.event);
        match &record.event {
            seal @ Told::Exit { .. } => drop(self.seals.insert(*rank, seal.clone())),
            Told::Step { step, images, memory_bytes, time_ms, .. } => {
                self.last_step = self.last_step.max(Some(*step));
                let (sum, seconds) = self.work.entry(*rank).or_default();
                (*sum, *seconds) = (*sum + images, *seconds + time_ms / 1e3);
                self.first_step.get_or_insert(*step);
                self.see_peak(*rank, *memory_bytes);
            }
            Told::Tried { peak_bytes, .. } => self.see_peak(*rank, *peak_bytes),
            Told::SteppedDown { step, from, to, .. } => self.step_downs.push((*step, *rank, *from, *to)),
            Told::Failure { class, message, .. } => {
                self.failures.entry(*rank).or_insert((class.name(), message.clone()));
            }
            _ => {}
        }
    }

    fn see_peak(&mut self, rank: u32, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            let peak = self.peaks.entry(rank).or_default();
            *peak = (*peak).max(bytes);
        }
    }

    /// Compares what each agent counted with what the log holds from where the launch began. A rank that never `ran` has nothing that
    /// could be missing.
    pub fn verify(&self, run: &RunDir, begins: &[u64], ran: impl Fn(u32) -> bool) -> Vec<LogState> {
        (0..).zip(begins).map(|(rank, begin)| self.verify_one(run, rank, *begin, ran(rank))).collect()
    }

    fn verify_one(&self, run: &RunDir, rank: u32, begin: u64, ran: bool) -> LogState {
        let Some(Told::Exit { lines, bytes, sha256, dropped, .. }) = self.seals.get(&rank) else {
            let fact = json!({ "rank": rank, "sealed": false });
            let complaint = format!("rank {rank}: its log has no seal; the last lines may be missing");
            return LogState { fact, complaint: ran.then_some(complaint) };
        };
        let found = record::log_digest(&run.logs().join(evenkeel_wire::path::log(rank)), begin);
        let whole = found.as_ref().is_ok_and(|found| found.bytes == *bytes && found.sha256 == *sha256);
        let fact = json!({
            "rank": rank, "sealed": true, "begin": begin, "lines": lines, "bytes": bytes, "sha256": sha256,
            "dropped": dropped, "whole": whole,
        });
        let complaint = match (whole, dropped) {
            (true, 0) => None,
            (true, dropped) => Some(format!("rank {rank}: {dropped} lines did not fit on the disk")),
            (false, _) => Some(format!("rank {rank}: its log differs from what its agent wrote")),
        };
        LogState { fact, complaint }
    }

    /// The first step of the launch, and from which steps on micro-batches were smaller than before.
    pub fn steps(&self) -> (Option<u64>, Vec<(u64, u32)>) {
        (self.first_step, self.step_downs.iter().map(|(step, _, _, to)| (*step, *to)).collect())
    }

    /// What was tried and what came of it: batch, image size, memory as predicted and as measured, where it ran out, and how fast it went.
    pub fn attempt(&self, generation: u32, plan: &Plan, imgsz: u32) -> Value {
        let ranks = plan.ranks.iter().map(|rank| {
            json!({
                "rank": rank.rank, "device": rank.device, "micro_batches": rank.micro_batches,
                "predicted_bytes": rank.memory.predicted_bytes, "budget_bytes": rank.memory.budget_bytes,
                "measured_bytes": self.peaks.get(&rank.rank),
            })
        });
        let step_downs = self
            .step_downs
            .iter()
            .map(|(step, rank, from, to)| json!({ "step": step, "rank": rank, "from": from, "to": to }));
        let failures = self
            .failures
            .iter()
            .map(|(rank, (class, message))| json!({ "rank": rank, "class": class, "message": message }));
        // Ranks step together: the slowest one's time is that of the step.
        let images: u64 = self.work.values().map(|(images, _)| images).sum();
        let step_seconds = self.work.values().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
        json!({
            "generation": generation, "target_batch": plan.target_batch, "imgsz": imgsz,
            "ranks": ranks.collect::<Vec<_>>(), "first_step": self.first_step, "last_step": self.last_step,
            "images": images, "step_seconds": step_seconds,
            "step_downs": step_downs.collect::<Vec<_>>(), "failures": failures.collect::<Vec<_>>(),
        })
    }
}
