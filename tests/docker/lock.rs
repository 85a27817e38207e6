//! The lock of a run: what is in it, what `--locked` refuses and names, and a run repeated from its record alone.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::needs_engine;
use crate::support::{Ended, Place, docker, entries, image, nothing_left, open_to_all};

const DOCKERFILE: &str = "FROM BASE\nCOPY marker /marker\n";

/// A project in a repository: a job with data, a script that git does not track yet, and an image of its own.
struct Project {
    place: Place,
    image: String,
}

impl Project {
    fn new(name: &str) -> Self {
        let place = Place::new();
        let image = format!("evenkeel-test-lock-{name}:{}", std::process::id());
        let project = Self { place, image };
        project.build("one");
        project.place.run(&["dataset", "shapes", "shapes", "--images", "8", "--imgsz", "32"]).with_code(0);
        let job = format!(
            "trainer: command\nimage: {}\ndevice: cpu:2\nnetwork: none\ndata: shapes/data.yaml\nbatch: 8\n\
             environment: {{MODE: fast, HF_TOKEN: hush-hush}}\nvolumes: ['./train.sh:/app/train.sh:ro']\n\
             command: [bash, /app/train.sh]\n",
            project.image
        );
        project.place.write("job.yaml", &job);
        project.place.write("notes.txt", "one\n");
        project.git(&["init", "--quiet"]);
        project.git(&["add", "job.yaml", "notes.txt"]);
        project.git(&["commit", "--quiet", "-m", "first"]);
        project.place.write("notes.txt", "two\n");
        project.place.write("train.sh", "echo $MODE $RANK ${HF_TOKEN:-none}\n");
        project
    }

    fn git(&self, words: &[&str]) {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let status = Command::new("git").arg("-C").arg(self.place.path()).args(who).args(words).status();
        assert!(status.expect("git").success(), "{words:?}");
    }

    /// Builds the image anew, with a file that says so.
    fn build(&self, marker: &str) {
        // Images of the same content are one image, which another test must not remove.
        self.place.write("context/marker", &format!("{} {marker}", self.image));
        self.place.write("context/Dockerfile", &DOCKERFILE.replace("BASE", &image()));
        let context = self.place.path().join("context");
        docker(&["build", "-q", "-t", &self.image, context.to_str().expect("text")]);
    }

    fn train(&self, more: &[&str]) -> Ended {
        self.place.run(&[&["train", "job.yaml"], more].concat())
    }

    /// Checks that `--locked` refuses, and names this alone.
    #[track_caller]
    fn refuses(&self, more: &[&str], line: &str) {
        let ended = self.train(&[&["--locked"], more].concat()).with_code(2);
        let named: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(" in the lock, ")).collect();
        assert_eq!(named.len(), 1, "{}", ended.stderr);
        assert!(named[0].trim_start().starts_with(line), "no `{line}` in\n{}", ended.stderr);
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "-f", &self.image]).output();
    }
}

fn lock(record: &Path) -> serde_yaml::Value {
    let text = std::fs::read_to_string(record.join("lock.yaml")).expect("a lock");
    serde_yaml::from_str(&text).expect("YAML")
}

