//! Times as people write them: durations like `90m`, and timestamps in RFC 3339 or as SQLite
//! prints them.

use std::time::{Duration, SystemTime};

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use tidegate_policy::{UnixSeconds, duration};

use crate::store::time_text;

/// The longest duration: 100 years. Far above any use, and far below what the expiry of a table
/// can hold.
pub const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 86_400);

/// The accepted formats of durations, for messages.
pub const DURATION_FORM: &str =
    "write numbers with units: 500ms, 2s, 90m, 1h30m, 3h59m46.15s or 7d; or seconds as a number";

/// Reads a duration: numbers with units, or one whole number in seconds. `None` when it is not
/// one, or over [`MAX_DURATION`].
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let span = match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Duration::from_secs(text.parse().ok()?),
        false => duration::parse(text)?,
    };
    (span <= MAX_DURATION).then_some(span)
}

/// Reads a timestamp in the formats that SQL may use, too ([`time_text::to_ms`]). Of the last day of the
/// year 9999, which people write for "never", it is the last time that a timestamp can be.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let ms = time_text::to_ms(text)?;
    let last = || Timestamp::from_second(Timestamp::MAX.as_second()).ok().filter(|_| ms > 0);
    Timestamp::from_millisecond(ms).ok().or_else(last)
}

/// Now, by the system's clock.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Without what is shorter than a millisecond, for people to read.
#[must_use]
pub fn to_the_millisecond(moment: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(moment.as_millisecond()).unwrap_or(moment)
}

/// Now, in seconds, the unit of expiry.
#[must_use]
pub fn now_seconds() -> UnixSeconds {
    UnixSeconds::try_from(now().as_second()).unwrap_or(UnixSeconds::MAX)
}

/// `span` from now.
#[must_use]
pub fn from_now(span: Duration) -> Option<Timestamp> {
    now().checked_add(SignedDuration::try_from(span).ok()?).ok()
}

/// `span` before now.
#[must_use]
pub fn ago(span: Duration) -> Option<Timestamp> {
    now().checked_sub(SignedDuration::try_from(span).ok()?).ok()
}

/// In the database's format: `YYYY-MM-DD HH:MM:SS.mmm`, UTC.
#[must_use]
pub fn to_sql(moment: Timestamp) -> String {
    time_text::from_ms(moment.as_millisecond())
}

/// In the format of answers: RFC 3339 in UTC.
#[must_use]
pub fn rfc3339(moment: Timestamp) -> String {
    moment.to_string()
}

/// A timestamp of the database in the format of answers; an invalid one is returned as it is.
#[must_use]
pub fn sql_to_rfc3339(text: String) -> String {
    parse_timestamp(&text).map_or(text, rfc3339)
}

/// The second at which an entry with this expiry ends, rounded up, because gateways count in
/// seconds.
#[must_use]
pub fn rounded_up(moment: Timestamp) -> String {
    let up = moment.round(TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil));
    rfc3339(up.unwrap_or(moment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let cases = [
            ("2s", Some(2_000)),
            ("2", Some(2_000)),
            ("500ms", Some(500)),
            ("90m", Some(5_400_000)),
            ("4h", Some(14_400_000)),
            ("7d", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("3h59m46.15s", Some(14_386_150)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1w", None),
            ("90.5", None),
            ("99999999999999999999s", None),
            ("36601d", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn moments_in_both_forms_are_one() {
        let want: Timestamp = "2026-11-23T18:00:00Z".parse().unwrap();
        for text in [
            "2026-11-23 18:00:00",
            "2026-11-23T18:00:00Z",
            "2026-11-23T20:00:00+02:00",
            "2026-11-23 18:00:00.000",
            "1795456800",
        ] {
            assert_eq!(parse_timestamp(text), Some(want), "{text}");
        }
        for text in ["", "tomorrow", "2026-13-01", "2026-11-23 25:00:00", "3600"] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(to_sql(want), "2026-11-23 18:00:00.000");
        let last = parse_timestamp("9999-12-31").unwrap();
        assert_eq!(
            (to_sql(last).as_str(), rounded_up(last).as_str()),
            ("9999-12-30 22:00:00.000", "9999-12-30T22:00:00Z")
        );
        assert_eq!(rounded_up(want), "2026-11-23T18:00:00Z");
        assert_eq!(rounded_up(parse_timestamp("2026-11-23 18:00:00.001").unwrap()), "2026-11-23T18:00:01Z");
    }
}
