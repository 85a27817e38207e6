//! Text that stands for something else, as compose and the shell have it: sizes, durations, words of a command line.

use std::time::Duration;

/// Parses a size; units count in powers of 1024, as in compose and docker.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let factor = 1_u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).filter(|bytes| *bytes <= i64::MAX as u64);
    }
    #[expect(clippy::cast_precision_loss, reason = "a power of two up to 2^40 is exact")]
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}

/// Parses a duration of parts with units; the whole is in milliseconds.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|character: char| !character.is_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        whole = whole.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[letters..];
    }
    (!text.trim().is_empty()).then_some(whole)
}

/// A duration as a job writes it.
pub(super) fn write_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}s", duration.as_secs_f64())
    }
}

/// Splits a command line into words by the shell's rules for blanks, quotes and backslashes; nothing is expanded.
/// Nothing when a quote is not closed.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => match rest.next()? {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            '\n' => {}
                            other => word.extend(['\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            '\\' => match rest.next()? {
                '\n' => {}
                escaped => word.get_or_insert_default().push(escaped),
            },
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_compose() {
        for (text, bytes) in [
            ("64", 64),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("2gb", 2 << 30),
            ("2GiB", 2 << 30),
            ("1.5g", 3 << 29),
            ("1 GB", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "gb", "-1", "2x", "1.2.3g", "99999999999t", "nan", "inf", "1e3g"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_those_of_compose() {
        for (text, milliseconds) in
            [("10s", 10_000), ("1m30s", 90_000), ("500ms", 500), ("1h", 3_600_000), ("2", 2_000), ("0.5", 500)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1s1", "nan", "inf", "1e300h", "µ", "1é"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        let words = |text: &str| split(text).expect("closed quotes");
        assert_eq!(words("python  train.py\t--lr 0.1\n"), ["python", "train.py", "--lr", "0.1"]);
        assert_eq!(
            words(r#"sh -c "echo \"a b\" \n $X" 'it''s' a\ b """#),
            ["sh", "-c", r#"echo "a b" \n $X"#, "its", "a b", ""]
        );
        assert_eq!(words("a#b # c"), ["a#b", "#", "c"]);
        assert_eq!(words("  "), [""; 0]);
        for open in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split(open), None, "{open}");
        }
    }
}
