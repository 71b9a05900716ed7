//! How long an entry lasts: the fields of a form, and what the API calls it.

use maud::{Markup, html};

use crate::page::{field_problem, marks};

/// The choice that is no span.
pub const EVER: &str = "ever";
/// How long a ban may be chosen to last: the API's span, and words.
const SPANS: [(&str, &str); 7] = [
    ("15m", "15 minutes"),
    ("1h", "1 hour"),
    ("4h", "4 hours"),
    ("1d", "1 day"),
    ("7d", "7 days"),
    ("30d", "30 days"),
    (EVER, "for ever"),
];

/// The fields that say how long: a choice, and a text that counts before it. `of`: begins the ids.
pub fn span_field(of: &str, chosen: &str, written: &str, wrong: Option<&str>) -> Markup {
    let (choice, text) = (format!("{of}-ttl"), format!("{of}-until"));
    let marks = marks(&text, wrong);
    html! {
        div {
            label for=(choice) { "How long" }
            select id=(choice) name="ttl" {
                @for (span, words) in SPANS {
                    option value=(span) selected[span == chosen] data-words=[(span != EVER).then(|| format!("--ttl {span}"))] { (words) }
                }
            }
        }
        div {
            label for=(text) { "Or another span, or an end date" }
            input id=(text) name="until" value=(written) placeholder="90m, or 2027-01-31" data-end data-instead="ttl"
                autocomplete="off" spellcheck="false"
                aria-invalid=[marks.invalid] aria-describedby=[marks.described_by];
            (field_problem(&text, wrong))
        }
    }
}

/// The field of the API and its value for a chosen span, or a span or a moment that was written.
pub fn end<'a>(chosen: &'a str, written: &'a str) -> Option<(&'static str, &'a str)> {
    // A moment begins with a year: a span does not have a dash.
    match (written, chosen) {
        ("", "" | EVER) => None,
        ("", span) => Some(("ttl", span)),
        (moment, _) if moment.contains('-') => Some(("expires_at", moment)),
        (span, _) => Some(("ttl", span)),
    }
}

#[cfg(test)]
mod tests {
    use super::end;

    #[test]
    fn what_is_written_counts_before_what_is_chosen() {
        assert_eq!(end("4h", ""), Some(("ttl", "4h")));
        assert_eq!(end("4h", "90m"), Some(("ttl", "90m")));
        assert_eq!(end("ever", "2026-12-24 12:00:00"), Some(("expires_at", "2026-12-24 12:00:00")));
        assert_eq!(end("ever", ""), None);
        assert_eq!(end("", ""), None);
    }
}
