//! HTML pages for people whose request was denied, and their table.

use serde::{Deserialize, Serialize};

use crate::codec::{FormatError, at_most, decode, encode};

/// Version of the bytes of [`Pages`].
pub const PAGES_FORMAT: u8 = 1;
/// The most bytes of one page's HTML.
pub const MAX_PAGE: usize = 64 << 10;
/// The most placeholders of one page: each may become some hundred bytes.
pub const MAX_PLACEHOLDERS: usize = 64;
/// The most bytes of a table: more than a page of the largest size for each reason takes.
const MAX_PAGES_BYTES: usize = 3 << 20;
/// The most pages of a table: more than there are reasons.
const MAX_PAGES: usize = 32;

/// The HTML for a reason that has no page of its own.
pub const BUILT_IN: &str = include_str!("pages/built_in.html");

/// What a page may show of a denial, written `{{name}}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placeholder {
    /// Value of the request's `x-request-id`.
    RequestId,
    /// Status of the answer.
    Status,
    /// Code of the reason.
    Reason,
    /// The sentence that says the reason.
    Title,
    /// Seconds after which to try again.
    RetryAfter,
    /// The client's address.
    ClientIp,
}

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::RequestId, Self::Status, Self::Reason, Self::Title, Self::RetryAfter, Self::ClientIp];

    /// Its name between the braces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestId => "request_id",
            Self::Status => "status",
            Self::Reason => "reason",
            Self::Title => "title",
            Self::RetryAfter => "retry_after",
            Self::ClientIp => "client_ip",
        }
    }

    /// The placeholder of this name; spaces around it do not count.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|placeholder| placeholder.name() == name.trim_ascii())
    }
}

/// A page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page {
    /// Code of the reason that it is for.
    pub reason: String,
    /// Its HTML, with placeholders.
    pub html: String,
}

/// All pages: one for a reason at most.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pages {
    #[serde(deserialize_with = "at_most::<MAX_PAGES, _, _>")]
    pages: Vec<Page>,
}

impl Pages {
    /// These pages, of which no two are for one reason.
    #[must_use]
    pub fn new(mut pages: Vec<Page>) -> Self {
        pages.sort_by(|a, b| a.reason.cmp(&b.reason));
        Self { pages }
    }

    /// The HTML for the reason of this code.
    #[must_use]
    pub fn get(&self, reason: &str) -> Option<&str> {
        self.pages.iter().find(|page| page.reason == reason).map(|page| page.html.as_str())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The pages' bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(PAGES_FORMAT, self)
    }

    /// Reads pages.
    ///
    /// # Errors
    /// When the bytes are too long, of another version or malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(PAGES_FORMAT, MAX_PAGES_BYTES, bytes)
    }
}

/// The text before the first placeholder of `html`, the placeholder's name if it is closed, and
/// the text after it; `None` if there is no other placeholder.
#[must_use]
pub fn next_placeholder(html: &str) -> Option<(&str, Option<(&str, &str)>)> {
    let (before, rest) = html.split_once("{{")?;
    Some((before, rest.split_once("}}")))
}

/// `html` with the placeholders' values, escaped for text and for quoted attributes; `-` where
/// there is none. What is not visible ASCII becomes `?`. A name that is no placeholder, which a
/// later admin service may have let pass, is a value that is not there.
#[must_use]
pub fn render<'v>(html: &str, value: impl Fn(Placeholder) -> Option<&'v [u8]>) -> String {
    let mut page = String::with_capacity(html.len().saturating_add(256));
    let mut rest = html;
    while let Some((before, Some((name, after)))) = next_placeholder(rest) {
        page.push_str(before);
        match Placeholder::named(name).and_then(&value) {
            Some(value) => value.iter().for_each(|byte| escape(*byte, &mut page)),
            None => page.push('-'),
        }
        rest = after;
    }
    page.push_str(rest);
    page
}

fn escape(byte: u8, page: &mut String) {
    match byte {
        b'&' => page.push_str("&amp;"),
        b'<' => page.push_str("&lt;"),
        b'>' => page.push_str("&gt;"),
        b'"' => page.push_str("&quot;"),
        b'\'' => page.push_str("&#39;"),
        b' '..=b'~' => page.push(char::from(byte)),
        _ => page.push('?'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_what_is_no_placeholder_stays_or_is_a_dash() {
        let value = |placeholder| match placeholder {
            Placeholder::RequestId => Some(&b"<a b='&\"'>\xff\n{{status}}"[..]),
            Placeholder::Status => Some(b"403".as_slice()),
            _ => None,
        };
        for (html, shown) in [
            ("", ""),
            ("a } { }} b", "a } { }} b"),
            ("{{status}}{{ status }}", "403403"),
            ("<i>{{request_id}}</i>", "<i>&lt;a b=&#39;&amp;&quot;&#39;&gt;??{{status}}</i>"),
            ("{{title}}|{{other}}|{{}}", "-|-|-"),
            ("{{status}} {{status", "403 {{status"),
            ("\u{e9}{{{status}}}", "\u{e9}-}"),
        ] {
            assert_eq!(render(html, value), shown);
        }
    }

    #[test]
    fn the_built_in_page_says_what_is_to_be_quoted() {
        let page = render(BUILT_IN, |placeholder| Some(placeholder.name().as_bytes()));
        for name in ["request_id", "status", "reason", "title"] {
            assert!(page.contains(name), "{name}");
        }
        assert!(!page.contains("{{") && !page.contains("<script"), "{page}");
        for part in ["<!doctype html>", "lang=\"en\"", "<title>", "<h1>", "name=\"viewport\"", "light dark"] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn pages_are_read_as_they_were_written() {
        let page = |reason: &str| Page { reason: reason.to_owned(), html: "x".repeat(MAX_PAGE) };
        let pages = Pages::new((0..MAX_PAGES).map(|at| page(&at.to_string())).collect());
        assert!(Pages::from_bytes(&pages.to_bytes().unwrap()) == Ok(pages.clone()));
        assert_eq!(pages.get("31").map(str::len), Some(MAX_PAGE));
        assert_eq!(pages.get("32"), None);
        let too_many = Pages::new(vec![Page { reason: String::new(), html: String::new() }; MAX_PAGES + 1]);
        assert!(Pages::from_bytes(&too_many.to_bytes().unwrap()).is_err());
        let bytes = Pages::new(vec![page("a")]).to_bytes().unwrap();
        for cut in 0..bytes.len().min(20) {
            assert!(Pages::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
