//! Runs that go on: seen by `ps`, ended by `stop`, begun in the background, and what is left of them.

use std::path::PathBuf;

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Ended, Place, Running, both_up, containers, docker, entries, image, job, nothing_left, until};

/// A job whose ranks run until they are asked to end, and tell a step.
fn endless(place: &Place, more: &str) {
    let step = serde_json::json!({
        "kind": "step", "epoch": 1, "epochs": 3, "step": 4, "steps_per_epoch": 4, "images": 16, "loss": 1.5, "terms": {},
        "lr": 0.01, "memory_bytes": 1_500_000_000_u64, "time_ms": 100.0,
    });
    let script = format!(
        "trap 'exit 0' TERM; echo '{step}' >&$EVENKEEL_EVENTS_FD; touch /place/up-$RANK; exec 2> /dev/null; while :; do sleep 0.02; done"
    );
    job(place, &script, &format!("volumes: [.:/place]\n{more}"));
}

fn up(place: &Place) {
    both_up(place);
    // What a rank has written is a moment later in its spool.
    until("both events", || {
        (0..2).all(|rank| place.events(rank).iter().any(|event| event["event"]["kind"] == "step")).then_some(())
    });
}

/// What `ps` says of this place's runs.
fn ps(place: &Place) -> Vec<Value> {
    let listed = place.run(&["ps", "--json"]).with_code(0);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let here = place.path().canonicalize().expect("it exists");
    let runs = listed["runs"].as_array().expect("a list").iter();
    runs.filter(|run| PathBuf::from(run["directory"].as_str().expect("a path")).starts_with(&here)).cloned().collect()
}

/// The identifier of the only run here.
fn id(place: &Place) -> String {
    place.record().file_name().expect("a name").to_string_lossy().into_owned()
}

fn state(place: &Place) -> String {
    let journal = place.journal();
    let ends = entries(&journal, "end");
    assert_eq!(ends.len(), 1, "{journal:#?}");
    ends[0]["detail"]["state"].as_str().expect("text").to_owned()
}

#[test]
fn a_run_in_the_background_is_seen_and_ended() {
    needs_engine!();
    let place = Place::new();
    endless(&place, "");
    let begun = place.run(&["train", "-d", "job.yaml"]).with_code(0).saying("evenkeel stop job/");
    let run = format!("job/{}", id(&place));
    assert_eq!(begun.stdout.trim(), run);
    up(&place);
    let runs = ps(&place);
    assert_eq!(runs.len(), 1, "{runs:?}");
    let told = |key: &str| runs[0][key].clone();
    assert_eq!((told("run"), told("standing"), told("ranks")), (run.clone().into(), "running".into(), 2.into()));
    assert_eq!((told("epochs"), told("memory_bytes")), (3.into(), 1_500_000_000_u64.into()));
    assert!((told("images_per_second").as_f64().expect("a speed") - 320.0).abs() < 1.0, "{runs:?}");
    let table = place.run(&["ps"]).with_code(0);
    assert!(table.stdout.lines().any(|line| line.contains(&run) && line.contains("2 cpu")), "{}", table.stdout);

    place.run(&["prune", &run]).with_code(2).saying("has a controller that lives");
    let stopped =
        place.run(&["stop", &id(&place)]).with_code(0).saying("asked the controller of job/").saying(": stopped");
    assert!(stopped.stderr.ends_with("stopped\n"), "{}", stopped.stderr);
    assert_eq!(state(&place), "stopped");
    nothing_left(&place);
    assert!(place.recorded("controller.log").contains("stopped after"), "{}", place.recorded("controller.log"));
    place.run(&["stop", "job"]).with_code(2).saying("is not live: stopped");
    place.run(&["stop", "nothing"]).with_code(2).saying("no live run is called `nothing`");
}

#[test]
fn in_the_background_or_not_what_is_wrong_is_told_the_same() {
    needs_engine!();
    let place = Place::new();
    place.write("job.yaml", "trainer: command\nimage: evenkeel/none-such:1\ncommand: x\ndevice: cpu\nbuild: .\n");
    let plain = |args: &[&str]| {
        let Ended { code, stdout, stderr } = place.run(args);
        (code, stdout, stderr)
    };
    let (here, there) = (plain(&["train", "job.yaml", "--json"]), plain(&["train", "job.yaml", "-d", "--json"]));
    assert_eq!(here, there);
    assert_eq!(here.0, Some(2), "{here:?}");
    assert_eq!(plain(&["train", "-d", "none.yaml"]), plain(&["train", "none.yaml"]));
    assert!(!place.has_record());
    // And nothing was begun, so there is nothing to look into.
    nothing_left(&place);
}

