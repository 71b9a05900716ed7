//! Texts that somebody else wrote: paths, user agents, hosts, reasons. They may hold markup, marks that turn the
//! direction of writing, control characters, and 8 KiB of it.

use maud::{Markup, html};

/// Characters of a text that a table shows; the rest is on the page of the thing itself.
const IN_TABLE: usize = 120;

/// A text of somebody else, whole: escaped, held apart from the direction of what is around it, and with what
/// cannot be seen made visible.
pub fn foreign(text: &str) -> Markup {
    html! { bdi.foreign { (visible(text)) } }
}

/// [`foreign`] in a table: shortened, with more of it on hover.
pub fn in_table(text: &str) -> Markup {
    match cut(text, IN_TABLE) {
        None => foreign(text),
        Some(beginning) => {
            let hover = cut(text, 1_000).unwrap_or(text);
            html! { bdi.foreign title=(visible(hover)) { (visible(beginning)) "…" } }
        }
    }
}

/// [`in_table`], or a dash where there is none.
pub fn optional(text: Option<&str>) -> Markup {
    match text {
        Some(text) if !text.is_empty() => in_table(text),
        _ => html! { span.none { "–" } },
    }
}

/// The beginning of a text that has more than `most` characters.
fn cut(text: &str, most: usize) -> Option<&str> {
    let (end, _) = text.char_indices().nth(most)?;
    Some(&text[..end])
}

/// A text in which control characters and marks of direction are written as `\u{...}`.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// Whether a character cannot be seen, or moves others: control characters, and the formatting characters of the
/// Unicode bidirectional algorithm (UAX 9, 2), zero-width ones, tags and the byte order mark.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_shown_as_text() {
        let shown = foreign("<script>alert('1')</script>&\"").into_string();
        assert_eq!(shown, "<bdi class=\"foreign\">&lt;script&gt;alert('1')&lt;/script&gt;&amp;&quot;</bdi>");
    }

    #[test]
    fn what_cannot_be_seen_is_made_visible() {
        assert_eq!(visible("a\u{202e}b\u{0}\n\u{200b}ü"), "a\\u{202e}b\\u{0}\\u{a}\\u{200b}ü");
    }

    #[test]
    fn a_long_text_is_shortened_in_a_table() {
        let long = "ü".repeat(8_192);
        let shown = in_table(&long).into_string();
        assert_eq!(shown.matches('ü').count(), 1_000 + IN_TABLE);
        assert_eq!(in_table("short").into_string(), foreign("short").into_string());
        assert_eq!(optional(Some("")).into_string(), optional(None).into_string());
    }
}
