//! What a program finds inside its container: a user, a home, folders, variables.

use std::os::unix::fs::MetadataExt;

use crate::support::{Place, docker, image, is_root, job, nothing_left, until};
use crate::{needs_engine, skip};

#[test]
fn programs_run_as_the_caller_and_gain_nothing() {
    needs_engine!();
    let place = Place::new();
    let script = "id -u; id -g; grep NoNewPrivs /proc/self/status | xargs; touch $HOME/mine && echo home is writable; \
                  touch /evenkeel/output/left; echo $USER | grep -q . && echo has a name";
    job(&place, script, "device: cpu\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    assert_eq!(ended.stdout, format!("{uid}\n{gid}\nNoNewPrivs: 1\nhome is writable\nhas a name\n"));
    let left = place.record().join("output/left").metadata().expect("what the program left");
    assert_eq!((left.uid(), left.gid()), (uid, gid), "it belongs to the caller");
    nothing_left(&place);
}

#[test]
fn another_user_is_taken_as_asked() {
    needs_engine!();
    let place = Place::new();
    if !is_root() {
        skip!("the record of another user's run can be read by root alone");
    }
    job(&place, "id -u; id -g", "device: cpu\nuser: \"0:0\"\n");
    assert_eq!(place.run(&["train", "job.yaml"]).with_code(0).stdout, "0\n0\n");
    nothing_left(&place);
}

#[test]
fn volumes_are_those_of_compose() {
    needs_engine!();
    let place = Place::new();
    place.write("jobs/data/short", "beside the job\n");
    place.write("elsewhere/long", "elsewhere\n");
    place.write("jobs/一个/数据.txt", "中文\n");
    place.write("jobs/a file", "one file\n");
    let more = format!(
        "volumes:\n- ./data:/data:ro\n- {{type: bind, source: {elsewhere}, target: /long, read_only: true}}\n\
         - \"./一个:/数据\"\n- \"./a file:/one\"\n- \"{elsewhere}:/again:rw\"\n",
        elsewhere = place.path().join("elsewhere").display()
    );
    let script = "cat /data/short /long/long /数据/数据.txt /one /again/long; \
                  for d in /data /long; do touch $d/x 2>/dev/null && echo $d is writable; done; \
                  echo back > /数据/回来.txt; echo back > /again/back";
    job(&place, script, &format!("device: cpu\n{more}"));
    std::fs::rename(place.path().join("job.yaml"), place.path().join("jobs/job.yaml")).expect("moved");
    crate::support::open_to_all(&place.path().join("jobs/一个"));
    crate::support::open_to_all(&place.path().join("elsewhere"));
    let ended = place.run(&["train", "jobs/job.yaml"]).with_code(0);
    assert_eq!(ended.stdout, "beside the job\nelsewhere\n中文\none file\nelsewhere\n");
    let read = |name: &str| std::fs::read_to_string(place.path().join(name)).expect("written inside");
    assert_eq!((read("jobs/一个/回来.txt"), read("elsewhere/back")), ("back\n".into(), "back\n".into()));
    nothing_left(&place);
}

#[test]
fn a_volume_that_is_not_there_is_named_before_anything_runs() {
    needs_engine!();
    let place = Place::new();
    job(&place, "true", "device: cpu\nvolumes: [./missing:/data]\n");
    let ended = place.run(&["train", "job.yaml"]);
    assert!(matches!(ended.code, Some(2 | 3)), "{ended:?}");
    let ended = ended.saying("missing");
    assert!(!ended.stderr.contains("failed first"), "{}", ended.stderr);
    // Docker itself would make a folder of root's in its place.
    assert!(!place.path().join("missing").exists());
    nothing_left(&place);
}

#[test]
fn variables_are_given_taken_over_or_left_out() {
    needs_engine!();
    for (form, more) in [
        ("a mapping", "environment:\n  PLAIN: some words\n  NUMBER: 5e-7\n  TAKEN:\n  NOBODY_HAS_IT:\n  空: 值\n"),
        ("a list", "environment:\n- PLAIN=some words\n- NUMBER=5e-7\n- TAKEN\n- NOBODY_HAS_IT\n- 空=值\n"),
    ] {
        let place = Place::new();
        let script = "env | grep -E '^(PLAIN|NUMBER|TAKEN|NOBODY_HAS_IT|空|OMP_NUM_THREADS)=' | LC_ALL=C sort";
        job(&place, script, &format!("device: cpu\n{more}"));
        let mut command = place.evenkeel(&["train", "job.yaml"]);
        command.env("TAKEN", "from the caller: $HOME").env_remove("NOBODY_HAS_IT").env("OMP_NUM_THREADS", "77");
        let ended = crate::support::Running::start(command).end().with_code(0);
        let lines: Vec<&str> = ended.stdout.lines().filter(|line| !line.starts_with("OMP")).collect();
        assert_eq!(lines, ["NUMBER=5e-7", "PLAIN=some words", "TAKEN=from the caller: $HOME", "空=值"], "{form}");
        assert!(!ended.stdout.contains("OMP_NUM_THREADS=77"), "the caller's environment stays outside");
        nothing_left(&place);
    }
}

#[test]
fn a_taken_over_value_is_in_no_file_of_the_record() {
    needs_engine!();
    let place = Place::new();
    job(&place, "test -n \"$SECRET_TOKEN\" && echo has it", "device: cpu\nenvironment: [SECRET_TOKEN]\n");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("SECRET_TOKEN", "hush-8d1f0c");
    let ended = crate::support::Running::start(command).end().with_code(0);
    assert_eq!(ended.stdout, "has it\n");
    let found = std::process::Command::new("grep").args(["-rl", "hush-8d1f0c"]).arg(place.record()).output();
    assert_eq!(String::from_utf8_lossy(&found.expect("grep").stdout), "", "a secret reached the record");
    nothing_left(&place);
}

#[test]
fn the_working_directory_is_the_one_asked_for() {
    needs_engine!();
    let place = Place::new();
    job(&place, "pwd", "device: cpu\nworking_dir: /usr/share\n");
    assert_eq!(place.run(&["train", "job.yaml"]).with_code(0).stdout, "/usr/share\n");
    nothing_left(&place);
}

#[test]
fn a_place_with_a_chinese_name_serves() {
    needs_engine!();
    let place = Place::new();
    job(&place, "echo 训练 $RANK", "name: 实验\n");
    let folder = place.path().join("我的 项目");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::rename(place.path().join("job.yaml"), folder.join("任务.yaml")).expect("moved");
    let mut command = place.evenkeel(&["train", "任务.yaml"]);
    command.current_dir(&folder);
    let ended = crate::support::Running::start(command).end().with_code(0);
    assert!(ended.stdout.contains("[1] 训练 1\n"), "{}", ended.stdout);
    assert!(folder.join("runs/实验/latest/journal.jsonl").exists());
    nothing_left(&place);
}

#[test]
fn a_share_of_the_processor_and_a_cap_on_memory_are_kept() {
    needs_engine!();
    let place = Place::new();
    let script = "echo data $(ulimit -d); \
                  perl -e 'my $x = \"a\" x (512 << 20); print \"too much\\n\"' 2>/dev/null || echo refused";
    job(&place, script, "device: [{cpu: 0.5, memory: 256MiB}]\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    assert_eq!(ended.stdout, format!("data {}\nrefused\n", 256 << 10));
    nothing_left(&place);
}

#[test]
fn volumes_that_an_image_declares_go_with_the_run() {
    needs_engine!();
    let place = Place::new();
    let name = format!("evenkeel-test-volume:{}", std::process::id());
    place.write("context/Dockerfile", &format!("FROM {}\nVOLUME /scratch\n", image()));
    docker(&["build", "-q", "-t", &name, place.path().join("context").to_str().expect("text")]);
    let text = format!(
        "trainer: command\nimage: {name}\ndevice: cpu\nnetwork: none\nvolumes: [.:/place]\n\
         command: [bash, -c, \"until [ -e /place/go ]; do sleep 0.02; done\"]\n"
    );
    place.write("job.yaml", &text);
    let run = crate::support::Running::start(place.evenkeel(&["train", "job.yaml"]));
    let container = until("the container", || crate::support::containers(&place).pop());
    let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}}{{end}}{{end}}";
    let volume = docker(&["inspect", "-f", format, &container]);
    assert!(!volume.is_empty(), "the image has a volume");
    place.write("go", "");
    run.end().with_code(0);
    let left = docker(&["volume", "ls", "-q", "--filter", &format!("name={volume}")]);
    docker(&["rmi", "-f", &name]);
    assert_eq!(left, "", "its volume was left behind");
    nothing_left(&place);
}
