//! The plan as a function of job and devices.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::inventory::{DeviceId, DeviceRequest};
use crate::job::{self, Bases, Micro};

fn job(text: &str) -> Job {
    job::parse(Path::new("a.yaml"), text.to_owned(), &[], &Bases::default()).expect("a good job").job
}

fn gpus(count: u32) -> Vec<Device> {
    let gpu = |index| Device {
        id: DeviceId::Gpu { index, uuid: format!("GPU-{index}") },
        name: format!("GPU {index} (NVIDIA H200)"),
        model: Some("NVIDIA H200".into()),
        memory_budget_bytes: Some(140 << 30),
        memory_cap_bytes: None,
        cpus: None,
        compute_capability: None,
    };
    (0..count).map(gpu).collect()
}

fn cpus(shares: &[f64]) -> Vec<Device> {
    let cpu = |(index, share): (u32, &f64)| Device {
        id: DeviceId::Cpu { index },
        name: "CPU".into(),
        model: None,
        memory_budget_bytes: None,
        memory_cap_bytes: None,
        cpus: Some(*share),
        compute_capability: None,
    };
    (0..).zip(shares).map(cpu).collect()
}

fn planned(text: &str, devices: &[Device]) -> Result<Plan, PlanError> {
    let job = job(text);
    plan(&job, devices, &Abilities::of(job.trainer), None)
}

fn refusal(text: &str, devices: &[Device]) -> String {
    let failure = crate::error::Failure::from(planned(text, devices).expect_err("a refusal"));
    assert_eq!(failure.code(), crate::error::ExitCode::BadRequest);
    failure.render()
}

