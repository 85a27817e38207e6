//! What the program writes is what the log holds, to the byte.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use evenkeel_wire::Stamp;

use crate::support::{Agent, Run, done};

#[test]
fn bytes_are_kept_as_they_are() {
    let run = Run::new();
    let outcome = run.shell(r"printf 'epoch 1\repoch 2\r'; printf '\000\377\033[0m\n'; printf 'no end' >&2");
    assert_eq!(outcome.log, b"epoch 1\repoch 2\r\x00\xff\x1b[0m\nno end");
    assert_eq!(outcome.seal(), done(2));
}

#[test]
fn stdout_and_stderr_stay_in_order() {
    let run = Run::new();
    let outcome = run.shell("i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done");
    let expected: String = (0..500).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(outcome.text(), expected);
    assert_eq!(outcome.seal(), done(1000));
}

#[test]
fn a_line_of_a_megabyte_is_one_line() {
    let run = Run::new();
    let outcome = run.shell("head -c 1048576 /dev/zero | tr '\\0' x; echo; echo end");
    assert_eq!(outcome.log.len(), 1_048_576 + 1 + 4);
    assert_eq!(outcome.seal(), done(2));
}

/// Waits in the program stand for the time that passes: the stamps must tell them, over launches.
#[test]
fn stamps_beside_the_log_tell_when_it_was_written() {
    let run = Run::new();
    let before = now_ms();
    run.shell("echo one; sleep 0.3; echo two; sleep 0.3; printf three");
    let between = now_ms();
    fs::remove_file(run.root().join("events/rank-0.events.jsonl")).expect("the first generation's");
    let outcome = run.shell("echo four");
    assert_eq!(outcome.text(), "one\ntwo\nthreefour\n");
    let bytes = fs::read(run.root().join("logs/rank-0.times")).expect("stamps");
    let stamps: Vec<Stamp> = Stamp::read_all(&bytes).collect();
    let offsets: Vec<u64> = stamps.iter().map(|stamp| stamp.offset).collect();
    assert_eq!(offsets, [0, 4, 8, 13], "{stamps:?}");
    let times: Vec<u64> = stamps.iter().map(|stamp| stamp.time_ms).collect();
    assert!(times[0] >= before && times[1] >= times[0] + 290 && times[2] >= times[1] + 290, "{times:?}");
    assert!(times[2] <= between && between <= times[3] && times[3] <= now_ms(), "{times:?}");
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("it fits")
}

#[test]
fn a_program_that_says_nothing_leaves_an_empty_log() {
    let run = Run::new();
    let outcome = run.shell("");
    assert!(outcome.log.is_empty());
    assert_eq!(outcome.seal(), done(0));
}

#[test]
fn a_second_generation_is_appended_and_sealed_by_itself() {
    let run = Run::new();
    run.shell("echo first");
    let events = run.root().join("events/rank-0.events.jsonl");
    let first = fs::read(&events).expect("the first generation's");
    fs::remove_file(&events).expect("our file");
    let outcome = run.shell("echo second");
    assert_eq!(outcome.text(), "first\nsecond\n");
    // The figures are those of the second alone.
    let mut second = outcome;
    second.log = b"second\n".to_vec();
    assert_eq!(second.seal(), done(1));
    assert!(!first.is_empty());
}

#[test]
fn the_copy_on_stdout_shows_the_output_and_never_holds_up_the_log() {
    let run = Run::new();
    run.go();
    let mut command = run.command(0, 1, &["sh", "-c", "echo hello; seq 200000; echo end"]);
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    command.stdout(Stdio::from(writing));
    let mut agent = Agent::spawn(command);
    // Nobody reads while the program runs, and all is in the log nevertheless.
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.seal(), done(200_002));
    // The command held the other copy of the writing end; it went with it.
    let mut copy = String::new();
    fs::File::from(reading).read_to_string(&mut copy).expect("the pipe is closed");
    assert!(copy.starts_with("hello\n1\n2\n"), "{copy:.80}");
    assert!(copy.len() < outcome.log.len());
}

