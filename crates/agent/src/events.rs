//! The spool of a rank's events: records with consecutive numbers, each whole.
//!
//! When the disk is full, events are lost and a note says how many, but the seal is not: space for it is reserved in the
//! file beforehand, where the file system can do that.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel_wire::{Event, Record, VERSION, env};
use rustix::fs::{FallocateFlags, fallocate, ftruncate};

use crate::lines::{Line, Lines};

/// Bytes reserved behind the end of the file.
const RESERVE: u64 = 64 * 1024;
/// Bytes of it that only the last records may use: a note and the seal.
const LAST: u64 = 8 * 1024;
/// Bytes of records that wait in memory for a disk without reserve.
const WAITING_LIMIT: usize = 1024 * 1024;
/// Bytes of a bad line that its note quotes.
const QUOTE: usize = 200;

/// The spool that is being written.
#[derive(Debug)]
pub struct Events {
    file: File,
    generation: u32,
    rank: u32,
    seq: u64,
    /// Records, or the rest of one, that the disk has not taken yet.
    waiting: Vec<u8>,
    /// End of the file, and of the space that is reserved for it; absent where nothing can be reserved.
    end: u64,
    reserved: Option<u64>,
    lost: u64,
    lines: Lines,
    /// What a preflight found that the trainer must be started with.
    found: Vec<(&'static str, OsString)>,
}

impl Events {
    /// Opens the spool at the end of what earlier generations wrote.
    ///
    /// # Errors
    /// When the file cannot be opened or created.
    pub fn open(path: &Path, generation: u32, rank: u32) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        let end = file.metadata()?.len();
        let mut events = Self {
            file,
            generation,
            rank,
            seq: 0,
            waiting: Vec::new(),
            end,
            reserved: Some(end),
            lost: 0,
            lines: Lines::default(),
            found: Vec::new(),
        };
        if fallocate(&events.file, FallocateFlags::KEEP_SIZE, end, RESERVE).is_ok() {
            events.reserved = Some(end + RESERVE);
        } else {
            events.reserved = None;
        }
        Ok(events)
    }

    /// Appends an event, or counts it as lost.
    pub fn append(&mut self, event: Event) {
        if let Event::Preflight { ok: true, environment, .. } = &event {
            let known = |name: &&str| environment.contains_key(*name);
            self.found =
                env::FOUND.into_iter().filter(known).map(|name| (name, OsString::from(&environment[name]))).collect();
        }
        if self.lost > 0 {
            let message = format!("{} events are lost here, the disk was full", self.lost);
            let note = self.line(Event::Note { message });
            if !self.has_room(note.len()) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
            self.write(&note);
        }
        let line = self.line(event);
        if self.has_room(line.len()) {
            self.write(&line);
        } else {
            self.lost += 1;
        }
    }

    /// Variables that the preflight's event names; those of [`env::FOUND`] only.
    pub fn found(&self) -> &[(&'static str, OsString)] {
        &self.found
    }

    /// Takes bytes that the trainer wrote on its events descriptor.
    pub fn take(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(bytes, |line| self.append(read(&line)));
        self.lines = lines;
    }

    /// Takes what the trainer left without an end of line.
    pub fn take_last(&mut self) {
        std::mem::take(&mut self.lines).finish(|line| self.append(read(&line)));
    }

    /// Whether the disk has not taken everything yet.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tries again to write what is waiting; whether all is written.
    pub fn flush(&mut self) -> bool {
        let mut written = 0;
        while written < self.waiting.len() {
            match self.file.write(&self.waiting[written..]) {
                Ok(n) if n > 0 => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.waiting.drain(..written);
        self.end += written as u64;
        self.waiting.is_empty()
    }

    /// Appends the seal, gives back what is reserved, and hands over the file.
    ///
    /// # Errors
    /// When the disk has not taken all of it.
    pub fn seal(mut self, exit: Event) -> io::Result<File> {
        if self.lost > 0 {
            let message = format!("{} events are lost here, the disk was full", self.lost);
            let note = self.line(Event::Note { message });
            self.write(&note);
        }
        let seal = self.line(exit);
        self.write(&seal);
        let whole = self.flush();
        let _ = ftruncate(&self.file, self.end);
        if whole { Ok(self.file) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Whether an ordinary record of so many bytes may be written.
    fn has_room(&mut self, bytes: usize) -> bool {
        let Some(reserved) = self.reserved else { return self.waiting.len() + bytes < WAITING_LIMIT };
        let needed = self.end + (self.waiting.len() + bytes) as u64 + LAST;
        if needed <= reserved {
            return true;
        }
        let wanted = needed - self.end + RESERVE;
        if fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.end, wanted).is_ok() {
            self.reserved = Some(self.end + wanted);
            return true;
        }
        false
    }

    /// The next record as a line. It takes the next number, which [`Self::write`] then uses up.
    fn line(&self, event: Event) -> Vec<u8> {
        let (v, generation, rank, seq) = (VERSION, self.generation, self.rank, self.seq);
        let record = Record { v, generation, rank, seq, time_ms: now_ms(), event };
        let mut line = serde_json::to_vec(&record).expect("a record is plain data");
        line.push(b'\n');
        line
    }

    fn write(&mut self, line: &[u8]) {
        self.seq += 1;
        self.waiting.extend(line);
        self.flush();
    }
}

/// Reads what a trainer wrote. What is no event, or one that only the agent may tell, becomes a note.
fn read(line: &Line<'_>) -> Event {
    let (bytes, why) = match line {
        Line::TooLong(bytes) => (*bytes, "is too long".to_owned()),
        Line::Whole(bytes) => match serde_json::from_slice::<Event>(bytes) {
            Ok(Event::Waiting | Event::Started { .. } | Event::Ended { .. } | Event::Exit { .. }) => {
                (*bytes, "is the agent's own".to_owned())
            }
            Ok(event) => return event,
            Err(error) => (*bytes, format!("is not understood ({error})")),
        },
    };
    let quote = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTE)]).into_owned();
    let dots = if bytes.len() > QUOTE { "…" } else { "" };
    Event::Note { message: format!("an event of the trainer {why}: {quote}{dots}") }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
