//! `evenkeel plan`: the JSON that other tools read, and what a person is told.

use serde_json::{Value, json};

use crate::support::Place;

fn plan(job: &str, overrides: &[&str]) -> Value {
    let place = Place::new();
    place.write("job.yaml", job);
    let ended = place.run(&[&["plan", "job.yaml", "--json"], overrides].concat()).with_code(0);
    assert!(!place.has_record(), "a plan starts nothing");
    serde_json::from_str(&ended.stdout).expect("one JSON value")
}

#[test]
fn the_plan_has_the_promised_shape() {
    let plan = plan("data: d.yaml\ndevice: cpu:2\nbatch: {target: 64, micro: 16}\n", &[]);
    assert_eq!((&plan["version"], &plan["target_batch"], &plan["world_size"]), (&json!(1), &json!(64), &json!(2)));
    assert_eq!(plan["split"], "uniform");
    let ranks = plan["ranks"].as_array().expect("ranks");
    for (number, rank) in ranks.iter().enumerate() {
        assert_eq!((&rank["rank"], &rank["local_rank"]), (&json!(number), &json!(number)));
        assert_eq!((&rank["host"], &rank["device"].is_string()), (&json!("local"), &true));
        assert_eq!((&rank["micro_batches"], &rank["images_per_step"]), (&json!([16, 16]), &json!(32)));
        assert!(rank["memory"].get("predicted_bytes").is_some() && rank["memory"].get("budget_bytes").is_some());
    }
    assert!(plan["reasons"].as_array().is_some_and(|reasons| reasons.iter().all(Value::is_string)));
}

#[test]
fn a_step_takes_exactly_the_target_on_any_number_of_devices() {
    for (devices, target) in [(1, 64), (2, 64), (4, 64), (3, 63), (8, 8), (5, 1000)] {
        let plan = plan(&format!("data: d.yaml\ndevice: cpu:{devices}\n"), &[&format!("batch.target={target}")]);
        let images = |rank: &Value| -> u64 {
            let batches = rank["micro_batches"].as_array().expect("micro-batches");
            let sum = batches.iter().map(|size| size.as_u64().expect("a number")).sum();
            assert_eq!(rank["images_per_step"], sum);
            sum
        };
        let ranks = plan["ranks"].as_array().expect("ranks");
        assert_eq!(ranks.len(), devices);
        assert_eq!(ranks.iter().map(images).sum::<u64>(), target, "{plan}");
    }
}

#[test]
fn a_person_is_told_yolos_own_terms() {
    let place = Place::new();
    place.write("job.yaml", "data: d.yaml\ndevice: cpu:2\nbatch: {target: 64, micro: 16}\n");
    let ended = place.run(&["plan", "job.yaml"]).with_code(0);
    for words in ["batch=32", "nbs=64"] {
        assert!(ended.stdout.replace(": ", "=").contains(words), "no `{words}` in\n{}", ended.stdout);
    }
}

#[test]
fn overrides_win_over_the_file() {
    let plan = plan("data: d.yaml\ndevice: cpu:2\nbatch: 64\n", &["batch.target=32", "device=cpu:4"]);
    assert_eq!((&plan["target_batch"], &plan["world_size"]), (&json!(32), &json!(4)));
}

#[test]
fn an_inventory_file_stands_for_the_machine() {
    let place = Place::new();
    place.write("job.yaml", "data: d.yaml\n");
    for (text, words) in [("{}", "inventory.json"), ("not json", "inventory.json"), ("[1]", "inventory.json")] {
        place.write("inventory.json", text);
        let ended = place.run(&["plan", "job.yaml", "--inventory", "inventory.json"]).with_code(2).saying(words);
        assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    }
    place.run(&["plan", "job.yaml", "--inventory", "nowhere.json"]).with_code(2).saying("nowhere.json");
}

#[test]
fn a_batch_that_cannot_be_is_refused_with_its_numbers() {
    let place = Place::new();
    place.write("job.yaml", "data: d.yaml\ndevice: cpu:3\n");
    for (overrides, words) in [
        (&["batch.target=0"][..], "`batch.target` is 0"),
        (&[], "`batch.split=uneven`"),
        (&["batch.target=2"], "a target batch of 2 cannot be split exactly over 3 devices"),
        (&["batch.micro=65"], "`batch.micro` is 65, more than `batch.target`, which is 64"),
        (&["batch.micro=7"], "into micro-batches of 7 on 3 devices"),
        (&["batch.micro=8", "batch.max_accumulation=2"], "hold 48 images, fewer than the target batch of 64"),
        (&["batch.micro=8", "batch.split=uneven"], "`batch.micro` is 8 for every device"),
    ] {
        let ended = place.run(&[&["plan", "job.yaml"], overrides].concat()).with_code(2).saying(words);
        assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    }
}

#[test]
fn micro_batches_that_may_differ_take_any_target() {
    let plan = plan("data: d.yaml\ndevice: cpu:3\nbatch: {target: 64, split: uneven}\n", &[]);
    let cuts: Vec<&Value> =
        plan["ranks"].as_array().expect("ranks").iter().map(|rank| &rank["micro_batches"]).collect();
    assert_eq!((&plan["split"], cuts), (&json!("uneven"), vec![&json!([22]), &json!([21]), &json!([21])]));
}

#[test]
fn what_fits_is_asked_for_where_it_can_be_known() {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "8", "--imgsz", "64"]).with_code(0);
    place.write("job.yaml", "data: shapes/data.yaml\ndevice: [{memory: 1GiB}]\nimgsz: 64\n");
    let unknown = place.run(&["autobatch", "job.yaml", "--dry-run"]).with_code(2);
    unknown.saying("not everything is known of this job on these devices yet").saying("without `--dry-run`");
    place.run(&["autobatch", "job.yaml", "--dry-run", "--again"]).with_code(2).saying("cannot be used with");
    place.write("own.yaml", "trainer: command\nimage: debian\ncommand: [train]\nbatch: 8\n");
    place.run(&["autobatch", "own.yaml"]).with_code(2).saying("this job runs a program of its own");
    place.write("mine.yaml", "nc: 1\n");
    let table = place
        .run(&["autobatch", "job.yaml", "trainer=ultralytics", "model=mine.yaml", "--table", "--dry-run"])
        .with_code(2);
    table.saying("`model: mine.yaml` is none of a family of sizes");
    let table = place.run(&["autobatch", "job.yaml", "--table", "--dry-run"]).with_code(0);
    assert!(table.stdout.contains("yolov8x.yaml") && table.stdout.contains("?: not tried"), "{}", table.stdout);
    assert!(!place.has_record(), "a question starts nothing");
}

#[test]
fn a_schedule_of_sizes_has_a_plan_for_each() {
    let job = "data: d.yaml\ndevice: cpu:2\nepochs: 10\nimgsz: {0: 320, 4: 640}\n";
    let plan = plan(job, &[]);
    let stage = |number: usize, name: &str| &plan["stages"][number][name];
    assert_eq!(
        (stage(0, "imgsz"), stage(0, "from_epoch"), stage(0, "until_epoch")),
        (&json!(320), &json!(0), &json!(4))
    );
    assert_eq!(
        (stage(1, "imgsz"), stage(1, "from_epoch"), stage(1, "until_epoch")),
        (&json!(640), &json!(4), &json!(10))
    );
    assert_eq!((&plan["target_batch"], &stage(1, "plan")["target_batch"]), (&json!(64), &json!(64)));
}