#[test]
fn the_copy_of_a_quiet_program_is_whole() {
    let run = Run::new();
    run.go();
    let mut command = run.command(0, 1, &["sh", "-c", "seq 1000; printf end"]);
    let output = command.stdout(Stdio::piped()).output().expect("the agent starts");
    let outcome = run.outcome(0, output.status);
    assert_eq!(output.stdout, outcome.log);
    assert_eq!(outcome.seal(), done(1001));
}

/// Two ranks write a million lines each at the same time.
#[test]
fn a_flood_is_all_there() {
    const LINES: u64 = 1_000_000;
    let run = Run::new();
    let start = Instant::now();
    // Unbuffered writers are the worst: one `write` a line, as Python with `flush=True` does.
    let script = format!("import os\nfor i in range({LINES}): os.write(1, b'line %d of the flood\\n' % i)");
    let flooder = run.root().join("flood.py");
    fs::write(&flooder, script).expect("our folder");
    let unbuffered = flooder.to_string_lossy().into_owned();
    let python = std::process::Command::new("python3").arg("-c").arg("").status().is_ok_and(|status| status.success());
    let buffered = format!("seq -f 'line %.0f of the flood' 0 {}", LINES - 1);
    let program = if python { vec!["python3", &*unbuffered] } else { vec!["sh", "-c", &*buffered] };
    let mut agents = [run.start(0, 2, &program), run.start(1, 2, &program)];
    run.go();
    let expected: String = (0..LINES).map(|i| format!("line {i} of the flood\n")).collect();
    for rank in [1, 0] {
        let status = agents[rank as usize].wait();
        let outcome = run.outcome(rank, status);
        assert!(outcome.log == expected.as_bytes(), "rank {rank} has lost or reordered something");
        assert_eq!(outcome.seal(), done(LINES));
    }
    println!("two ranks, {LINES} lines each: {:?}", start.elapsed());
}

#[test]
fn a_user_without_a_home_gets_one() {
    let run = Run::new();
    run.go();
    let places = tempfile::tempdir().expect("a folder");
    let mut command = run.command(0, 1, &["sh", "-c", "env; touch $HOME/x $MPLCONFIGDIR/x $XDG_CACHE_HOME/x"]);
    command.env("HOME", "/").env("TMPDIR", places.path()).env("TORCH_HOME", "/given");
    let status = Agent::spawn(command).wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
    let text = outcome.text();
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("{name}: {text}"))
    };
    let home = value("HOME");
    assert!(home.starts_with(&*places.path().to_string_lossy()), "{home}");
    assert_eq!(fs::metadata(home).expect("made").permissions().mode() & 0o777, 0o700);
    assert_eq!(value("TORCH_HOME"), "/given");
    for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "YOLO_CONFIG_DIR"] {
        assert!(value(name).starts_with(home), "{name}");
    }
    assert_eq!(value("USER"), value("LOGNAME"));
    assert!(!value("USER").is_empty());
}

#[test]
fn a_home_that_serves_is_left_alone() {
    let run = Run::new();
    run.go();
    let mut command = run.command(0, 1, &["sh", "-c", "echo $HOME $USER ${XDG_CACHE_HOME-unset}"]);
    command.env("USER", "ada");
    let status = Agent::spawn(command).wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.text(), format!("{} ada unset\n", run.root().display()));
}

#[test]
fn the_start_is_quick() {
    let run = Run::new();
    let mut agent = run.start(0, 1, &["date", "+%s.%N"]);
    run.wait_for_event(0, |event| *event == evenkeel_wire::Event::Waiting);
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    run.go();
    let status = agent.wait();
    let ran = Duration::from_secs_f64(run.outcome(0, status).text().trim().parse().expect("a time"));
    println!("from the go to the program's first word: {:?}", ran.saturating_sub(before));
    assert!(
        ran.saturating_sub(before) < Duration::from_millis(900),
        "the notification did not come, only the second look"
    );
}
