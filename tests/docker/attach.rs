//! Controllers that die, at any moment, and others that take their runs up: no container left, none doubled, no line lost.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::needs_engine;
use crate::support::{
    Ended, Place, Running, both_up, containers, docker, entries, image, job, nothing_left, sample, until,
};

/// Lines that each rank writes.
const LINES: usize = 20;

/// Two ranks that write numbered lines, and note every start of theirs. The first attempt of `hungry` ones runs out of memory.
fn numbered(place: &Place, hungry: bool) {
    let fails = "if [ $EVENKEEL_MICRO_BATCH = 16 ]; then echo CUDA out of memory >&2; exit 1; fi";
    let script = format!(
        "echo $EVENKEEL_GENERATION >> /place/starts-$RANK\n{}\n\
         for i in $(seq {LINES}); do echo line $i; sleep 0.03; done; echo $RANK > /evenkeel/output/result-$RANK",
        if hungry { fails } else { "" }
    );
    job(place, &script, &format!("volumes: [.:/place]\n{}", if hungry { "batch: 32\n" } else { "" }));
}

/// `evenkeel attach`, and how long it took until the run was in its hands.
fn attach(place: &Place) -> (Ended, Duration) {
    let begin = Instant::now();
    let before = entries(&place.journal(), "attach").len();
    let attached = Running::start(place.evenkeel(&["attach"]));
    let time = until("the run to be taken up", || {
        let lines = std::fs::read_to_string(place.record().join("journal.jsonl")).expect("a journal");
        (lines.matches("\"entry\":\"attach\"").count() > before || lines.contains("\"entry\":\"end\""))
            .then(|| begin.elapsed())
    });
    (attached.end(), time)
}

/// Checks that the run is as if one controller had seen it through: nothing on the engine, each rank started once a launch, its log whole.
#[track_caller]
fn seen_through(place: &Place, what: &str) {
    nothing_left(place);
    let journal = place.journal();
    let ends = entries(&journal, "end");
    assert_eq!(ends.len(), 1, "{what}: {journal:#?}");
    assert_eq!(ends[0]["detail"]["state"], "done", "{what}: {:#}", ends[0]);
    let seqs: Vec<u64> = journal.iter().filter_map(|entry| entry["seq"].as_u64()).collect();
    assert!(seqs.iter().copied().eq(0..journal.len() as u64), "{what}: {seqs:?}");
    let last = entries(&journal, "generation").last().expect("a launch")["detail"].clone();
    for rank in 0..2 {
        let starts = std::fs::read_to_string(place.path().join(format!("starts-{rank}"))).expect("it ran");
        let mut distinct: Vec<&str> = starts.lines().collect();
        distinct.dedup();
        assert_eq!(distinct.len(), starts.lines().count(), "{what}: rank {rank} ran twice in a launch: {starts:?}");
        assert_eq!(
            distinct.last().copied(),
            last["generation"].as_u64().map(|last| last.to_string()).as_deref(),
            "{what}"
        );
        assert_eq!(place.recorded(&format!("output/result-{rank}")), format!("{rank}\n"), "{what}");
        let log = place.log(rank);
        let own = log.rfind("line 1\n").map_or("", |begin| &log[begin..]);
        let whole: String = (1..=LINES).map(|line| format!("line {line}\n")).collect();
        assert_eq!(own, whole, "{what}: rank {rank} wrote\n{log}");
    }
    let logs = entries(&journal, "logs");
    let sealed = logs.last().expect("said of the last launch");
    for rank in 0..2 {
        assert_eq!(sealed["detail"]["ranks"][rank]["whole"], true, "{what}: {sealed}");
    }
    let said: Vec<&Value> = logs.iter().map(|logs| &logs["detail"]["generation"]).collect();
    assert!(said.windows(2).all(|two| two[0] != two[1]), "{what}: said twice: {said:?}");
}

