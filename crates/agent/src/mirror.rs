//! The copy of the output that `docker logs` shows. Best effort: it never blocks, and a flood is cut, because every line
//! that the engine must take costs the machine far more than the line in the spool, which is whole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};

/// Bytes that may pass at once.
const BURST: f64 = 4.0 * 1024.0 * 1024.0;
/// Bytes that may pass in a second after that.
const RATE: f64 = 1024.0 * 1024.0;

/// The agent's own stdout.
#[derive(Debug)]
pub struct Mirror {
    /// A description of our own, so that not blocking is nobody else's business; absent: stdout itself.
    own: Option<OwnedFd>,
    closed: bool,
    allowance: f64,
    filled: Instant,
    /// What was left out since the last byte that went through.
    skipped: u64,
    /// Whether the last byte that went through was inside a line.
    inside_line: bool,
}

impl Mirror {
    /// Prepares stdout for writes that do not block.
    pub fn new(now: Instant) -> Self {
        let stdout = rustix::stdio::stdout();
        let kind = fstat(stdout).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let own = match kind {
            // A file blocks nobody, and a second description would have an offset of its own.
            Ok(FileType::RegularFile) => None,
            _ => open(
                "/proc/self/fd/1",
                OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .inspect_err(|_| {
                // Another user's pipe cannot be opened again (containers that do not run as root). Only docker-init
                // shares its description then, and that writes nothing.
                if let Ok(flags) = fcntl_getfl(stdout) {
                    let _ = fcntl_setfl(stdout, flags | OFlags::NONBLOCK);
                }
            })
            .ok(),
        };
        Self { own, closed: kind.is_err(), allowance: BURST, filled: now, skipped: 0, inside_line: false }
    }

    /// Writes what can be written now; the rest is left out.
    pub fn write(&mut self, bytes: &[u8], now: Instant) {
        if self.closed {
            return;
        }
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * RATE;
        self.allowance = (self.allowance + grown).min(BURST);
        self.filled = now;
        let mut rest = bytes;
        if self.skipped > 0 {
            // Go on at the start of a line, and only when there is room for more than a few of them.
            let Some(start) = memchr::memchr(b'\n', rest).map(|end| end + 1) else {
                self.skipped += rest.len() as u64;
                return;
            };
            self.skipped += start as u64;
            if self.allowance < BURST / 8.0 {
                self.skipped += (rest.len() - start) as u64;
                return;
            }
            if !self.tell_skipped() {
                self.skipped += (rest.len() - start) as u64;
                return;
            }
            rest = &rest[start..];
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the burst")]
        let allowed = &rest[..rest.len().min(self.allowance as usize)];
        let written = self.put(allowed);
        self.skipped = (rest.len() - written) as u64;
    }

    /// Says what was left out at the end.
    pub fn finish(&mut self) {
        if self.skipped > 0 && !self.closed {
            self.tell_skipped();
        }
    }

    /// Whether the notice went through whole.
    fn tell_skipped(&mut self) -> bool {
        let start = if self.inside_line { "\n" } else { "" };
        let notice = format!("{start}[evenkeel: {} bytes are left out here; the run's log has them]\n", self.skipped);
        let whole = self.put(notice.as_bytes()) == notice.len();
        if whole {
            self.skipped = 0;
        }
        whole
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(self.fd(), &bytes[written..]) {
                Ok(n) => written += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "an allowance need not be exact")]
        {
            self.allowance -= written as f64;
        }
        if let Some(last) = bytes[..written].last() {
            self.inside_line = *last != b'\n';
        }
        written
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.own.as_ref().map_or(rustix::stdio::stdout(), AsFd::as_fd)
    }
}
