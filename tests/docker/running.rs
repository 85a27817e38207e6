//! Runs that go well: what ranks are told, what is recorded, how programs of different kinds are started.

use serde_json::json;

use crate::needs_engine;
use crate::support::{Place, Running, containers, docker, entries, image, job, nothing_left, until};

#[test]
fn two_ranks_get_torchruns_environment() {
    needs_engine!();
    let place = Place::new();
    let script = "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR; echo port $MASTER_PORT >&2";
    job(&place, script, "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    for rank in 0..2 {
        let line = format!("[{rank}] {rank}/2 {rank}/2 127.0.0.1\n");
        assert!(ended.stdout.contains(&line), "no `{line}` in\n{}", ended.stdout);
    }
    let ports: Vec<&str> =
        ended.stdout.lines().filter_map(|line| line.split_once("port ")).map(|(_, port)| port).collect();
    assert_eq!(ports.len(), 2, "{}", ended.stdout);
    assert_eq!(ports[0], ports[1], "one port for all");
    assert!(ports[0].parse::<u16>().is_ok_and(|port| port > 0), "{ports:?}");
    nothing_left(&place);
}

#[test]
fn the_record_holds_the_whole_run() {
    needs_engine!();
    let place = Place::new();
    job(&place, "for i in 1 2 3; do echo line $i of $RANK; done", "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0).saying("record:");
    let record = place.record();
    let family = record.parent().expect("in a folder");
    assert_eq!(family.file_name().expect("a name"), "job", "the folder has the job file's name");
    assert!(ended.stderr.contains(record.file_name().expect("a name").to_str().expect("text")), "{}", ended.stderr);
    let latest = std::fs::read_link(family.join("latest")).expect("a link to the latest run");
    assert_eq!(latest.as_os_str(), record.file_name().expect("a name"));

    let given = std::fs::read_to_string(place.path().join("job.yaml")).expect("the job");
    assert_eq!(place.recorded("job.yaml"), given, "the job as given");
    assert!(place.recorded("resolved.yaml").contains(&image()), "{}", place.recorded("resolved.yaml"));
    for name in ["plan.json", "job.json"] {
        let text = place.recorded(name);
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    }
    for rank in 0..2 {
        assert_eq!(place.log(rank), format!("line 1 of {rank}\nline 2 of {rank}\nline 3 of {rank}\n"));
        let events = place.events(rank);
        assert_eq!(events.last().expect("events")["event"]["kind"], "exit");
        let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>(), "no event is missing");
    }

    let journal = place.journal();
    let (intents, facts) = (entries(&journal, "create"), entries(&journal, "created"));
    assert_eq!((intents.len(), facts.len()), (2, 2), "{journal:?}");
    let place_of = |kind: &str| journal.iter().position(|entry| entry["entry"] == kind).expect(kind);
    assert!(place_of("create") < place_of("created"), "the intent comes before the deed");
    let logs = &entries(&journal, "logs")[0]["detail"]["ranks"];
    for rank in 0..2 {
        let log = &logs[rank];
        assert_eq!((&log["whole"], &log["lines"], &log["dropped"]), (&json!(true), &json!(3), &json!(0)), "{logs}");
    }
    assert_eq!(entries(&journal, "end")[0]["detail"]["exit_code"], 0);
    nothing_left(&place);
}

