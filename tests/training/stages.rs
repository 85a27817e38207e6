//! Smaller images first: a stage for each size, planned for itself, and every step with all its images.

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Place, entries, nothing_left};

fn staged(trainer: &str) {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "48", "--imgsz", "96"]).with_code(0);
    place.write(
        "job.yaml",
        &format!(
            "name: t\ntrainer: {trainer}\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nimgsz: {{0: 64, 2: 96}}\nepochs: 3\n\
             device: cpu:2\nbatch: 16\nargs: {{plots: false}}\n"
        ),
    );
    let plan = place.run(&["plan", "job.yaml", "--json"]).with_code(0).stdout;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["stages"].as_array().map(Vec::len), Some(2), "{plan}");
    place.run(&["train", "job.yaml"]).with_code(0).saying("from epoch 3 on: 96 px").saying("done in");
    nothing_left(&place);
    for rank in 0..2 {
        let steps: Vec<(u64, u64, u64)> = place
            .events(rank)
            .iter()
            .filter(|record| record["event"]["kind"] == "step")
            .map(|record| {
                let number = |name: &str| record["event"][name].as_u64().expect("a number");
                (record["generation"].as_u64().expect("a number"), number("step"), number("images"))
            })
            .collect();
        let expected: Vec<(u64, u64, u64)> = (0..9).map(|step| (1 + u64::from(step >= 6), step, 8)).collect();
        assert_eq!(steps, expected);
    }
    let journal = place.journal();
    let sizes: Vec<&Value> = entries(&journal, "attempt").iter().map(|attempt| &attempt["detail"]["imgsz"]).collect();
    assert_eq!(sizes, [64, 96]);
    let rows = place.recorded("results.csv");
    let epochs: Vec<&str> = rows.lines().skip(1).filter_map(|row| row.split(',').next()).map(str::trim).collect();
    assert_eq!(epochs, ["1", "2", "3"], "{rows}");
}

#[test]
fn the_native_trainer_goes_from_size_to_size() {
    needs_engine!();
    staged("native");
}

#[test]
fn so_does_the_official_one() {
    needs_engine!();
    staged("ultralytics");
}
