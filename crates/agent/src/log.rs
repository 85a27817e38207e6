//! The spool of a rank's output: bytes as they came, counted and hashed.
//!
//! When the disk is full the run goes on. Lines that cannot be written are dropped whole and counted. A line of which a part
//! is already in the file is never left torn: its rest is kept in memory and written first when there is space again, so
//! every line of the file is one that the program wrote, and lines in the file + lines dropped = lines written.
//! Only a torn line whose rest outgrows [`TORN_LIMIT`], or that finds no space until the end, is both in the file and counted.

use std::io::{self, Write};

use memchr::{memchr, memchr_iter};
use sha2::{Digest, Sha256};

/// Longest rest of a torn line that is kept in memory, in bytes.
const TORN_LIMIT: usize = 1024 * 1024;
/// What ends a torn line that has outgrown it.
const CUT: &[u8] = b" [evenkeel: the rest of this line is lost, the disk was full]\n";

/// What the log holds of this generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Lines in the file; an unfinished last one counts.
    pub lines: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// SHA-256 of those bytes, in hexadecimal digits.
    pub sha256: String,
    /// Lines that are not, or not wholly, in the file.
    pub dropped: u64,
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log<W> {
    file: W,
    hash: Sha256,
    newlines: u64,
    bytes: u64,
    dropped: u64,
    /// Rest of the line that the file holds a part of; empty when nothing is owed.
    torn: Vec<u8>,
    /// The program is inside of a line that is being dropped.
    skipping: bool,
    /// Last byte in the file, and last byte that came in.
    last_written: u8,
    last_taken: u8,
    /// Why the last write failed; absent when it succeeded.
    trouble: Option<io::ErrorKind>,
}

