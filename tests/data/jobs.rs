//! The jobs that come with evenkeel, and the one it writes, are understood; what they name is known.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::dataset::catalog;
use evenkeel::dataset::shapes::{self, ShapesOptions};
use evenkeel::dataset::{Places, Wanted, job_for, resolve, wanted_data, wanted_weights};
use evenkeel::job::{Bases, ResolvedJob, Trainer, load, parse};

fn understood(text: String) -> ResolvedJob {
    let bases = Bases { folder: PathBuf::from("/"), home: None };
    parse(Path::new("job.yaml"), text.clone(), &[], &bases).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn our_jobs_are_understood_and_name_what_we_know() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    for (file, data, weights) in [
        ("shapes", None, None),
        ("coco8", Some("coco8"), Some("yolov8n.pt")),
        ("coco128", Some("coco128"), Some("yolov8n.pt")),
        ("voc", Some("voc"), Some("yolov8n.pt")),
    ] {
        let job = load(&folder.join(format!("{file}.yaml")), &[]).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(job.notes.is_empty(), "{file}: {:?}", job.notes);
        let job = job.job;
        // Weights of the official package ask for it.
        let trainer = if weights.is_some() { Trainer::Ultralytics } else { Trainer::Native };
        assert_eq!((job.name.as_str(), job.trainer), (file, trainer));
        let nowhere = Path::new("/nonexistent");
        match wanted_data(job.data.as_deref().expect("data"), nowhere) {
            Wanted::Known(set) => assert_eq!(Some(set.name), data),
            Wanted::Path(path) => assert_eq!((path, data), (nowhere.join("data/shapes/data.yaml"), None)),
        }
        match wanted_weights(&job.model, nowhere) {
            Wanted::Known(asset) => assert_eq!(Some(asset.file), weights),
            Wanted::Path(_) => assert_eq!(weights, None),
        }
    }
}

#[test]
fn what_is_there_is_meant_before_what_could_be_fetched() {
    let temp = tempfile::tempdir().expect("a folder");
    fs::create_dir(temp.path().join("coco8")).expect("created");
    fs::write(temp.path().join("yolov8n.pt"), "mine").expect("written");
    assert_eq!(wanted_data("coco8", temp.path()), Wanted::Path(temp.path().join("coco8")));
    assert_eq!(wanted_weights("yolov8n.pt", temp.path()), Wanted::Path(temp.path().join("yolov8n.pt")));
    assert_eq!(wanted_data("coco128.yaml", temp.path()), Wanted::Known(catalog::set("coco128").expect("known")));
}

#[test]
fn a_job_is_written_for_a_set() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("my 形状: set");
    shapes::write(&ShapesOptions { images: 40, imgsz: 32, ..ShapesOptions::new(&dir) }).expect("written");
    let places = Places { cwd: temp.path().to_owned(), datasets: Vec::new() };
    let set = resolve(&dir, &places).expect("good");
    let data = dir.join("data.yaml");
    let text = job_for(data.to_str().expect("UTF-8"), &set);
    let job = understood(text.clone()).job;
    assert_eq!(job.data.as_deref(), data.to_str());
    assert_eq!((job.name.as_str(), job.batch.target), ("my-形状--set", Some(16)), "at least two steps an epoch");
    assert!(text.contains("40 images to train on (40 with labels), 10 to validate on, 3 classes"), "{text}");
    assert!(text.contains("circle, square, triangle"));

    // Names that would be something else in YAML, or end the comment.
    let yaml = "train: images/train\nval: images/val\nnames: [\"a\\ntrainer: command\", \"b\\u2028x: y\", 'c # d']\n";
    fs::write(dir.join("2024.yaml"), yaml).expect("written");
    let set = resolve(&dir.join("2024.yaml"), &places).expect("good");
    for data in
        ["2024", "no", "a: b", "x # y", "- a", "\"q\"", "{a}", "null", "*a", "路径/数据.yaml", "a'b", "null.yaml"]
    {
        let job = understood(job_for(data, &set)).job;
        assert_eq!((job.data.as_deref(), job.trainer), (Some(data), Trainer::Ultralytics));
    }
}