#[test]
fn a_run_that_lost_its_controller_is_named_and_ended_in_good_order() {
    needs_engine!();
    let place = Place::new();
    endless(&place, "");
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    up(&place);
    controller.signal("KILL");
    let _ = controller.end();
    let runs = ps(&place);
    assert_eq!(runs[0]["standing"], "orphaned", "{runs:?}");
    place.run(&["ps"]).with_code(0).saying(&format!("`evenkeel attach job/{}` takes it up", id(&place)));
    place.run(&["stop", "job"]).with_code(0).saying("took up job/");
    assert_eq!(state(&place), "stopped");
    let journal = place.journal();
    let logs = entries(&journal, "logs");
    assert_eq!(logs[0]["detail"]["ranks"][1]["whole"], true, "{logs:?}");
    nothing_left(&place);
    assert_eq!(ps(&place), Vec::<Value>::new());
}

#[test]
fn what_is_left_is_shown_before_it_is_removed() {
    needs_engine!();
    let (place, lost) = (Place::new(), Place::new());
    for (place, name) in [(&place, "leftover"), (&lost, "lost")] {
        endless(place, &format!("name: {name}\n"));
        let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
        both_up(place);
        controller.signal("KILL");
        let _ = controller.end();
    }
    let shown =
        place.run(&["prune", "leftover"]).with_code(2).saying("nothing was removed: there is no terminal to ask at");
    assert!(shown.stdout.contains("still trains") && shown.stdout.contains("launch 1, rank 1: Up"), "{}", shown.stdout);
    assert_eq!(containers(&place).len(), 2);
    place.run(&["prune", "--yes", "leftover"]).with_code(0).saying("removed what was left of leftover/");
    assert_eq!(state(&place), "stopped");
    nothing_left(&place);

    // Of the other one the folder is gone as well: whether somebody sees it through is not known, and nothing can be written down any more.
    std::fs::rename(lost.path().join("runs"), lost.path().join("moved")).expect("moved");
    assert_eq!(ps(&lost)[0]["standing"], "unknown");
    lost.run(&["stop", "lost"]).with_code(3).saying("cannot be looked into from here");
    let shown = lost.run(&["prune", "lost"]).with_code(2);
    assert!(shown.stdout.contains("cannot be told from here"), "{}", shown.stdout);
    assert_eq!(containers(&lost).len(), 2);
    lost.run(&["prune", "--yes", "lost"]).with_code(0).saying("removed what was left of lost/");
    assert_eq!(containers(&lost), Vec::<String>::new());
    place.run(&["prune", "--yes", "none"]).with_code(2).saying("no container of a run that is called `none`");
}

#[test]
fn a_run_is_ended_from_anywhere_by_its_directory_and_only_that() {
    needs_engine!();
    let place = Place::new();
    endless(&place, "");
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    up(&place);
    // What somebody makes of a rank's container has its labels, and is none of the run's.
    let rank = containers(&place)[0].clone();
    let copy = format!("{rank}-copy");
    let labels = docker(&["inspect", "--format", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}", &rank]);
    let mut create = vec!["create", "--name", &copy];
    labels.lines().filter(|line| line.starts_with("evenkeel.")).for_each(|label| create.extend(["--label", label]));
    let image = image();
    create.extend([image.as_str(), "true"]);
    docker(&create);
    assert_eq!(ps(&place)[0]["ranks"], 2);
    let elsewhere = Place::new();
    let directory = place.record().canonicalize().expect("it exists");
    let stopped = elsewhere.run(&["stop", directory.to_str().expect("UTF-8"), "--json"]).with_code(0);
    let stopped: Value = serde_json::from_str(&stopped.stdout).expect("one JSON value");
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    controller.end().with_code(130);
    assert_eq!(docker(&["inspect", "--format", "{{.Name}}", &copy]).trim(), format!("/{copy}"));
    docker(&["rm", &copy]);
    nothing_left(&place);
}

#[test]
fn at_once_leaves_trainers_no_time() {
    needs_engine!();
    let place = Place::new();
    job(
        &place,
        "trap 'sleep 60' TERM; touch /place/up-$RANK; exec 2> /dev/null; while :; do sleep 0.02; done",
        "volumes: [.:/place]\nstop_grace_period: 100s\n",
    );
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    both_up(&place);
    place.run(&["stop", "job", "--timeout", "1"]).with_code(3).saying("has not ended after 1 s");
    place.run(&["stop", "job", "--now"]).with_code(0);
    controller.end().with_code(130);
    nothing_left(&place);
}
