//! `evenkeel runs` and `evenkeel show`, over records that are made up.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::record::{BEGUN, Made};
use crate::support::Place;

fn json_of(place: &Place, args: &[&str]) -> Value {
    let ended = place.run(&[args, &["--json"]].concat()).with_code(0);
    assert_eq!(ended.stderr, "", "{args:?}");
    serde_json::from_str(&ended.stdout).expect("one JSON value")
}

#[test]
fn runs_are_listed_with_how_they_stand() {
    let place = Place::new();
    let runs = place.path().join("runs");
    Made::new(&runs, "shapes", "20261124-034501").done();
    Made::new(&runs, "shapes", "20261124-034501-1").failed("data", "no labels");
    let stopped = json!({ "exit_code": 130, "state": "stopped", "failure": null, "devices": ["GPU-a"] });
    Made::new(&runs, "cars", "20261125-034501").end(stopped);
    let running = Made::new(&runs, "cars", "20261126-034501");
    let _controller = running.hold();
    Made::new(&runs, "cars", "20261123-034501");
    Made::new(&runs, "cars-fit", "20261127-034501").end(json!({ "found": {}, "launches": 3 }));
    // What is no run among them.
    std::os::unix::fs::symlink("20261124-034501", runs.join("shapes/latest")).expect("a link");
    place.write("runs/notes.txt", "");
    place.write("runs/shapes/scratch/file", "");

    let list = json_of(&place, &["runs"]);
    let all = list["runs"].as_array().expect("a list");
    let told: Vec<String> = all.iter().map(|run| format!("{} {}", run["id"], run["state"]).replace('"', "")).collect();
    assert_eq!(
        told,
        [
            "20261126-034501 running",
            "20261125-034501 stopped",
            "20261124-034501-1 failed",
            "20261124-034501 done",
            "20261123-034501 unknown",
        ]
    );
    let (failed, done) = (&all[2], &all[3]);
    assert_eq!((&failed["class"], &failed["name"]), (&json!("data"), &json!("shapes")));
    assert_eq!((&done["seconds"], &done["map50"], &done["begun_ms"]), (&json!(60.0), &json!(0.9), &json!(BEGUN)));
    assert_eq!((&done["epochs_done"], &done["devices"]), (&json!(3), &json!(["cpu:0", "cpu:1"])));

    let ids = |args: &[&str]| json_of(&place, args)["runs"].as_array().map(Vec::len);
    assert_eq!(
        (ids(&["runs", "--all"]), ids(&["runs", "shapes"]), ids(&["runs", "cars-fit"])),
        (Some(6), Some(2), Some(1))
    );
    let text = place.run(&["runs", "shapes"]).with_code(0).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].contains("failed: data") && lines[2].contains("3/3") && lines[2].contains("0.900"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    place.run(&["runs", "shape"]).with_code(2).saying("`shape`").saying("`shapes`");
}

#[test]
fn where_nothing_was_trained_there_is_nothing_to_list() {
    let place = Place::new();
    let ended = place.run(&["runs"]).with_code(0).saying("no run in `runs`");
    assert_eq!(ended.stdout, "");
    assert_eq!(json_of(&place, &["runs"])["runs"], json!([]));
    place.run(&["show"]).with_code(2).saying("`runs`").saying("evenkeel train");
    place.run(&["logs", "x"]).with_code(2).saying("`x`");
}

