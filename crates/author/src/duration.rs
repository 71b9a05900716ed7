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

/// `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, in milliseconds.
pub(super) fn parse(text: &str) -> Option<u64> {
    let has_long_number = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 5);
    if has_long_number { None } else { duration::milliseconds(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_five_digits_at_most() {
        assert_eq!(
            (parse("99999h1ms"), parse("100000s"), parse("1s000001ms")),
            (Some(359_996_400_001), None, None)
        );
    }
}
