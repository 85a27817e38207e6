//! Real trainings in the images that people train in: that they learn, that the gradients of two ranks are those of one,
//! that what goes wrong is said. What only the native trainer does is in `native.rs`.
//!
//! The images are built first if they are missing, which takes minutes.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

mod again;
mod crash;
mod fit;
mod memory;
mod native;
mod stages;

use std::path::Path;

use serde_json::Value;
use support::{Place, Running, docker, nothing_left, sample, until};

/// A place with a set of shapes and a job that trains on it; `more` are further lines of the job.
fn shapes(images: u32, more: &str) -> Place {
    let place = Place::new();
    let images = images.to_string();
    place.run(&["dataset", "shapes", "shapes", "--images", &images]).with_code(0);
    let text = format!(
        "name: t\ntrainer: ultralytics\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nimgsz: 160\ndevice: cpu:2\n{more}\n"
    );
    place.write("job.yaml", &text);
    place
}

/// The events of one kind that a rank told.
fn told(place: &Place, rank: u32, kind: &str) -> Vec<Value> {
    let events = place.events(rank).into_iter().map(|record| record["event"].clone());
    events.filter(|event| event["kind"] == kind).collect()
}

fn losses(place: &Place, ranks: u32) -> Vec<f64> {
    let of_rank = |rank| -> Vec<f64> {
        told(place, rank, "step").iter().map(|step| step["loss"].as_f64().expect("a finite loss")).collect()
    };
    let all: Vec<Vec<f64>> = (0..ranks).map(of_rank).collect();
    (0..all[0].len()).map(|step| all.iter().map(|losses| losses[step]).sum::<f64>() / f64::from(ranks)).collect()
}

#[test]
fn the_first_training_learns_and_its_ranks_agree() {
    learns("native", &["weights/best.safetensors", "weights/last.safetensors", "weights/state.safetensors"]);
}

#[test]
fn so_does_the_official_trainer() {
    learns("ultralytics", &["weights/best.pt", "weights/last.pt"]);
}

/// Whole with `EVENKEEL_TEST_LONG`; else a few epochs, in which the loss falls and no more.
fn learns(trainer: &str, weights: &[&str]) {
    needs_engine!();
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    place.write("job.yaml", &std::fs::read_to_string(root.join("jobs/shapes.yaml")).expect("the job of the README"));
    place.run(&["dataset", "shapes", "data/shapes"]).with_code(0);
    const WHOLE: usize = 12;
    let epochs = sample(4, WHOLE);
    let (epochs_key, trainer_key) = (format!("epochs={epochs}"), format!("trainer={trainer}"));
    let ended =
        place.run(&["train", "job.yaml", "name=t", "device=cpu:2", &epochs_key, &trainer_key, "--json"]).with_code(0);
    let outcome: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    let map50 = outcome["metrics"]["metrics/mAP50(B)"].as_f64().expect("a validation");
    let seconds = outcome["seconds"].as_f64().expect("a time");
    let losses = losses(&place, 2);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..16]), mean(&losses[losses.len() - 16..]));
    eprintln!(
        "{trainer}, {epochs} epochs: mAP50 {map50:.4} after {seconds:.0} s, mean loss of the first epoch {first:.3}, of the last {last:.3}"
    );
    assert!(last < 0.9 * first, "the loss went from {first} to {last}");
    if epochs == WHOLE {
        assert!(map50 >= 0.9, "mAP50 is {map50}");
    }

    let hashes = |rank| -> Vec<Value> {
        told(&place, rank, "checkpoint").iter().map(|checkpoint| checkpoint["weights_sha256"].clone()).collect()
    };
    assert!(!hashes(0).is_empty(), "no checkpoint was told");
    assert_eq!(hashes(0), hashes(1), "the ranks' weights differ");
    for rank in 0..2 {
        assert_eq!(told(&place, rank, "preflight")[0]["ok"], true);
        assert_eq!(told(&place, rank, "joined").last().expect("the trainer joined")["world_size"], 2);
        // T = 32 images a step, exactly, in every step that is not an epoch's last.
        assert!(told(&place, rank, "step").iter().all(|step| step["images"] == 16), "another number of images");
    }
    let record = place.record();
    for file in weights.iter().chain(&["results.csv"]) {
        assert!(record.join(file).is_file(), "no {file}");
    }
    nothing_left(&place);
}

#[test]
fn two_ranks_of_8_step_as_one_of_16() {
    needs_engine!();
    // One step takes the whole set, so both see the same images whatever their order. Nothing is augmented.
    let still = "epochs: 5\nbatch: 16\nseed: 1\nargs: {mosaic: 0, fliplr: 0, hsv_h: 0, hsv_s: 0, hsv_v: 0, translate: 0, \
                 scale: 0, erasing: 0, auto_augment: null, optimizer: SGD, lr0: 0.01, plots: false, val: false}";
    let run = |device: &str, ranks| {
        let place = shapes(16, still);
        place.run(&["train", "job.yaml", device]).with_code(0);
        let losses = losses(&place, ranks);
        nothing_left(&place);
        losses
    };
    let (one, two) = (run("device=cpu:1", 1), run("device=cpu:2", 2));
    let apart: Vec<f64> = one.iter().zip(&two).map(|(one, two)| (two - one).abs() / one).collect();
    eprintln!("losses of one rank {one:.4?}, mean of two {two:.4?}, apart {apart:.4?}");
    assert_eq!((one.len(), two.len()), (5, 5));
    assert!(apart[0] <= 0.01, "the first step is {} apart", apart[0]);
    assert!(apart.iter().all(|apart| *apart <= 0.05), "{apart:?}");
}

