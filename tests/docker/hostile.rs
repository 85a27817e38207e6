//! What cannot work: each is one message with the right exit code, and leaves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ended, Place, Running, docker, entries, image, is_root, job, nothing_left};
use crate::{needs_engine, skip};

/// One message that names the thing.
#[track_caller]
fn one_message(ended: &Ended, words: &str) {
    assert!(ended.stderr.contains(words), "no `{words}` in\n{}", ended.stderr);
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn an_image_that_is_not_there_is_named_and_no_record_begun() {
    needs_engine!();
    let place = Place::new();
    // A registry on loopback where nobody listens: the attempt to pull ends at once.
    let text = "trainer: command\nimage: localhost:9/no/such-image:1\ncommand: [\"true\"]\ndevice: cpu\n";
    place.write("job.yaml", text);
    let ended = place.run(&["train", "job.yaml"]).with_code(3);
    one_message(&ended, "localhost:9/no/such-image:1");
    assert!(!place.has_record(), "a record was begun");
    nothing_left(&place);
}

#[test]
fn a_program_that_is_not_in_the_image_is_named() {
    needs_engine!();
    for (command, words) in [
        ("[pyhton, train.py]", "program `pyhton` is not found in the PATH of the image"),
        ("[/opt/train]", "program `/opt/train` does not exist in the image"),
        ("[/etc/passwd]", "program `/etc/passwd` cannot be executed"),
        ("[/usr]", "`/usr`"),
    ] {
        let place = Place::new();
        let text = format!("trainer: command\nimage: {}\ncommand: {command}\ndevice: cpu:2\nnetwork: none\n", image());
        place.write("job.yaml", &text);
        let ended = place.run(&["train", "job.yaml"]).with_code(1);
        one_message(&ended, words);
        nothing_left(&place);
    }
}

#[test]
fn an_image_without_anything_inside_serves_no_program() {
    needs_engine!();
    let place = Place::new();
    let name = format!("evenkeel-test-scratch:{}", std::process::id());
    place.write("context/Dockerfile", "FROM scratch\nLABEL evenkeel.test=scratch\n");
    let built = Command::new("docker").args(["build", "-q", "-t", &name]).arg(place.path().join("context")).output();
    assert!(built.expect("the docker command").status.success());
    // No shell, no libc, no /tmp, no passwd: the supervisor is static and says what is missing.
    let text = format!("trainer: command\nimage: {name}\ncommand: [sh]\ndevice: cpu:2\nnetwork: none\n");
    place.write("job.yaml", &text);
    let ended = place.run(&["train", "job.yaml"]);
    let none = format!("trainer: command\nimage: {name}\ndevice: cpu\nnetwork: none\n");
    place.write("none.yaml", &none);
    let without = place.run(&["train", "none.yaml"]);
    let _ = Command::new("docker").args(["rmi", "-f", &name]).output();
    one_message(&ended.with_code(1), "program `sh` is not found");
    // Neither the job nor the image says what to run.
    one_message(&without.with_code(2), "command");
    nothing_left(&place);
}

#[test]
fn a_working_directory_that_cannot_be_is_one_message() {
    needs_engine!();
    let place = Place::new();
    job(&place, "true", "working_dir: /etc/passwd\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(2);
    one_message(&ended, "/etc/passwd");
    nothing_left(&place);
}

#[test]
fn a_user_that_the_image_does_not_know_is_one_message() {
    needs_engine!();
    let place = Place::new();
    job(&place, "true", "user: nobody-of-this-name\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(2);
    one_message(&ended, "nobody-of-this-name");
    nothing_left(&place);
}

#[test]
fn records_that_cannot_be_kept_are_one_message() {
    needs_engine!();
    let place = Place::new();
    job(&place, "true", "runs: file/runs\n");
    place.write("file", "not a folder\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(3);
    one_message(&ended, "file/runs");
    nothing_left(&place);
}

/// A file system of 64 KiB that fills up at once.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let options = format!("size={size},mode=777");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "evenkeel-test"]).arg(at).output();
        done.is_ok_and(|done| done.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_from_the_start_is_told() {
    needs_engine!();
    if !is_root() {
        skip!("only root can mount a small disk");
    }
    let place = Place::new();
    let Some(tiny) = Tiny::mount(&place.path().join("runs"), "64k") else { skip!("no tmpfs can be mounted here") };
    let fill = std::fs::write(tiny.0.join("filler"), vec![0_u8; 64 << 10]);
    assert!(fill.is_ok(), "{fill:?}");
    job(&place, "true", "");
    let ended = place.run(&["train", "job.yaml"]).with_code(3);
    one_message(&ended, "runs/job");
    ended.saying("the disk is full");
    nothing_left(&place);
}

#[test]
fn a_disk_that_fills_up_on_the_way_costs_lines_and_not_the_run() {
    needs_engine!();
    if !is_root() {
        skip!("only root can mount a small disk");
    }
    let place = Place::new();
    let Some(_tiny) = Tiny::mount(&place.path().join("runs"), "256k") else { skip!("no tmpfs can be mounted here") };
    const LINES: u64 = 200_000;
    job(&place, &format!("seq {LINES}; [ $RANK = 0 ] && sleep 0.5; exit 0"), "");
    // Lines are lost, the training is not; and it is said how many.
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    for rank in 0..2 {
        let (start, end) = (format!("rank {rank}: "), " lines did not fit on the disk");
        let said = ended.stderr.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix(end));
        let dropped: u64 = said.unwrap_or_else(|| panic!("{}", ended.stderr)).parse().expect("a number");
        // A line that the end of the disk tore, and that found no space until the end, is among the dropped ones.
        let whole = place.log(rank).matches('\n').count() as u64;
        assert_eq!(whole + dropped, LINES, "{}", ended.stderr);
    }
    // What of the journal was written is whole lines.
    assert!(!place.journal().is_empty());
    nothing_left(&place);
}

#[test]
fn a_trainer_that_trained_nothing_has_not_succeeded() {
    needs_engine!();
    let place = Place::new();
    place.run(&["dataset", "shapes", "shapes", "--images", "4", "--imgsz", "32"]).with_code(0);
    place.write("context/Dockerfile", &format!("FROM {}\nCMD [\"true\"]\n", image()));
    let text = "trainer: ultralytics\nbuild: context\ndata: shapes/data.yaml\nimgsz: 32\nbatch: 2\ndevice: cpu:2\n";
    place.write("job.yaml", text);
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    one_message(&ended, "the trainer ended without an optimizer step");
    let built = entries(&place.journal(), "run")[0]["detail"]["image"].as_str().expect("a name").to_owned();
    docker(&["rmi", &built]);
    nothing_left(&place);
}

#[test]
fn a_program_that_is_killed_is_told_so() {
    needs_engine!();
    let place = Place::new();
    job(&place, "[ $RANK = 0 ] && exec sleep 60; echo Killed; kill -KILL $$", "");
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    one_message(&ended, "rank 1 failed first: the trainer was ended by SIGKILL");
    nothing_left(&place);
}

#[test]
fn events_that_no_trainer_may_tell_do_no_harm() {
    needs_engine!();
    let place = Place::new();
    let script = r#"
exec 9>&$EVENKEEL_EVENTS_FD
echo '{"kind":"exit","code":0,"signal":null,"stopped":false,"oom_killed":false,"lines":0,"bytes":0,"sha256":"","dropped":0}' >&9
echo '{"kind":"waiting"}' >&9
head -c 3000000 /dev/zero | tr '\0' '[' >&9; echo >&9
printf '\xff\xfe\x00\n{"kind":"from the future"}\n{"kind":"step"}\n\n[]\n' >&9
echo still here; exit 5"#;
    job(&place, script, "device: cpu\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(1).saying("exit code 5");
    assert_eq!(ended.stdout, "still here\n");
    assert_eq!(place.events(0).iter().filter(|event| event["event"]["kind"] == "exit").count(), 1);
    nothing_left(&place);
}

#[test]
fn a_program_cannot_write_on_what_is_ours() {
    needs_engine!();
    let place = Place::new();
    let script = "for f in /evenkeel/agent /evenkeel/job.json; do (echo x > $f) 2>/dev/null && echo wrote $f; done; \
                  cat /evenkeel/job.json > /dev/null && echo read";
    job(&place, script, "device: cpu\n");
    assert_eq!(place.run(&["train", "job.yaml"]).with_code(0).stdout, "read\n");
    nothing_left(&place);
}

#[test]
fn a_container_of_the_same_label_that_is_not_ours_is_left_alone() {
    needs_engine!();
    let name = format!("evenkeel-test-stranger-{}", std::process::id());
    let made = Command::new("docker")
        .args(["run", "-d", "--rm", "--network", "none", "--name", &name, "--label", "evenkeel.run=job/other"])
        .args([&image(), "sleep", "120"])
        .output();
    assert!(made.expect("the docker command").status.success());
    let place = Place::new();
    job(&place, "exit $RANK", "");
    let run = Running::start(place.evenkeel(&["train", "job.yaml"])).end();
    let state = Command::new("docker").args(["inspect", "-f", "{{.State.Running}}", &name]).output();
    let _ = Command::new("docker").args(["rm", "-f", &name]).output();
    run.with_code(1);
    assert_eq!(String::from_utf8_lossy(&state.expect("the docker command").stdout).trim(), "true");
    nothing_left(&place);
}
