//! Trainings that are repeated from their locks.

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Place, nothing_left};

/// Trains natively on drawn shapes, and repeats it in an empty place from the record alone; what `compare` says of the two.
fn again(more: &str, overrides: &[&str]) -> Value {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "48", "--imgsz", "64"]).with_code(0);
    place.write("job.yaml", &format!("name: t\ndata: shapes/data.yaml\nimgsz: 64\nepochs: 2\n{more}\n"));
    place.run(&["train", "job.yaml"]).with_code(0);
    let record = place.record().display().to_string();
    let empty = Place::new();
    let args = [&["reproduce", record.as_str()], overrides].concat();
    empty.run(&args).with_code(0).saying("again");
    let repeated = empty.record().display().to_string();
    let compared = empty.run(&["compare", &record, &repeated, "--json"]).with_code(0);
    nothing_left(&empty);
    nothing_left(&place);
    serde_json::from_str(&compared.stdout).expect("JSON")
}

fn areas(compared: &Value) -> Vec<&str> {
    let differences = compared["differences"].as_array().expect("both have locks");
    differences.iter().map(|difference| difference["area"].as_str().expect("text")).collect()
}

#[test]
fn a_native_training_comes_out_the_same_to_the_bit() {
    needs_engine!();
    let compared = again("batch: 16\ndevice: cpu:2\nargs: {plots: false}", &[]);
    assert_eq!(compared["verdict"], "bit_identical", "{compared}");
    assert_eq!(areas(&compared), Vec::<&str>::new(), "{compared}");
}

#[test]
fn with_exact_sums_so_it_does_on_another_number_of_devices() {
    needs_engine!();
    // Threads must be equal: a device of one processor has one.
    let job = "batch: 16\ndevice: [{cpu: 1}, {cpu: 1}]\nargs: {plots: false, reduce: exact}";
    let compared = again(job, &["device=[{cpu: 1}]"]);
    assert_eq!(compared["verdict"], "bit_identical", "{compared}");
    let areas = areas(&compared);
    assert!(areas.contains(&"setting") && areas.contains(&"split"), "{compared}");
}

#[test]
fn with_ordinary_sums_another_split_agrees_to_some_digits() {
    needs_engine!();
    // Four micro-batches are added in another order by two ranks than by one.
    let job = "batch: {target: 16, micro: 4}\ndevice: [{cpu: 1}, {cpu: 1}]\nargs: {plots: false}";
    let compared = again(job, &["device=[{cpu: 1}]"]);
    eprintln!("another split: {} digits, {}", compared["digits"], compared["trajectories"]["losses"]);
    assert_eq!(compared["verdict"], "close", "{compared}");
    let losses = &compared["trajectories"]["losses"];
    assert_eq!((&losses["compared"], &losses["only_one"]), (&6.into(), &0.into()), "{compared}");
    assert!(losses["digits"].as_u64().is_some_and(|digits| digits >= 3), "{compared}");
    assert_eq!(compared["trajectories"]["weights"]["first_difference"], 0, "{compared}");
}

#[test]
fn where_memory_ran_out_smaller_micro_batches_follow_again() {
    needs_engine!();
    // Without the cap, nothing but the lock asks for them.
    let job = "batch: {target: 32, micro: 32, on_oom: step_down}\ndevice: [{cpu: 1, memory: 90MiB}]\nargs: {mosaic: 0, plots: false}";
    let compared = again(job, &["device=[{cpu: 1}]"]);
    assert_eq!(compared["verdict"], "bit_identical", "{compared}");
    let differences = compared["differences"].as_array().expect("both have locks");
    assert!(differences.iter().all(|difference| difference["area"] != "split"), "{compared}");
}
