//! What fits is found out before a training, and holds in it.

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Place, entries, nothing_left};

/// A place with drawn shapes of 96 pixels and a job for `devices`.
fn capped(trainer: &str, devices: &str, more: &str) -> Place {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "96", "--imgsz", "96"]).with_code(0);
    place.write(
        "job.yaml",
        &format!(
            "name: t\ntrainer: {trainer}\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nimgsz: 96\nepochs: 2\ndevice: {devices}\n\
             args: {{plots: false, close_mosaic: 0}}\n{more}\n"
        ),
    );
    place
}

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout).expect("one JSON object")
}

/// The share of what was measured that the prediction is off, on each rank of the run's only launch, in which nothing ran out of memory.
fn off(place: &Place) -> Vec<f64> {
    let journal = place.journal();
    let attempts = entries(&journal, "attempt");
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    let detail = &attempts[0]["detail"];
    assert_eq!((&detail["failures"], &detail["step_downs"]), (&Value::Array(Vec::new()), &Value::Array(Vec::new())));
    let ranks = detail["ranks"].as_array().expect("ranks");
    let bytes = |rank: &Value, what: &str| rank[what].as_f64().unwrap_or_else(|| panic!("no {what} in {rank}"));
    ranks.iter().map(|rank| bytes(rank, "predicted_bytes") / bytes(rank, "measured_bytes") - 1.0).collect()
}

#[test]
fn what_fits_is_found_out_kept_and_right() {
    needs_engine!();
    let place = capped("native", "[{cpu: 1, memory: 150MiB}, {cpu: 1, memory: 300MiB}]", "batch: 96");
    let unknown = place.run(&["autobatch", "job.yaml", "--dry-run"]).with_code(2);
    unknown.saying("not everything is known of this job");
    let found = json(&place.run(&["autobatch", "job.yaml", "--json"]).with_code(0).stdout);
    nothing_left(&place);
    assert!(found["launches"].as_u64().is_some_and(|launches| (2..=4).contains(&launches)), "{found}");
    let most = |rank: usize| found["devices"][rank]["largest_micro_batch"].as_u64().expect("a number");
    assert!(most(0) > 8 && most(1) > 2 * most(0), "{found}");

    // Nothing is started for what is known; and the plan is that of the fit.
    let known = json(&place.run(&["autobatch", "job.yaml", "--dry-run", "--json"]).with_code(0).stdout);
    assert_eq!((&known["launches"], &known["devices"]), (&Value::Null, &found["devices"]));
    let plan = json(&place.run(&["plan", "job.yaml", "--json"]).with_code(0).stdout);
    assert_eq!(plan["ranks"], found["plan"]["ranks"]);
    assert!(plan["ranks"][0]["memory"]["parts"]["activations_bytes"].as_u64() > Some(10 << 20), "{plan}");
    place.run(&["train", "job.yaml"]).with_code(0);
    nothing_left(&place);
    for off in off(&place) {
        eprintln!("predicted {:+.1} % of what was needed", off * 100.0);
        assert!((-0.01..0.05).contains(&off));
    }
}

#[test]
fn a_training_finds_out_first_what_fits() {
    needs_engine!();
    for (trainer, device) in [("native", "[{memory: 120MiB}]"), ("ultralytics", "[{cpu: 1, memory: 1500MiB}]")] {
        let place = capped(trainer, device, "batch: 96");
        place.run(&["train", "job.yaml"]).with_code(0).saying("finding out what fits").saying("done in");
        nothing_left(&place);
        for off in off(&place) {
            eprintln!("{trainer}: predicted {:+.1} % of what was needed", off * 100.0);
            assert!(off > -0.05);
        }
    }
}

#[test]
fn a_cap_below_what_is_needed_before_the_first_image_is_refused_with_the_numbers() {
    needs_engine!();
    let place = capped("native", "[{memory: 48MiB}]", "batch: 8");
    let ended = place.run(&["train", "job.yaml"]).with_code(4);
    ended
        .saying("CPU device 0 has 48 MiB of memory for training, less than the")
        .saying("weights")
        .saying("what would fit");
    assert!(!place.has_record(), "a training was begun");
    nothing_left(&place);
}

#[test]
fn a_table_tells_which_model_fits() {
    needs_engine!();
    let place = capped("native", "[{memory: 1GiB}]", "batch: 4");
    let table = json(&place.run(&["autobatch", "job.yaml", "--table", "--json"]).with_code(0).stdout);
    nothing_left(&place);
    let models = table["devices"][0]["models"].as_array().expect("models");
    let fits = |model: usize, size: usize| models[model]["fits"][size]["micro_batch"].as_u64().expect("a number");
    assert_eq!(models.len(), 5);
    // Lighter models and smaller images take more at once; the heaviest does not fit at all with the largest.
    assert!((1..5).all(|model| fits(model - 1, 0) >= fits(model, 0)) && fits(0, 0) > fits(1, 0), "{table}");
    assert!((1..5).all(|size| fits(0, size - 1) > fits(0, size)), "{table}");
    assert_eq!(fits(4, 4), 0);
    let shown = place.run(&["autobatch", "job.yaml", "--table", "--dry-run"]).with_code(0).stdout;
    assert!(shown.contains("yolov8x.yaml") && shown.contains("1280"), "{shown}");
}
