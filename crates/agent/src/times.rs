//! When the program wrote what its log holds, as far as one stamp in 50 ms tells it: see [`evenkeel_wire::stamp`].
//!
//! A convenience of who reads the log later. Whatever goes wrong with it costs stamps and nothing else.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel_wire::stamp::{INTERVAL_MS, SIZE, Stamp};

/// The stamps of a log, being written.
#[derive(Debug)]
pub struct Times {
    file: Option<File>,
    /// Bytes of the log that earlier launches wrote.
    begin: u64,
    last: Option<Instant>,
}

impl Times {
    /// Stamps go to the end of the file at `path`, for a log at `log` that is about to be opened.
    pub fn open(path: &Path, log: &Path) -> Self {
        let begin = std::fs::metadata(log).map_or(0, |found| found.len());
        let file = File::options().append(true).create(true).open(path).ok().filter(is_whole);
        Self { file, begin, last: None }
    }

    /// To be called before bytes are written to the log, which so far has `written` of this launch.
    pub fn stamp(&mut self, written: u64, now: Instant) {
        const INTERVAL: Duration = Duration::from_millis(INTERVAL_MS);
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            return;
        }
        let Some(file) = &mut self.file else { return };
        self.last = Some(now);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let record = Stamp { time_ms, offset: self.begin + written }.to_bytes();
        // A part of a record would put all that follow out of step.
        if file.write_all(&record).is_err() && !is_whole(file) {
            self.file = None;
        }
    }
}

/// Whether a file holds whole stamps only, after cutting off what a killed agent or a full disk left of one.
fn is_whole(file: &File) -> bool {
    let Ok(length) = file.metadata().map(|found| found.len()) else { return false };
    let torn = length % SIZE as u64;
    torn == 0 || file.set_len(length - torn).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_stands_for_what_follows_it_within_the_interval() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = (folder.path().join("times"), folder.path().join("log"));
        std::fs::write(&log, "of an earlier launch").expect("written");
        // An agent that was killed in the middle of a stamp.
        std::fs::write(&path, [7; SIZE + 3]).expect("written");
        let mut times = Times::open(&path, &log);
        let begin = Instant::now();
        for (offset, ms) in [(0, 0), (5, 20), (9, 49), (12, 60), (40, 5000)] {
            times.stamp(offset, begin + Duration::from_millis(ms));
        }
        let bytes = std::fs::read(&path).expect("written");
        let offsets: Vec<u64> = Stamp::read_all(&bytes[SIZE..]).map(|stamp| stamp.offset).collect();
        assert_eq!(offsets, [20, 32, 60]);
        assert_eq!(bytes.len(), SIZE * 4);
    }
}
