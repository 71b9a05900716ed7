//! Spans of time as people and programs write them, in the filter's configuration, in
//! documents, in the API and on the command line: `500ms`, `1h30m`, `3h59m46.15s`.

use std::time::Duration;

/// Each unit and its nanoseconds; `ms` before `m`, as it begins with `m`.
const UNITS: [(&str, u64); 8] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// One or more numbers, each with a unit: `d`, `h`, `m`, `s`, `ms`, `us` (or `µs`) or `ns`. A
/// number may have a decimal fraction, as in what Go and the programs written in it print.
/// `None` when `text` is anything else, or over 584 years.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, 0u64);
    loop {
        let (whole, after) = digits(rest)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after)?,
            None => ("", after),
        };
        let (after, unit) = UNITS.iter().find_map(|(unit, ns)| Some((after.strip_prefix(unit)?, *ns)))?;
        sum = sum.checked_add(whole.parse::<u64>().ok()?.checked_mul(unit)?)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            sum = sum.checked_add(u64::from(digit & 15).checked_mul(place)?)?;
        }
        rest = after;
        if rest.is_empty() {
            return Some(Duration::from_nanos(sum));
        }
    }
}

/// The digits that `text` begins with, one at least, and what comes after them.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(digits, _)| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        for (text, ns) in [
            ("0s", Some(0)),
            ("500ms", Some(500_000_000)),
            ("90s", Some(90_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1m1ms", Some(60_001_000_000)),
            ("1d12h", Some(129_600_000_000_000)),
            ("1h1m1s1ms1us1ns", Some(3_661_001_001_001)),
            ("1.5h", Some(5_400_000_000_000)),
            // What CrowdSec prints as the rest of a decision.
            ("3h59m46.15s", Some(14_386_150_000_000)),
            ("167h59m59.999999999s", Some(604_799_999_999_999)),
            ("1.5µs", Some(1_500)),
            ("0.0000000019s", Some(1)),
            ("5124095h", Some(18_446_742_000_000_000_000)),
            ("5124096h", None),
            ("18446744073709551616ns", None),
            ("", None),
            ("1", None),
            ("-1s", None),
            ("+1s", None),
            ("1.s", None),
            (".5s", None),
            ("1.5.5s", None),
            ("1,5s", None),
            ("1w", None),
            ("1H", None),
            ("1 h", None),
            ("1s ", None),
            ("1s1", None),
            ("s", None),
            ("１s", None),
        ] {
            assert_eq!(parse(text), ns.map(Duration::from_nanos), "{text}");
        }
    }
}
