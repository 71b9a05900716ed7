//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`.

use super::reader::{DocumentErrors, DocumentNode};

/// A duration in milliseconds, if the place has a good one.
pub(super) fn milliseconds(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<u32> {
    let text = node.text(0, usize::MAX, errors)?;
    let Some(ms) = parse(text) else {
        let says = "must be a duration: up to four numbers of up to five digits, each with h, m, s or ms, as in 1m30s";
        node.note(errors, "invalid", says);
        return None;
    };
    let fits = u32::try_from(ms).ok();
    if fits.is_none() {
        node.note(errors, "out_of_range", "must be under 1193h");
    }
    fits
}

/// `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, in milliseconds.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0u64);
    for _ in 0..4 {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(end)?;
        if !(1..=5).contains(&number.len()) {
            return None;
        }
        // The longer unit first: `ms` begins as `m` does.
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (after, ms) = units.iter().find_map(|(unit, ms)| Some((after.strip_prefix(unit)?, ms)))?;
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
    fn durations_are_read_as_the_gateway_api_writes_them() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1m1ms", Some(60_001)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("", None),
            ("1", None),
            ("-1s", None),
            ("1.5s", None),
            ("1d", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1s ", None),
            ("s", None),
        ] {
            assert_eq!(parse(text), ms, "{text}");
        }
    }
}
