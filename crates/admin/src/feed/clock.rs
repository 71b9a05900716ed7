//! Times as they stand in the database: text that people may have written.

use std::num::NonZeroI64;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tidegate_policy::UnixSeconds;

/// Milliseconds since the Unix epoch; the epoch itself is kept as 1.
pub(super) type Millis = NonZeroI64;

/// Reads what SQLite's `datetime` and its like write, and RFC 3339:
/// `2026-11-23 18:00:00`, with a fraction, a `T` or an offset; UTC without one;
/// midnight without a time.
pub(super) fn millis(text: &str) -> Option<Millis> {
    let timestamp = moment(text.trim())?;
    let whole = timestamp.as_millisecond();
    // Up, so that no ban ends early.
    let rest = i64::from(timestamp.subsec_nanosecond() % 1_000_000 > 0);
    NonZeroI64::new(whole.saturating_add(rest)).or(NonZeroI64::new(1))
}

fn moment(text: &str) -> Option<Timestamp> {
    // jiff also reads a year, or a zone in brackets.
    if text.len() < "2026-11-23".len() || text.contains('[') {
        return None;
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    }
    text.parse().ok()
}

/// The second at which an entry ends: rounded up. An end before 1970 becomes the
/// first second after it began; one that a table cannot hold (2106) is never.
pub(super) fn expiry(moment: Millis) -> Option<UnixSeconds> {
    let seconds = moment.get().div_euclid(1_000) + i64::from(moment.get().rem_euclid(1_000) > 0);
    UnixSeconds::try_from(seconds.max(1)).ok()
}

/// Now, milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let cases = [
            ("2026-11-23 18:00:00", Some(1_795_456_800_000)),
            ("2026-11-23T18:00:00Z", Some(1_795_456_800_000)),
            ("2026-11-23 20:00:00+02:00", Some(1_795_456_800_000)),
            ("2026-11-23 18:00:00.250", Some(1_795_456_800_250)),
            ("2026-11-23 18:00:00.2500001", Some(1_795_456_800_251)),
            (" 2026-11-23 18:00 ", Some(1_795_456_800_000)),
            ("2026-11-23", Some(1_795_392_000_000)),
            ("1970-01-01 00:00:00", Some(1)),
            ("1969-12-31 23:59:59", Some(-1_000)),
            ("", None),
            ("2026", None),
            ("tomorrow", None),
            ("1795456800", None),
            ("2026-13-01 00:00:00", None),
            ("2026-11-23 18:00:00[Europe/Berlin]", None),
        ];
        for (text, want) in cases {
            assert_eq!(millis(text).map(NonZeroI64::get), want, "{text}");
        }
    }

    #[test]
    fn an_expiry_rounds_up_and_fits() {
        let cases = [
            (1_795_456_800_000, Some(1_795_456_800)),
            (1_795_456_800_001, Some(1_795_456_801)),
            (-5, Some(1)),
            (1, Some(1)),
            (i64::from(u32::MAX) * 1_000, Some(u32::MAX)),
            (i64::from(u32::MAX) * 1_000 + 1, None),
        ];
        for (millis, want) in cases {
            assert_eq!(NonZeroI64::new(millis).map(expiry), Some(want), "{millis}");
        }
    }
}
