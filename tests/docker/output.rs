//! What ranks write: where it goes, that all of it arrives, and what is made of the events they tell.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use crate::needs_engine;
use crate::support::{Place, Running, entries, job, nothing_left, sample, until};

#[test]
fn a_flood_arrives_whole_and_in_order() {
    needs_engine!();
    let count = sample(100_000, 1_000_000);
    let place = Place::new();
    job(&place, &format!("seq -f \"$RANK line %.0f of a flood\" {count}"), "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    for rank in 0..2 {
        let expected: String = (1..=count).map(|number| format!("{rank} line {number} of a flood\n")).collect();
        assert!(place.log(rank) == expected, "the record of rank {rank} differs from what it wrote");
        let prefix = format!("[{rank}] ");
        let shown: String = ended
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(shown == expected, "stdout differs from what rank {rank} wrote");
    }
    let journal = place.journal();
    let log = &entries(&journal, "logs")[0]["detail"]["ranks"][1];
    assert_eq!((&log["lines"], &log["whole"], &log["dropped"]), (&json!(count), &json!(true), &json!(0)));
    nothing_left(&place);
}

#[test]
fn bytes_are_kept_as_they_are() {
    needs_engine!();
    let place = Place::new();
    // A carriage return ends no line; what is no text, long lines, and an end without a line feed are kept.
    let script = r"printf 'a\r50%%\r100%%\nb\xff\x00c\n'; head -c 100000 /dev/zero | tr '\0' x; printf '\nno end'";
    job(&place, script, "device: cpu\n");
    let ended = place.evenkeel(&["train", "job.yaml"]).output().expect("the program starts");
    assert!(ended.status.success(), "{ended:?}");
    let mut expected = b"a\r50%\r100%\nb\xff\x00c\n".to_vec();
    expected.extend([b'x'; 100_000]);
    expected.extend(b"\nno end");
    let recorded = std::fs::read(place.record().join("logs/rank-0.log")).expect("a log");
    assert!(recorded == expected, "the record differs");
    expected.push(b'\n');
    assert!(ended.stdout == expected, "stdout differs");
    nothing_left(&place);
}

