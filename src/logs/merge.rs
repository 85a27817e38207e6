//! The logs of all ranks as one, by the times of their lines.

use std::io;

use super::lines::{Line, Lines};

/// The logs of some ranks, being read together.
#[derive(Debug, Default)]
pub struct Merge {
    logs: Vec<(u32, Lines)>,
}

impl Merge {
    /// Reads one more.
    pub fn add(&mut self, rank: u32, lines: Lines) {
        self.logs.push((rank, lines));
        self.logs.sort_by_key(|(rank, _)| *rank);
    }

    /// Whether the log of `rank` is among them.
    #[must_use]
    pub fn has(&self, rank: u32) -> bool {
        self.logs.iter().any(|(known, _)| *known == rank)
    }

    /// The next line that is there: that with the least time, of equal ones that of the lowest rank. With `last`, also what no line feed
    /// follows. Lines of one rank keep their order. A line that is written later can bear an earlier time, by the milliseconds that its way
    /// took.
    pub fn next(&mut self, last: bool) -> io::Result<Option<(u32, Line)>> {
        let mut least: Option<(u64, usize)> = None;
        for (at, (_, lines)) in self.logs.iter_mut().enumerate() {
            if let Some(time) = lines.peek(last)? {
                least = Some(least.map_or((time, at), |least| least.min((time, at))));
            }
        }
        let Some((_, at)) = least else { return Ok(None) };
        let (rank, lines) = &mut self.logs[at];
        Ok(lines.take().map(|line| (*rank, line)))
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_wire::Stamp;

    use super::*;

    /// What a rank wrote, and times with the places that they are of.
    type Log<'a> = (&'a [u8], &'a [(u64, u64)]);

    fn merged(logs: &[Log<'_>]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut merge = Merge::default();
        for (rank, (log, stamps)) in (0..).zip(logs) {
            let path = |end| folder.path().join(format!("rank-{rank}.{end}"));
            let stamps: Vec<u8> = stamps
                .iter()
                .flat_map(|(time_ms, offset)| Stamp { time_ms: *time_ms, offset: *offset }.to_bytes())
                .collect();
            std::fs::write(path("times"), stamps).expect("written");
            std::fs::write(path("log"), log).expect("written");
            merge.add(rank, Lines::new(folder.path(), rank));
        }
        let mut all = Vec::new();
        while let Some((rank, line)) = merge.next(true).expect("read") {
            all.push(format!("{rank}{}", String::from_utf8_lossy(&line.bytes).trim_end()));
        }
        all
    }

    #[test]
    fn lines_come_in_the_order_of_their_times() {
        let logs: [Log<'_>; 2] = [(b"a\nb\nc\n", &[(100, 0), (300, 4)]), (b"a\nb\nc", &[(50, 0), (200, 2), (400, 4)])];
        assert_eq!(merged(&logs), ["1a", "0a", "0b", "1b", "0c", "1c"]);
    }

    #[test]
    fn logs_without_times_stand_one_after_the_other() {
        assert_eq!(merged(&[(b"a\nb\n", &[]), (b"a\nb\n", &[])]), ["0a", "0b", "1a", "1b"]);
    }
}