#[test]
fn a_program_that_starts_its_own_ranks_is_told_of_none() {
    needs_engine!();
    let place = Place::new();
    job(&place, "env | cut -d= -f1 | sort; nproc", "device: cpu:2\ncontainers: per-host\nnproc_per_node: 2\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let names: Vec<&str> = ended.stdout.lines().collect();
    for name in ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        assert!(!names.contains(&name), "`{name}` is set:\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("EVENKEEL_POD_"), "{}", ended.stdout);
    assert!(names.contains(&"EVENKEEL_RUN") && names.contains(&"OMP_NUM_THREADS"), "{}", ended.stdout);
    // One container: its lines need no rank before them.
    assert_eq!(entries(&place.journal(), "create").len(), 1);
    nothing_left(&place);
}

#[test]
fn entry_points_and_commands_are_those_of_compose() {
    needs_engine!();
    let place = Place::new();
    // An image with both, one layer above the bare one.
    let name = format!("evenkeel-test-entry:{}", std::process::id());
    let text = format!("FROM {}\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"words of the image\"]\n", image());
    place.write("context/Dockerfile", &text);
    docker(&["build", "-q", "-t", &name, place.path().join("context").to_str().expect("text")]);
    let says = |more: &str| {
        let place = Place::new();
        let text = format!("trainer: command\nimage: {name}\ndevice: cpu\nnetwork: none\n{more}\n");
        place.write("job.yaml", &text);
        let ended = place.run(&["train", "job.yaml"]);
        nothing_left(&place);
        ended.with_code(0).stdout
    };
    let said = [
        says(""),
        says("command: mine 'and more'"),
        says("entrypoint: [echo, other]"),
        says("entrypoint: [echo, other]\ncommand: [mine]"),
        says("command: [\"a  b\", \"$RANK\"]"),
    ];
    docker(&["rmi", "-f", &name]);
    assert_eq!(
        said,
        [
            "entry words of the image\n",
            "entry mine and more\n",
            // As in compose: a new entry point takes the image's own words away.
            "other\n",
            "other mine\n",
            "entry a  b $RANK\n",
        ]
    );
}

#[test]
fn two_runs_at_once_do_not_meet() {
    needs_engine!();
    let places = [Place::new(), Place::new()];
    // Each writes to its shared memory, waits until both run, and looks whether it sees the other's.
    let meeting = Place::new();
    let running: Vec<Running> = (0..2)
        .map(|number| {
            let script = format!(
                "[ $RANK = 0 ] && touch /dev/shm/of-{number} /meeting/{number}\n\
                 until [ -e /meeting/0 ] && [ -e /meeting/1 ]; do sleep 0.02; done\n\
                 echo port $MASTER_PORT; echo sees $(ls /dev/shm)"
            );
            let volume = format!("volumes: [\"{}:/meeting\"]\n", meeting.path().display());
            job(&places[number], &script, &volume);
            Running::start(places[number].evenkeel(&["train", "job.yaml"]))
        })
        .collect();
    for (number, run) in running.into_iter().enumerate() {
        let ended = run.end().with_code(0);
        assert!(ended.stdout.contains(&format!("[1] sees of-{number}\n")), "{}", ended.stdout);
    }
    for place in &places {
        nothing_left(place);
    }
}

#[test]
fn two_runs_of_one_job_have_two_records() {
    needs_engine!();
    let place = Place::new();
    job(&place, "echo $EVENKEEL_RUN", "device: cpu");
    let runs = [0, 1].map(|_| Running::start(place.evenkeel(&["train", "job.yaml"])));
    let mut names: Vec<String> = runs.into_iter().map(|run| run.end().with_code(0).stdout.trim().to_owned()).collect();
    names.sort();
    assert_ne!(names[0], names[1]);
    for name in &names {
        assert!(place.path().join("runs/job").join(name).join("journal.jsonl").exists(), "{name}");
    }
    nothing_left(&place);
}

#[test]
fn containers_say_whose_they_are() {
    needs_engine!();
    let place = Place::new();
    job(&place, "until [ -e /place/go ]; do sleep 0.02; done", "volumes: [.:/place]");
    let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    // The engine lists a container before it can be asked about it by name: first all must run.
    until("the go", || place.journal_so_far().iter().any(|entry| entry["entry"] == "go").then_some(()));
    let names = containers(&place);
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        let label =
            |key: &str| docker(&["inspect", "-f", &format!("{{{{index .Config.Labels \"evenkeel.{key}\"}}}}"), name]);
        let id = place.record();
        let id = id.file_name().expect("a name").to_string_lossy();
        assert_eq!((label("run"), label("generation")), (format!("job/{id}"), "1".to_owned()));
        assert!(name.ends_with(&format!("r{}", label("rank"))), "{name}");
        assert_eq!(label("owner"), rustix::process::getuid().as_raw().to_string());
    }
    place.write("go", "");
    run.end().with_code(0);
    nothing_left(&place);
}