#[test]
fn thousands_of_runs_are_told_apart() {
    let place = Place::new();
    let runs = place.path().join("elsewhere");
    for number in 0..2_000_u64 {
        let mut run = Made::new(&runs, &format!("job-{}", number % 7), &format!("20261124-{number:06}"));
        match number % 3 {
            0 => run.done(),
            1 => run.failed(&format!("class-{number}"), "it broke"),
            _ => run.end(json!({ "exit_code": 130, "state": "stopped", "devices": [] })),
        };
    }
    let list = json_of(&place, &["runs", "--runs", "elsewhere"]);
    let all = list["runs"].as_array().expect("a list");
    let ids: Vec<&str> = all.iter().filter_map(|run| run["id"].as_str()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 2_000);
    assert!(ids.is_sorted_by(|newer, older| newer > older), "newest first");
    for (run, number) in all.iter().zip((0..2_000_u64).rev()) {
        let state = ["done", "failed", "stopped"][usize::try_from(number % 3).expect("small")];
        assert_eq!((&run["state"], &run["name"]), (&json!(state), &json!(format!("job-{}", number % 7))));
        assert_eq!(run["class"].as_str().unwrap_or_default() == format!("class-{number}"), number % 3 == 1);
    }
    let shown = json_of(&place, &["show", "20261124-001000", "--runs", "elsewhere"]);
    assert_eq!(shown["summary"]["run"]["class"], "class-1000");
    let ended = place.run(&["show", "20261124-0010", "--runs", "elsewhere"]).with_code(2);
    ended.saying("the beginning of 100 runs in `elsewhere`").saying("job-0/20261124-001099").saying("and 95 more");
}

