//! The native trainer in its containers.

use std::path::Path;

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Place, docker, nothing_left};
use crate::{looks_quickly, stops_after_an_epoch, told};

/// A place with some drawn shapes of 64 pixels, and a job for them; `more` are further lines of it.
fn small(images: u32, more: &str) -> Place {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", &images.to_string(), "--imgsz", "64"]).with_code(0);
    place.write("job.yaml", &format!("name: t\ndata: shapes/data.yaml\nimgsz: 64\n{more}\n"));
    place
}

#[test]
fn what_runs_out_of_memory_steps_down_and_keeps_its_target() {
    needs_engine!();
    // Sizes that somebody gives are not fitted first.
    let job = "epochs: 1\nbatch: {target: 64, micro: 32, on_oom: step_down}\ndevice: [{memory: 90MiB}, {memory: 4GiB}]\n\
               args: {mosaic: 0, plots: false}";
    let place = small(64, job);
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    ended.saying("rank 0: out of memory in step 1: micro-batches of 32 became ");
    for rank in 0..2 {
        let steps = told(&place, rank, "step");
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0]["images"], 32);
    }
    assert!(!told(&place, 0, "stepped_down").is_empty() && told(&place, 1, "stepped_down").is_empty());
    nothing_left(&place);

    // With gradients that are sent early it is mended in place or by a new start, depending on where it runs out.
    let early = small(64, job);
    early.run(&["train", "job.yaml", "args.overlap=true"]).with_code(0).saying("done in");
    let steps = told(&early, 1, "step");
    assert_eq!(steps.last().map(|step| &step["images"]), Some(&32.into()), "{steps:?}");
    nothing_left(&early);

    // Whoever says how many images a device takes at once is told that they do not fit.
    place
        .run(&["train", "job.yaml", "batch.on_oom=fail"])
        .with_code(4)
        .saying("rank 0 has not enough memory for micro-batches of 32, which the job asks for");
    nothing_left(&place);
}

#[test]
fn a_stopped_training_leaves_the_state_after_its_last_step() {
    needs_engine!();
    let place = small(24, "epochs: 1000\nbatch: 8\ndevice: cpu:2\nargs: {plots: false, val: false}");
    stops_after_an_epoch(&place, "weights/last.safetensors", "stopped after step ");
    assert!(place.record().join("weights/state.safetensors").is_file());
    nothing_left(&place);
}

#[test]
fn a_quick_look_is_quick() {
    needs_engine!();
    looks_quickly(&small(256, "epochs: 100\nbatch: 64\ndevice: cpu:2"));
}

#[test]
fn a_set_that_is_too_small_is_refused_with_what_would_fit() {
    needs_engine!();
    let place = small(12, "epochs: 1\nbatch: 64\ndevice: cpu:1");
    place.run(&["train", "job.yaml"]).with_code(1).saying("a step of 64 images from a set of 12").saying("(data)");
    nothing_left(&place);
}

#[test]
fn weights_go_to_the_official_package_and_back() {
    needs_engine!();
    let place = small(16, "epochs: 1\nbatch: 16\ndevice: cpu:1\nargs: {plots: false}");
    place.run(&["train", "job.yaml"]).with_code(0);
    let best = place.record().join("weights/best.safetensors");
    std::fs::copy(&best, place.path().join("ours.safetensors")).expect("copied");
    let made = place.run(&["weights", "export", "ours.safetensors"]).with_code(0);
    assert_eq!(made.stdout.trim(), "ours.pt");
    place.run(&["weights", "import", "ours.pt", "--output", "back.safetensors"]).with_code(0);
    let tensors = |file: &Path| -> Vec<u8> {
        let bytes = std::fs::read(file).expect("written");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let text: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
        // By name: the order in the file is nobody's concern.
        let mut names: Vec<_> =
            text.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__").collect();
        names.sort_by_key(|(name, _)| (*name).clone());
        let data = |entry: &Value| {
            let offset = |at: usize| 8 + header + entry["data_offsets"][at].as_u64().expect("an offset") as usize;
            bytes[offset(0)..offset(1)].to_vec()
        };
        names.into_iter().flat_map(|(_, entry)| data(entry)).collect()
    };
    assert_eq!(tensors(&best), tensors(&place.path().join("back.safetensors")), "there and back changes nothing");

    let image = place.run(&["image", "build", "ultralytics"]).with_code(0).stdout;
    let look = "from ultralytics import YOLO; model = YOLO('/place/ours.pt'); print(model.names); \
                print(len(model('/place/shapes/images/val/' + __import__('os').listdir('/place/shapes/images/val')[0], imgsz=64, verbose=False)))";
    let mount = format!("{}:/place:ro", place.path().display());
    let environment = ["--env", "YOLO_OFFLINE=true", "--env", "YOLO_CONFIG_DIR=/tmp"];
    let run = ["run", "--rm", "--network", "none", "-v", &mount];
    let said = docker(&[&run[..], &environment, &[image.trim(), "python3", "-c", look]].concat());
    assert!(said.contains("{0: 'circle', 1: 'square', 2: 'triangle'}") && said.trim().ends_with('1'), "{said}");

    // A model that is fine-tuned from, and files that are none.
    place.run(&["train", "job.yaml", "model=back.safetensors"]).with_code(0).saying("done in");
    place.write("text.pt", "no weights");
    place.run(&["weights", "import", "text.pt"]).with_code(2).saying("failed to convert `text.pt`: it is no model");
    place.run(&["weights", "export", "text.pt"]).with_code(2).saying("the place of the given one");
    place.run(&["weights", "import", "none.pt"]).with_code(2).saying("failed to open `none.pt`");
    place.run(&["train", "job.yaml", "model=ours.pt"]).with_code(2).saying("does not train the model `ours.pt`");
    nothing_left(&place);
}
