//! The log of one rank as lines with their times, read from any place of it on, and again as it grows.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::record::regular;
use crate::record::stamps::Stamps;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// A line longer than this is handed out in pieces, so that one without an end does not fill the memory.
const LONGEST: usize = 8 << 20;

/// A line, or a piece of one that is longer than any reader wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When its end was written, in milliseconds since the Unix epoch; 0 where that is not known. Never before that of the line above it.
    pub time_ms: u64,
    /// Its bytes, with the line feed that ends it, if one does.
    pub bytes: Vec<u8>,
}

/// A rank's log, being read.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: Option<File>,
    stamps: Stamps,
    buffer: Vec<u8>,
    /// Where in `buffer` the next line begins, and from where on nobody has looked for its end.
    begin: usize,
    looked: usize,
    /// Place in the log of the first byte of `buffer`.
    offset: u64,
    /// Lines that were asked for and not taken yet.
    head: VecDeque<Line>,
}

impl Lines {
    /// Reads the log of `rank` in the folder `logs`, which may not be there yet.
    #[must_use]
    pub fn new(logs: &Path, rank: u32) -> Self {
        Self {
            path: logs.join(evenkeel_wire::path::log(rank)),
            file: None,
            stamps: Stamps::new(logs.join(evenkeel_wire::path::times(rank))),
            buffer: Vec::new(),
            begin: 0,
            looked: 0,
            offset: 0,
            head: VecDeque::new(),
        }
    }

    /// Whether bytes are there whose times are not known: an earlier agent wrote them.
    pub fn lacks_times(&mut self) -> io::Result<bool> {
        self.stamps.update()?;
        Ok(self.length()? > 0 && self.stamps.is_empty())
    }

    /// Goes to the first line whose end was written at `time_ms` or later; to the end where there is none. To be called before anything is read.
    pub fn skip_to(&mut self, time_ms: u64) -> io::Result<()> {
        self.stamps.update()?;
        if self.stamps.is_empty() {
            return Ok(());
        }
        let place = match self.stamps.first_since(time_ms) {
            Some(offset) => offset,
            None => self.length()?,
        };
        self.offset = self.start_of_line(place)?;
        Ok(())
    }

    /// Goes on to where the last `count` lines begin, if that is further on. To be called before anything is read.
    pub fn skip_to_last(&mut self, count: u64) -> io::Result<()> {
        let length = self.length()?;
        let mut place = length;
        let mut left = count;
        // An end without a line feed is a line as well.
        let mut chunk = vec![0; CHUNK];
        let mut first = true;
        while place > self.offset && left > 0 {
            let from = place.saturating_sub(CHUNK as u64).max(self.offset);
            let size = usize::try_from(place - from).unwrap_or(CHUNK);
            let read = self.read_at(&mut chunk[..size], from)?;
            if read < size {
                break;
            }
            let mut bytes = &chunk[..size];
            if std::mem::take(&mut first) {
                bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            }
            place = from;
            for at in memchr::memrchr_iter(b'\n', bytes) {
                left -= 1;
                if left == 0 {
                    place = from + at as u64 + 1;
                    break;
                }
            }
        }
        self.offset = if count == 0 { length } else { place };
        Ok(())
    }

    /// The next line's time, if a whole line is there; with `last`, also of what no line feed follows.
    pub fn peek(&mut self, last: bool) -> io::Result<Option<u64>> {
        if self.head.is_empty() {
            let next = self.next_line(last)?;
            self.head.extend(next);
        }
        Ok(self.head.front().map(|line| line.time_ms))
    }

    /// Takes the line that was peeked at.
    pub fn take(&mut self) -> Option<Line> {
        self.head.pop_front()
    }

