//! Words and columns that texts for a person share. Pure.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::look::Look;

/// A time that passed.
#[must_use]
pub fn human(time: Duration) -> String {
    match time.as_secs() {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// The same, of what a record says, which may be anything.
#[must_use]
pub fn human_seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".to_owned(), human)
}

/// A moment in milliseconds since the Unix epoch, as a clock and a calendar on the wall show it.
#[must_use]
pub fn moment(ms: u64, zone: &TimeZone) -> String {
    shown(ms, zone, "%Y-%m-%d %H:%M:%S")
}

/// The time of day alone.
#[must_use]
pub fn time_of_day(ms: u64, zone: &TimeZone) -> String {
    shown(ms, zone, "%H:%M:%S")
}

fn shown(ms: u64, zone: &TimeZone, format: &str) -> String {
    let moment = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| "?".to_owned(), |moment| moment.to_zoned(zone.clone()).strftime(format).to_string())
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Devices of ranks in few characters: how many of which kind.
#[must_use]
pub fn devices(names: &[String]) -> String {
    let cpus = names.iter().filter(|name| name.starts_with("cpu")).count();
    let count = |count: usize, kind: &str| (count > 0).then(|| format!("{count} {kind}"));
    [count(names.len() - cpus, "gpu"), count(cpus, "cpu")].into_iter().flatten().collect::<Vec<_>>().join(" + ")
}

/// Micro-batches of a rank: `2 x 16`, `16 16 8`.
#[must_use]
pub fn micro_batches(sizes: &[u64]) -> String {
    match sizes {
        [] => String::new(),
        [one] => one.to_string(),
        [first, rest @ ..] if rest.iter().all(|size| size == first) => format!("{} x {first}", sizes.len()),
        _ => sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Rows of cells as lines of columns, the first of them a heading, two spaces apart. A column in which nothing stands but its heading is
/// left out. Cells may be painted.
#[must_use]
pub fn columns<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let widths: Vec<[usize; COLUMNS]> =
        rows.iter().map(|row| std::array::from_fn(|column| visible(&row[column]))).collect();
    let is_empty = |column: usize| widths.len() > 1 && widths[1..].iter().all(|row| row[column] == 0);
    let widest = |column: usize| widths.iter().map(|row| row[column]).max().unwrap_or(0);
    let all: [usize; COLUMNS] = std::array::from_fn(|column| if is_empty(column) { 0 } else { widest(column) });
    let line = |(row, own): (&[String; COLUMNS], &[usize; COLUMNS])| {
        let mut line = String::new();
        for column in (0..COLUMNS).filter(|column| all[*column] > 0) {
            line.push_str(&row[column]);
            line.extend(std::iter::repeat_n(' ', all[column] - own[column] + 2));
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().zip(&widths).map(line).collect()
}

/// Columns that a text takes on a terminal, colours aside.
fn visible(text: &str) -> usize {
    // Nearly every text is one; lists of thousands of runs are made of them.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.len();
    }
    unicode_width::UnicodeWidthStr::width(super::plain(text).as_str())
}

/// `key` and a text beside it, which is broken at words where it is wider than the terminal.
#[must_use]
pub fn entry(key: &str, text: &str, margin: usize, look: Look) -> Vec<String> {
    let room = look.width.saturating_sub(margin).max(20);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && visible(&line) + 1 + visible(word) > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    let begin = |at: usize| if at == 0 { key } else { "" };
    lines.iter().enumerate().map(|(at, line)| format!("{:<margin$}{line}", begin(at)).trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let names = |names: &[&str]| devices(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            (names(&["cpu:0", "cpu:1"]), names(&["GPU-a", "cpu:0"]), names(&[])),
            ("2 cpu".into(), "1 gpu + 1 cpu".into(), String::new())
        );
        assert_eq!(
            (micro_batches(&[16, 16]), micro_batches(&[16, 8]), micro_batches(&[4])),
            ("2 x 16".into(), "16 8".into(), "4".into())
        );
        assert_eq!(moment(1_795_491_901_000, &TimeZone::UTC), "2026-11-24 03:45:01");
        assert_eq!(moment(u64::MAX, &TimeZone::UTC), "?");
        assert_eq!((human_seconds(125.4), human_seconds(f64::NAN)), ("2 min 5 s".into(), "?".into()));
    }

    #[test]
    fn a_long_text_is_broken_at_words() {
        let look = Look { width: 30, colour: false, unicode: true };
        let lines = entry("advice", "set a smaller batch and then train again", 8, look);
        assert_eq!(lines, ["advice  set a smaller batch", "        and then train again"]);
    }

    #[test]
    fn columns_stand_by_what_is_seen_of_them() {
        let rows = [["a", "bb"], ["\x1b[32mccc\x1b[0m", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), ["a    bb", "\x1b[32mccc\x1b[0m  d"]);
    }
}
