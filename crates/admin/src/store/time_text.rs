//! Times as text in the database, in the format that SQLite's `datetime()` writes and compares:
//! UTC, with milliseconds where we write them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

/// The accepted formats, for messages.
pub const FORM: &str = "write `2026-11-23 18:00:00` (UTC) or 2026-11-23T18:00:00Z";

/// The Unix epoch.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// 9999-12-31 23:59:59.999, the last time with a year of four digits. Later ones are written as
/// this one, so that text order stays time order.
const LAST_MS: i64 = 253_402_300_799_999;
/// 0000-01-01 00:00:00.000.
const FIRST_MS: i64 = -62_167_219_200_000;

/// Now, by the system's clock, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// `YYYY-MM-DD HH:MM:SS.mmm` of a time in milliseconds since the Unix epoch. Times outside the
/// years 0 to 9999 are clamped.
#[must_use]
pub fn from_ms(ms: i64) -> String {
    let since = SignedDuration::from_millis(ms.clamp(FIRST_MS, LAST_MS));
    let civil = EPOCH.checked_add(since).unwrap_or(EPOCH);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        civil.year(),
        civil.month(),
        civil.day(),
        civil.hour(),
        civil.minute(),
        civil.second(),
        civil.millisecond()
    )
}

/// Milliseconds since the Unix epoch of a time as people and SQLite write it:
/// `YYYY-MM-DD HH:MM[:SS[.fraction]]` in UTC, where `T` may replace the blank, or RFC 3339 with `Z`
/// or an offset. Fractions of a millisecond are rounded up, so that no ban ends early. `None`:
/// another format; [`FORM`] names those accepted.
#[must_use]
pub fn to_ms(text: &str) -> Option<i64> {
    // jiff also accepts dates alone, basic ISO forms and zones in brackets.
    let dashes = text.as_bytes().get(4) == Some(&b'-') && text.as_bytes().get(7) == Some(&b'-');
    if !dashes || text.len() < 16 || text.contains('[') {
        return None;
    }
    // Without an offset it is not parsed as `Timestamp`: its range ends a day before the year
    // 9999 does, and people write that year's last day for "never".
    let utc = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let has_offset = utc.get(16..)?.contains(['+', '-']);
    let nanos = if has_offset {
        text.parse::<Timestamp>().ok()?.as_nanosecond()
    } else {
        utc.parse::<DateTime>().ok()?.duration_since(EPOCH).as_nanos()
    };
    let up = i128::from(nanos.rem_euclid(1_000_000) != 0);
    i64::try_from(nanos.div_euclid(1_000_000) + up).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_sqlite_and_people_write() {
        let want = Some(1_795_456_801_000);
        for text in [
            "2026-11-23 18:00:01",
            "2026-11-23T18:00:01Z",
            "2026-11-23 18:00:01.000",
            "2026-11-23 18:00:00.9999",
            "2026-11-23T20:00:01+02:00",
            "2026-11-23T18:00:01",
        ] {
            assert_eq!(to_ms(text), want, "{text}");
        }
        assert_eq!(to_ms("2026-11-23 18:00"), Some(1_795_456_800_000));
        assert_eq!(to_ms("9999-12-31 23:59:59"), Some(LAST_MS - 999));
        assert_eq!(to_ms("9999-12-31T23:59:59Z"), Some(LAST_MS - 999));
        assert_eq!(to_ms("1969-12-31 23:59:59.5"), Some(-500));
    }

    #[test]
    fn what_is_no_moment() {
        for text in [
            "",
            "now",
            "1795456801",
            "2026-11-23",
            "20261123T180001Z",
            "2026-11-23T18:00:01[UTC]",
            "2026-02-30 00:00:00",
            "2026-11-23 25:00:00",
            "2026-11-23 18:00:01 ",
            "2026-11-23T18:00:01+02:00Z",
            "2026-11-23T18:00:01ZZ",
        ] {
            assert_eq!(to_ms(text), None, "{text}");
        }
    }

    #[test]
    fn far_moments_keep_their_order() {
        assert_eq!(from_ms(i64::MAX), "9999-12-31 23:59:59.999");
        assert_eq!(from_ms(i64::MIN), "0000-01-01 00:00:00.000");
    }

    proptest! {
        #[test]
        fn text_is_the_moment_and_sorts_like_it(a in FIRST_MS..=LAST_MS, b in FIRST_MS..=LAST_MS) {
            prop_assert_eq!(to_ms(&from_ms(a)), Some(a));
            prop_assert_eq!(from_ms(a).cmp(&from_ms(b)), a.cmp(&b));
        }

        #[test]
        fn any_text_is_a_moment_or_none(text: String) {
            let _ = to_ms(&text);
        }
    }
}
