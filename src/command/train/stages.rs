//! The launches of a run, one after the other: what follows from how the one before ended.

use serde_json::json;

use super::Ready;
use super::course::Opening;
use super::finish::{Outcome, failure};
use super::generation::{Ended, Generation, Report};
use super::reports::Reports;
use crate::agent;
use crate::command::locking::Launched;
use crate::error::Failure;
use crate::job::Job;
use crate::output::Screen;
use crate::plan::Plan;
use crate::record::{Journal, RunDir};
use crate::recovery::{self, Next};
use crate::settings::Settings;
use crate::signal::Signals;

/// What the launches of a run have in common.
pub(super) struct Running<'a> {
    pub settings: &'a Settings,
    pub files: &'a agent::Files,
    pub run: &'a RunDir,
    pub job: &'a Job,
    /// Launches so far.
    pub number: u32,
    /// Of them, those that followed a failure.
    pub restarts: u32,
    pub incomplete: Vec<String>,
    /// What the lock says of them.
    pub launched: Vec<Launched>,
    pub reports: &'a mut Reports,
}

impl Running<'_> {
    /// Trains a stage, by as many launches as it takes.
    pub async fn stage(
        &mut self,
        ready: &Ready,
        stage: usize,
        opening: Opening,
        (journal, signals, screen): (&mut Journal, &mut Signals, &mut Screen),
    ) -> Result<(Outcome, Option<Ended>, Plan), Failure> {
        let (mut plan, mut past) = match opening {
            Opening::Launch(plan) => (plan.map_or_else(|| ready.prepared.plan.clone(), |plan| *plan), None),
            Opening::TakeUp(past) => (past.intent.plan.clone(), Some(past)),
            Opening::Stopped(signal, plan) => return Ok((Outcome::Stopped(signal), None, *plan)),
        };
        loop {
            self.number += u32::from(past.is_none());
            let Self { settings, files, run, number, restarts, .. } = *self;
            let (plan_now, trial) = (&plan, None);
            let generation = Generation {
                ready,
                settings,
                files,
                run,
                number,
                restarts,
                stage,
                plan: plan_now,
                trial,
                capped: true,
            };
            let report: Report<'_> = &mut |event, _| self.reports.hear(event);
            let said = past.as_ref().is_some_and(|past| past.again);
            let mut ended = match past.take() {
                Some(past) => generation.take_up(&past, journal, signals, screen, report).await?,
                None => generation.launch(journal, signals, screen, report).await?,
            };
            let (first_step, step_downs) = std::mem::take(&mut ended.steps);
            let from_epoch = ready.prepared.stage().from_epoch;
            self.launched.push(Launched::new(from_epoch, &plan, first_step, step_downs));
            self.incomplete.append(&mut ended.incomplete);
            self.incomplete.extend(ended.unwritten.iter().cloned());
            let mut outcome = ended.outcome(self.run, self.job, screen);
            let next = match &outcome {
                // What could not be removed holds the device, and a record that cannot be written would miss what follows. A peer that had
                // to be killed before it sealed its log stands in no way.
                Outcome::Failed(diagnosis)
                    if ended.left.is_empty() && ended.unwritten.is_empty() && ended.asked().is_none() =>
                {
                    recovery::after(diagnosis, self.job, &plan, self.restarts)
                }
                _ => Next::Over(None),
            };
            match next {
                Next::Again { plan: finer, because } => {
                    if let (Outcome::Failed(diagnosis), false) = (&outcome, said) {
                        let detail = json!({ "generation": number, "failure": failure(diagnosis), "because": because });
                        if let Err(lost) = journal.append("again", detail) {
                            self.incomplete.push(crate::error::chain(&lost));
                            return Ok((outcome, Some(ended), plan));
                        }
                    }
                    screen.line(&because);
                    self.reports.recovered(&because);
                    plan = *finer;
                    self.restarts += 1;
                }
                Next::Over(why) => {
                    if let (Outcome::Failed(diagnosis), Some(why)) = (&mut outcome, why) {
                        diagnosis.message = format!("{}; {why}", diagnosis.message);
                    }
                    return Ok((outcome, Some(ended), plan));
                }
            }
        }
    }
}
