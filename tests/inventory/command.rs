//! The real binary on machines that fixtures describe.

use std::path::Path;
use std::process::{Command, Output};

use evenkeel::inventory::Inventory;
use evenkeel::inventory::lock::DeviceLocks;
use serde_json::Value;

use super::child::{fixture_path, gpu, holder, library, run};

/// Runs `evenkeel` on the machine of a fixture, in `folder`.
fn evenkeel(fixture: &str, folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(args).current_dir(folder).env_remove("CUDA_VISIBLE_DEVICES");
    command.env("EVENKEEL_NVML", library()).env("EVENKEEL_NVML_STUB", fixture_path(fixture));
    command.env("EVENKEEL_LOCKS", folder.join("locks"));
    run(&mut command)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// A folder with a job for any program in it.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let job = "trainer: command\nimage: debian\ncommand: [nvidia-smi]\n";
    std::fs::write(folder.path().join("job.yaml"), job).expect("written");
    folder
}

#[test]
fn devices_are_listed_with_who_holds_them() {
    let folder = place();
    let uuid = "GPU-4f000022-1c2d-4e5f-8a9b-0123456789ab";
    let _held = DeviceLocks::acquire(&folder.path().join("locks"), &[gpu(uuid)], &holder("shapes/7")).expect("free");
    let output = evenkeel("one-busy", folder.path(), &["devices"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let states: Vec<&str> = table.lines().filter_map(|line| line.split("8.6  ").nth(1)).collect();
    assert_eq!(states[..2], ["free", "busy: pid 5000001 `python` with 10.0 GiB"], "{table}");
    assert!(states[2].starts_with("held by run `shapes/7` of "), "{table}");

    let output = evenkeel("one-busy", folder.path(), &["devices", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let states: Vec<&Value> = (0..3).map(|index| &report["availability"][index]["availability"]["state"]).collect();
    assert_eq!(states, ["free", "busy", "held"]);
    Inventory::from_json(text(&output.stdout)).expect("`plan --inventory` reads it");
}

#[test]
fn a_plan_leaves_busy_cards_out_and_says_so() {
    let folder = place();
    let output = evenkeel("one-busy", folder.path(), &["plan", "job.yaml", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let devices: Vec<&Value> = (0..2).map(|rank| &plan["ranks"][rank]["device"]).collect();
    assert_eq!(
        devices,
        ["GPU-4f000000-1c2d-4e5f-8a9b-0123456789ab", "GPU-4f000022-1c2d-4e5f-8a9b-0123456789ab"],
        "{plan}"
    );
    assert!(
        plan["reasons"].to_string().contains("GPU 1 (NVIDIA RTX A5000) is left out: busy with pid 5000001"),
        "{plan}"
    );

    let output = evenkeel("one-busy", folder.path(), &["plan", "job.yaml", "device=1"]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.starts_with("error: GPU 1 (NVIDIA RTX A5000) is busy with pid 5000001 `python`"), "{said}");
    assert!(said.contains("\nhint: wait for it"), "{said}");

    let output = evenkeel("one-busy", folder.path(), &["plan", "job.yaml", "device=7"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn a_plan_says_what_keeps_the_machine_from_training() {
    let folder = place();
    std::fs::write(folder.path().join("yolo.yaml"), "data: coco8\n").expect("written");
    let plan = |fixture: &str| -> Value {
        let output = evenkeel(fixture, folder.path(), &["plan", "yolo.yaml", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
    };
    let old = plan("old-driver");
    assert!(old["warnings"].to_string().contains("is too old for the image's CUDA 13.0"), "{old}");
    // One card is too old for the image: the other one trains.
    let unequal = plan("unequal");
    assert_eq!(unequal["world_size"], 1, "{unequal}");
    assert!(
        unequal["reasons"].to_string().contains("GTX 1080 Ti) is left out: its compute capability is 6.1"),
        "{unequal}"
    );
    // A program of one's own brings its own CUDA.
    let output = evenkeel("unequal", folder.path(), &["plan", "job.yaml", "--json"]);
    let own: Value = serde_json::from_slice(&output.stdout).expect("a plan");
    assert_eq!(own["world_size"], 2, "{own}");
}

#[test]
fn every_way_out_that_a_refusal_names_is_one() {
    let folder = place();
    std::fs::write(folder.path().join("yolo.yaml"), "data: coco8\ndevice: auto\n").expect("written");
    let mut ways = 0;
    for refused in
        ["batch.target=61", "batch.target=30 batch.micro=16", "device=0,1,2 batch.target=64", "batch.target=2 gpus=4"]
    {
        let overrides: Vec<&str> = refused.split(' ').collect();
        let output = evenkeel("four-equal", folder.path(), &[&["plan", "yolo.yaml"], &overrides[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{refused}: {}", text(&output.stdout));
        let said = text(&output.stderr);
        let hint = said.split_once("hint: ").unwrap_or_else(|| panic!("no hint in {said}")).1;
        for way in hint.split('`').skip(1).step_by(2) {
            ways += 1;
            let with = [&["plan", "yolo.yaml"], &overrides[..], &[way]].concat();
            let output = evenkeel("four-equal", folder.path(), &with);
            assert!(output.status.success(), "`{refused} {way}`: {}", text(&output.stderr));
        }
    }
    assert!(ways >= 8, "{ways} ways");
}

#[test]
fn a_machine_that_cannot_be_is_refused() {
    let folder = place();
    let devices = evenkeel("four-equal", folder.path(), &["devices", "--json"]);
    let machine: Value = serde_json::from_slice(&devices.stdout).expect("JSON");
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 4] = [
        (|machine| machine["gpsu"] = Value::Array(Vec::new()), "unknown key `gpsu`"),
        (|machine| machine["host"]["cpus"] = 0.into(), "`host.cpus` is 0"),
        (|machine| machine["gpus"][1]["uuid"] = machine["gpus"][0]["uuid"].clone(), "is given twice"),
        (|machine| machine["gpus"][0]["memory"]["free_bytes"] = (1_u64 << 50).into(), "more than there are"),
    ];
    for (change, words) in changes {
        let mut odd = machine.clone();
        change(&mut odd);
        std::fs::write(folder.path().join("odd.json"), odd.to_string()).expect("written");
        let output = evenkeel("four-equal", folder.path(), &["plan", "job.yaml", "--inventory", "odd.json"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn without_a_driver_the_cpu_serves_and_it_is_said() {
    let folder = place();
    let output = evenkeel("no-driver", folder.path(), &["devices"]);
    assert!(text(&output.stdout).contains("NVIDIA driver is not loaded"), "{}", text(&output.stdout));
    let output = evenkeel("no-driver", folder.path(), &["plan", "job.yaml", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(plan["ranks"][0]["device"], "cpu:0");
    assert!(plan["reasons"].to_string().contains("NVIDIA driver is not loaded"), "{plan}");
}
