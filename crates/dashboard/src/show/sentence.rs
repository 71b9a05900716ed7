//! Sentences of the service: notices, problems, findings, and what pages say of themselves.

use jiff::Timestamp;
use maud::{Markup, html};

use super::text::{foreign, visible};
use super::time::moment;

/// A sentence in which what stands between backticks is a command, a name or a file, as is a file of `docs/`, and a
/// moment in RFC 3339 is shown in the reader's zone. The rest is shown as [`foreign`] texts are.
pub fn sentence(text: &str) -> Markup {
    html! {
        @for (index, piece) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (visible(piece)) } } @else { (with_marked_words(piece)) }
        }
    }
}

fn with_marked_words(text: &str) -> Markup {
    let (mut said, mut shown) = (String::new(), Vec::new());
    for word in text.split_inclusive(' ') {
        let bare = word.trim_end_matches([' ', '.', ',', ';', ':', ')']);
        let marked = if is_moment(bare) {
            Some(moment(bare))
        } else {
            is_document(bare).then(|| html! { code { (bare) } })
        };
        if let Some(marked) = marked {
            shown.push(foreign(&std::mem::take(&mut said)));
            shown.push(marked);
            said.push_str(&word[bare.len()..]);
        } else {
            said.push_str(word);
        }
    }
    html! {
        @for piece in &shown { (piece) }
        @if !said.is_empty() { (foreign(&said)) }
    }
}

/// Whether a word names a file of the documentation, which no page has.
fn is_document(word: &str) -> bool {
    word.strip_prefix("docs/").is_some_and(|name| name.contains(".md"))
}

fn is_moment(word: &str) -> bool {
    word.contains('T') && word.starts_with(|c: char| c.is_ascii_digit()) && word.parse::<Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn names_and_moments_are_shown_as_such_and_the_rest_as_text() {
        let shown = sentence("<b> until 2026-11-30T12:00:05Z. See `a` and docs/BANS.md, 2026").into_string();
        let shown = shown.replace("<bdi class=\"foreign\">", "").replace("</bdi>", "");
        assert_eq!(
            shown,
            "&lt;b&gt; until <time datetime=\"2026-11-30T12:00:05Z\" data-form=\"full\" title=\"2026-11-30 12:00:05 UTC\">\
             2026-11-30 12:00:05</time>. See <code>a</code> and <code>docs/BANS.md</code>, 2026"
        );
    }
}
