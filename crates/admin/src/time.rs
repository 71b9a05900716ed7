//! Times as people write them: spans like `90m`, moments in RFC 3339 or as
//! SQLite prints them.

use std::time::{Duration, SystemTime};

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use tidegate_policy::{UnixSeconds, duration};

use crate::store::time_text;

/// The longest span: 100 years. Far over any use, far under what a table's
/// expiry can hold.
pub const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 86_400);

/// What a span looks like, for messages.
pub const DURATION_FORM: &str =
    "write a number with a unit: 500ms, 2s, 90m, 4h or 7d; or seconds as a number";
/// What a moment looks like, for messages.
pub const TIMESTAMP_FORM: &str = "write 2026-11-23T18:00:00Z or `2026-11-23 18:00:00` (UTC)";

/// Reads a span: whole numbers with a unit, or one without in seconds. `None`
/// when it is none or over [`MAX_DURATION`].
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, seconds) = text.strip_suffix('d').map_or((text, 1), |days| (days, 86_400));
    let span = match number.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?),
        false => Duration::from_millis(duration::milliseconds(text)?),
    };
    (span <= MAX_DURATION).then_some(span)
}

/// Reads a moment: RFC 3339 with an offset, or `YYYY-MM-DD HH:MM:SS` in UTC with
/// or without a fraction, which is rounded up to milliseconds.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(time_text::to_ms(text)?).ok()
}

/// Now, by the system's clock.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Now, in the unit of expiry.
#[must_use]
pub fn now_seconds() -> UnixSeconds {
    UnixSeconds::try_from(now().as_second()).unwrap_or(UnixSeconds::MAX)
}

/// `span` from now.
#[must_use]
pub fn from_now(span: Duration) -> Option<Timestamp> {
    now().checked_add(SignedDuration::try_from(span).ok()?).ok()
}

/// As it stands in the database: `YYYY-MM-DD HH:MM:SS.mmm`, UTC.
#[must_use]
pub fn to_sql(moment: Timestamp) -> String {
    time_text::from_ms(moment.as_millisecond())
}

/// As it stands in answers: RFC 3339 in UTC.
#[must_use]
pub fn rfc3339(moment: Timestamp) -> String {
    moment.to_string()
}

/// A moment as the database has it, as it stands in answers; what is none stays
/// as it is.
#[must_use]
pub fn sql_to_rfc3339(text: String) -> String {
    parse_timestamp(&text).map_or(text, rfc3339)
}

/// The second in which an entry ends that was given this end: gateways count in
/// seconds, rounded up.
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
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5h", None),
            ("1w", None),
            ("1 h", None),
            ("99999999999999999999s", None),
            ("9999999999999999d", None),
            ("１s", None),
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
        ] {
            assert_eq!(parse_timestamp(text), Some(want), "{text}");
        }
        for text in ["", "tomorrow", "2026-11-23", "2026-13-01 00:00:00", "2026-11-23 25:00:00", "1795456800"]
        {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(to_sql(want), "2026-11-23 18:00:00.000");
        assert_eq!(rounded_up(want), "2026-11-23T18:00:00Z");
        assert_eq!(rounded_up(parse_timestamp("2026-11-23 18:00:00.001").unwrap()), "2026-11-23T18:00:01Z");
    }
}