    /// What has come and is no whole line yet, without waiting for the rest of it: for a reader who wants bytes.
    pub fn take_bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.begin == self.buffer.len() {
            self.fill()?;
        }
        let bytes = self.buffer.split_off(self.begin);
        self.offset += (self.begin + bytes.len()) as u64;
        (self.begin, self.looked) = (0, 0);
        self.buffer.clear();
        Ok(bytes)
    }

    fn next_line(&mut self, last: bool) -> io::Result<Option<Line>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.looked..]) {
                return Ok(Some(self.cut(self.looked + at + 1)));
            }
            self.looked = self.buffer.len();
            if self.buffer.len() - self.begin >= LONGEST {
                return Ok(Some(self.cut(self.buffer.len())));
            }
            if self.fill()? == 0 {
                let rest = last && self.begin < self.buffer.len();
                return Ok(rest.then(|| self.cut(self.buffer.len())));
            }
        }
    }

    /// The line that ends before `end`, a place in the buffer.
    fn cut(&mut self, end: usize) -> Line {
        let bytes = self.buffer[self.begin..end].to_vec();
        (self.begin, self.looked) = (end, end);
        let time_ms = self.stamps.time_of(self.offset + end as u64 - 1);
        Line { time_ms, bytes }
    }

    /// Reads on; the stamps after the bytes, since they were written before them.
    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.begin);
        self.offset += self.begin as u64;
        self.looked -= self.begin;
        self.begin = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.read_at(&mut buffer[old..], self.offset + old as u64);
        buffer.truncate(old + *read.as_ref().unwrap_or(&0));
        self.buffer = buffer;
        if matches!(read, Ok(1..)) {
            self.stamps.update()?;
        }
        read
    }

    /// Reads at a place until the buffer is full or nothing more is there.
    fn read_at(&mut self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        let Some(file) = self.open()? else { return Ok(0) };
        let mut read = 0;
        while read < buffer.len() {
            match file.read_at(&mut buffer[read..], from + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn open(&mut self) -> io::Result<Option<&File>> {
        if self.file.is_none() {
            match regular::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.file.as_ref())
    }

    fn length(&mut self) -> io::Result<u64> {
        self.open()?.map_or(Ok(0), |file| Ok(file.metadata()?.len()))
    }

    /// Where the line begins that the byte at `place` is of.
    fn start_of_line(&mut self, place: u64) -> io::Result<u64> {
        let mut end = place;
        let mut chunk = vec![0; CHUNK];
        while end > 0 {
            let from = end.saturating_sub(CHUNK as u64);
            let size = usize::try_from(end - from).unwrap_or(CHUNK);
            let read = self.read_at(&mut chunk[..size], from)?;
            if let Some(at) = memchr::memrchr(b'\n', &chunk[..read]) {
                return Ok(from + at as u64 + 1);
            }
            end = from;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use evenkeel_wire::Stamp;

    use super::*;

    struct Logs(tempfile::TempDir);

    impl Logs {
        fn new(log: &[u8], stamps: &[(u64, u64)]) -> Self {
            let logs = Self(tempfile::tempdir().expect("a temporary folder"));
            let bytes: Vec<u8> = stamps
                .iter()
                .flat_map(|(time_ms, offset)| Stamp { time_ms: *time_ms, offset: *offset }.to_bytes())
                .collect();
            std::fs::write(logs.0.path().join("rank-0.times"), bytes).expect("written");
            logs.append(log);
            logs
        }

        fn append(&self, bytes: &[u8]) {
            let path = self.0.path().join("rank-0.log");
            let mut file = File::options().create(true).append(true).open(path).expect("a file");
            file.write_all(bytes).expect("written");
        }

        fn lines(&self) -> Lines {
            Lines::new(self.0.path(), 0)
        }
    }

    fn rest(lines: &mut Lines, last: bool) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some(time) = lines.peek(last).expect("read") {
            all.push((time, String::from_utf8_lossy(&lines.take().expect("peeked at").bytes).into_owned()));
        }
        all
    }

    fn text(lines: &mut Lines) -> String {
        rest(lines, true).into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn a_line_has_the_time_of_its_end() {
        let logs = Logs::new(b"one\n10% 50%", &[(100, 0), (200, 4), (300, 9), (400, 12)]);
        let mut lines = logs.lines();
        assert_eq!(rest(&mut lines, false), [(100, "one\n".into())]);
        logs.append(b" 100%\nend");
        assert_eq!(rest(&mut lines, false), [(400, "10% 50% 100%\n".into())]);
        assert_eq!(rest(&mut lines, true), [(400, "end".into())]);
        assert_eq!(rest(&mut lines, true), []);
    }

    #[test]
    fn reading_begins_where_somebody_wants() {
        let logs = Logs::new(b"one\ntwo\nthree\nfour", &[(100, 0), (200, 6), (300, 14)]);
        let since = |time| {
            let mut lines = logs.lines();
            lines.skip_to(time).expect("read");
            text(&mut lines)
        };
        assert_eq!(since(0), "one\ntwo\nthree\nfour");
        // Its end came then.
        assert_eq!(since(200), "two\nthree\nfour");
        assert_eq!((since(201).as_str(), since(301).as_str()), ("four", "four"));
        let tail = |count| {
            let mut lines = logs.lines();
            lines.skip_to_last(count).expect("read");
            text(&mut lines)
        };
        assert_eq!((tail(0).as_str(), tail(1).as_str(), tail(2).as_str()), ("", "four", "three\nfour"));
        assert_eq!((tail(4).as_str(), tail(400).as_str()), ("one\ntwo\nthree\nfour", "one\ntwo\nthree\nfour"));
        logs.append(b"\n");
        assert_eq!(tail(2), "three\nfour\n");
    }

    #[test]
    fn long_lines_are_whole_and_endless_ones_come_in_pieces() {
        let long = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
        let logs = Logs::new(&[&long[..], b"a\n", &long].concat(), &[]);
        let mut lines = logs.lines();
        let sizes: Vec<usize> = rest(&mut lines, false).iter().map(|(_, line)| line.len()).collect();
        assert_eq!(sizes, [(1 << 20) + 1, 2, (1 << 20) + 1]);
        let mut lines = logs.lines();
        lines.skip_to_last(2).expect("read");
        assert_eq!(text(&mut lines).len(), (1 << 20) + 3);
        let endless = Logs::new(&vec![b'y'; LONGEST + CHUNK], &[]);
        let sizes: Vec<usize> = rest(&mut endless.lines(), true).iter().map(|(_, line)| line.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), LONGEST + CHUNK);
        assert!(sizes.len() == 2 && sizes[0] <= LONGEST + CHUNK, "{sizes:?}");
    }

    #[test]
    fn bytes_come_as_they_are_before_their_line_is_whole() {
        let logs = Logs::new(b"10%\r\xff", &[]);
        let mut lines = logs.lines();
        assert_eq!(lines.take_bytes().expect("read"), b"10%\r\xff");
        assert_eq!(lines.take_bytes().expect("read"), b"");
        logs.append(b"\r20%\n");
        assert_eq!(lines.take_bytes().expect("read"), b"\r20%\n");
    }
}