#[test]
fn a_controller_may_die_at_every_entry_of_its_journal() {
    needs_engine!();
    for hungry in [false, true] {
        let place = Place::new();
        numbered(&place, hungry);
        place.run(&["train", "job.yaml"]).with_code(0);
        seen_through(&place, "undisturbed");
        let journal = place.journal();
        let points: Vec<String> =
            (0..journal.len()).flat_map(|entry| [format!("{entry}"), format!("-{entry}")]).collect();
        // A sample takes a different one of every few, so that each kind of entry comes about.
        let step = (points.len() / sample(7, points.len())).max(1);
        for point in points.iter().skip(usize::from(hungry)).step_by(step) {
            let place = Place::new();
            numbered(&place, hungry);
            let mut command = place.evenkeel(&["train", "job.yaml"]);
            command.env("EVENKEEL_DIE_AT", point);
            let died = Running::start(command).end();
            let entry = point.trim_start_matches('-').parse::<usize>().expect("a number");
            // Not every run notes as many: a container's end may come before its removal or not, and then there is no such entry to die at.
            if died.code == Some(0) && place.journal().len() <= entry {
                continue;
            }
            died.with_code(128 + 9);
            let what = format!("at {point} (`{}`)", journal[entry]["entry"].as_str().unwrap_or_default());
            // The last entry of one that notes fewer is its end.
            if !entries(&place.journal_so_far(), "end").is_empty() {
                place.run(&["attach"]).with_code(2).saying("has ended (done)");
            } else {
                let (ended, time) = attach(&place);
                assert_eq!(ended.code, Some(0), "{what}:\n{}\n{:#?}", ended.stderr, place.journal());
                assert!(time < Duration::from_secs(2), "{what}: taken up after {time:?}");
            }
            seen_through(&place, &what);
        }
    }
}

#[test]
fn a_controller_and_its_heirs_may_die_at_any_moment() {
    needs_engine!();
    const SEED: u64 = 26;
    // A linear congruence by Knuth: the same moments in every run of this test.
    let next = |last: u64| last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let mut moments = std::iter::successors(Some(SEED), |last| Some(next(*last))).skip(1).map(|number| number >> 33);
    for round in 0..sample(10, 200) {
        let place = Place::new();
        numbered(&place, round % 2 == 1);
        let mut moment = || moments.next().expect("endless") % 2500;
        let deaths = [moment(), moment() / 2];
        let what = format!("round {round}, killed after {deaths:?} ms");
        let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
        std::thread::sleep(Duration::from_millis(deaths[0]));
        controller.signal("KILL");
        let _ = controller.end();
        if place.journal_so_far().is_empty() {
            // It died before there was a run.
            nothing_left(&place);
            continue;
        }
        if entries(&place.journal(), "end").is_empty() {
            let heir = Running::start(place.evenkeel(&["attach"]));
            std::thread::sleep(Duration::from_millis(deaths[1]));
            heir.signal("KILL");
            let _ = heir.end();
        }
        if entries(&place.journal(), "end").is_empty() {
            let (ended, time) = attach(&place);
            assert_eq!(ended.code, Some(0), "{what}:\n{}\n{:#?}", ended.stderr, place.journal());
            assert!(time < Duration::from_secs(2), "{what}: taken up after {time:?}");
        }
        seen_through(&place, &what);
    }
}

/// Starts the job and kills the controller once `file` is there.
fn orphaned(place: &Place, file: &str) {
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until(file, || place.path().join(file).exists().then_some(()));
    controller.signal("KILL");
    let _ = controller.end();
}

#[test]
fn what_happened_while_nobody_looked_is_told_as_if_somebody_had() {
    needs_engine!();
    let place = Place::new();
    let script = "touch /place/up-$RANK; [ $RANK = 0 ] && exec sleep 600\n\
                  until [ -e /place/fall ]; do sleep 0.02; done; echo it hurts; touch /place/fallen; exit 7";
    job(&place, script, "volumes: [.:/place]\n");
    orphaned(&place, "up-1");
    place.write("fall", "");
    until("the fall", || place.path().join("fallen").exists().then_some(()));
    let ended = place.run(&["attach", "job"]).with_code(1).saying("took up job/").saying("error: rank 1 failed first");
    assert!(ended.stderr.contains("exit code 7"), "{}", ended.stderr);
    nothing_left(&place);
}

