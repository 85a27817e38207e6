//! `compare` and `reproduce`, as far as they need no engine: records that are there, and records that are none.

use serde_json::Value;

use crate::support::Place;

/// A lock by hand, with this seed and this hash of the model.
fn lock(id: &str, seed: u32, model: &str) -> String {
    format!(
        "version: 1\ncomplete: true\nrun: {{name: t, id: '{id}'}}\njob:\n  file: job.yaml\n  folder: /a\n  called_from: /a\n  \
         settings:\n    seed: {{value: {seed}, origin: default}}\nimage: {{name: i, id: 'sha256:1', digests: [], ours: true}}\n\
         code: {{without_git: no repository, files: []}}\nmodel: {{content: {model}}}\ndevices: []\nversions: {{}}\nstages: []\n"
    )
}

/// A record of two steps and an epoch.
fn record(place: &Place, id: &str, last_loss: f64, weights: &str, lock: &str) {
    let folder = format!("runs/t/{id}");
    let line = |seq: u64, event: &str| {
        format!("{{\"v\":1,\"generation\":1,\"rank\":0,\"seq\":{seq},\"time_ms\":0,\"event\":{event}}}\n")
    };
    let step = |step: u64, loss: f64| {
        format!(
            "{{\"kind\":\"step\",\"epoch\":0,\"epochs\":1,\"step\":{step},\"steps_per_epoch\":2,\"images\":4,\"loss\":{loss},\
             \"terms\":{{}},\"lr\":0.1,\"memory_bytes\":null,\"time_ms\":1}}"
        )
    };
    let kept =
        format!("{{\"kind\":\"checkpoint\",\"epoch\":0,\"path\":null,\"weights_sha256\":\"{weights}\",\"best\":true}}");
    let events = line(0, &step(0, 2.5)) + &line(1, &step(1, last_loss)) + &line(2, &kept);
    place.write(&format!("{folder}/events/rank-0.events.jsonl"), &events);
    place.write(&format!("{folder}/results.csv"), "epoch,time,metrics/mAP50(B)\n1,9.5,0.25\n");
    place.write(&format!("{folder}/journal.jsonl"), "");
    if !lock.is_empty() {
        place.write(&format!("{folder}/lock.yaml"), lock);
    }
}

#[test]
fn equal_weights_are_called_so() {
    let place = Place::new();
    record(&place, "20260101-000000", 2.0, "aa", &lock("20260101-000000", 0, "m"));
    record(&place, "20260102-000000", 2.0, "aa", &lock("20260102-000000", 0, "m"));
    let ended = place.run(&["compare", "t/20260101-000000", "t"]).with_code(0);
    assert!(ended.stdout.starts_with("bit-identical: "), "{}", ended.stdout);
    assert!(ended.stdout.contains("nothing differs between their locks"), "{}", ended.stdout);
}

#[test]
fn how_far_two_runs_agree_and_what_differs_is_told() {
    let place = Place::new();
    record(&place, "20260101-000000", 2.0, "aa", &lock("20260101-000000", 0, "m"));
    record(&place, "20260102-000000", 2.0001, "bb", &lock("20260102-000000", 1, "n"));
    let args = ["compare", "runs/t/20260101-000000", "runs/t/20260102-000000"];
    let ended = place.run(&args).with_code(0);
    for line in [
        "the trajectories agree to 4 digits",
        "weights: they differ from the first epoch on",
        "loss of each step: 4 digits at worst (step 1), the first difference in step 1; 2 compared",
        "metrics/mAP50(B): equal; 1 compared",
        "setting `seed`: 0 and 1",
        "weights `model`: m and n",
    ] {
        assert!(ended.stdout.contains(line), "no `{line}` in\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("time"), "how long it took is no part of a trajectory: {}", ended.stdout);
    let ended = place.run(&[&args[..], &["--json"]].concat()).with_code(0);
    let value: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&value["verdict"], &value["digits"]), (&"close".into(), &4.into()));
    assert_eq!(value["trajectories"]["losses"]["first_difference"], 1);
    assert_eq!(value["differences"][0]["what"], "seed");
}

#[test]
fn records_without_a_lock_are_compared_by_what_they_tell() {
    let place = Place::new();
    record(&place, "20260101-000000", 2.0, "aa", "");
    record(&place, "20260102-000000", 3.0, "bb", "");
    let ended = place.run(&["compare", "t/20260101-000000", "t/20260102-000000"]).with_code(0).saying("lock.yaml");
    assert!(ended.stdout.starts_with("the trajectories differ\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("not both have a lock"), "{}", ended.stdout);
}

#[test]
fn what_is_no_record_or_no_lock_is_said() {
    let place = Place::new();
    for args in [&["compare", "nothing", "t"][..], &["reproduce", "nothing"]] {
        place.run(args).with_code(2).saying("no run is called `nothing`");
    }
    record(&place, "20260101-000000", 2.0, "aa", "");
    place.run(&["reproduce", "t"]).with_code(2).saying("lock.yaml").saying("wrote none");
    record(&place, "20260102-000000", 2.0, "aa", "version: 7\nnew: thing\n");
    place.run(&["reproduce", "t"]).with_code(2).saying("a lock of version 7");
    record(&place, "20260103-000000", 2.0, "aa", "version: 1\nrun: [\n");
    place.run(&["reproduce", "t"]).with_code(5).saying("not a lock");
}

#[test]
fn a_lock_that_is_demanded_must_be_there() {
    let place = Place::new();
    place.write("job.yaml", "trainer: command\nimage: a\ncommand: b\ndevice: cpu\n");
    let ended = place.run(&["train", "job.yaml", "--locked"]).with_code(2);
    ended.saying("no run in `runs/job` has one").saying("--locked=PATH");
    place.run(&["train", "job.yaml", "--locked=gone.yaml"]).with_code(2).saying("no run is called `gone.yaml`");
    place.run(&["train", "job.yaml", "--locked", "--smoke"]).with_code(2);
    assert!(!place.has_record());
}
