//! Cutting a stream into lines of bounded length.

use memchr::memchr;

/// Longest line that is kept, in bytes without its end.
pub const LIMIT: usize = 256 * 1024;

/// Collects bytes until a line is complete.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    too_long: bool,
}

/// One line of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The line without its end.
    Whole(&'a [u8]),
    /// The beginning of a line longer than [`LIMIT`].
    TooLong(&'a [u8]),
}

impl Lines {
    /// Takes bytes and hands out the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = memchr(b'\n', bytes) {
            self.keep(&bytes[..end]);
            self.hand_out(&mut each);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// Hands out what the stream left without an end.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        self.hand_out(&mut each);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LIMIT - self.partial.len();
        self.too_long |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn hand_out(&mut self, each: &mut impl FnMut(Line<'_>)) {
        if self.too_long {
            each(Line::TooLong(&self.partial));
        } else if !self.partial.trim_ascii().is_empty() {
            each(Line::Whole(self.partial.trim_ascii()));
        }
        self.partial.clear();
        self.too_long = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut take = |line: Line<'_>| match line {
            Line::Whole(bytes) => seen.push((true, bytes.to_vec())),
            Line::TooLong(bytes) => seen.push((false, bytes.to_vec())),
        };
        for chunk in chunks {
            lines.push(chunk, &mut take);
        }
        lines.finish(&mut take);
        seen
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let expected: Vec<_> = [b"one", b"two", b"end"].iter().map(|line| (true, line.to_vec())).collect();
        assert_eq!(all(&[b"one\r\n\n  \ntwo\nend"]), expected);
        assert_eq!(all(&[b"o", b"ne\ntw", b"o", b"\nen", b"d"]), expected);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let long = vec![b'x'; LIMIT];
        assert_eq!(all(&[&long, &long, b"\nnext\n"]), [(false, long.clone()), (true, b"next".to_vec())]);
        assert_eq!(all(&[&long]), [(true, long)]);
    }
}
