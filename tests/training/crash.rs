//! Trainings whose controller dies, that end before their time, or whose disk fills up: what comes of them in the end is what would have.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Place, Running, entries, is_root, nothing_left, until};
use crate::{needs_engine, shapes, skip, told};

/// A native training of four short epochs.
fn native() -> Place {
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "48", "--imgsz", "64"]).with_code(0);
    let text =
        "name: t\ndata: shapes/data.yaml\nimgsz: 64\nepochs: 4\nbatch: 16\ndevice: cpu:2\nargs: {plots: false}\n";
    place.write("job.yaml", text);
    place
}

/// Starts the training, and waits until a state is on the disk from which it can go on.
fn begun(place: &Place) -> Running {
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    // The record is there some time after its controller; told() wants it.
    until("the record", || place.has_record().then_some(()));
    until("the first checkpoint", || {
        let events = place.record().join("events/rank-0.events.jsonl");
        std::fs::read_to_string(events).is_ok_and(|text| text.contains("\"checkpoint\"")).then_some(())
    });
    controller
}

fn verdict(place: &Place, other: &Place) -> String {
    let (one, other) = (place.record().display().to_string(), other.record().display().to_string());
    let compared = place.run(&["compare", &one, &other, "--json"]).with_code(0);
    let compared: serde_json::Value = serde_json::from_str(&compared.stdout).expect("JSON");
    compared["verdict"].as_str().expect("text").to_owned()
}

#[test]
fn a_native_training_comes_out_the_same_whoever_sees_it_through() {
    needs_engine!();
    let undisturbed = native();
    undisturbed.run(&["train", "job.yaml"]).with_code(0);

    let killed = native();
    let controller = begun(&killed);
    controller.signal("KILL");
    let _ = controller.end();
    killed.run(&["attach"]).with_code(0).saying("took up t/");
    assert_eq!(entries(&killed.journal(), "generation").len(), 1);
    assert_eq!(verdict(&undisturbed, &killed), "bit_identical");
    nothing_left(&killed);

    let stopped = native();
    let controller = begun(&stopped);
    controller.signal("INT");
    controller.end().with_code(130);
    stopped.run(&["resume", "t"]).with_code(0).saying("going on with t/");
    let steps: Vec<u64> =
        told(&stopped, 0, "step").iter().map(|step| step["step"].as_u64().expect("a number")).collect();
    assert_eq!(steps, (0..12).collect::<Vec<u64>>(), "each step once");
    assert_eq!(verdict(&undisturbed, &stopped), "bit_identical");
    let rows = stopped.recorded("results.csv").lines().count();
    assert_eq!(rows, 5, "a heading and an epoch each");
    nothing_left(&stopped);
}

#[test]
fn the_official_trainer_is_taken_up_and_goes_on_for_more_epochs() {
    needs_engine!();
    let place = shapes(32, "epochs: 2\nbatch: 16\nargs: {plots: false, val: false}");
    let controller = begun(&place);
    controller.signal("KILL");
    let _ = controller.end();
    place.run(&["attach"]).with_code(0).saying("took up t/");
    assert_eq!(entries(&place.journal(), "generation").len(), 1);
    place.run(&["resume", "t", "epochs=3"]).with_code(0).saying("going on with t/");
    let epochs = |rank| -> Vec<u64> {
        told(&place, rank, "step").iter().map(|step| step["epoch"].as_u64().expect("a number")).collect()
    };
    for rank in 0..2 {
        assert_eq!(epochs(rank), [0, 0, 1, 1, 2, 2]);
    }
    let end = entries(&place.journal(), "end").last().expect("an end")["detail"].clone();
    assert_eq!((&end["state"], &end["epochs_done"]), (&"done".into(), &3.into()));
    nothing_left(&place);
}

/// A disk of 400 MiB, more than a training leaves, on a loop device, at the place's `runs`.
struct Disk(PathBuf);

impl Disk {
    fn at(place: &Place) -> Option<Self> {
        let (image, runs) = (place.path().join("disk.img"), place.path().join("runs"));
        std::fs::create_dir_all(&runs).expect("a folder");
        std::fs::File::create(&image).and_then(|file| file.set_len(400 << 20)).expect("a file");
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let mounted = done(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && done(Command::new("mount").args(["-o", "loop"]).args([&image, &runs]));
        let _ = std::fs::remove_dir(runs.join("lost+found"));
        mounted.then_some(Self(runs))
    }

    /// Takes what is left of it, until the file that is returned is removed.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).expect("a name");
        while std::io::Write::write_all(&mut file, &[0; 1 << 16]).is_ok() {}
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_leaves_the_last_one_to_go_on_from() {
    needs_engine!();
    if !is_root() {
        skip!("only root can mount a small disk");
    }
    let place = native();
    let Some(disk) = Disk::at(&place) else { skip!("no loop device can be mounted here") };
    let controller = begun(&place);
    let filler = disk.fill();
    let ended = controller.end().with_code(3);
    ended.saying("No space left on device").saying("(infrastructure)");
    nothing_left(&place);
    std::fs::remove_file(filler).expect("ours");
    place.run(&["resume", "t"]).with_code(0).saying("done in");
    let end = entries(&place.journal(), "end").last().expect("an end")["detail"].clone();
    assert_eq!((&end["state"], &end["epochs_done"]), (&"done".into(), &4.into()));
    nothing_left(&place);
}