impl<W: Write> Log<W> {
    /// A log that is written to the end of `file`, one `write` for each piece.
    pub fn new(file: W) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            newlines: 0,
            bytes: 0,
            dropped: 0,
            torn: Vec::new(),
            skipping: false,
            last_written: b'\n',
            last_taken: b'\n',
            trouble: None,
        }
    }

    /// Takes the next bytes of the program's output.
    pub fn write(&mut self, mut bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.last_taken = *last;
        if self.skipping {
            let Some(end) = memchr(b'\n', bytes) else { return };
            self.skipping = false;
            bytes = &bytes[end + 1..];
        }
        if !self.torn.is_empty() {
            if self.torn.last() != Some(&b'\n') {
                bytes = self.owe(bytes);
            }
            if !self.pay() {
                self.drop_lines(bytes);
                return;
            }
        }
        let written = self.put(bytes);
        let mut rest = &bytes[written..];
        if !rest.is_empty() {
            if self.last_written != b'\n' {
                rest = self.owe(rest);
            }
            self.drop_lines(rest);
        }
    }

    /// Whether the program has left a line unfinished so far.
    pub fn is_inside_line(&self) -> bool {
        self.last_taken != b'\n'
    }

    /// Bytes in the file so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why the last write failed; `None` when it succeeded.
    pub fn trouble(&self) -> Option<io::ErrorKind> {
        self.trouble
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes what is owed and hands back the file and the figures.
    pub fn finish(mut self) -> (W, Totals) {
        if !self.torn.is_empty() && !self.pay() {
            self.dropped += 1;
        }
        let unfinished = u64::from(self.last_written != b'\n');
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let totals = Totals { lines: self.newlines + unfinished, bytes: self.bytes, sha256, dropped: self.dropped };
        (self.file, totals)
    }

    /// Keeps the rest of the torn line and returns the bytes behind it.
    fn owe<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr(b'\n', bytes).map(|end| end + 1);
        let (line, behind) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.torn.len() + line.len() <= TORN_LIMIT {
            self.torn.extend_from_slice(line);
        } else {
            self.torn = CUT.to_vec();
            self.dropped += 1;
            self.skipping = end.is_none();
        }
        behind
    }

    /// Writes the rest of the torn line; whether nothing is owed any more.
    fn pay(&mut self) -> bool {
        let torn = std::mem::take(&mut self.torn);
        let written = self.put(&torn);
        self.torn = torn[written..].to_vec();
        self.torn.is_empty()
    }

    /// Counts lines that are not written, from the start of a line on.
    fn drop_lines(&mut self, bytes: &[u8]) {
        let whole = memchr_iter(b'\n', bytes).count() as u64;
        let unfinished = bytes.last().is_some_and(|last| *last != b'\n');
        self.dropped += whole + u64::from(unfinished);
        self.skipping |= unfinished;
    }

    /// Writes as much as the disk takes, counts and hashes it; returns how much that was.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => {
                    self.trouble = Some(io::ErrorKind::WriteZero);
                    break;
                }
                Ok(n) => {
                    self.trouble = None;
                    written += n;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.trouble = Some(error.kind());
                    break;
                }
            }
        }
        let done = &bytes[..written];
        self.hash.update(done);
        self.bytes += written as u64;
        self.newlines += memchr_iter(b'\n', done).count() as u64;
        self.last_written = *done.last().unwrap_or(&self.last_written);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much space left.
    #[derive(Debug, Default)]
    struct Disk {
        content: Vec<u8>,
        space: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.space);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.content.extend_from_slice(&bytes[..n]);
            self.space -= n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(space: usize) -> Log<Disk> {
        Log::new(Disk { space, ..Disk::default() })
    }

    fn free(log: &mut Log<Disk>, space: usize) {
        log.file.space += space;
    }

    fn check(log: Log<Disk>, content: &str, dropped: u64) {
        let (disk, totals) = log.finish();
        assert_eq!(String::from_utf8_lossy(&disk.content), content);
        assert_eq!(totals.dropped, dropped);
        assert_eq!(totals.lines, content.lines().count() as u64);
        assert_eq!(totals.bytes, content.len() as u64);
        let hash: String = Sha256::digest(&disk.content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(totals.sha256, hash);
    }

    #[test]
    fn a_torn_line_is_completed_and_whole_lines_are_dropped() {
        let mut log = log(6);
        log.write(b"one\ntwo\nthree\nfo");
        free(&mut log, 100);
        log.write(b"ur\nfive\n");
        check(log, "one\ntwo\nfive\n", 2);
    }

    #[test]
    fn a_line_torn_between_two_writes_is_completed() {
        let mut log = log(2);
        log.write(b"on");
        log.write(b"e t");
        log.write(b"wo\nthree\n");
        free(&mut log, 3);
        log.write(b"four\n");
        free(&mut log, 100);
        log.write(b"five\n");
        check(log, "one two\nfive\n", 2);
    }

    #[test]
    fn a_disk_that_fills_at_the_end_of_a_line_tears_nothing() {
        let mut log = log(4);
        log.write(b"one\ntwo");
        assert_eq!(log.trouble(), Some(io::ErrorKind::StorageFull));
        log.write(b" and more");
        free(&mut log, 100);
        log.write(b" of it\nthree");
        assert!(log.is_inside_line());
        log.write(b"\n");
        assert!(!log.is_inside_line());
        check(log, "one\nthree\n", 1);
    }

    #[test]
    fn a_torn_line_that_grows_without_end_is_cut() {
        let mut log = log(1);
        log.write(b"x");
        log.write(&vec![b'y'; TORN_LIMIT]);
        log.write(b"z");
        log.write(b"z\nlost\n");
        free(&mut log, 100);
        log.write(b"next\n");
        check(log, &format!("x{}next\n", String::from_utf8_lossy(CUT)), 2);
    }

    #[test]
    fn a_line_that_stays_torn_is_counted_in_both() {
        let mut log = log(2);
        log.write(b"one\ntwo\n");
        check(log, "on", 2);
    }

    /// Every way to cut a text and to fill the disk leaves only whole lines, each written or counted.
    #[test]
    fn whatever_happens_the_figures_add_up() {
        let text: Vec<u8> = (0..60).flat_map(|n| format!("{}{n}\n", "x".repeat(n * 7 % 13)).into_bytes()).collect();
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let mut log = log(random(200) as usize);
            let mut rest = &text[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at((random(40) as usize + 1).min(rest.len()));
                log.write(now);
                rest = later;
                if random(4) == 0 {
                    free(&mut log, random(60) as usize);
                }
            }
            free(&mut log, 1 << 20);
            let (disk, totals) = log.finish();
            let source: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            let mut from = source.iter();
            for line in disk.content.split_inclusive(|byte| *byte == b'\n') {
                assert!(from.any(|original| *original == line), "a line nobody wrote, or out of order");
            }
            assert_eq!(totals.lines + totals.dropped, 60);
        }
    }
}
