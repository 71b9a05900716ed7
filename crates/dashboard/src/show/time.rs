//! Moments and spans. The server writes moments in UTC; the page's script rewrites them in the reader's zone, and
//! keeps UTC on hover.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

/// A moment as `2026-11-30 14:05:09`.
pub fn moment(text: &str) -> Markup {
    let Ok(at) = text.parse::<Timestamp>() else { return html! { (text) } };
    let full = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! {
        time datetime=(text) data-form="full" title=(full) { (at.strftime("%Y-%m-%d %H:%M:%S")) }
    }
}

/// [`moment`], or a dash where there is none.
pub fn optional_moment(text: Option<&str>) -> Markup {
    text.map_or_else(|| html! { span.none { "–" } }, moment)
}

/// A moment as how long ago it was, or in how long it is, with the moment on hover.
pub fn relative(text: &str, now: Timestamp) -> Markup {
    let Ok(at) = text.parse::<Timestamp>() else { return html! { (text) } };
    let seconds = now.as_second() - at.as_second();
    let words = match seconds {
        0..=1 => "just now".to_owned(),
        2.. => format!("{} ago", span(seconds.unsigned_abs())),
        _ => format!("in {}", span(seconds.unsigned_abs())),
    };
    let full = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! { time datetime=(text) data-form="hover" title=(full) { (words) } }
}

/// [`relative`], or `otherwise` where there is none.
pub fn optional_relative(text: Option<&str>, now: Timestamp, otherwise: &str) -> Markup {
    text.map_or_else(|| html! { span.none { (otherwise) } }, |text| relative(text, now))
}

/// A span with its largest unit or two: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`.
pub fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else { return "0 s".to_owned() };
    let (unit, name) = UNITS[first];
    let whole = format!("{} {name}", seconds / unit);
    match UNITS.get(first + 1) {
        // Seconds of minutes tell nobody anything.
        Some((next, name)) if *next > 1 && seconds % unit / next > 0 => {
            format!("{whole} {} {name}", seconds % unit / next)
        }
        _ => whole,
    }
}

/// Unix seconds in UTC, in a form for the axis or the table of a chart.
pub fn at(seconds: i64, form: &str) -> String {
    let at = Timestamp::from_second(seconds).unwrap_or_default();
    at.to_zoned(TimeZone::UTC).strftime(form).to_string()
}

/// Unix seconds as RFC 3339.
pub fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let spans = [0, 45, 60, 754, 3_600, 11_100, 187_200, 86_400].map(span);
        assert_eq!(spans, ["0 s", "45 s", "1 min", "12 min", "1 h", "3 h 5 min", "2 d 4 h", "1 d"]);
    }

    #[test]
    fn moments_are_told_from_now() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let words = |text: &str| {
            let shown = relative(text, now).into_string();
            shown.split_once('>').unwrap().1.trim_end_matches("</time>").to_owned()
        };
        assert_eq!(words("2026-11-30T11:59:59.5Z"), "just now");
        assert_eq!(words("2026-11-30T11:00:00Z"), "1 h ago");
        assert_eq!(words("2026-11-30T12:00:30Z"), "in 30 s");
        assert_eq!(relative("soon", now).into_string(), "soon");
    }
}
