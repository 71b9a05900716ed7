//! Times as text in the database, in the format that SQLite's `datetime()` writes and compares:
//! UTC, with milliseconds where we write them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

/// The accepted formats, for messages.
pub const FORM: &str =
    "write 2026-11-23T18:00:00Z, `2026-11-23 18:00:00` (UTC), 2026-11-23 (its beginning) or Unix seconds";

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

/// Milliseconds since the Unix epoch of a time as people, programs and SQLite write it:
/// `YYYY-MM-DD[ HH:MM[:SS[.fraction]]]` in UTC, where `T` may replace the blank, RFC 3339 with `Z`
/// or an offset, or Unix seconds. Fractions of a millisecond are rounded up, so that no ban ends
/// early. `None`: another format; [`FORM`] names those accepted.
#[must_use]
pub fn to_ms(text: &str) -> Option<i64> {
    let nanos = unix_nanos(text).or_else(|| calendar_nanos(text))?;
    let up = i128::from(nanos.rem_euclid(1_000_000) != 0);
    i64::try_from(nanos.div_euclid(1_000_000) + up).ok()
}

/// Unix seconds, with or without a fraction, in nanoseconds: from 1973 to the year 9999. Lower
/// numbers are spans, years, or dates like 20261123, and higher ones are milliseconds.
fn unix_nanos(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: i64 = whole.parse().ok().filter(|_| is_number(whole) && is_number(fraction))?;
    let nanos: i128 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let in_range = (100_000_000..=LAST_MS / 1_000).contains(&seconds);
    in_range.then(|| i128::from(seconds) * 1_000_000_000 + nanos)
}

fn calendar_nanos(text: &str) -> Option<i128> {
    // jiff also accepts basic ISO forms and zones in brackets.
    let dashes = text.as_bytes().get(4) == Some(&b'-') && text.as_bytes().get(7) == Some(&b'-');
    if !dashes || !(text.len() == 10 || text.len() >= 16) || text.contains('[') {
        return None;
    }
    // Without an offset it is not parsed as `Timestamp`: its range ends a day before the year
    // 9999 does, and people write that year's last day for "never".
    let utc = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let has_offset = utc.get(16..).is_some_and(|end| end.contains(['+', '-']));
    Some(if has_offset {
        text.parse::<Timestamp>().ok()?.as_nanosecond()
    } else {
        utc.parse::<DateTime>().ok()?.duration_since(EPOCH).as_nanos()
    })
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
            "1795456801",
            "1795456801.0",
            "1795456800.9990001",
        ] {
            assert_eq!(to_ms(text), want, "{text}");
        }
        assert_eq!(to_ms("2026-11-23"), Some(1_795_392_000_000));
        assert_eq!(to_ms("9999-12-31"), Some(LAST_MS + 1 - 86_400_000));
        assert_eq!(to_ms("253402300799"), Some(LAST_MS - 999));
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
            "0",
            "3600",
            "2026",
            "20261123",
            "-1795456801",
            "+1795456801",
            "1795456801.",
            "1.795456801e9",
            "1795456801000",
            "2026-11-2",
            "2026-1-23",
            "2026-02-30",
            "2026-11-23Z",
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
