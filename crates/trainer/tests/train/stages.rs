//! Trainings in stages: launches that end before the training does, and others that go on from there with images of another size.

use std::fs;
use std::path::Path;

use evenkeel_wire::Event;
use evenkeel_yolo::checkpoint::{self, Checkpoint, Value};
use serde_json::json;

use crate::place::{Job, Place, SIDE, Trained};

/// Side of a later stage's images.
const LARGER: u32 = 96;

/// Number and learning rate of every step.
fn rates(trained: &Trained) -> Vec<(u64, f64)> {
    let of = |event: &Event| if let Event::Step { step, lr, .. } = event { Some((*step, *lr)) } else { None };
    trained.ranks[0].events.iter().filter_map(of).collect()
}

fn epochs_of_table(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("results.csv")).expect("a table");
    text.lines().skip(1).filter_map(|row| row.split(',').next()).map(str::to_owned).collect()
}

#[test]
fn two_stages_are_one_training() {
    let place = Place::with_images(48);
    // Warm-up, falling rates and the end of mosaics go by the whole training.
    let job = |out: &str| Job {
        epochs: 4,
        cut: vec![vec![4], vec![2, 2]],
        out: out.into(),
        ..Job::new(&place, json!({"optimizer": "SGD", "close_mosaic": 1, "plots": false}))
    };
    let whole = job("whole").train(&[]).done();
    let first = Job { until_epoch: Some(2), ..job("stages") }.train(&[]).done();
    assert_eq!(first.progress()["step"], 12);
    assert!(first.ranks[0].stdout.contains("2 of 4 epochs are done, the last at 64 px"), "{}", first.ranks[0].stdout);
    assert_eq!(first.losses(), whole.losses()[..12]);
    assert_eq!(first.hashes(), whole.hashes()[..2]);

    // A launch that is repeated though all its epochs are done has nothing to do.
    let before = first.state_bits();
    let again = Job { until_epoch: Some(2), ..job("stages") }.train(&[]).done();
    assert_eq!((again.losses(), again.state_bits()), (Vec::new(), before));

    let second = Job { side: LARGER, until_epoch: Some(4), ..job("stages") }.train(&[]).done();
    assert_eq!([rates(&first), rates(&second)].concat(), rates(&whole));
    assert!(first.images().iter().chain(&second.images()).all(|images| *images == 8));
    assert_ne!(second.losses(), whole.losses()[12..], "another size has other losses");
    assert_eq!(epochs_of_table(second.path()), ["1", "2", "3", "4"]);

    let running = job("killed").start(&[]);
    running.until_checkpoints(2);
    let killed = running.kill();
    assert_eq!(killed.progress()["step"], 12, "killed too late");
    let continued = Job { side: LARGER, ..job("killed") }.train(&[]).done();
    assert_eq!(continued.losses(), second.losses());
    assert_eq!(continued.state_bits(), second.state_bits());
}

#[test]
fn the_best_epoch_counts_among_those_of_its_size() {
    let place = Place::with_images(24);
    let job = |out: &str, patience: u32| Job {
        epochs: 4,
        out: out.into(),
        ..Job::new(&place, json!({"optimizer": "SGD", "patience": patience, "plots": false}))
    };
    let first = Job { until_epoch: Some(2), ..job("first", 2) }.train(&[]).done();
    assert_eq!(first.progress()["imgsz"], SIDE);
    // The state after two epochs, of which the given one, from 0, cannot be surpassed.
    let unbeaten = |out: &str, epoch: u32, keeps_size: bool| {
        let folder = place.path().join(out).join("weights");
        fs::create_dir_all(&folder).expect("a folder");
        let Checkpoint { tensors, mut texts } =
            checkpoint::read(&first.path().join("weights/state.safetensors")).expect("a state");
        let mut progress = first.progress();
        progress["best"] = json!({"epoch": epoch, "precision": 1.0, "recall": 1.0, "ap50": 1.0, "ap50_95": 1.0});
        if !keeps_size {
            progress.as_object_mut().expect("an object").remove("imgsz");
        }
        texts.insert("progress".into(), progress.to_string());
        let values: Vec<Value> = tensors.iter().map(|(name, tensor)| Value::of(name, tensor)).collect();
        checkpoint::write(&folder.join("state.safetensors"), &values, &texts, false).expect("written");
    };
    let best = |trained: &Trained| trained.progress()["best"]["epoch"].as_u64().expect("a best epoch");

    unbeaten("same", 1, true);
    assert_eq!(best(&job("same", 2).train(&[]).done()), 1);
    unbeaten("larger", 1, true);
    let larger = Job { side: LARGER, ..job("larger", 2) }.train(&[]).done();
    assert!(best(&larger) >= 2, "{}", best(&larger));
    // States did not always say their size.
    unbeaten("older", 1, false);
    assert_eq!(best(&Job { side: LARGER, ..job("older", 2) }.train(&[]).done()), 1);

    // One epoch without improvement has ended the first stage early: there is nothing more to do at any size.
    unbeaten("ended", 0, true);
    let ended = Job { side: LARGER, ..job("ended", 1) }.train(&[]).done();
    assert_eq!((ended.losses().len(), best(&ended)), (0, 0));
    assert!(ended.ranks[0].stdout.contains("best.safetensors is of epoch 1"), "{}", ended.ranks[0].stdout);
}
