//! One launch of a run's containers, from their specs to what is known of their end.

use std::path::Path;

use evenkeel_wire::trainer_job::Trial;
use serde_json::json;

use super::heard::Heard;
use super::{Outcome, Ready};
use crate::agent::Files;
use crate::error::{self, Failure};
use crate::event::{Event, Signal};
use crate::failure::{self, Memory};
use crate::fit;
use crate::job::{Job, Trainer};
use crate::launch::{self, ContainerSpec, RankDevice};
use crate::output::{self, Screen};
use crate::plan::Plan;
use crate::record::past::{self, Intent};
use crate::record::{self, Journal, RunDir};
use crate::sample::{Sampler, Subject};
use crate::settings::Settings;
use crate::signal::Signals;
use crate::watch::state::{How, RankEnd, RunState};
use crate::watch::{self, Begin, Watched, When};

/// Bytes that no machine has.
const NO_CAP: u64 = 1 << 46;

/// A launch that is to be made.
pub struct Generation<'a> {
    pub ready: &'a Ready,
    pub settings: &'a Settings,
    /// What containers are given of ours.
    pub files: &'a Files,
    pub run: &'a RunDir,
    /// From 1.
    pub number: u32,
    /// Launches of the run that followed a failure.
    pub restarts: u32,
    /// Stage of the training, from 0.
    pub stage: usize,
    pub plan: &'a Plan,
    /// Trial steps in place of a training.
    pub trial: Option<&'a Trial>,
    /// Whether CPU devices are held to the memory that the job gives them.
    pub capped: bool,
}

/// A launch that is over.
pub struct Ended {
    state: RunState,
    ends: Vec<RankEnd>,
    memory: Memory,
    /// What came of trial steps.
    pub tried: fit::Heard,
    /// Its first optimizer step, and from which steps on micro-batches were smaller than before.
    pub steps: (Option<u64>, Vec<(u64, u32)>),
    /// Bytes of each rank's log that earlier launches wrote.
    begins: Vec<u64>,
    /// Names of containers that the engine did not remove.
    pub left: Vec<String>,
    /// What the ranks' logs miss, one sentence each.
    pub incomplete: Vec<String>,
    /// What could not be written of the record, one sentence each.
    pub unwritten: Vec<String>,
    /// Whether the engine kept its limit on locked memory.
    pub limit_kept: bool,
}

/// Who hears of what happens: every event, and whether it happened before this controller came.
pub type Report<'a> = &'a mut dyn FnMut(&Event, When);