#[test]
fn a_quick_look_is_quick() {
    needs_engine!();
    looks_quickly(&shapes(256, "epochs: 100\nbatch: 64"));
}

/// Four steps of micro-batches of 4, in a record of its own.
fn looks_quickly(place: &Place) {
    place.run(&["train", "job.yaml", "--smoke"]).with_code(0).saying("done in");
    let steps = told(place, 0, "step");
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|step| step["images"] == 4), "another micro-batch: {steps:?}");
    assert!(place.record().parent().is_some_and(|family| family.ends_with("t-smoke")));
    nothing_left(place);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_with_advice() {
    needs_engine!();
    // Weights that are not finite give such a loss, whatever the package does to keep a training calm.
    let place = shapes(32, "epochs: 3\nbatch: 16\nargs: {plots: false, val: false}");
    place.write(
        "bad.py",
        "from ultralytics import YOLO\nmodel = YOLO('yolov8n.yaml')\n\
         next(model.model.parameters()).data.fill_(float('inf'))\nmodel.save('/place/bad.pt')\n",
    );
    let images = place.run(&["image", "build", "ultralytics"]).with_code(0);
    let image = images.stdout.trim();
    let text = format!(
        "name: t\ntrainer: command\nimage: {image}\ndevice: cpu:1\nnetwork: none\nruns: weights-runs\nvolumes: ['.:/place']\n\
         command: [python3, /place/bad.py]\n"
    );
    place.write("bad.yaml", &text);
    place.run(&["train", "bad.yaml"]).with_code(0);
    place.run(&["train", "job.yaml", "model=bad.pt"]).with_code(1).saying("(diverged)").saying("args.lr0");
    nothing_left(&place);
}

/// A job of a few small images, fed by data workers.
fn small(more: &str) -> Place {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "24", "--imgsz", "64"]).with_code(0);
    let text = format!(
        "name: t\ntrainer: ultralytics\nmodel: yolov8n.yaml\ndata: shapes/data.yaml\nimgsz: 64\ndevice: cpu:2\n{more}\n"
    );
    place.write("job.yaml", &text);
    place
}

#[test]
fn mosaic_closes_in_the_same_epoch_on_every_rank() {
    needs_engine!();
    // Closed from the first epoch on, mosaic must leave no trace on any rank, though workers could have begun with it.
    let run = |mosaic: &str| {
        let place = small(&format!(
            "epochs: 2\nbatch: 8\nargs: {{{mosaic}, workers: 1, fliplr: 0, hsv_h: 0, hsv_s: 0, hsv_v: 0, translate: 0, \
             scale: 0, erasing: 0, auto_augment: null, optimizer: SGD, lr0: 0.01, plots: false, val: false}}"
        ));
        place.run(&["train", "job.yaml"]).with_code(0);
        nothing_left(&place);
        [0, 1].map(|rank| -> Vec<f64> {
            told(&place, rank, "step").iter().map(|step| step["loss"].as_f64().expect("a finite loss")).collect()
        })
    };
    let (closed, without) = (run("mosaic: 1.0, close_mosaic: 2"), run("mosaic: 0.0"));
    eprintln!("closed {closed:.4?}, without {without:.4?}");
    for (closed, without) in closed.iter().flatten().zip(without.iter().flatten()) {
        assert!((closed - without).abs() <= 1e-3 * without, "{closed} is not {without}: an image came from a mosaic");
    }
}

