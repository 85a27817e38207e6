//! Following the spools: the files that agents append to, read as they grow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use evenkeel_wire::Record;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::record::regular;

/// A file that grows, read from where the last reading ended. It may not exist yet.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    skip: u64,
    file: Option<File>,
    /// What follows the last complete line.
    rest: Vec<u8>,
}

impl Tail {
    /// Follows the file at `path` from its start.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self::after(path, 0)
    }

    /// Follows what is written behind the first `skip` bytes.
    #[must_use]
    pub fn after(path: PathBuf, skip: u64) -> Self {
        Self { path, skip, file: None, rest: Vec::new() }
    }

    /// Reads up to `buffer.len()` new bytes; 0 means that there are none now.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match regular::open(&self.path) {
                Ok(mut file) => {
                    file.seek(io::SeekFrom::Start(self.skip))?;
                    self.file.insert(file)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            },
        };
        file.read(buffer)
    }

    /// The complete lines that are new, without their line feeds.
    pub fn lines(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.rest.extend_from_slice(&buffer[..read]);
        }
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.rest.split_off(end + 1);
        let complete = std::mem::replace(&mut self.rest, rest);
        Ok(complete[..end].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
    }
}

/// The event spools of all ranks.
#[derive(Debug)]
pub struct Spools {
    tails: Vec<Tail>,
    generations: Range<u32>,
    /// Lines that are no record of ours, by rank.
    pub odd_lines: Vec<u64>,
}

impl Spools {
    /// Follows the events of `ranks` ranks in `folder`, those of one generation.
    #[must_use]
    pub fn new(folder: &Path, ranks: u32, generation: u32) -> Self {
        Self::of(folder, ranks, generation..generation + 1)
    }

    /// The same of several generations.
    #[must_use]
    pub fn of(folder: &Path, ranks: u32, generations: Range<u32>) -> Self {
        let tails = (0..ranks).map(|rank| Tail::new(folder.join(evenkeel_wire::path::events(rank)))).collect();
        Self { tails, generations, odd_lines: vec![0; ranks as usize] }
    }

    /// The new records of all ranks, in the order of their times, and the first failure. Those of one rank keep their
    /// own order, whatever its clock did.
    pub fn read_all(&mut self) -> (Vec<Record>, io::Result<()>) {
        let mut outcome = Ok(());
        let mut queues: Vec<VecDeque<Record>> = Vec::new();
        for rank in 0..u32::try_from(self.tails.len()).unwrap_or(u32::MAX) {
            match self.read(rank) {
                Ok(records) => queues.push(records.into()),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        let mut records = Vec::new();
        let first = |queues: &[VecDeque<Record>]| {
            let heads = queues.iter().enumerate().filter_map(|(at, queue)| Some((queue.front()?.time_ms, at)));
            heads.min().map(|(_, at)| at)
        };
        while let Some(at) = first(&queues) {
            records.extend(queues[at].pop_front());
        }
        (records, outcome)
    }

    /// The new records of one rank, in order.
    fn read(&mut self, rank: u32) -> io::Result<Vec<Record>> {
        let Some(tail) = self.tails.get_mut(rank as usize) else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for line in tail.lines()? {
            match serde_json::from_slice::<Record>(&line) {
                Ok(record) if self.generations.contains(&record.generation) && record.rank == rank => {
                    records.push(record)
                }
                // Another generation's.
                Ok(_) => {}
                Err(_) => self.odd_lines[rank as usize] += 1,
            }
        }
        Ok(records)
    }
}

/// Tells when files in folders may have grown.
#[derive(Debug)]
pub struct Growth {
    queue: AsyncFd<OwnedFd>,
}

impl Growth {
    /// Watches folders, which must exist. Needs a tokio runtime.
    pub fn watch(folders: &[&Path]) -> io::Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        for folder in folders {
            let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&queue, *folder, what)?;
        }
        // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and the `AsyncFd` owns it until then.
        let queue = unsafe { AsyncFd::register(queue) }?;
        Ok(Self { queue })
    }

    /// Waits until something changed since the last call returned.
    pub async fn changed(&self) -> io::Result<()> {
        let mut guard = self.queue.readable().await?;
        // What changed does not matter: the tails know where they are. The queue is emptied so that it wakes us again.
        let mut buffer = [0_u8; 4096];
        loop {
            match rustix::io::read(self.queue.get_ref(), &mut buffer) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_tail_gives_whole_lines_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log");
        let mut tail = Tail::new(path.clone());
        assert!(tail.lines().expect("no file yet").is_empty());
        let mut file = File::create(&path).expect("a file");
        file.write_all(b"one\ntw").expect("written");
        assert_eq!(tail.lines().expect("read"), [b"one".to_vec()]);
        file.write_all(b"o\n\nthree").expect("written");
        assert_eq!(tail.lines().expect("read"), [b"two".to_vec(), Vec::new()]);
    }

    #[tokio::test]
    async fn growth_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let growth = Growth::watch(&[folder.path()]).expect("inotify");
        std::fs::write(folder.path().join("log"), "x").expect("written");
        tokio::time::timeout(std::time::Duration::from_secs(5), growth.changed())
            .await
            .expect("in time")
            .expect("read");
    }

    #[test]
    fn records_of_another_generation_are_left_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let line = |generation| {
            format!(r#"{{"v":1,"generation":{generation},"rank":0,"seq":0,"time_ms":5,"event":{{"kind":"waiting"}}}}"#)
        };
        let text = format!("{}\nrubbish\n{}\n", line(1), line(2));
        std::fs::write(folder.path().join("rank-0.events.jsonl"), text).expect("written");
        let mut spools = Spools::new(folder.path(), 1, 2);
        let records = spools.read(0).expect("read");
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].generation, spools.odd_lines[0]), (2, 1));
    }

    #[test]
    fn ranks_are_heard_in_the_order_in_which_they_told() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (rank, times) in [(0, [30, 20]), (1, [10, 40])] {
            let line = |time| {
                format!(
                    r#"{{"v":1,"generation":1,"rank":{rank},"seq":0,"time_ms":{time},"event":{{"kind":"waiting"}}}}"#
                )
            };
            let text = times.map(line).join("\n") + "\n";
            std::fs::write(folder.path().join(format!("rank-{rank}.events.jsonl")), text).expect("written");
        }
        let (records, outcome) = Spools::new(folder.path(), 2, 1).read_all();
        outcome.expect("read");
        let order: Vec<(u32, u64)> = records.iter().map(|record| (record.rank, record.time_ms)).collect();
        assert_eq!(order, [(1, 10), (0, 30), (0, 20), (1, 40)]);
    }
}
