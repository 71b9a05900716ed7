//! Content negotiation of the filter's own answers (RFC 9110, 12.5.1).

/// Weight of a media range that gives none, in thousandths.
const FULL: u16 = 1_000;

/// Whether a client whose `Accept` headers these are likes HTML better than JSON. One that
/// likes both as much, or says nothing, gets JSON.
pub fn prefers_html<'h>(accept: impl Iterator<Item = &'h [u8]> + Clone) -> bool {
    let json = |exact| weight(accept.clone(), exact, b"application/*");
    weight(accept.clone(), b"text/html", b"text/*")
        > json(b"application/problem+json").max(json(b"application/json"))
}

/// The weight of a media type, in thousandths, by the most specific range that it is in; 0: not
/// acceptable. Other parameters than the weight are passed over.
fn weight<'h>(accept: impl Iterator<Item = &'h [u8]>, exact: &[u8], group: &[u8]) -> u16 {
    let ranges = accept.flat_map(|line| line.split(|byte| *byte == b','));
    let weights = ranges.filter_map(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next()?;
        let specificity =
            [&b"*/*"[..], group, exact].into_iter().rposition(|name| range.eq_ignore_ascii_case(name))?;
        Some((specificity, parts.find_map(given).unwrap_or(FULL)))
    });
    weights.max().map_or(0, |(_, weight)| weight)
}

/// The weight that a parameter of a media range gives: `q=0.8` is 800.
fn given(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole, decimals @ ..] = parameter else { return None };
    let digit = |byte: &u8| u16::from(byte.saturating_sub(b'0').min(9));
    let decimals = decimals.strip_prefix(b".").unwrap_or_default().iter();
    let thousandths =
        [100, 10, 1].into_iter().zip(decimals).map(|(place, byte)| digit(byte).saturating_mul(place));
    Some(digit(whole).saturating_mul(FULL).saturating_add(thousandths.sum()).min(FULL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_for_those_who_like_it_better() {
        let html = |accept: &[&str]| prefers_html(accept.iter().map(|line| line.as_bytes()));
        for accept in [
            "text/html",
            "TEXT/HTML",
            "text/*",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "application/json;q=0.8 , text/html;level=1;q=0.81",
            "*/*, application/*;q=0.5",
            "*/*;q=0,text/html;q=0.001",
            "application/json; q=0, application/problem+json;Q=0, */*",
            ",,text/html;q=1.5",
        ] {
            assert!(html(&[accept]), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "application/json, text/plain, */*",
            "text/html, application/problem+json",
            "text/html;q=0.5, */*",
            "text/html;q=0",
            "text/html;q=0.899, application/json;q=0.9",
            "text/html;q=0, text/*, application/json;q=0.1",
            "text/htmlx, xtext/html, text",
            "image/png",
            "\u{fffd};;q=\u{fffd},=,;q",
        ] {
            assert!(!html(&[accept]), "{accept}");
        }
        assert!(!html(&[]));
        assert!(html(&["image/png", "text/html"]));
        assert!(!html(&["text/html;q=0.5", "application/json"]));
    }
}
