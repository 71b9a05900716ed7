//! A request, parsed once for all candidates of a lookup.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};

use serde_bytes::ByteBuf;

use super::layout::MAX_ELEMENTS;
use super::method::Method;
use crate::request::Facts;

/// Values up to this many bytes may be searched without a bound: how often, is decided by
/// the routes, which the operator writes.
const FREE_BYTES: usize = 256;
/// The most bytes of longer values that are searched, or joined from several lines, for one
/// request: some 5 ms of work. The client decides how long a value is; without this bound a
/// path of 60 KiB against 1,024 expressions blocked a worker for 0.6 s.
const MAX_SEARCHED: usize = 512 << 10;

pub(super) struct ParsedRequest<'r> {
    /// The path, `/` at its beginning, without query and fragment.
    pub path: &'r [u8],
    /// The method, if it is one that a match can name.
    pub method: Option<Method>,
    host: &'r [u8],
    headers: &'r [(&'r [u8], &'r [u8])],
    query: &'r [u8],
    /// The value of each query parameter that some match names, decoded.
    parameters: OnceCell<Vec<Option<Cow<'r, [u8]>>>>,
    /// The path's first [`MAX_ELEMENTS`] elements. Found once: the client decides how long the path is, and
    /// the routes how often one of its elements is looked at.
    first_elements: OnceCell<Vec<&'r [u8]>>,
    /// Bytes that may still be searched; `None`: more would have been needed.
    left: Cell<Option<usize>>,
}

impl<'r> ParsedRequest<'r> {
    /// `None` when the request has no path.
    pub fn new(facts: &Facts<'r>) -> Option<Self> {
        let target = facts.path;
        let target = target.split(|&b| b == b'#').next().unwrap_or(target);
        let path = target.split(|&b| b == b'?').next().unwrap_or(target);
        let query = target.get(path.len().saturating_add(1)..).unwrap_or_default();
        path.starts_with(b"/").then(|| Self {
            path,
            method: Method::from_name(facts.method),
            host: facts.host,
            headers: facts.headers,
            query,
            parameters: OnceCell::new(),
            first_elements: OnceCell::new(),
            left: Cell::new(Some(MAX_SEARCHED)),
        })
    }

    /// Takes so many bytes from the bound; false if they are not left, and from then on
    /// always.
    pub fn spend(&self, bytes: usize) -> bool {
        let bytes = if bytes > FREE_BYTES { bytes } else { 0 };
        self.left.set(self.left.get().and_then(|left| left.checked_sub(bytes)));
        !self.is_exhausted()
    }

    /// Whether the bound was reached, so that something was not searched.
    pub fn is_exhausted(&self) -> bool {
        self.left.get().is_none()
    }

    /// The path's elements; `/` has one empty element.
    pub fn elements(&self) -> impl Iterator<Item = &'r [u8]> {
        self.path.get(1..).unwrap_or_default().split(|&b| b == b'/')
    }

    /// One of the path's first [`MAX_ELEMENTS`] elements.
    pub fn element(&self, index: usize) -> Option<&'r [u8]> {
        let first = || self.elements().take(MAX_ELEMENTS).collect();
        self.first_elements.get_or_init(first).get(index).copied()
    }

    /// The value of a header, all its lines joined by `,`, those of `cookie` by `; ` (RFC 9113,
    /// 8.2.3). `name` is in lower case.
    pub fn header(&self, name: &[u8]) -> Option<Cow<'r, [u8]>> {
        if name == b"host" {
            // Envoy turns it into `:authority`.
            return (!self.host.is_empty()).then_some(Cow::Borrowed(self.host));
        }
        let mut lines = self.headers.iter().filter(|line| line.0 == name).map(|line| line.1);
        let mut value = Cow::Borrowed(lines.next()?);
        let between: &[u8] = if name == b"cookie" { b"; " } else { b"," };
        for line in lines {
            let joined = value.to_mut();
            joined.extend_from_slice(between);
            joined.extend_from_slice(line);
        }
        let is_free = matches!(value, Cow::Borrowed(_));
        (is_free || self.spend(value.len())).then_some(value)
    }

    /// The value of the query parameter `names[index]`; names and values are decoded. The query is
    /// read once: it may be long and have many parameters, few of which any match names.
    pub fn parameter(&self, index: u32, names: &[ByteBuf]) -> Option<&[u8]> {
        let read = || {
            let mut values = vec![None; names.len()];
            for parameter in self.query.split(|&b| b == b'&') {
                let name = parameter.split(|&b| b == b'=').next().unwrap_or(parameter);
                let value = parameter.get(name.len().saturating_add(1)..).unwrap_or_default();
                let name = decoded(name);
                let known = names.binary_search_by(|known| known.as_slice().cmp(&name));
                if let Some(first @ None) = known.ok().and_then(|known| values.get_mut(known)) {
                    *first = Some(decoded(value));
                }
            }
            values
        };
        self.parameters.get_or_init(read).get(usize::try_from(index).ok()?)?.as_deref()
    }
}

/// A name or value of a query as forms write them (WHATWG URL, "application/x-www-form-urlencoded
/// parsing"): `+` is a space, `%` and two hexadecimal digits a byte; another `%` is itself.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| b"+%".contains(byte)) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.split_at_checked(2).filter(|_| byte == b'%');
        let escaped = escaped.and_then(|(digits, after)| Some((hexadecimal(digits)?, after)));
        let plain = (if byte == b'+' { b' ' } else { byte }, after);
        let (byte, after) = escaped.unwrap_or(plain);
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(bytes)
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let value = |value: u32, digit: &u8| Some(value << 4 | char::from(*digit).to_digit(16)?);
    digits.iter().try_fold(0, value).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_once() {
        for (text, expected) in [
            ("a", &b"a"[..]),
            ("a+b%20c", b"a b c"),
            ("%2B%2b%2526%26", b"++%26&"),
            ("%C3%A9%ff%00", b"\xc3\xa9\xff\0"),
            ("%", b"%"),
            ("%4", b"%4"),
            ("%4g%g4%+1%%41", b"%4g%g4% 1%A"),
            ("%2", b"%2"),
        ] {
            assert_eq!(*decoded(text.as_bytes()), *expected, "{text}");
        }
    }

    #[test]
    fn lines_of_a_header_are_joined_as_its_syntax_has_it() {
        let lines = [(&b"cookie"[..], &b"a=1"[..]), (b"x", b"1"), (b"cookie", b"b=2"), (b"x", b"2")];
        let request = ParsedRequest::new(&Facts { path: b"/", headers: &lines, ..Facts::default() }).unwrap();
        assert_eq!(request.header(b"cookie").as_deref(), Some(&b"a=1; b=2"[..]));
        assert_eq!(request.header(b"x").as_deref(), Some(&b"1,2"[..]));
    }

    #[test]
    fn a_target_is_path_and_query() {
        let take = |path: &'static str| {
            let request = ParsedRequest::new(&Facts { path: path.as_bytes(), ..Facts::default() });
            request.map(|r| (r.path, r.query))
        };
        assert_eq!(take("/a?b#c"), Some((&b"/a"[..], &b"b"[..])));
        assert_eq!(take("/a#c?b"), Some((&b"/a"[..], &b""[..])));
        assert_eq!(take("/a??"), Some((&b"/a"[..], &b"?"[..])));
        assert_eq!(take("/"), Some((&b"/"[..], &b""[..])));
        for none in ["", "*", "?a", "a/b", "http://a/"] {
            assert_eq!(take(none), None, "{none}");
        }
    }
}
