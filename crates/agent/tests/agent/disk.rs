//! A full disk: the run goes on, the figures stay true, the seal is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Run, Seal, done, eventually};

/// A small file system of its own, or the reason why there is none.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder").keep();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: a full disk needs a file system of its own, and only root may mount one");
        let _ = fs::remove_dir(folder);
        None
    }

    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut space = fs::File::create(&ballast).expect("there is a name left");
        while std::io::Write::write_all(&mut space, &[0; 4096]).is_ok() {}
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |data| data.len())
}

#[test]
fn lines_are_dropped_whole_and_come_back_with_the_space() {
    let Some(disk) = SmallDisk::mount(512) else { return };
    let run = Run::at(&disk.0);
    let words = tempfile::tempdir().expect("a folder elsewhere");
    let step = |name: &str| words.path().join(name);
    run.go();
    let script = format!(
        "seq -f 'first %.0f' 100; until [ -e {0}/full ]; do sleep 0.01; done; seq -f 'second %.0f' 20000; \
         echo > {0}/wrote; until [ -e {0}/space ]; do sleep 0.01; done; seq -f 'third %.0f' 100",
        words.path().display()
    );
    let mut agent = run.start(0, 1, &["sh", "-c", &script]);
    let log = disk.0.join("logs/rank-0.log");
    eventually("the first lines", || (size(&log) == 892).then_some(()));
    let ballast = disk.fill();
    fs::write(step("full"), "").expect("elsewhere");
    eventually("the second lines", || step("wrote").exists().then_some(()));
    fs::remove_file(ballast).expect("our file");
    fs::write(step("space"), "").expect("elsewhere");
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.code, Some(0));
    let seal = outcome.seal();
    assert!(seal.dropped > 10_000, "{seal:?}");
    assert_eq!(seal.lines + seal.dropped, 20_200);
    assert!(outcome.text().ends_with("third 99\nthird 100\n"));
    for line in outcome.text().lines() {
        let (word, number) = line.split_once(' ').expect("a whole line");
        assert!(["first", "second", "third"].contains(&word) && number.parse::<u32>().is_ok(), "{line}");
    }
    let notes = outcome.notes();
    assert!(notes[0].contains("cannot be written") && notes[1].contains("written again"), "{notes:?}");
}

#[test]
fn a_disk_that_stays_full_still_takes_the_seal() {
    let Some(disk) = SmallDisk::mount(512) else { return };
    let run = Run::at(&disk.0);
    run.go();
    let script = r#"read x < $EVENKEEL_ROOT/output/go
        seq 10000
        i=0; while [ $i -lt 2000 ]; do echo '{"kind":"note","message":"event '$i' of many, long enough to fill what is reserved"}' >&$EVENKEEL_EVENTS_FD; i=$((i+1)); done
        exit 3"#;
    rustix::fs::mkfifoat(rustix::fs::CWD, disk.0.join("output/go"), rustix::fs::Mode::RWXU).expect("a name is left");
    let mut agent = run.start(0, 1, &["sh", "-c", script]);
    run.wait_for_event(0, |event| matches!(event, evenkeel_wire::Event::Started { .. }));
    disk.fill();
    fs::write(disk.0.join("output/go"), "now\n").expect("a pipe needs no space");
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.code, Some(3));
    let seal = outcome.seal();
    assert_eq!(seal, Seal { code: Some(3), dropped: 10_000 - seal.lines, lines: seal.lines, ..done(0) });
    let notes = outcome.notes();
    let lost: usize = notes
        .last()
        .and_then(|note| note.strip_suffix(" events are lost here, the disk was full")?.parse().ok())
        .expect("a count");
    assert!(lost > 500, "{lost}");
    let kept = notes.iter().filter(|note| note.contains("of many")).count();
    // The agent's own note about the log may be among the lost.
    let told = usize::from(notes.iter().any(|note| note.contains("cannot be written")));
    let ended = outcome.events.iter().filter(|event| matches!(event, evenkeel_wire::Event::Ended { .. })).count();
    assert_eq!(kept + lost + told + ended, 2002);
}

#[test]
fn a_full_disk_does_not_keep_a_rank_from_ending() {
    let Some(disk) = SmallDisk::mount(512) else { return };
    let run = Run::at(&disk.0);
    run.go();
    let mut agent = run.start(0, 1, &["sh", "-c", "while :; do echo flood; done"]);
    eventually("a full disk", || (size(&disk.0.join("logs/rank-0.log")) > 300_000).then_some(()));
    agent.signal(Signal::USR1);
    let status = agent.wait();
    let outcome = run.outcome(0, status);
    assert_eq!(outcome.code, Some(137));
    assert_eq!(outcome.seal().signal, Some(9));
}
