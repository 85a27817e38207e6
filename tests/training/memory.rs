//! Memory that runs out where a trainer cannot mend it by itself: the run starts again with smaller micro-batches.
//!
//! It runs out on purpose, in images made for that from ours: `EVENKEEL_FAULTS` says where.

use serde_json::{Value, json};

use crate::needs_engine;
use crate::support::{Place, entries, nothing_left};

/// A place with 48 drawn shapes of 64 pixels, and a job for two devices in steps of `target` images, in micro-batches of 4; memory runs out
/// at `fault`. `more` are further lines of the job.
fn failing(image: &str, fault: &str, target: u64, more: &str) -> Place {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "48", "--imgsz", "64"]).with_code(0);
    let image = place.run(&["image", "build", image]).with_code(0).stdout;
    place.write("image/Dockerfile", &format!("FROM {}\nENV EVENKEEL_FAULTS={fault}\n", image.trim()));
    place.write(
        "job.yaml",
        &format!(
            "name: t\ndata: shapes/data.yaml\nimgsz: 64\nepochs: 3\ndevice: cpu:2\nbuild: image\n\
             batch: {{target: {target}, micro: 4, on_oom: step_down}}\n{more}\n"
        ),
    );
    place
}

/// Checks the run of `fault`, after which `rank` is gone: when its peer was, when training went on, and what each step had. Says from which
/// step the second launch went on.
fn went_on(place: &Place, rank: u32, target: u64) -> u64 {
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    ended.saying(&format!(
        "rank {rank} ran out of memory with micro-batches of 4; starting again with 2, {target} images"
    ));
    nothing_left(place);
    let events: Vec<Vec<Value>> = (0..2).map(|rank| place.events(rank)).collect();
    let time = |of: u32, generation: u64, kind: &str| {
        let found = events[of as usize]
            .iter()
            .find(|record| record["generation"] == generation && record["event"]["kind"] == kind)
            .unwrap_or_else(|| panic!("no {kind} of rank {of} in launch {generation}"));
        found["time_ms"].as_u64().expect("a time")
    };
    let failed = time(rank, 1, "failure");
    // Of its container: under load the engine may have to kill it before it seals its log.
    let journal = place.journal();
    let ended = entries(&journal, "ended");
    let gone = ended.iter().find(|ended| ended["detail"]["generation"] == 1 && ended["detail"]["rank"] == 1 - rank);
    let gone = gone.and_then(|gone| gone["time_ms"].as_u64()).expect("the peer's end");
    let (peer, again) = (gone - failed, time(rank, 2, "step") - failed);
    eprintln!("the peer was gone after {peer} ms, the next launch's first step done after {again} ms");
    assert!(peer <= 1000 && again <= 30_000);
    // Every step of the run as it counts has all its images, whichever launch made it.
    let steps = |rank: usize, generation: u64| -> Vec<(u64, u64)> {
        events[rank]
            .iter()
            .filter(|record| record["generation"] == generation && record["event"]["kind"] == "step")
            .map(|record| (record["event"]["step"].as_u64(), record["event"]["images"].as_u64()))
            .map(|(step, images)| (step.expect("a number"), images.expect("a number")))
            .collect()
    };
    for rank in 0..2 {
        let again = steps(rank, 2);
        assert!(
            steps(rank, 1).iter().chain(&again).all(|(_, images)| *images == target / 2),
            "another number of images"
        );
        assert_eq!(again.last().map(|(step, _)| *step), Some(3 * 48 / target - 1), "{again:?}");
        assert!(again.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{again:?}");
    }
    let attempts = entries(&journal, "attempt");
    assert_eq!(attempts.len(), 2);
    // The peer's own, that it lost this one, may be beside it.
    let failures = attempts[0]["detail"]["failures"].as_array().expect("failures");
    let own = failures.iter().find(|failure| failure["rank"] == rank).expect("its failure");
    assert_eq!(own["class"], "out_of_memory.device");
    assert_eq!(attempts[1]["detail"]["ranks"][0]["micro_batches"], json!(vec![2; target as usize / 4]));
    assert_eq!(attempts[1]["detail"]["failures"], json!([]));
    assert!(attempts[1]["detail"]["ranks"][1]["measured_bytes"].as_u64() > Some(1 << 20));
    let rows = place.recorded("results.csv");
    let epochs: Vec<&str> = rows.lines().skip(1).filter_map(|row| row.split(',').next()).map(str::trim).collect();
    assert_eq!(epochs, ["1", "2", "3"], "{rows}");
    steps(0, 2)[0].0
}

#[test]
fn the_official_trainer_goes_on_from_its_last_epoch() {
    needs_engine!();
    let more = "trainer: ultralytics\nargs: {optimizer: SGD, plots: false}";
    for (fault, rank, from) in [("0:0:forward", 0, 0), ("1:4:forward", 1, 3), ("1:5:validation", 1, 3)] {
        assert_eq!(went_on(&failing("ultralytics", fault, 16, more), rank, 16), from, "{fault}");
    }
}

#[test]
fn the_native_trainer_with_overlap_goes_on_from_its_last_state() {
    needs_engine!();
    // The only backward pass of the step, in which gradients are sent.
    let place = failing("worker", "1:4:backward", 8, "args: {overlap: true, save_every: 1, plots: false}");
    let from = went_on(&place, 1, 8);
    assert!((2..=4).contains(&from), "went on from step {from}");
}

#[test]
fn a_cap_on_the_official_trainer_is_kept_by_new_starts() {
    needs_engine!();
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "128", "--imgsz", "160"]).with_code(0);
    place.write(
        "job.yaml",
        "name: t\ntrainer: ultralytics\ndata: shapes/data.yaml\nimgsz: 160\nepochs: 2\n\
         batch: {target: 128, micro: 64, on_oom: step_down}\n\
         device: [{memory: 1500MiB}, {memory: 4GiB}]\nargs: {plots: false}\n",
    );
    // What one process has room for in training need not be enough for its validation: each phase may ask for a start of its own.
    place.run(&["train", "job.yaml"]).with_code(0).saying("rank 0 ran out of memory with micro-batches of 64");
    nothing_left(&place);
    let attempts = place.journal();
    let attempts = entries(&attempts, "attempt");
    let (last, failed) = attempts.split_last().expect("attempts");
    assert_eq!(last["detail"]["failures"], json!([]));
    for attempt in failed {
        let failures = attempt["detail"]["failures"].as_array().expect("failures");
        assert!(failures.iter().any(|failure| failure["class"] == "out_of_memory.device"), "{attempt}");
    }
    eprintln!("micro-batches of {} in the end", last["detail"]["ranks"][0]["micro_batches"][0]);
    for rank in 0..2 {
        let steps = place.events(rank).into_iter().map(|record| record["event"].clone());
        let images: Vec<Value> =
            steps.filter(|event| event["kind"] == "step").map(|step| step["images"].clone()).collect();
        assert!(images.len() >= 2 && images.iter().all(|images| *images == 64), "{images:?}");
    }
}
