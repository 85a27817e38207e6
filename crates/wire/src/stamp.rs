//! When a rank wrote what its log holds. The log itself is the program's bytes and nothing else, so the times stand beside it, in
//! [`crate::path::times`]: records of [`SIZE`] bytes, appended, each a [`Stamp`] as two little-endian integers, `time_ms` first.
//!
//! A stamp says: the byte at `offset` of the log, and what follows it until the next stamp, came at `time_ms` or within [`INTERVAL_MS`]
//! after. It is written before the bytes it speaks of, so who reads a byte finds its stamp. Offsets never fall; times can, when a clock is
//! set. Of two stamps with one offset the later counts (a full disk may have kept the bytes of the first from the log).
//! What lies before the first stamp has no time: a writer before there were stamps wrote it. A last record that is not whole is to be
//! passed over.

/// Bytes of a stamp.
pub const SIZE: usize = 16;
/// Milliseconds between two stamps of a launch at least.
pub const INTERVAL_MS: u64 = 50;

/// One record of `rank-N.times`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch by the agent's clock.
    pub time_ms: u64,
    /// Place in the log, in bytes from its start, over all launches.
    pub offset: u64,
}

impl Stamp {
    /// The record.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&self.time_ms.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// The stamps in what a file holds; what is left of a record at its end is passed over.
    pub fn read_all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.chunks_exact(SIZE).map(|record| {
            let number = |half: &[u8]| half.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
            Self { time_ms: number(&record[..8]), offset: number(&record[8..]) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_read_back_as_written() {
        let stamps = [Stamp { time_ms: 1_795_000_000_123, offset: 0 }, Stamp { time_ms: 7, offset: u64::MAX }];
        let mut bytes: Vec<u8> = stamps.iter().flat_map(|stamp| stamp.to_bytes()).collect();
        assert_eq!(bytes[..8], 1_795_000_000_123_u64.to_le_bytes());
        // A writer that died in the middle of one.
        bytes.extend_from_slice(&[1; SIZE - 1]);
        assert_eq!(Stamp::read_all(&bytes).collect::<Vec<_>>(), stamps);
    }
}