impl Generation<'_> {
    /// Launches it and stays until its last container is gone; the journal then says what came of it. `report` hears every event.
    pub async fn launch(
        &self,
        journal: &mut Journal,
        signals: &mut Signals,
        screen: &mut Screen,
        report: Report<'_>,
    ) -> Result<Ended, Failure> {
        let prepared = &self.ready.prepared;
        let specs = self.specs();
        let ranks = u32::try_from(specs.len()).unwrap_or(u32::MAX);
        let intent = Intent {
            stage: self.stage,
            restarts: self.restarts,
            trial: self.trial.is_some(),
            plan: self.plan.clone(),
            begins: (0..ranks).map(|rank| record::length(&log(self.run, rank))).collect(),
            containers: specs.iter().map(|spec| spec.name.clone()).collect(),
        };
        let mut detail = serde_json::to_value(&intent).expect("plain data");
        detail["generation"] = self.number.into();
        journal.append("generation", detail)?;
        prepared.write_generation(self.run, self.number, self.plan, self.trial)?;
        let said = Said { logs: false, attempt: false };
        self.stay(&intent, Begin::Specs(&specs), said, journal, signals, screen, report).await
    }

    /// Takes up one whose trainers another controller started, and stays as if it had been launched here.
    pub async fn take_up(
        &self,
        past: &past::Generation,
        journal: &mut Journal,
        signals: &mut Signals,
        screen: &mut Screen,
        report: Report<'_>,
    ) -> Result<Ended, Failure> {
        let said = Said { logs: past.logs, attempt: past.attempt.is_some() };
        self.stay(&past.intent, Begin::Facts(&past.facts), said, journal, signals, screen, report).await
    }

    fn specs(&self) -> Vec<ContainerSpec> {
        let prepared = &self.ready.prepared;
        let (mut devices, data) = (prepared.rank_devices(), prepared.data_mounts());
        if !self.capped {
            // Not without one: a cap comes with settings that memory follows.
            let free = |device: &mut RankDevice| device.memory_cap = device.memory_cap.map(|_| NO_CAP);
            devices.iter_mut().for_each(free);
        }
        launch::specs(&launch::Launch {
            job: prepared.job(),
            plan: self.plan,
            run: self.run.id(),
            directory: self.run.path(),
            generation: self.number,
            image: &self.ready.image.id,
            program: &self.ready.image.program,
            preflight: self.ready.image.preflight.as_deref(),
            agent: &self.files.program,
            hosts: &self.files.hosts,
            devices: &devices,
            data: &data,
            caller: self.settings.caller.clone(),
            engine: self.ready.traits.clone(),
            master_port: prepared.master_port(),
            caller_environment: &self.settings.all,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "what a launch and a generation that is taken up have in common")]
    async fn stay(
        &self,
        intent: &Intent,
        begin: Begin<'_>,
        said: Said,
        journal: &mut Journal,
        signals: &mut Signals,
        screen: &mut Screen,
        report: Report<'_>,
    ) -> Result<Ended, Failure> {
        let prepared = &self.ready.prepared;
        let launch = watch::Launch {
            engine: &self.ready.engine,
            containers: intent.containers.clone(),
            begin,
            generation: self.number,
            events: self.run.events(),
            control: self.run.control(),
            grace: prepared.job().stop_grace_period,
        };
        let mut heard = Heard::default();
        let mut limit_kept = false;
        let mut sampler = Sampler::start(&Subject {
            engine: &self.ready.engine,
            containers: &intent.containers,
            generation: self.number,
            run: self.run,
            gpus: prepared.rank_devices().into_iter().filter_map(|device| device.gpu).collect(),
            nvml: self.settings.nvml.as_deref(),
        });
        let watched = watch::watch(&launch, journal, signals, &mut |event, when| {
            heard.hear(event);
            sampler.hear(event);
            limit_kept |= matches!(event, Event::LimitKept { .. });
            match when {
                When::Now => screen.event(event),
                When::Before => screen.catch_up(event),
            }
            report(event, when);
        })
        .await;
        sampler.stop().await;
        let Watched { state, trouble } = watched?;
        let ends = state.ends();
        let ran = |rank| ends.iter().any(|end| end.rank == rank && !matches!(end.how, How::NotStarted { .. }));
        let logs = heard.verify(self.run, &intent.begins, ran);
        let left = state.left().into_iter().map(|rank| intent.containers[rank as usize].clone()).collect();
        let mut unwritten: Vec<String> = trouble.iter().map(|trouble| error::chain(trouble)).collect();
        let facts = logs.iter().map(|log| &log.fact).collect::<Vec<_>>();
        let facts = [
            (said.logs, "logs", json!({ "generation": self.number, "ranks": facts })),
            (said.attempt, "attempt", heard.attempt(self.number, self.plan, prepared.stage().imgsz)),
        ];
        for (_, fact, detail) in facts.into_iter().filter(|(said, ..)| !said) {
            if let Err(lost) = journal.append(fact, detail) {
                unwritten.push(error::chain(&lost));
            }
        }
        let incomplete = logs.into_iter().filter_map(|log| log.complaint).collect();
        let steps = heard.steps();
        let tried = heard.trial;
        let (memory, begins) = (self.memory(), intent.begins.clone());
        Ok(Ended { state, ends, memory, tried, steps, begins, left, incomplete, unwritten, limit_kept })
    }

    fn memory(&self) -> Memory {
        let devices = self.ready.prepared.rank_devices();
        match devices.first() {
            Some(device) if device.gpu.is_some() => Memory::Gpu,
            _ if devices.iter().any(|device| device.memory_cap.is_some()) => Memory::Capped,
            _ => Memory::Host,
        }
    }
}

/// What the journal says already of a launch that is over.
#[derive(Clone, Copy)]
struct Said {
    logs: bool,
    attempt: bool,
}

impl Ended {
    /// The signal that asked for an end, even if all had ended by then: nothing is to follow.
    pub fn asked(&self) -> Option<Signal> {
        self.state.asked()
    }

    /// What it means.
    pub fn outcome(&self, run: &RunDir, job: &Job, screen: &Screen) -> Outcome {
        match (self.state.signal(), failure::diagnose(&self.ends, self.memory, |rank| self.end_of_log(run, rank))) {
            (Some(signal), _) => Outcome::Stopped(signal),
            (None, Some(diagnosis)) if self.state.engine_was_away() => Outcome::Failed(diagnosis.with_engine_away()),
            (None, Some(diagnosis)) => Outcome::Failed(diagnosis),
            (None, None) if job.trainer != Trainer::Command && !screen.has_steps() && self.tried.is_empty() => {
                Outcome::Failed(failure::no_step())
            }
            (None, None) => Outcome::Done,
        }
    }

    /// The end of what a rank wrote in this launch, enough to hold what a launcher says of all its children.
    fn end_of_log(&self, run: &RunDir, rank: u32) -> String {
        const BYTES: u64 = 64 << 10;
        let log = log(run, rank);
        let own = record::length(&log).saturating_sub(self.begins.get(rank as usize).copied().unwrap_or(0));
        let text = record::last_bytes(&log, BYTES.min(own)).unwrap_or_default();
        output::plain(&String::from_utf8_lossy(&text))
    }

    /// The last lines of it, enough to hold a traceback.
    pub fn tail(&self, run: &RunDir, rank: u32) -> String {
        const LINES: usize = 15;
        let text = self.end_of_log(run, rank);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

fn log(run: &RunDir, rank: u32) -> std::path::PathBuf {
    Path::new(&run.logs()).join(evenkeel_wire::path::log(rank))
}
