//! `evenkeel report`, over records that are made up.

use std::fs;

use serde_json::{Value, json};

use crate::record::{BEGUN, Made};
use crate::support::Place;

const HOSTILE: &str = "</title><script>alert(1)</script>";

/// A run of two ranks and a hundred steps, with a picture.
fn trained(place: &Place) -> Made {
    let mut run = Made::new(&place.path().join("runs"), "shapes", "20261124-034501");
    run.entry(BEGUN + 1000, "create", json!({ "generation": 1, "rank": 0, "container": "c" }));
    run.entry(BEGUN + 2000, "go", json!({ "generation": 1 }));
    let rank = |rank: u32| {
        json!({ "rank": rank, "device": format!("cpu:{rank}"), "micro_batches": [8, 8], "predicted_bytes": 2_000_000_000_u64,
            "measured_bytes": 1_900_000_000_u64, "budget_bytes": 4_000_000_000_u64 })
    };
    let attempt = json!({ "generation": 1, "target_batch": 32, "imgsz": 160, "ranks": [rank(0), rank(1)], "last_step": 99,
        "images": 3200, "step_seconds": 50.0, "step_downs": [], "failures": [] });
    run.entry(BEGUN + 50_000, "attempt", attempt);
    for number in 0..2_u64 {
        let mut lines = String::new();
        for step in 0..100_u64 {
            let event = json!({ "kind": "step", "epoch": step / 50, "epochs": 2, "step": step, "steps_per_epoch": 50, "images": 16,
                "loss": if step == 40 { 77.0 } else { 3.0 }, "terms": {}, "lr": 0.01, "memory_bytes": null, "time_ms": 500.0 });
            let record = json!({ "v": 1, "generation": 1, "rank": number, "seq": step, "time_ms": BEGUN + step, "event": event });
            lines.push_str(&format!("{record}\n"));
        }
        run.append(&format!("events/rank-{number}.events.jsonl"), lines.as_bytes());
    }
    run.append(
        "resolved.yaml",
        b"name: shapes\ntrainer: native\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nepochs: 2\n",
    );
    run.append("plan.json", br#"{"target_batch":32,"split":"uniform","ranks":[{"rank":0,"device":"cpu:0","micro_batches":[8,8]},{"rank":1,"device":"cpu:1","micro_batches":[8,8]}]}"#);
    let table = format!("epoch,time,train/{HOSTILE}_loss,metrics/mAP50(B)\n1,1,3.5,0.25\n2,2,1.5,0.95\n");
    run.append("results.csv", table.as_bytes());
    run.append("output/val_batch0_pred.jpg", b"\xff\xd8\xffpicture");
    run.done();
    run
}

#[test]
fn a_report_is_one_file_in_the_run_s_directory() {
    let place = Place::new();
    let run = trained(&place);
    let ended = place.run(&["report"]).with_code(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("runs/shapes/20261124-034501/report.html\n", ""));
    let page = fs::read_to_string(run.path().join("report.html")).expect("written");
    for words in [
        "shapes/20261124-034501",
        "32 images an optimizer step = 2 ranks × 2 micro-batches × 8 images",
        "sha256:0",
        "<h3>Loss of each step</h3>",
        "each step: 77.0",
        "of the validation",
        "data:image/jpeg;base64,/9j/cGljdHVyZQ==",
        "seen 1.8 GiB, predicted 1.9 GiB (+5.3 %), of 3.7 GiB",
        "Content-Security-Policy",
    ] {
        assert!(page.to_lowercase().contains(&words.to_lowercase()), "no `{words}` in\n{page}");
    }
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
    assert_eq!(fs::read_dir(run.path()).expect("a folder").filter(is_part).count(), 0);

    // The same on stdout and elsewhere, but for when it was made.
    let printed = place.run(&["report", "shapes", "-o", "-"]).with_code(0).stdout;
    let cut = |page: &str| page.split("<footer>").next().unwrap_or_default().to_owned();
    assert_eq!(cut(&printed), cut(&page));
    let told = place.run(&["report", "--output", "x.html", "--json"]).with_code(0).stdout;
    let told: Value = serde_json::from_str(&told).expect("one JSON value");
    assert_eq!(told["bytes"].as_u64(), fs::metadata(place.path().join("x.html")).ok().map(|found| found.len()));
    assert_eq!(told["gaps"], json!([]));
}

fn is_part(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
}

#[test]
fn a_run_that_failed_or_tells_of_nothing_has_a_report() {
    let place = Place::new();
    let runs = place.path().join("runs");
    Made::new(&runs, "bad", "20261124-034501").failed("data", HOSTILE);
    Made::new(&runs, "silent", "20261124-034502");
    let page = place.run(&["report", "bad", "-o", "-"]).with_code(0).stdout;
    assert!(page.contains("Rank 1 failed first.") && page.contains("mend it") && !page.contains("<script"), "{page}");
    let page = place.run(&["report", "silent", "-o", "-"]).with_code(0).stdout;
    assert!(page.contains("has no end") && page.contains("left no pictures"), "{page}");
}

#[test]
fn what_lies_in_wait_for_a_reader_is_passed_over() {
    let place = Place::new();
    let run = trained(&place);
    let output = run.path().join("output");
    rustix::fs::mkfifoat(rustix::fs::CWD, output.join("val_batch1_pred.jpg"), rustix::fs::Mode::RWXU).expect("a pipe");
    std::os::unix::fs::symlink("/dev/zero", output.join("val_batch2_pred.jpg")).expect("a link");
    fs::write(output.join("val_batch3_pred.jpg"), "<html>").expect("written");
    fs::write(output.join("val_batch4_pred.jpg"), vec![0xff; 2 << 20]).expect("written");
    let page = place.run(&["report", "-o", "-"]).with_code(0).stdout;
    assert_eq!(page.matches("<img").count(), 1);
    assert!(page.contains("In the record there are also <code>output/val_batch4_pred.jpg</code>"), "{page}");
}

#[test]
fn what_cannot_be_written_is_named_with_a_way_out() {
    let place = Place::new();
    trained(&place);
    place.run(&["report", "-o", "nowhere/x.html"]).with_code(3).saying("`nowhere/x.html`").saying("--output -");
    place.run(&["report", "-o", "-", "--json"]).with_code(2).saying("--json");
    place.run(&["report", "shapez"]).with_code(2).saying("`shapes`");
}
