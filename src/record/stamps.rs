//! When a rank wrote what its log holds: the stamps beside the log, read. See [`evenkeel_wire::stamp`].

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use evenkeel_wire::Stamp;
use evenkeel_wire::stamp::SIZE;

/// The stamps of a log, in order of place and time.
#[derive(Debug, Default)]
pub struct Stamps {
    path: PathBuf,
    file: Option<File>,
    stamps: Vec<Stamp>,
    /// What is there of the next one.
    rest: Vec<u8>,
    /// Where the last question was answered: questions come in the order of the log.
    at: usize,
}

impl Stamps {
    /// Stamps of the file at `path`, which may not be there (yet).
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, ..Self::default() }
    }

    /// Reads what has come since the last time.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read.
    pub fn update(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match super::regular::open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        file.read_to_end(&mut self.rest)?;
        let whole = self.rest.len() / SIZE * SIZE;
        let records: Vec<u8> = self.rest.drain(..whole).collect();
        for stamp in Stamp::read_all(&records) {
            self.add(stamp);
        }
        Ok(())
    }

    /// A clock that was set back must put no line before one that stands above it.
    fn add(&mut self, stamp: Stamp) {
        let time_ms = self.stamps.last().map_or(stamp.time_ms, |last| stamp.time_ms.max(last.time_ms));
        if self.stamps.last().is_some_and(|last| last.offset >= stamp.offset) {
            self.stamps.pop();
        }
        self.stamps.push(Stamp { time_ms, ..stamp });
    }

    /// Whether nothing is known of times.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stamps.is_empty()
    }

    /// When the byte at `offset` was written; 0 where it is not known. Quickest when asked for one byte after the other.
    pub fn time_of(&mut self, offset: u64) -> u64 {
        if self.stamps.get(self.at).is_some_and(|stamp| stamp.offset > offset) {
            self.at = 0;
        }
        let ahead = &self.stamps[self.at.min(self.stamps.len())..];
        // The next one mostly, or a far one.
        if ahead.get(1).is_some_and(|next| next.offset <= offset) {
            self.at += ahead.partition_point(|stamp| stamp.offset <= offset) - 1;
        }
        self.stamps.get(self.at).filter(|stamp| stamp.offset <= offset).map_or(0, |stamp| stamp.time_ms)
    }

    /// Place in the log from which on bytes were written at `time_ms` or later; absent: nothing was.
    #[must_use]
    pub fn first_since(&self, time_ms: u64) -> Option<u64> {
        let at = self.stamps.partition_point(|stamp| stamp.time_ms < time_ms);
        self.stamps.get(at).map(|stamp| stamp.offset)
    }

    /// When the last stamp was written.
    #[must_use]
    pub fn last_ms(&self) -> Option<u64> {
        self.stamps.last().map(|stamp| stamp.time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(pairs: &[(u64, u64)]) -> Stamps {
        let mut stamps = Stamps::default();
        for (time_ms, offset) in pairs {
            stamps.add(Stamp { time_ms: *time_ms, offset: *offset });
        }
        stamps
    }

    #[test]
    fn a_byte_has_the_time_of_the_stamp_before_it() {
        let mut stamps = stamps(&[(100, 10), (200, 20), (300, 30), (400, 40)]);
        let offsets = [0, 9, 10, 19, 20, 35, 40, 1000, 15, 3];
        let times: Vec<u64> = offsets.iter().map(|offset| stamps.time_of(*offset)).collect();
        assert_eq!(times, [0, 0, 100, 100, 200, 300, 400, 400, 100, 0]);
        assert_eq!(
            (stamps.first_since(0), stamps.first_since(101), stamps.first_since(401)),
            (Some(10), Some(20), None)
        );
    }

    #[test]
    fn a_clock_that_was_set_back_and_a_place_that_was_stamped_twice() {
        let mut stamps = stamps(&[(500, 0), (100, 10), (600, 10), (700, 20)]);
        assert_eq!([0, 10, 20].map(|offset| stamps.time_of(offset)), [500, 600, 700]);
    }

    #[test]
    fn stamps_are_read_as_they_come() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("times");
        let mut stamps = Stamps::new(path.clone());
        stamps.update().expect("none yet");
        assert!(stamps.is_empty());
        let bytes = [Stamp { time_ms: 1, offset: 0 }, Stamp { time_ms: 2, offset: 9 }].map(Stamp::to_bytes).concat();
        std::fs::write(&path, &bytes[..SIZE + 5]).expect("written");
        stamps.update().expect("read");
        assert_eq!(stamps.last_ms(), Some(1));
        use std::io::Write;
        let mut file = File::options().append(true).open(&path).expect("there");
        file.write_all(&bytes[SIZE + 5..]).expect("written");
        stamps.update().expect("read");
        assert_eq!((stamps.last_ms(), stamps.time_of(9)), (Some(2), 2));
    }
}
