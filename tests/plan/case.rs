//! Random jobs on random devices of which everything is known.

use std::path::Path;

use evenkeel::inventory::{Device, DeviceId, DeviceRequest};
use evenkeel::job::{self, Bases, Job, Micro, SplitWish, Trainer};
use evenkeel::plan::{Abilities, Knowledge, Known, MemoryModel, Plan, PlanError, TimeModel, plan};

use super::rng::Rng;

const MIB: f64 = 1_048_576.0;

/// A job, its devices, and what is known of them.
#[derive(Clone)]
pub struct Case {
    pub job: Job,
    pub devices: Vec<Device>,
    pub abilities: Abilities,
    pub knowledge: Knowledge,
}

impl Case {
    pub fn plan(&self) -> Result<Plan, PlanError> {
        plan(&self.job, &self.devices, &self.abilities, Some(&self.knowledge))
    }

    pub fn auto(&self) -> bool {
        self.job.device == DeviceRequest::Auto
    }

    pub fn target(&self) -> u32 {
        self.job.batch.target.expect("given")
    }

    pub fn micro(&self) -> Option<u32> {
        match self.job.batch.micro {
            Micro::Auto => None,
            Micro::Fixed(micro) => Some(micro),
        }
    }

    pub fn known(&self, device: &Device) -> (TimeModel, MemoryModel) {
        let known = self.knowledge.kinds[&device.kind()];
        (known.time.expect("given"), known.memory.expect("given"))
    }

    /// Bytes of a rank, worked out from the formula and not by the planner.
    pub fn bytes(&self, device: &Device, micro: u32) -> f64 {
        let (_, memory) = self.known(device);
        let fixed = memory.context_bytes + memory.weights_bytes + memory.gradients_and_optimizer_bytes;
        let pixels = f64::from(self.job.imgsz.largest()).powi(2);
        let labels = f64::from(self.knowledge.labels);
        let training = f64::from(micro) * pixels * (memory.bytes_per_pixel + memory.bytes_per_pixel_and_label * labels);
        let validated = (micro * self.abilities.validation).min(self.knowledge.validation_images.unwrap_or(u32::MAX));
        let validation = f64::from(validated) * pixels * memory.validation_bytes_per_pixel;
        (fixed as f64 + training.max(validation)).max(memory.least_bytes as f64)
    }

    /// Images of the largest micro-batch of a device, up to the target.
    pub fn most(&self, device: &Device) -> u32 {
        let budget = device.memory_budget_bytes.expect("given") as f64 * (1.0 - self.knowledge.reserve);
        (1..=self.target()).take_while(|micro| self.bytes(device, *micro) + 1.0 <= budget).last().unwrap_or(0)
    }
}

/// A job to change at will.
pub fn job() -> Job {
    let text = "{data: d, device: cpu:2}".to_owned();
    job::parse(Path::new("a.yaml"), text, &[], &Bases::default()).expect("a good job").job
}

pub fn gpu(index: u32, kind: u32, budget: u64) -> Device {
    Device {
        id: DeviceId::Gpu { index, uuid: format!("GPU-{index}") },
        name: format!("GPU {index} (card {kind})"),
        model: Some(format!("card {kind}")),
        memory_budget_bytes: Some(budget),
        memory_cap_bytes: None,
        cpus: None,
        compute_capability: None,
    }
}

/// How large the cases are.
#[derive(Clone, Copy)]
pub struct Limits {
    pub devices: u32,
    pub target: u32,
    /// Images that the memory of a device holds at most.
    pub images: u32,
}

pub fn random(job: &Job, rng: &mut Rng, limits: Limits) -> Case {
    let mut job = job.clone();
    let kinds = rng.between(1, 5);
    let target = if rng.one_in(3) { rng.between(1, limits.target) } else { rng.spread(1, limits.target) };
    let known: Vec<Known> = (0..kinds).map(|_| known(rng)).collect();
    job.imgsz = (32 * rng.between(1, 20)).into();
    let labels = rng.between(0, 200);
    let count = rng.spread(1, limits.devices);
    let devices = (0..count).map(|index| {
        let kind = rng.between(0, kinds - 1);
        let memory = known[kind as usize].memory.expect("given");
        // From less than an image to as many as the limit.
        let image = f64::from(job.imgsz.largest()).powi(2)
            * (memory.bytes_per_pixel + memory.bytes_per_pixel_and_label * f64::from(labels));
        let fixed = memory.context_bytes + memory.weights_bytes + memory.gradients_and_optimizer_bytes;
        let images =
            if rng.one_in(60) { rng.unit() * 2.0 - 1.0 } else { f64::from(rng.spread(1, limits.images)) + 0.5 };
        gpu(index, kind, (fixed as f64 + image * images).max(0.0) as u64)
    });
    let devices: Vec<Device> = devices.collect();
    job.trainer = if rng.one_in(3) { Trainer::Ultralytics } else { Trainer::Native };
    job.device = if rng.one_in(2) { DeviceRequest::Auto } else { DeviceRequest::Count(count) };
    job.batch.target = Some(target);
    job.batch.micro = if rng.one_in(5) { Micro::Fixed(rng.spread(1, target)) } else { Micro::Auto };
    job.batch.max_accumulation = rng.one_in(5).then(|| rng.spread(1, 64));
    let mut abilities = Abilities::of(job.trainer);
    if rng.one_in(8) {
        // What no trainer is today, and one may be.
        (abilities.uneven_counts, abilities.uneven_micro) = (rng.one_in(2), rng.one_in(2));
    }
    let uneven = abilities.uneven_micro && job.batch.micro == Micro::Auto;
    job.batch.split = match rng.between(0, 3) {
        0 => SplitWish::Uniform,
        1 if uneven => SplitWish::Uneven,
        _ => SplitWish::Auto,
    };
    let kinds = (0..kinds).zip(known).map(|(kind, known)| (gpu(0, kind, 0).kind(), known)).collect();
    let all_reduce_seconds = if rng.one_in(3) { rng.unit() * 0.2 } else { 0.0 };
    let reserve = if rng.one_in(3) { 0.05 * rng.unit() } else { 0.0 };
    let validation_images = if rng.one_in(3) { Some(rng.between(1, 200)) } else { None };
    let knowledge = Knowledge { kinds, labels, validation_images, all_reduce_seconds, reserve, lighter: Vec::new() };
    Case { job, devices, abilities, knowledge }
}

fn known(rng: &mut Rng) -> Known {
    let speed = 1.0 + 9.0 * rng.unit();
    let time = TimeModel {
        overhead_seconds: if rng.one_in(6) { 0.0 } else { 0.05 * rng.unit() },
        seconds_per_image: 0.02 / speed,
    };
    let memory = MemoryModel {
        context_bytes: (rng.unit() * 900.0 * MIB) as u64,
        weights_bytes: (rng.unit() * 300.0 * MIB) as u64,
        gradients_and_optimizer_bytes: (rng.unit() * 900.0 * MIB) as u64,
        bytes_per_pixel: 50.0 + 500.0 * rng.unit(),
        bytes_per_pixel_and_label: rng.unit(),
        validation_bytes_per_pixel: if rng.one_in(4) { 0.0 } else { 300.0 * rng.unit() },
        least_bytes: if rng.one_in(3) { (rng.unit() * 2500.0 * MIB) as u64 } else { 0 },
    };
    Known { time: Some(time), memory: Some(memory) }
}
