//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`.

use tidegate_policy::duration;

use super::reader::{DocumentErrors, DocumentNode};

/// A duration in milliseconds; `None` if it has a problem.
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

/// `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, in milliseconds: of the spans that are taken elsewhere,
/// those that the standard has.
fn parse(text: &str) -> Option<u128> {
    let has_other = text.bytes().any(|byte| !byte.is_ascii_digit() && !b"hms".contains(&byte));
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let (count, longest) =
        numbers.fold((0, 0), |(count, longest), digits| (count + 1, digits.len().max(longest)));
    if has_other || count > 4 || longest > 5 { None } else { Some(duration::parse(text)?.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_has_four_numbers_of_five_digits() {
        for (text, ms) in [
            ("99999h1ms", Some(359_996_400_001)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("1m30s", Some(90_000)),
            ("100000s", None),
            ("1s000001ms", None),
            ("1s1s1s1s1s", None),
            ("1.5s", None),
            ("1d", None),
            ("1us", None),
            ("1ns", None),
            ("90", None),
            ("", None),
        ] {
            assert_eq!(parse(text), ms, "{text}");
        }
    }
}