#[test]
fn a_run_that_was_asked_to_end_ends_though_its_controller_died() {
    needs_engine!();
    let place = Place::new();
    job(
        &place,
        "trap 'sleep 1; exit 0' TERM; touch /place/up-$RANK; while :; do sleep 0.02; done",
        "volumes: [.:/place]\n",
    );
    let controller = Running::start(place.evenkeel(&["train", "job.yaml"]));
    both_up(&place);
    controller.signal("INT");
    until("the signal in the journal", || entries(&place.journal(), "signal").first().map(|_| ()));
    controller.signal("KILL");
    let _ = controller.end();
    place.run(&["attach"]).with_code(130).saying("stopped after");
    assert_eq!(entries(&place.journal(), "end")[0]["detail"]["state"], "stopped");
    nothing_left(&place);
}

#[test]
fn an_heir_is_a_controller_in_full() {
    needs_engine!();
    let place = Place::new();
    job(
        &place,
        "trap 'exit 0' TERM; touch /place/up-$RANK; while :; do sleep 0.02; done",
        "volumes: [.:/place]\nnotify: [{url_env: HOOK}]\n",
    );
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("HOOK", "http://127.0.0.1:9/");
    let controller = Running::start(command);
    both_up(&place);
    controller.signal("KILL");
    let _ = controller.end();
    // Who is told of it is not known to the heir, which is no reason to leave the run alone.
    let heir = Running::start(place.evenkeel(&["attach"]));
    until("the heir", || entries(&place.journal(), "attach").first().map(|_| ()));
    let pid = heir.0.id();
    place.run(&["attach"]).with_code(2).saying("a controller works on").saying(&format!("(process {pid})"));
    place.run(&["resume", "job"]).with_code(2).saying("a controller works on");
    heir.signal("INT");
    heir.end().with_code(130).saying("HOOK");
    nothing_left(&place);
    place.run(&["attach"]).with_code(2).saying("has ended (stopped)").saying("evenkeel resume job/");
}

#[test]
fn a_run_goes_on_where_it_ended_and_where_it_was_copied() {
    needs_engine!();
    let place = Place::new();
    // A trainer that counts, keeps its count in `weights`, and ends on its own from 3 on.
    let script = "cd /evenkeel/output; mkdir -p weights; count=$(cat weights/last-$RANK 2>/dev/null || echo 0)\n\
                  echo $((count + 1)) > weights/last-$RANK; echo counted $((count + 1)); sync\n\
                  [ $count -ge 2 ] && exit 0\n\
                  trap 'exit 0' TERM; touch /place/up-$count-$RANK; while :; do sleep 0.02; done";
    let script = format!("echo $EVENKEEL_MICRO_BATCH > /place/micro-$RANK; {script}");
    job(&place, &script, "volumes: [.:/place]\nbatch: 16\n");
    let stop = |running: Running, place: &Place, count: u32| {
        let up = |rank: u32| place.path().join(format!("up-{count}-{rank}")).exists();
        until("both", || (up(0) && up(1)).then_some(()));
        running.signal("INT");
        running.end().with_code(130);
    };
    stop(Running::start(place.evenkeel(&["train", "job.yaml"])), &place, 0);
    assert_eq!(place.recorded("weights/last-1"), "1\n");
    let micro = || std::fs::read_to_string(place.path().join("micro-1")).expect("a number");
    assert_eq!(micro(), "8\n");
    stop(Running::start(place.evenkeel(&["resume", "job", "batch.micro=4"])), &place, 1);
    assert_eq!((place.recorded("weights/last-1").as_str(), micro().as_str()), ("2\n", "4\n"));
    nothing_left(&place);
    // Elsewhere, with nothing of the place but the record; a copy by a tool that follows links.
    let there = Place::new();
    let copied =
        std::process::Command::new("cp").arg("-rL").arg(place.record()).arg(there.path().join("copy")).status();
    assert!(copied.expect("cp").success());
    let ended = there.run(&["resume", "copy", "stop_grace_period=20s"]).with_code(0).saying("going on with");
    assert!(ended.stdout.contains("[1] counted 3\n"), "{}", ended.stdout);
    let journal = std::fs::read_to_string(there.path().join("copy/journal.jsonl")).expect("a journal");
    assert_eq!(journal.matches("\"entry\":\"resume\"").count(), 2);
    let lock = std::fs::read_to_string(there.path().join("copy/lock.yaml")).expect("a lock");
    assert!(lock.contains("stop_grace_period:\n      value: 20s\n      origin: command line"), "{lock}");
    assert!(lock.contains("complete: true"), "{lock}");
    assert_eq!(std::fs::read_to_string(there.path().join("copy/weights/last-0")).expect("weights"), "3\n");
    nothing_left(&there);
    there.run(&["resume", "copy"]).with_code(2).saying("is done").saying("epochs=");
}

