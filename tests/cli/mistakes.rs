//! Mistakes of the command line and of job files: one message, exit code 2, nothing begun.

use std::path::Path;

use crate::support::{Ended, Place};

/// One message on stderr, nothing on stdout, no record.
#[track_caller]
fn refused(place: &Place, args: &[&str]) -> Ended {
    let ended = place.run(args).with_code(2);
    assert_eq!(ended.stdout, "", "{args:?}");
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{args:?}:\n{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{args:?}:\n{}", ended.stderr);
    assert!(!place.has_record(), "{args:?} began a record");
    ended
}

#[test]
fn a_wrong_command_line_is_refused() {
    let place = Place::new();
    for args in [
        &["train"][..],
        &["train", "job.yaml", "--epochs", "3"],
        &["trian", "job.yaml"],
        &["image", "save", "worker"],
        &["dataset", "shapes", "x", "--images", "many"],
        &["plan", "job.yaml", "--progress", "loud"],
    ] {
        refused(&place, args);
    }
}

#[test]
fn a_job_that_cannot_be_read_is_named() {
    let place = Place::new();
    for command in ["train", "plan"] {
        refused(&place, &[command, "missing.yaml"]).saying("missing.yaml");
        refused(&place, &[command, "."]).saying("folder");
        refused(&place, &[command, "/dev/null"]).saying("/dev/null");
        refused(&place, &[command, "作业.yaml"]).saying("作业.yaml");
    }
    let name = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff.yaml");
    let mut command = place.evenkeel(&["plan"]);
    command.arg(<&std::ffi::OsStr>::clone(&name));
    let ended = Ended::from(command.output().expect("the program starts")).with_code(2);
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
}

#[test]
fn an_override_that_is_none_is_refused() {
    let place = Place::new();
    place.write("job.yaml", "trainer: command\nimage: a\ncommand: b\ndevice: cpu\n");
    for (given, words) in [
        ("epochs", "epochs"),
        ("epohcs=3", "epochs"),
        ("epochs=many", "epochs"),
        ("=3", "="),
        ("batch.micor=2", "micro"),
    ] {
        refused(&place, &["plan", "job.yaml", given]).saying(words);
    }
}

/// The reader's own tests hold every file of the corpus to its message; here it is the program that must end well.
#[test]
fn files_of_the_corpus_end_as_they_must() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs/jobs");
    let place = Place::new();
    for name in [
        "misspelt",
        "deep-maps",
        "laughs",
        "not-utf8",
        "batch-zero",
        "device-twice",
        "two-documents",
        "control",
        "empty",
        "chinese",
        "volume-ours",
        "trainer-unknown",
    ] {
        let file = corpus.join(format!("bad/{name}.yaml"));
        let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        std::fs::write(place.path().join("bad.yaml"), text).expect("written");
        for command in ["train", "plan"] {
            refused(&place, &[command, "bad.yaml"]).saying("bad.yaml");
        }
    }
}

#[test]
fn data_that_is_not_there_is_named_before_anything_is_built() {
    let place = Place::new();
    place.write("job.yaml", "data: nowhere/data.yaml\ndevice: cpu:2\n");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    // No engine is asked for what the job itself gets wrong.
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let ended = Ended::from(command.output().expect("the program starts")).with_code(2);
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    assert!(!place.has_record());
    ended.saying("nowhere/data.yaml");
}

#[test]
fn a_batch_that_cannot_be_split_is_refused_with_those_that_can() {
    let place = Place::new();
    place.write("job.yaml", "data: d.yaml\ndevice: cpu:3\nbatch: 64\n");
    let ended = refused(&place, &["plan", "job.yaml"]).saying("64");
    assert!(ended.stderr.contains("63") && ended.stderr.contains("66"), "{}", ended.stderr);
}

#[test]
fn gpus_that_are_not_there_are_the_machines_fault() {
    let place = Place::new();
    for device in ["gpus: 2", "device: 0", "device: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"] {
        place.write("job.yaml", &format!("data: d.yaml\n{device}\n"));
        let ended = place.run(&["plan", "job.yaml"]).with_code(3);
        assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn a_webhook_that_nothing_is_known_of_is_named_before_anything_is_built() {
    let place = Place::new();
    place.write("job.yaml", "trainer: command\nimage: none\ndevice: cpu\nnotify: [{url_env: NO_SUCH_HOOK}]\n");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let ended = Ended::from(command.output().expect("the program starts")).with_code(2);
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    assert!(!place.has_record());
    ended.saying("`notify[0]` names the variable `NO_SUCH_HOOK`, which is not set").saying("`notify=[]`");
}

#[test]
fn an_mlflow_without_a_server_is_refused() {
    let place = Place::new();
    place.write("job.yaml", "trainer: command\nimage: none\ndevice: cpu\ntrack: {mlflow: {experiment: e}}\n");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let ended = Ended::from(command.output().expect("the program starts")).with_code(2);
    ended.saying("`track.mlflow` names no server, and neither does MLFLOW_TRACKING_URI");
}