#[test]
fn workers_accumulation_plots_and_an_oblong_image_go_together() {
    needs_engine!();
    // The largest seed there is, which the package alone would refuse; and one class in place of three.
    let place = small(
        "epochs: 2\nbatch: {target: 16, micro: 4}\nseed: 4294967295\n\
         args: {workers: 1, plots: true, single_cls: true}",
    );
    for split in ["train", "val"] {
        std::fs::write(place.path().join(format!("shapes/images/{split}/oblong.bmp")), bitmap(96, 40))
            .expect("written");
        place.write(&format!("shapes/labels/{split}/oblong.txt"), "2 0.5 0.5 0.5 0.5\n");
    }
    let ended = place.run(&["train", "job.yaml", "--json"]).with_code(0);
    for rank in 0..2 {
        let steps = told(&place, rank, "step");
        // 25 images make two steps of 16, each of two micro-batches of 4 on either rank.
        assert_eq!(steps.len(), 4);
        assert!(steps.iter().all(|step| step["images"] == 8), "another number of images: {steps:?}");
    }
    let hashes =
        |rank| told(&place, rank, "checkpoint").iter().map(|told| told["weights_sha256"].clone()).collect::<Vec<_>>();
    assert_eq!(hashes(0), hashes(1), "the ranks' weights differ");

    // What is told last is what best.pt is worth.
    let outcome: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    let metrics = told(&place, 0, "metrics");
    assert_eq!(metrics.len(), 3, "one of each epoch, and one of best.pt: {metrics:?}");
    assert_eq!(outcome["metrics"]["metrics/mAP50(B)"], metrics[2]["values"]["metrics/mAP50(B)"]);
    for plot in ["results.png", "labels.jpg", "train_batch0.jpg", "confusion_matrix.png"] {
        assert!(place.record().join("output").join(plot).is_file(), "no {plot}");
    }
    let image = place.run(&["image", "build", "ultralytics"]).with_code(0).stdout;
    let mount = format!("{}:/weights:ro", place.record().join("weights").display());
    let look = "import torch; print(torch.load('/weights/best.pt', weights_only=False)['model'].names)";
    let run = ["run", "--rm", "--network", "none", "-v", &mount, image.trim(), "python3", "-c", look];
    assert_eq!(docker(&run).lines().last(), Some("{0: 'item'}"));
    nothing_left(&place);
}

/// A grey Windows bitmap of 24 bits a pixel; `width` is a multiple of 4, so that its rows need no filling.
fn bitmap(width: u32, height: u32) -> Vec<u8> {
    assert_eq!(width % 4, 0);
    let pixels = vec![127; (width * height * 3) as usize];
    let mut bytes = b"BM".to_vec();
    for field in [54 + width * height * 3, 0, 54, 40, width, height, 1 | (24 << 16), 0, width * height * 3, 0, 0, 0, 0]
    {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(pixels);
    bytes
}

#[test]
fn a_little_shared_memory_is_told_and_does_not_hang() {
    needs_engine!();
    let place = small("epochs: 1\nbatch: 8\nshm_size: 64k\nargs: {workers: 2, plots: false}");
    place.run(&["train", "job.yaml"]).with_code(0).saying("/dev/shm has room for 0 validation workers");
    nothing_left(&place);
}

#[test]
fn a_stopped_training_leaves_the_last_whole_epoch() {
    needs_engine!();
    let place = small("epochs: 1000\nbatch: 8\nargs: {plots: false, val: false}");
    stops_after_an_epoch(&place, "weights/last.pt", "stopped; weights/last.pt is that of epoch");
    assert!(place.record().join("weights/last.pt").is_file());
    nothing_left(&place);
}

/// Interrupts a training of two ranks once it has told of the weights of an epoch; it says that it was stopped.
fn stops_after_an_epoch(place: &Place, weights: &str, says: &str) {
    let running = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("an epoch's weights", || {
        let events = std::fs::read_dir(place.path().join("runs/t")).into_iter().flatten().flatten();
        let mut texts =
            events.filter_map(|run| std::fs::read_to_string(run.path().join("events/rank-0.events.jsonl")).ok());
        texts.any(|text| text.contains(&format!("\"{weights}\""))).then_some(())
    });
    running.signal("INT");
    running.end().with_code(130).saying(says);
    for rank in 0..2 {
        // Not by SIGKILL after the grace period.
        let exit = told(place, rank, "exit").pop().expect("a seal");
        assert_eq!((&exit["code"], &exit["stopped"]), (&143.into(), &true.into()), "{exit}");
    }
}

#[test]
fn programs_that_start_their_own_ranks_run_unchanged() {
    needs_engine!();
    let own = Place::new();
    own.write(
        "train.py",
        "import os, torch, torch.distributed as dist\n\
         if 'RANK' in os.environ:\n    dist.init_process_group('gloo')\n    t = torch.tensor([dist.get_rank() + 1.0])\n    \
         dist.all_reduce(t)\n    print(f'rank {dist.get_rank()} of {dist.get_world_size()}: sum {t.item()}')\n\
         else:\n    print('alone')\n",
    );
    let images = own.run(&["image", "build", "ultralytics"]).with_code(0);
    let image = images.stdout.trim();
    let job = |name: &str, command: &str| {
        let text = format!(
            "name: t\ntrainer: command\nimage: {image}\ndevice: cpu:2\nnetwork: none\ncontainers: per-host\nnproc_per_node: 2\n\
             volumes: ['./train.py:/app/train.py:ro']\nworking_dir: /app\ncommand: {command}\n"
        );
        own.write(name, &text);
    };
    job("plain.yaml", "[python3, train.py]");
    assert_eq!(own.run(&["train", "plain.yaml"]).with_code(0).stdout, "alone\n");
    job("torchrun.yaml", "[python3, -m, torch.distributed.run, --nproc_per_node=2, train.py]");
    let stdout = own.run(&["train", "torchrun.yaml"]).with_code(0).stdout;
    for rank in 0..2 {
        assert!(stdout.contains(&format!("rank {rank} of 2: sum 3.0")), "{stdout}");
    }
    nothing_left(&own);
}