#[test]
fn the_json_is_that_of_the_design() {
    let plan = planned("{data: d, batch: {target: 64, micro: 16}, gpus: 2}", &gpus(2)).expect("a plan");
    let value = serde_json::to_value(&plan).expect("plain data");
    assert_eq!(value["version"], 1);
    assert_eq!(
        (&value["target_batch"], &value["world_size"], &value["split"]),
        (&json!(64), &json!(2), &json!("uniform"))
    );
    assert_eq!(
        value["ranks"][1],
        json!({"rank": 1, "local_rank": 1, "host": "local", "device": "GPU-1", "micro_batches": [16, 16],
               "images_per_step": 32, "memory": {"predicted_bytes": null, "budget_bytes": 140_u64 << 30}})
    );
    assert_eq!(value["yolo"], json!({"batch": 32, "nbs": 64, "accumulate": 2}));
    assert!(value["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()));
    assert_eq!(serde_json::from_value::<Plan>(value).expect("what we wrote"), plan);
}

#[test]
fn unknown_memory_is_null() {
    let plan = planned("{data: d, device: cpu:2}", &cpus(&[1.0, 1.0])).expect("a plan");
    let value = serde_json::to_value(&plan).expect("plain data");
    assert_eq!(value["ranks"][0]["memory"], json!({"predicted_bytes": null, "budget_bytes": null}));
    assert!(table(&plan).contains("unknown"));
}

#[test]
fn a_target_that_does_not_split_is_refused_with_what_does() {
    assert_eq!(
        refusal("{data: d, gpus: 3}", &gpus(3)),
        "error: a target batch of 64 cannot be split exactly over 3 devices\n\
         hint: the nearest that work: `batch.target=63` or `batch.target=66`; or `gpus=2` or `gpus=4`; or \
         `batch.split=uneven`"
    );
    assert_eq!(
        refusal("{data: d, batch: {target: 64, micro: 12}, device: cpu:2}", &cpus(&[1.0, 1.0])),
        "error: a target batch of 64 cannot be split exactly into micro-batches of 12 on 2 devices\n\
         hint: the nearest that work: `batch.target=60` or `batch.target=72`; or `batch.micro=8` or `batch.micro=16`"
    );
    // A trainer that needs as many micro-batches on every rank has less choice.
    let job = "{data: d, trainer: ultralytics, batch: {target: 64, micro: 12}, device: cpu:2}";
    assert!(refusal(job, &cpus(&[1.0, 1.0])).contains("`batch.target=48` or `batch.target=72`"));
}

#[test]
fn named_devices_that_the_target_cannot_feed_are_refused() {
    let message = refusal("{data: d, batch: 2, device: [0, 1, 2, 3]}", &gpus(4));
    assert!(message.contains("a target batch of 2 cannot be split exactly over 4 devices"), "{message}");
    assert!(message.contains("`batch.target=4`") && message.contains("`gpus=2`"), "{message}");
}

#[test]
fn what_auto_cannot_feed_stays_idle_and_is_named() {
    let plan = planned("{data: d, batch: 64}", &gpus(3)).expect("a plan");
    assert_eq!(plan.world_size, 2);
    let warning = "1 device idle (GPU-2): the target batch does not split over 3; a target of 63 or 66 does; so does \
                   `batch.split=uneven`";
    assert!(plan.warnings.iter().any(|line| line == warning), "{:?}", plan.warnings);
    let plan = planned("{data: d, batch: 3}", &gpus(8)).expect("a plan");
    assert_eq!(plan.world_size, 3);
    assert_eq!(plan.reasons[0], "3 of 8 devices for `device: auto`");
}

#[test]
fn what_would_leave_most_devices_idle_is_refused() {
    let message = refusal("{data: d, batch: 61}", &gpus(4));
    assert!(message.contains("61 cannot be split exactly over 4 devices"), "{message}");
    for way in ["`batch.target=60`", "`batch.target=64`", "`gpus=1`"] {
        assert!(message.contains(way), "no {way} in {message}");
    }
    let message = refusal("{data: d, batch: 61}", &cpus(&[1.0; 4]));
    assert!(message.contains("`device=cpu:1`"), "{message}");
}

#[test]
fn the_image_decides_on_the_preflight() {
    let sentences = |text: &str, runs| {
        let mut plan = planned(text, &cpus(&[1.0, 1.0])).expect("a plan");
        let before = plan.preflight;
        plan.settle_preflight(runs);
        let said: Vec<String> = plan.reasons.iter().filter(|line| line.starts_with("preflight")).cloned().collect();
        assert_eq!((plan.preflight, said.len()), (Some(runs), 1), "{said:?}");
        (before, said[0].clone())
    };
    let command = "{trainer: command, image: debian, device: cpu:2}";
    assert!(sentences(command, false).1.contains("not in this image"));
    assert!(sentences(command, true).1.contains("check the sum"));
    let own = "{data: d, image: mine, device: cpu:2}";
    assert_eq!(sentences(own, false), (None, "preflight is skipped: the program is not in this image".into()));
    assert_eq!(sentences("{data: d, device: cpu:2}", true).0, Some(true));
    let host = "{trainer: command, image: debian, containers: per-host, nproc_per_node: 2, device: cpu:2}";
    assert!(sentences(host, false).1.contains("by itself"));
}

#[test]
fn a_command_without_a_target_has_ranks_and_no_batches() {
    let plan = planned("{trainer: command, image: debian, device: cpu:3}", &cpus(&[1.0, 1.0, 1.0])).expect("a plan");
    assert_eq!((plan.world_size, plan.containers, plan.target_batch, plan.split), (3, 3, None, None));
    assert_eq!((plan.yolo, plan.preflight), (None, None));
    assert!(plan.ranks.iter().all(|rank| rank.micro_batches.is_empty() && rank.images_per_step.is_none()));
}

#[test]
fn a_program_that_starts_its_own_ranks_has_one_container_and_as_many_devices() {
    let text = "{trainer: command, image: debian, containers: per-host, nproc_per_node: 2, device: cpu:2}";
    let plan = planned(text, &cpus(&[1.0, 1.0])).expect("a plan");
    assert_eq!((plan.world_size, plan.containers), (2, 1));
    assert_eq!(
        refusal(text, &cpus(&[1.0])),
        "error: `nproc_per_node` is 2, but the job has 1 device\n\
         hint: give it as many: `gpus=2`, or `device=cpu:2` without GPUs"
    );
    let auto = "{trainer: command, image: debian, containers: per-host, nproc_per_node: 2}";
    assert_eq!(planned(auto, &gpus(4)).expect("a plan").world_size, 2);
}

#[test]
fn devices_that_differ_are_told() {
    let unlike = planned("{data: d, device: [{cpu: 1.0}, {cpu: 0.5}]}", &cpus(&[1.0, 0.5])).expect("a plan");
    assert!(unlike.warnings.iter().any(|line| line.contains("not alike")));
    let alike = planned("{data: d, gpus: 2}", &gpus(2)).expect("a plan");
    assert!(!alike.warnings.iter().any(|line| line.contains("not alike")));
}

#[test]
fn unequal_micro_batches_take_what_does_not_split() {
    let plan = planned("{data: d, batch: {target: 64, split: uneven}, gpus: 3}", &gpus(3)).expect("a plan");
    let cuts: Vec<&[u32]> = plan.ranks.iter().map(|rank| rank.micro_batches.as_slice()).collect();
    assert_eq!((plan.split, cuts), (Some(Split::Uneven), vec![&[22][..], &[21], &[21]]));
    assert_eq!(serde_json::to_value(&plan).expect("plain data")["split"], "uneven");
    assert!(plan.reasons.iter().any(|line| line.starts_with("given up")), "{:?}", plan.reasons);
    let equal = planned("{data: d, batch: {target: 64, split: uneven}, gpus: 2}", &gpus(2)).expect("a plan");
    assert_eq!(equal.split, Some(Split::Uniform));
}

#[test]
fn no_device_is_no_plan() {
    assert!(refusal("{data: d}", &[]).contains("no device"));
}

/// Whatever the devices and the batch: a plan's images are the target, and a refusal's targets are planned.
#[test]
fn a_plan_takes_the_target_exactly_and_a_refusal_leads_to_one() {
    for trainer in ["native", "ultralytics"] {
        plans_or_leads_to_one(job(&format!("{{data: d, gpus: 1, trainer: {trainer}}}")));
    }
}

fn plans_or_leads_to_one(mut job: Job) {
    let abilities = Abilities::of(job.trainer);
    for world in 1..=16 {
        let devices = gpus(world);
        job.device = DeviceRequest::Count(world);
        for target in 1..=512 {
            for micro in [Micro::Auto, Micro::Fixed(1), Micro::Fixed(3), Micro::Fixed(8), Micro::Fixed(32)] {
                job.batch = job::Batch { target: Some(target), micro, ..job.batch };
                match plan(&job, &devices, &abilities, None) {
                    Ok(plan) => {
                        let images: u32 = plan.ranks.iter().flat_map(|rank| &rank.micro_batches).sum();
                        assert_eq!((images, plan.world_size), (target, world));
                        // yolo has words only for ranks that do the same.
                        if let Some(yolo) = plan.yolo {
                            assert_eq!((yolo.nbs, yolo.batch * yolo.accumulate), (target, target));
                        }
                        assert!(plan.yolo.is_some() || abilities.uneven_counts);
                    }
                    Err(PlanError::DoesNotSplit { near, .. }) => {
                        let targets: Vec<u32> = [near.target_below, near.target_above].into_iter().flatten().collect();
                        assert!(!targets.is_empty(), "{target} {micro:?} {world}");
                        for other in targets {
                            job.batch.target = Some(other);
                            assert!(plan(&job, &devices, &abilities, None).is_ok(), "{other} {micro:?} {world}");
                        }
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}

#[test]
fn the_table_says_it_on_one_screen() {
    let plan = planned("{data: d, batch: {target: 64, micro: 16}, gpus: 2}", &gpus(2)).expect("a plan");
    let text = table(&plan);
    let expected = "64 images per optimizer step on 2 ranks\n\n\
        \x20 rank  device  host   micro-batches  images/step  memory\n\
        \x20 0     GPU-0   local  2 x 16         32           140.0 GiB free\n\
        \x20 1     GPU-1   local  2 x 16         32           140.0 GiB free\n\n\
        in yolo's terms: batch=32 nbs=64 (accumulate 2)\n\
        - 2 devices for `gpus: 2`, any that are free\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
}
