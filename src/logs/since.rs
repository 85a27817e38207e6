//! A moment as people write it. Pure.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The text is no moment.
#[derive(Debug, thiserror::Error)]
#[error("`{option} {given}` is no time")]
pub struct SinceError {
    /// The option.
    pub option: &'static str,
    /// What it was given.
    pub given: String,
}

/// How a moment can be written, for who got it wrong.
pub const FORMS: &str = "write how long before (`10m`, `2h`), a time of day (`14:30`), a date and time \
                         (`2026-11-24T03:45:01Z`) or seconds since 1970";

/// The moment that `text` means, in milliseconds since the Unix epoch. `now_ms` is what a length of time counts back from, and the latest that a time of
/// day can be; days and dates without an offset are those of `zone`.
///
/// # Errors
///
/// The text is no moment.
pub fn moment(option: &'static str, text: &str, now_ms: u64, zone: &TimeZone) -> Result<u64, SinceError> {
    let text = text.trim();
    let moment = back(text, now_ms)
        .or_else(|| seconds(text))
        .or_else(|| date(text, zone))
        .or_else(|| time_of_day(text, now_ms, zone));
    moment.ok_or_else(|| SinceError { option, given: text.to_owned() })
}

/// `10m`, `1h 30m`, `90s`.
fn back(text: &str, now_ms: u64) -> Option<u64> {
    // A number alone are seconds since 1970, and `P...` is nobody's habit.
    if !text.starts_with(|first: char| first.is_ascii_digit())
        || !text.ends_with(|last: char| last.is_ascii_alphabetic())
    {
        return None;
    }
    // Days are no fixed time to a calendar, but they are to who looks back.
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    let length = match days {
        Some(days) => days.checked_mul(86_400_000)?,
        None => {
            let length: SignedDuration = text.parse().ok()?;
            u64::try_from(length.as_millis()).ok()?
        }
    };
    Some(now_ms.saturating_sub(length))
}

/// Seconds since 1970, as `date +%s` prints them.
fn seconds(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let seconds: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "digits and a point, saturating")]
    Some((seconds * 1e3).round() as u64)
}

fn date(text: &str, zone: &TimeZone) -> Option<u64> {
    let moment = text.parse::<Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(zone.clone()).ok()?.timestamp())
    })?;
    u64::try_from(moment.as_millisecond()).ok()
}

/// The last such time of day that is not after `now_ms`.
fn time_of_day(text: &str, now_ms: u64, zone: &TimeZone) -> Option<u64> {
    let time: Time = text.parse().ok()?;
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?.to_zoned(zone.clone());
    let on = |day: jiff::civil::Date| day.to_datetime(time).to_zoned(zone.clone()).ok();
    let today = on(now.date())?;
    let moment = if today <= now { today } else { on(now.date().yesterday().ok()?)? };
    u64::try_from(moment.timestamp().as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-24 03:45:01 UTC.
    const NOW: u64 = 1_795_491_901_000;

    #[test]
    fn moments_are_written_in_many_ways() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let of = |text| moment("--since", text, NOW, &zone).ok();
        for (text, back) in
            [("10m", 600), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("1h 30m", 5400), ("3d", 259_200)]
        {
            assert_eq!(of(text), Some(NOW - back * 1000), "{text}");
        }
        assert_eq!((of("500ms"), of(" 0s ")), (Some(NOW - 500), Some(NOW)));
        for text in [
            "2026-11-24T03:45:01Z",
            "2026-11-24T05:45:01+02:00",
            "2026-11-24T05:45:01",
            "2026-11-24 05:45:01",
            "05:45:01",
            "1795491901",
        ] {
            assert_eq!(of(text), Some(NOW), "{text}");
        }
        assert_eq!(of("1795491901.5"), Some(NOW + 500));
        assert_eq!(of("2026-11-24"), of("00:00"));
        // Later today than now: yesterday's.
        assert_eq!(of("05:46"), Some(NOW + 59_000 - 86_400_000));
        assert_eq!(of("05:45"), Some(NOW - 1000));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in
            ["", "soon", "10", "10 apples", "-10m", "25:00", "2026-13-01", "1.2.3", "m", "999999999999999999999d"]
        {
            let moment = moment("--since", text, NOW, &TimeZone::UTC);
            // A bare number is one of seconds since 1970.
            assert_eq!(moment.is_err(), text != "10", "{text}: {moment:?}");
        }
    }
}