#[test]
fn a_run_that_cannot_go_on_has_an_end_again() {
    needs_engine!();
    let place = Place::new();
    job(&place, "cd /evenkeel/output; mkdir -p weights; echo $RANK > weights/last-$RANK", "");
    place.run(&["train", "job.yaml"]).with_code(0);
    let plan = place.record().join("plan.json");
    std::fs::remove_file(&plan).expect("there");
    std::fs::create_dir(&plan).expect("a folder");
    place.run(&["resume", "job", "stop_grace_period=20s"]).with_code(3).saying("plan.json");
    let end = entries(&place.journal(), "end").last().expect("an end")["detail"].clone();
    assert_eq!((&end["state"], &end["failure"]["class"]), (&"failed".into(), &"infrastructure".into()), "{end}");
    assert_eq!(place.recorded("weights/last-1"), "1\n", "what was put back for trainers is where the record has it");
    std::fs::remove_dir(&plan).expect("empty");
    place.run(&["resume", "job"]).with_code(0).saying("going on with");
    nothing_left(&place);
}

#[test]
fn trial_steps_are_ended_where_a_training_would_be_taken_up() {
    needs_engine!();
    let place = Place::new();
    job(&place, "exit 0", "batch: 8\n");
    place.run(&["train", "job.yaml"]).with_code(0);
    // A record of trial steps as a dead controller leaves it.
    let lines = place.recorded("journal.jsonl").replace("\"trial\":false", "\"trial\":true");
    let until_go: String =
        lines.lines().take_while(|line| !line.contains("\"ended\"")).map(|line| format!("{line}\n")).collect();
    place.write("runs/job-fit/20260101-000000/journal.jsonl", &until_go);
    place.run(&["resume", "job-fit"]).with_code(2).saying("trial steps");
    let folder = place.path().join("runs/job-fit/20260101-000000").canonicalize().expect("it exists");
    let name = evenkeel::launch::name("20260101-000000", &folder, 1, 0);
    let folder = format!("evenkeel.directory={}", folder.display());
    let labels = ["evenkeel.run=job/20260101-000000", &folder, "evenkeel.generation=1", "evenkeel.rank=0"];
    let image = image();
    let labels = labels.iter().flat_map(|label| ["--label", *label]);
    docker(&["create", "--name", &name].into_iter().chain(labels).chain([image.as_str(), "true"]).collect::<Vec<_>>());
    assert_eq!(containers(&place), [name]);
    place.run(&["attach", "job-fit"]).with_code(0).saying("not taken up");
    nothing_left(&place);
    place.run(&["attach", "job-fit"]).with_code(2).saying("has ended (stopped)");
    place.run(&["attach", "nothing"]).with_code(2).saying("nothing");
    nothing_left(&place);
}
