//! What is written down of a job: for its record, and for the trainer that carries it out.

use std::collections::BTreeMap;

use evenkeel_wire::trainer_job::{DataSet, TrainerJob, Trial};

use super::Prepared;
use crate::error::Failure;
use crate::job::OnOom;
use crate::plan::Plan;
use crate::record::{RecordError, RunDir};
use crate::runlock::secret;

impl Prepared {
    /// Writes the job, as given and as understood, without the secrets in it.
    pub fn write_job(&self, run: &RunDir) -> Result<(), RecordError> {
        run.write("job.yaml", secret::masked(&self.resolved.source, &self.secrets()).as_bytes())?;
        self.write_resolved(run)
    }

    /// Writes the job as understood.
    pub fn write_resolved(&self, run: &RunDir) -> Result<(), RecordError> {
        run.write("resolved.yaml", secret::masked(&self.resolved.to_yaml(), &self.secrets()).as_bytes()).map(drop)
    }

    /// Writes what a generation begins with: its plan, and what trainers are told, a trial or a training.
    pub fn write_generation(
        &self,
        run: &RunDir,
        generation: u32,
        plan: &Plan,
        trial: Option<&Trial>,
    ) -> Result<(), Failure> {
        run.write("plan.json", &pretty(plan))?;
        let told = TrainerJob { trial: trial.cloned(), ..self.trainer_job(run, generation, plan) };
        run.write("job.json", &pretty(&told))?;
        Ok(())
    }

    /// Writes the plan again, with something that turned out when it was carried out.
    pub fn plan_with(&self, run: &RunDir, plan: &Plan, warning: &str) -> Result<(), RecordError> {
        let mut plan = plan.clone();
        plan.warnings.push(warning.to_owned());
        run.write("plan.json", &pretty(&plan)).map(|_| ())
    }

    fn trainer_job(&self, run: &RunDir, generation: u32, plan: &Plan) -> TrainerJob {
        let job = self.job();
        let nothing = || DataSet { path: String::new(), train: Vec::new(), val: Vec::new(), names: BTreeMap::new() };
        let target_batch = job.batch.target.unwrap_or(0);
        TrainerJob {
            version: evenkeel_wire::VERSION,
            run: run.id().to_owned(),
            generation,
            device: if self.on_gpus() { "cuda" } else { "cpu" }.into(),
            model: self.model.as_ref().map_or_else(|| job.model.clone(), |model| model.name.clone()),
            data: self.data.as_ref().map_or_else(nothing, |data| data.data.clone()),
            epochs: job.epochs,
            until_epoch: Some(self.stage().until_epoch).filter(|until| *until < job.epochs),
            imgsz: self.stage().imgsz,
            seed: job.seed,
            target_batch,
            micro_from_step: self.takeover.micro_from_step(self.stage().imgsz),
            step_down: job.batch.on_oom == OnOom::StepDown,
            micro_batches: plan.ranks.iter().map(|rank| rank.micro_batches.clone()).collect(),
            output: evenkeel_wire::path::OUTPUT.to_owned(),
            label_cache: self.label_cache.as_ref().map(|_| evenkeel_wire::path::LABEL_CACHE.to_owned()),
            amp: plan.amp.map(|amp| amp.name().to_owned()),
            trial: None,
            max_images: self.max_images(),
            args: job.args.clone(),
        }
    }
}

fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain data");
    text.push(b'\n');
    text
}