#[test]
fn stdout_and_stderr_keep_their_order() {
    needs_engine!();
    let place = Place::new();
    job(&place, "for i in $(seq 500); do echo out $i; echo err $i >&2; done", "device: cpu\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let expected: String = (1..=500).map(|number| format!("out {number}\nerr {number}\n")).collect();
    assert_eq!(place.log(0), expected);
    assert_eq!(ended.stdout, expected);
    nothing_left(&place);
}

#[test]
fn json_is_one_object_alone_on_stdout() {
    needs_engine!();
    let place = Place::new();
    job(&place, "echo not json; echo 'neither {'", "");
    let ended = place.run(&["train", "job.yaml", "--json"]).with_code(0);
    let value: Value = serde_json::from_str(&ended.stdout).expect("one JSON value");
    assert_eq!((&value["exit_code"], &value["failure"], &value["name"]), (&json!(0), &json!(null), &json!("job")));
    assert_eq!(value["record"], json!(place.record().canonicalize().expect("it exists")));
    assert!(value["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{value}");
    assert_eq!(place.log(0), "not json\nneither {\n");

    let place = Place::new();
    job(&place, "echo words; exit $RANK", "");
    let ended = place.run(&["train", "job.yaml", "--json"]).with_code(1);
    let value: Value = serde_json::from_str(&ended.stdout).expect("one JSON value");
    assert_eq!((&value["exit_code"], &value["failure"]["rank"]), (&json!(1), &json!(1)), "{value}");
    assert_eq!(value["failure"]["class"], "code");
    assert_eq!(value["failure"]["tail"], "words");
    assert!(value["failure"]["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{value}");
    nothing_left(&place);
}

#[test]
fn a_reader_that_leaves_neither_ends_nor_spoils_the_run() {
    needs_engine!();
    let place = Place::new();
    job(&place, "seq 200000", "");
    let mut child = place
        .evenkeel(&["train", "job.yaml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    // As `| head -1` does: one line, and the pipe is closed.
    BufReader::with_capacity(16, child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.ends_with(" 1\n"), "{line}");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(place.log(0) == expected && place.log(1) == expected, "the record is not whole");
    nothing_left(&place);
}

#[test]
fn a_reader_that_stops_holds_up_no_rank() {
    needs_engine!();
    let place = Place::new();
    // More than any pipe holds, read by nobody until the ranks have ended.
    job(&place, "seq 200000; echo done > /place/done-$RANK", "volumes: [.:/place]\n");
    let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("both ranks", || {
        (place.path().join("done-0").exists() && place.path().join("done-1").exists()).then_some(())
    });
    until("the containers' end", || crate::support::containers(&place).is_empty().then_some(()));
    let ended = run.end().with_code(0);
    assert_eq!(ended.stdout.lines().count(), 400_000);
    nothing_left(&place);
}

#[test]
fn a_reader_that_never_reads_holds_up_neither_the_record_nor_a_signal() {
    needs_engine!();
    let place = Place::new();
    job(&place, "seq 200000", "");
    let mut run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    let journal = until("the record's end", || {
        let journal = place.journal_so_far();
        journal.iter().any(|entry| entry["entry"] == "end").then_some(journal)
    });
    assert_eq!(entries(&journal, "end")[0]["detail"]["exit_code"], 0);
    // Its pipe is full and stays so: only the signal can end it now, and the run was a good one.
    assert!(run.0.try_wait().expect("a child of ours").is_none(), "it did not wait for its reader");
    run.signal("INT");
    let status = until("the program's end", || run.0.try_wait().expect("a child of ours"));
    assert_eq!(status.code(), Some(0));
    nothing_left(&place);
}

#[test]
fn a_terminal_shows_what_goes_on() {
    needs_engine!();
    let place = Place::new();
    let step = json!({
        "kind": "step", "epoch": 0, "epochs": 3, "step": 0, "steps_per_epoch": 4, "images": 16, "loss": 1.5, "terms": {},
        "lr": 0.01, "memory_bytes": 1_500_000_000_u64, "time_ms": 100.0,
    });
    job(&place, &format!("echo '{step}' >&$EVENKEEL_EVENTS_FD; echo words; sleep 1"), "device: cpu\n");
    let shown = |args: &[&str]| {
        let (status, shown) = on_a_terminal(place.evenkeel(args));
        assert_eq!(status.code(), Some(0), "{shown}");
        shown
    };
    // With its result as JSON elsewhere, the terminal has a line that changes, and words that stay.
    let all = shown(&["train", "job.yaml", "--json"]);
    for words in [
        "starting containers",
        "starting the trainer",
        "epoch 1/3  step 1/4  160.0 images/s  loss 1.500  memory 1.50 GB",
    ] {
        assert!(all.contains(words), "no `{words}` in {all:?}");
    }
    let (_, last) = all.rsplit_once("\x1b[2K").expect("the changing line is taken away");
    assert!(last.contains("done in"), "{last:?}");
    // A program that prints for itself has the terminal for itself: nothing is drawn between its lines.
    let all = shown(&["train", "job.yaml"]);
    let (_, own) = all.split_once("words\r\n").expect("the program's line stands alone");
    assert!(!own.contains('\x1b'), "{own:?}");
    nothing_left(&place);
}

/// Runs a program with its stderr (and its stdout, unless that is JSON) on a terminal of 100 columns. How it ended, and
/// everything that the terminal was sent.
fn on_a_terminal(mut command: Command) -> (ExitStatus, String) {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("its other end is ours");
    let name = ptsname(&ours, Vec::new()).expect("it has a name");
    let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).expect("a size");

    let json = command.get_args().any(|arg| arg == "--json");
    let stdout = if json { Stdio::null() } else { theirs.try_clone().expect("another handle").into() };
    let mut child = command.env("TERM", "xterm-256color").stdout(stdout).stderr(theirs).spawn().expect("it starts");
    // The command holds handles of the other end; without them the end is seen.
    drop(command);
    let mut ours = std::fs::File::from(ours);
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    // EIO says that nobody holds the other end any more.
    while let Ok(read @ 1..) = ours.read(&mut some) {
        all.extend_from_slice(&some[..read]);
    }
    (child.wait().expect("a child of ours"), String::from_utf8_lossy(&all).into_owned())
}

#[test]
fn what_a_program_tells_is_heard() {
    needs_engine!();
    let place = Place::new();
    let metrics = json!({ "kind": "metrics", "epoch": 0, "values": { "metrics/mAP50(B)": 0.875, "loss": 1.5 } });
    let note = json!({ "kind": "note", "message": "a remark of the trainer" });
    let script = format!(
        "[ $RANK = 1 ] && exit; echo '{note}' >&$EVENKEEL_EVENTS_FD; echo 'no event' >&$EVENKEEL_EVENTS_FD; \
         echo '{metrics}' >&$EVENKEEL_EVENTS_FD"
    );
    job(&place, &script, "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0).saying("a remark of the trainer").saying("mAP50 0.875");
    assert!(ended.stderr.contains("no event"), "what is not understood is said:\n{}", ended.stderr);
    let kinds: Vec<Value> = place.events(0).iter().map(|event| event["event"]["kind"].clone()).collect();
    assert_eq!(kinds, ["waiting", "started", "note", "note", "metrics", "ended", "exit"].map(Value::from));

    let again = Place::new();
    job(&again, &script, "");
    let ended = again.run(&["train", "job.yaml", "--json"]).with_code(0);
    let value: Value = serde_json::from_str(&ended.stdout).expect("one JSON value");
    assert_eq!(value["metrics"], json!({ "loss": 1.5, "metrics/mAP50(B)": 0.875 }));
    nothing_left(&place);
}

#[test]
fn a_failure_that_a_program_explains_has_its_class() {
    needs_engine!();
    for (class, code, advice) in [
        ("out_of_memory.device", 4, "batch.micro"),
        ("diverged", 1, "lr0"),
        ("data", 1, "data set"),
        ("shared_memory", 1, "shm_size"),
    ] {
        let place = Place::new();
        let failure = json!({ "kind": "failure", "class": class, "message": format!("the reason of {class}") });
        let script = format!("[ $RANK = 0 ] && exec sleep 60; echo '{failure}' >&$EVENKEEL_EVENTS_FD; exit 7");
        job(&place, &script, "");
        let ended = place.run(&["train", "job.yaml"]).with_code(code);
        let line = format!("error: rank 1 failed first: the reason of {class} ({class})");
        let ended = ended.saying(&line).saying("hint: ").saying(advice);
        assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
        nothing_left(&place);
    }
}

#[test]
fn a_log_gives_the_class_away_when_nobody_tells() {
    needs_engine!();
    let place = Place::new();
    job(&place, "[ $RANK = 0 ] || exec sleep 60; echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1", "");
    place.run(&["train", "job.yaml"]).with_code(4).saying("rank 0 failed first").saying("out_of_memory.device");
    nothing_left(&place);
}

#[test]
fn quiet_says_nothing_of_what_went_well() {
    needs_engine!();
    let place = Place::new();
    job(&place, "echo shown", "device: cpu\n");
    let ended = place.run(&["train", "job.yaml", "--progress", "quiet"]).with_code(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("shown\n", ""));
    nothing_left(&place);
}

#[test]
fn no_colour_and_no_control_characters_where_no_terminal_is() {
    needs_engine!();
    let place = Place::new();
    job(&place, "exit 3", "device: cpu\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(1);
    assert!(!ended.stderr.contains(['\x1b', '\r']), "{:?}", ended.stderr);
    nothing_left(&place);
}

#[test]
fn logs_are_followed_while_two_ranks_write_them() {
    needs_engine!();
    let place = Place::new();
    // The ranks take turns, each waiting for the other's file, so that the order of all lines is known.
    let script = "me=$RANK; other=$((1 - RANK)); for i in $(seq 20); do \
                  if [ $me = 1 ]; then until [ -e /turns/0-$i ]; do sleep 0.01; done; fi; \
                  echo $i of $me; sleep 0.06; touch /turns/$me-$i; \
                  if [ $me = 0 ]; then until [ -e /turns/1-$i ]; do sleep 0.01; done; fi; done; \
                  until [ -e /turns/end ]; do sleep 0.01; done; printf \"end of $me\"";
    std::fs::create_dir(place.path().join("turns")).expect("a folder");
    crate::support::open_to_all(&place.path().join("turns"));
    job(&place, script, "volumes: [./turns:/turns]\n");
    let run = Running::start(place.evenkeel(&["train", "job.yaml", "--json"]));
    until("the run's beginning", || place.path().join("runs/job/latest/journal.jsonl").exists().then_some(()));
    let followers: Vec<Running> = [&["logs", "job", "--follow"][..], &["logs", "--rank", "1", "--follow"]]
        .into_iter()
        .map(|args| Running::start(place.evenkeel(args)))
        .collect();
    until("the last turn", || place.path().join("turns/1-20").exists().then_some(()));
    // One who reads along and leaves, or is stopped, hurts nobody.
    let leaving = Running::start(place.evenkeel(&["logs", "-f"]));
    leaving.interrupt();
    assert_eq!(leaving.end().code, Some(130));
    let shown = place.run(&["runs"]).with_code(0).stdout;
    assert!(shown.contains("running"), "{shown}");
    place.write("turns/end", "");
    run.end().with_code(0);
    let turns: String = (1..=20).map(|turn| format!("rank 0 | {turn} of 0\nrank 1 | {turn} of 1\n")).collect();
    let [merged, one]: [String; 2] = followers
        .into_iter()
        .map(|follower| {
            let ended = follower.end().with_code(0);
            assert_eq!(ended.stderr, "");
            ended.stdout
        })
        .collect::<Vec<_>>()
        .try_into()
        .expect("two");
    let last = merged.strip_prefix(&turns).unwrap_or_else(|| panic!("not in turn:\n{merged}"));
    let mut last: Vec<&str> = last.lines().collect();
    last.sort_unstable();
    assert_eq!(last, ["rank 0 | end of 0", "rank 1 | end of 1"]);
    assert_eq!(one, place.log(1));
    // Afterwards they are the same.
    let again = place.run(&["logs"]).with_code(0).stdout;
    assert!(again.starts_with(&turns) && again.lines().count() == 42, "{again}");
    let shown = place.run(&["show"]).with_code(0).stdout;
    assert!(shown.contains("done after") && shown.matches("complete").count() == 2, "{shown}");
    nothing_left(&place);
}