#[test]
fn what_differs_by_a_byte_is_refused_and_named() {
    needs_engine!();
    let project = Project::new("byte");
    project.train(&["--locked"]).with_code(2).saying("`--locked` needs a lock, and no run in `runs/job` has one");
    project.train(&[]).with_code(0);
    let record = project.place.record();
    assert_eq!(lock(&record)["complete"].as_bool(), Some(true));
    let digest = docker(&["image", "inspect", "-f", "{{.Id}}", &project.image]);
    assert_eq!(lock(&record)["image"]["id"].as_str(), Some(digest.as_str()));
    let patch = std::fs::read_to_string(record.join("code.patch")).expect("a patch");
    assert!(patch.contains("\n-one\n+two\n"), "{patch}");
    // The hashes are checked by the program that everybody has.
    let listing = std::fs::File::open(record.join("data.sha256")).expect("a listing");
    let checked = Command::new("sha256sum")
        .args(["--check", "--quiet"])
        .current_dir(project.place.path().join("shapes"))
        .stdin(listing)
        .status();
    assert!(checked.expect("sha256sum").success());
    // A secret is nowhere in the record.
    let files = Command::new("grep").args(["-r", "-l", "hush-hush"]).arg(&record).output().expect("grep");
    let logs = String::from_utf8_lossy(&files.stdout).lines().filter(|file| !file.contains("/logs/")).count();
    assert_eq!(logs, 0, "{}", String::from_utf8_lossy(&files.stdout));

    let restore = |path: &Path, change: &dyn Fn(&mut Vec<u8>), line: &str| {
        let before = std::fs::read(path).expect("there");
        let mut bytes = before.clone();
        change(&mut bytes);
        std::fs::write(path, bytes).expect("written");
        project.refuses(&[], line);
        std::fs::write(path, before).expect("written");
    };
    let at = |name: &str| project.place.path().join(name);
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("not empty") ^= 1;
    restore(&at("shapes/labels/train/000000.txt"), &flip, "data `labels/train/000000.txt`: one content");
    restore(&at("shapes/images/val/000000.png"), &flip, "data `images/val/000000.png`: one content");
    restore(
        &at("notes.txt"),
        &|bytes| bytes.extend(b"more\n"),
        "code `notes.txt`: changed in the lock, changed otherwise",
    );
    restore(&at("train.sh"), &flip, "code `train.sh`: ");
    project.refuses(&["seed=7"], "setting `seed`: 0 in the lock, 7 now");
    project.refuses(&["environment.MODE=slow"], "setting `environment.MODE`: \"fast\" in the lock, \"slow\" now");

    // Nothing differs any more, and no run was begun in between.
    assert_eq!(project.place.record(), record);
    project.train(&["--locked"]).with_code(0).saying("as runs/job/");
    // The image's name leads to another image.
    project.build("two");
    let now = docker(&["image", "inspect", "-f", "{{.Id}}", &project.image]);
    let named = format!("image `{}`: {digest} in the lock, {now} now", project.image);
    project.refuses(&[], &named);
    let path = format!("--locked={}", record.join("lock.yaml").display());
    project.train(&[&path]).with_code(2).saying(&named);
    nothing_left(&project.place);
}

#[test]
fn a_run_is_repeated_from_a_copy_of_its_record() {
    needs_engine!();
    let project = Project::new("again");
    project.train(&[]).with_code(0);
    let record = project.place.record();
    // Another place, with nothing but the record and the data: what the run had is gone.
    let other = Place::new();
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
        assert!(copied.expect("cp").success(), "{}", from.display());
    };
    copy(&record, &other.path().join("copy"));
    copy(&project.place.path().join("shapes"), &other.path().join("shapes"));
    // The name of the image leads to another one now, and the identifier to the one that ran.
    let id = docker(&["image", "inspect", "-f", "{{.Id}}", &project.image]);
    docker(&["tag", &id, &format!("{}-kept", project.image)]);
    project.build("two");
    std::fs::remove_dir_all(project.place.path()).expect("removed");
    open_to_all(other.path());

    let mut command = other.evenkeel(&["reproduce", "copy", "environment.MODE=slow"]);
    command.env("HF_TOKEN", "from-outside");
    let ended = Ended::from(command.output().expect("the program starts")).with_code(0);
    assert!(ended.stdout.contains("slow 1 from-outside\n"), "{}", ended.stdout);
    let again = other.record();
    let (before, after) = (lock(&record_in(&other)), lock(&again));
    assert_eq!(after["image"]["id"], before["image"]["id"]);
    assert_eq!(after["image"]["id"].as_str(), Some(id.as_str()));
    assert_eq!(after["stages"], before["stages"]);
    assert_eq!(after["reproduces"]["run"]["id"], before["run"]["id"]);
    assert_eq!(after["reproduces"]["overrides"][0].as_str(), Some("environment.MODE"));
    let of = format!("job/{}", before["run"]["id"].as_str().expect("an identifier"));
    assert_eq!(entries(&other.journal(), "run")[0]["detail"]["reproduces"], of.as_str());

    // It says what was not as it was, and data that differs ends it.
    let compared = other.run(&["compare", "copy", "job", "--json"]).with_code(0);
    let compared: Value = serde_json::from_str(&compared.stdout).expect("JSON");
    let differences = compared["differences"].as_array().expect("a list");
    let named = |what: &str| differences.iter().any(|difference| difference["what"] == what);
    assert!(named("environment.MODE") && !named("data") && !named("device"), "{compared}");
    other.write("shapes/labels/val/000000.txt", "0 0.5 0.5 0.1 0.1\n");
    other.run(&["reproduce", "copy"]).with_code(2).saying("data `labels/val/000000.txt`: one content");

    // Without the image it is said how to get it.
    docker(&["rmi", "-f", &format!("{}-kept", project.image), &id]);
    let ended = other.run(&["reproduce", "copy"]).with_code(3);
    ended.saying(&format!("does not have the image {id}")).saying("`evenkeel image load image.tar.gz`");
    nothing_left(&other);
}

fn record_in(place: &Place) -> std::path::PathBuf {
    place.path().join("copy")
}
