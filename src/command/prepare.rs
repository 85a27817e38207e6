//! provisional
use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::JobArgs;
use crate::docker::{Engine, EngineInfo};
use crate::error::{ExitCode, Failure};
use crate::inventory::DeviceRequest;
use crate::job::*;
use crate::launch::RankDevice;
use crate::output::Screen;
use crate::record::RunDir;
use crate::settings::Settings;

pub struct Prepared {
    job: Job,
}
#[derive(Debug)]
pub struct Program {
    pub image: String,
    pub id: String,
    pub program: Vec<String>,
    pub preflight: Option<String>,
}

pub fn job(args: &JobArgs, _settings: &Settings) -> Result<Prepared, Failure> {
    let text = std::fs::read_to_string(&args.job).map_err(|e| Failure::new(ExitCode::BadRequest, e))?;
    let v: serde_json::Value = serde_yaml::from_str(&text).map_err(|e| Failure::new(ExitCode::BadRequest, e))?;
    let strings = |k: &str| {
        v.get(k).and_then(|x| x.as_array()).map(|a| a.iter().map(|s| s.as_str().unwrap_or("").to_owned()).collect())
    };
    Ok(Prepared {
        job: Job {
            name: "x".into(),
            trainer: Trainer::Command,
            model: "".into(),
            data: None,
            epochs: 1,
            imgsz: 160,
            batch: Batch { target: None, micro: Micro::Auto },
            device: DeviceRequest::Auto,
            seed: 0,
            args: BTreeMap::new(),
            network: Network::None,
            containers: Containers::PerDevice,
            nproc_per_node: None,
            image: v.get("image").and_then(|s| s.as_str()).map(str::to_owned),
            build: None,
            command: strings("command"),
            entrypoint: None,
            environment: BTreeMap::new(),
            volumes: vec![],
            working_dir: None,
            shm_size: None,
            user: None,
            timeout: Duration::from_secs(60),
            stop_grace_period: Duration::from_secs(10),
            runs: "runs".into(),
        },
    })
}
impl Prepared {
    pub fn job(&self) -> &Job {
        &self.job
    }
    pub fn make_smoke(&mut self) {}
    pub async fn find_data(&mut self, _s: &Settings, _screen: &mut Screen) -> Result<(), Failure> {
        Ok(())
    }
    pub fn describe(&self) -> String {
        "plan".into()
    }
    pub fn check_machine(&self, _i: &EngineInfo) -> Result<(), Failure> {
        Ok(())
    }
    pub async fn image(&self, engine: &Engine, _s: &Settings, _sc: &mut Screen) -> Result<Program, Failure> {
        let name = self.job.image.clone().unwrap_or_default();
        let image = engine.image(&name).await?.ok_or_else(|| Failure::new(ExitCode::BadRequest, "no such image"))?;
        let mut program = image.entrypoint.clone();
        program.extend(self.job.command.clone().unwrap_or(image.command.clone()));
        Ok(Program { image: name, id: image.id.clone(), program, preflight: None })
    }
    pub fn lock_devices(&self, _s: &Settings, _r: &RunDir) -> Result<(), Failure> {
        Ok(())
    }
    pub fn write_record(&self, r: &RunDir, _g: u32, _p: &Program) -> Result<(), Failure> {
        r.write("job.json", b"{}")?;
        Ok(())
    }
    pub fn rank_devices(&self) -> Vec<RankDevice> {
        vec![RankDevice { threads: 1, ..Default::default() }; 2]
    }
    pub fn data_mounts(&self) -> Vec<crate::launch::Mount> {
        vec![]
    }
    pub fn master_port(&self) -> u16 {
        29500
    }
}
