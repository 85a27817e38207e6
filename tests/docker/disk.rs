//! A small disk, of its own file system on a loop device, that fills up under a run: the run does what its trainer does, and what is lost is counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, entries, is_root, job, nothing_left, open_to_all};
use crate::{needs_engine, skip};

/// A disk of 24 MiB at the place's `runs`.
struct Disk(PathBuf);

impl Disk {
    fn at(place: &Place) -> Option<Self> {
        let (image, runs) = (place.path().join("disk.img"), place.path().join("runs"));
        std::fs::create_dir_all(&runs).expect("a folder");
        std::fs::File::create(&image).and_then(|file| file.set_len(24 << 20)).expect("a file");
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !done(Command::new("mkfs.ext4").arg("-q").arg(&image))
            || !done(Command::new("mount").args(["-o", "loop"]).args([&image, &runs]))
        {
            return None;
        }
        // ext4 keeps a folder of its own there, which is no experiment.
        let _ = std::fs::remove_dir(runs.join("lost+found"));
        open_to_all(&runs);
        Some(Self(runs))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Lines that each rank writes, of 50 bytes: more than the disk takes of any one.
const LINES: u64 = 600_000;

/// Ranks that save a checkpoint of 100 KiB, flood the disk, and save one of 4 MiB, for which no file system finds room on a disk that was full a
/// moment before; `otherwise` is what they do where that fails.
fn flooding(place: &Place, otherwise: &str) {
    let script = format!(
        "cd /evenkeel/output; mkdir -p weights\n\
         save() {{ head -c $2 /dev/zero | tr '\\0' $1 > new-$RANK && sync new-$RANK && mv new-$RANK weights/last-$RANK.pt; }}\n\
         save a 100K || exit 9\n\
         until [ -e weights/last-0.pt -a -e weights/last-1.pt ]; do sleep 0.02; done\n\
         seq -f 'line %-44.0f' {LINES}\n\
         save b 4M || {otherwise}"
    );
    job(place, &script, "");
}

/// Checks that the log of each of these ranks, which wrote all their lines, holds some of them, in order, and as many as the record says.
fn counted(place: &Place, ranks: &[usize]) {
    let journal = place.journal();
    let logs = entries(&journal, "logs");
    for &rank in ranks {
        let said = &logs[0]["detail"]["ranks"][rank];
        let all = place.log(u32::try_from(rank).expect("small"));
        // A line of which the disk took a part, and never the rest, is in the file and counted as dropped.
        let (log, torn) = match all.rsplit_once('\n') {
            Some((log, torn)) => (log, u64::from(!torn.is_empty())),
            None => panic!("nothing was written"),
        };
        let mut last = 0;
        let mut lines = 0;
        for line in log.lines().filter_map(|line| line.strip_prefix("line ")) {
            let number: u64 = line.trim().parse().expect("a whole line");
            assert!(number > last, "{number} after {last}");
            (last, lines) = (number, lines + 1);
        }
        let dropped = said["dropped"].as_u64().expect("a number");
        assert!(dropped > 0, "the disk took all: {said}");
        // What the program says of its disk are lines as well.
        let others = log.lines().count() as u64 - lines;
        let written = lines + others + dropped;
        assert!((LINES..LINES + 10).contains(&written), "{lines} and {others} lines in the log, {dropped} dropped");
        assert_eq!(said["lines"].as_u64(), Some(lines + others + torn), "{said}");
        assert_eq!(checkpoint(place.record().as_path(), rank), vec![b'a'; 100 << 10]);
    }
}

fn checkpoint(record: &Path, rank: usize) -> Vec<u8> {
    std::fs::read(record.join(format!("weights/last-{rank}.pt"))).expect("the last checkpoint")
}

#[test]
fn a_trainer_that_goes_on_without_its_checkpoint_ends_well() {
    needs_engine!();
    if !is_root() {
        skip!("only root can mount a small disk");
    }
    let place = Place::new();
    let Some(_disk) = Disk::at(&place) else { skip!("no loop device can be mounted here") };
    flooding(&place, "true");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    ended.saying("lines did not fit on the disk");
    assert_eq!(entries(&place.journal(), "end")[0]["detail"]["state"], "done");
    counted(&place, &[0, 1]);
    nothing_left(&place);
}

#[test]
fn one_that_ends_for_it_has_failed_and_its_record_says_of_what() {
    needs_engine!();
    if !is_root() {
        skip!("only root can mount a small disk");
    }
    let place = Place::new();
    let Some(_disk) = Disk::at(&place) else { skip!("no loop device can be mounted here") };
    flooding(&place, "{ echo 'No space left on device: the checkpoint' >&2; exit 1; }");
    place.run(&["train", "job.yaml"]).with_code(3).saying("lines did not fit on the disk");
    let failure = entries(&place.journal(), "end")[0]["detail"]["failure"].clone();
    assert_eq!(failure["class"], "infrastructure", "{failure}");
    // The other one was ended in the midst of its lines.
    let rank = failure["rank"].as_u64().and_then(|rank| usize::try_from(rank).ok()).expect("a rank");
    counted(&place, &[rank]);
    nothing_left(&place);
}
