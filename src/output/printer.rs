//! The ranks' output on stdout, for programs that have no progress of ours.
//!
//! A thread of its own follows the logs: whoever reads our stdout slowly, or not at all, delays neither a rank nor the
//! end of the run.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::record;
use crate::watch::spool::Tail;

/// How long a new line may wait; nobody reads faster.
const INTERVAL: Duration = Duration::from_millis(50);
/// A line longer than this is shown in pieces.
const LONGEST: usize = 1 << 20;

/// A thread that prints.
#[derive(Debug)]
pub struct Printer {
    thread: JoinHandle<()>,
    end: Sender<()>,
}

impl Printer {
    /// Prints what is written from now on to the logs of `ranks` ranks in `folder`; with several, each line behind its rank.
    pub fn start(folder: &Path, ranks: u32) -> io::Result<Self> {
        let tail = |rank| {
            let log = folder.join(evenkeel_wire::path::log(rank));
            let skip = record::length(&log);
            Tail::after(log, skip)
        };
        let tails: Vec<Follower> = (0..ranks)
            .map(|rank| Follower {
                tail: tail(rank),
                prefix: if ranks > 1 { format!("[{rank}] ").into_bytes() } else { Vec::new() },
                rest: Vec::new(),
            })
            .collect();
        let (end, ended) = channel();
        let thread = std::thread::Builder::new().name("printer".into()).spawn(move || {
            // An error means that nobody reads on; the logs are in the record.
            let _ = print(tails, &ended);
        })?;
        Ok(Self { thread, end })
    }

    /// Lets it print what is left and waits for it.
    pub fn finish(self) {
        drop(self.end);
        let _ = self.thread.join();
    }
}

struct Follower {
    tail: Tail,
    prefix: Vec<u8>,
    rest: Vec<u8>,
}

fn print(mut followers: Vec<Follower>, ended: &Receiver<()>) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut out = Vec::with_capacity(buffer.len() * 2);
    let mut last = false;
    loop {
        let mut quiet = true;
        for follower in &mut followers {
            let read = follower.tail.read(&mut buffer)?;
            quiet &= read == 0;
            out.clear();
            follower.take(&buffer[..read], last && read == 0, &mut out);
            io::stdout().lock().write_all(&out)?;
        }
        if quiet && last {
            return io::stdout().lock().flush();
        }
        if quiet {
            last = matches!(ended.recv_timeout(INTERVAL), Err(RecvTimeoutError::Disconnected));
            io::stdout().lock().flush()?;
        }
    }
}

impl Follower {
    /// Adds the complete lines to `out`; at the end, also what no line feed follows.
    fn take(&mut self, new: &[u8], end: bool, out: &mut Vec<u8>) {
        let mut new = new;
        while let Some(at) = new.iter().position(|byte| *byte == b'\n') {
            out.extend_from_slice(&self.prefix);
            out.append(&mut self.rest);
            out.extend_from_slice(&new[..=at]);
            new = &new[at + 1..];
        }
        self.rest.extend_from_slice(new);
        if (end && !self.rest.is_empty()) || self.rest.len() > LONGEST {
            out.extend_from_slice(&self.prefix);
            out.append(&mut self.rest);
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_stands_behind_its_rank() {
        let mut follower = Follower { tail: Tail::new("unused".into()), prefix: b"[1] ".to_vec(), rest: Vec::new() };
        let mut out = Vec::new();
        follower.take(b"one\ntw", false, &mut out);
        follower.take(b"o\r50%\n\nend", false, &mut out);
        follower.take(b"", true, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "[1] one\n[1] two\r50%\n[1] \n[1] end\n");
    }
}