/// A run of two launches, with all files that a training leaves.
fn trained(place: &Place) -> Made {
    let mut run = Made::new(&place.path().join("runs"), "shapes", "20261124-034501");
    let rank = |rank: u32, micro: u32| {
        json!({ "rank": rank, "device": format!("cpu:{rank}"), "micro_batches": [micro, micro],
            "predicted_bytes": 2_000_000_000_u64, "measured_bytes": 1_900_000_000_u64, "budget_bytes": null })
    };
    let log = |rank: u32, begin: u32, whole: bool| json!({ "rank": rank, "sealed": true, "begin": begin, "lines": 2, "bytes": 10, "sha256": "", "dropped": 0, "whole": whole });
    let out = json!({ "rank": 1, "class": "out_of_memory.device", "message": "no memory left" });
    for (number, micro, failures) in [(1, 16, json!([out])), (2, 8, json!([]))] {
        let time = BEGUN + number * 10_000;
        run.entry(time, "create", json!({ "generation": number, "rank": 0, "container": "c" }));
        run.entry(time + 1000, "go", json!({ "generation": number }));
        run.entry(
            time + 5000,
            "logs",
            json!({ "generation": number, "ranks": [log(0, 0, true), log(1, 0, number == 1)] }),
        );
        let attempt = json!({ "generation": number, "target_batch": 32, "imgsz": 160, "ranks": [rank(0, micro), rank(1, micro)],
            "last_step": 16 * number, "images": 640, "step_seconds": 10.0, "step_downs": [], "failures": failures });
        run.entry(time + 5000, "attempt", attempt);
    }
    run.append(
        "resolved.yaml",
        b"name: shapes\ntrainer: native\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nepochs: 3\n",
    );
    run.append("plan.json", br#"{"target_batch":32,"split":"uniform","containers":2,"ranks":[{"rank":0,"device":"cpu:0"},{"rank":1,"device":"cpu:1"}]}"#);
    run.append("results.csv", b"epoch,time,train/box_loss,metrics/mAP50(B)\n1,1,3.5,0.25\n2,2,1.5,0.95\n3,3,1.0,0.9\n");
    run.done();
    run
}

#[test]
fn a_run_is_shown_on_one_screen() {
    let place = Place::new();
    let run = trained(&place);
    let mut command = place.evenkeel(&["show"]);
    command.env("LC_ALL", "C.UTF-8").env("COLUMNS", "100").env("TZ", "UTC");
    let text = crate::support::Ended::from(command.output().expect("the program starts")).with_code(0).stdout;
    for words in [
        "shapes/20261124-034501  done after 60 s, begun 2026-11-24 03:45:01",
        "native: yolov8n.yaml on shapes/data.yaml",
        "32 images an optimizer step, uniform",
        "epoch 3: loss 1.000, mAP50 0.900",
        "epoch 2: loss 1.500, mAP50 0.950",
        "images/s   64.0",
        "rank 1: no memory left (out_of_memory.device)",
        "failed, started again",
        "1.9 GiB (+5.3 %)",
        "4 lines, 20 bytes, complete",
        "differs from what was written",
        "█",
    ] {
        assert!(text.contains(words), "no `{words}` in\n{text}");
    }
    assert!(text.lines().count() <= 40 && !text.contains('\x1b'), "{text}");
    let plain = place.evenkeel(&["show"]).env("LC_ALL", "C").output().expect("the program starts");
    assert!(plain.stdout.is_ascii(), "{}", String::from_utf8_lossy(&plain.stdout));

    let shown = json_of(&place, &["show", "shapes"]);
    let summary = &shown["summary"];
    assert_eq!((&summary["run"]["state"], &summary["images_per_second"]), (&json!("done"), &json!(64.0)));
    assert_eq!((&summary["best"]["epoch"], &summary["course"][2]["loss"]), (&json!(2), &json!(1.0)));
    assert_eq!(summary["generations"][0]["failures"][0]["class"], "out_of_memory.device");
    assert_eq!(summary["logs"][1]["complete"], false);

    // The same from a copy under another name, on a machine where it is alone.
    let other = Place::new();
    let copied = std::process::Command::new("cp").arg("-a").arg(run.path()).arg(other.path().join("copy")).status();
    assert!(copied.expect("the cp command").success());
    let shown = json_of(&other, &["show", "./copy"]);
    assert_eq!(
        (&shown["summary"]["run"]["name"], &shown["summary"]["run"]["id"]),
        (&json!("shapes"), &json!("20261124-034501"))
    );
    let mut copy = shown["summary"].clone();
    copy["run"]["path"] = summary["run"]["path"].clone();
    assert_eq!(&copy, summary);
}

#[test]
fn a_failure_is_shown_with_its_advice() {
    let place = Place::new();
    Made::new(&place.path().join("runs"), "shapes", "20261124-034501").failed("data", "no \x1b[31mlabels");
    let text = place.run(&["show", "2026"]).with_code(0).stdout;
    assert!(text.contains("failed: data after 60 s"), "{text}");
    assert!(text.contains("rank 1: no labels (data)\n") && text.contains("mend it"), "{text}");
}

#[test]
fn what_is_meant_must_be_clear() {
    let place = Place::new();
    let runs = place.path().join("runs");
    for (name, id) in [("shapes", "20261124-034501"), ("cars", "20261124-034501")] {
        Made::new(&runs, name, id).done();
    }
    for command in ["show", "logs"] {
        let ended = place.run(&[command, "20261124-034501"]).with_code(2);
        ended
            .saying("the beginning of 2 runs in `runs`")
            .saying("`shapes/20261124-034501`")
            .saying("`cars/20261124-034501`");
        place.run(&[command, "shaeps"]).with_code(2).saying("`shaeps`").saying("there is `shapes`");
        place.run(&[command, "runs/shapes"]).with_code(2).saying("`runs/shapes` is no run");
        place.run(&[command, "shapes/20261124-034501"]).with_code(0);
        place.run(&[command, "runs/shapes/20261124-034501"]).with_code(0);
    }
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let place = Place::new();
    let runs = place.path().join("runs");
    Made::new(&runs, "shapes", "20261124-034501").append("journal.jsonl", b"rubbish\n").done();
    Made::new(&runs, "shapes", "20261125-034501")
        .append("journal.jsonl", b"{\"v\":2,\"time_ms\":1,\"entry\":\"end\",\"detail\":{}}\n");
    Made::new(&runs, "shapes", "20261126-034501").done();
    place.run(&["show", "20261124"]).with_code(5).saying("line 2 of `runs/shapes/20261124-034501/journal.jsonl`");
    place.run(&["show", "20261125"]).with_code(5).saying("version 2");
    // One that cannot be read hides none of the others.
    let ended = place.run(&["runs"]).with_code(5).saying("20261125-034501").saying("version 2");
    assert!(ended.stdout.contains("20261126-034501") && ended.stdout.contains("20261124-034501"), "{}", ended.stdout);
}
