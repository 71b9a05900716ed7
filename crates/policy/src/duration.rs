//! Durations as people write them, in the filter's configuration, in documents and in
//! the API: `500ms`, `1h30m` (Gateway API, GEP-2257).

/// Each unit and its milliseconds; `ms` before `m`, as it begins with `m`.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// The milliseconds of one to four numbers, each with a unit of `h`, `m`, `s` or `ms`;
/// `None` when `text` is anything else, or more than fits in 64 bits.
#[must_use]
pub fn milliseconds(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0u64);
    for _ in 0..4 {
        let (number, after) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
        let (after, ms) = UNITS.iter().find_map(|(unit, ms)| Some((after.strip_prefix(unit)?, ms)))?;
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(*ms)?)?;
        rest = after;
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1m1ms", Some(60_001)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("18446744073709551615ms", Some(u64::MAX)),
            ("18446744073709551615s", None),
            ("", None),
            ("1", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("1d", None),
            ("1s1s1s1s1s", None),
            ("1s ", None),
            ("s", None),
        ] {
            assert_eq!(milliseconds(text), ms, "{text}");
        }
    }
}
