//! Changes of a message's headers.

use serde::{Deserialize, Serialize};

use crate::codec::at_most;

/// The most entries of one list of a header modifier, as in the CRD.
pub const MAX_EDITS: usize = 16;

/// Changes of a message's headers; all names are in lower case. Made in the order remove,
/// set, add: so a name that is set and added has both values, whatever the message had.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HeaderEdits {
    /// Names of which every line is removed.
    #[serde(deserialize_with = "at_most::<MAX_EDITS, _, _>")]
    pub remove: Vec<String>,
    /// Names, and the only value that each has afterwards.
    #[serde(deserialize_with = "at_most::<MAX_EDITS, _, _>")]
    pub set: Vec<(String, String)>,
    /// Names and values of further lines.
    #[serde(deserialize_with = "at_most::<MAX_EDITS, _, _>")]
    pub add: Vec<(String, String)>,
}

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderEdit<'a> {
    /// Removes every line of this name.
    Remove(&'a str),
    /// Replaces every line of this name by one with this value.
    Set(&'a str, &'a str),
    /// Adds a line.
    Add(&'a str, &'a str),
}

impl HeaderEdits {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// The changes, in the order in which they are made.
    pub fn iter(&self) -> impl Iterator<Item = HeaderEdit<'_>> {
        let remove = self.remove.iter().map(|name| HeaderEdit::Remove(name));
        let set = self.set.iter().map(|(name, value)| HeaderEdit::Set(name, value));
        let add = self.add.iter().map(|(name, value)| HeaderEdit::Add(name, value));
        remove.chain(set).chain(add)
    }

    pub(super) fn is_valid(&self) -> bool {
        self.iter().all(|edit| match edit {
            HeaderEdit::Remove(name) => is_editable(name),
            HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value) => {
                is_editable(name) && is_value(value)
            }
        })
    }
}

/// In which gates and CDNs write that a request has passed them (RFC 8586). A route that could take
/// out what a gate has written would send a request in circles for ever.
pub const LOOP_HEADER: &str = "cdn-loop";

/// Whether a route may change the header of this name, in lower case. Not `host`, which a
/// rewrite changes; not the message's framing, which is Envoy's; not the headers
/// between filter and Envoy, or between Envoy and its neighbours; and not [`LOOP_HEADER`].
#[must_use]
pub fn is_editable(name: &str) -> bool {
    const FRAMING: [&str; 8] = [
        "host",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&name.len())
        && name.bytes().all(inside)
        && !FRAMING.contains(&name)
        && name != LOOP_HEADER
        && !["x-tidegate-", "x-envoy-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a header can have this value: no line breaks, and no NUL.
#[must_use]
pub fn is_value(value: &str) -> bool {
    let is_control = |b: u8| b.is_ascii_control() && b != b'\t';
    value.len() <= 4 * 4096 && !value.bytes().any(is_control) && value.trim_matches([' ', '\t']) == value
}

/// Whether it can be a header's value without spaces: ASCII, at most 4,096 bytes.
pub(super) fn is_visible(text: &str) -> bool {
    text.len() <= 4096 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_goes_first_and_what_is_added_comes_last() {
        let edits = HeaderEdits {
            remove: vec!["a".to_owned()],
            set: vec![("a".to_owned(), "1".to_owned())],
            add: vec![("a".to_owned(), "2".to_owned())],
        };
        let all: Vec<_> = edits.iter().collect();
        assert_eq!(all, [HeaderEdit::Remove("a"), HeaderEdit::Set("a", "1"), HeaderEdit::Add("a", "2")]);
        assert!(edits.is_valid() && !edits.is_empty() && HeaderEdits::default().is_empty());
    }

    #[test]
    fn nobody_edits_what_is_not_a_routes_to_say() {
        for name in ["x-user", "authorization", "x-forwarded-host", "server"] {
            assert!(is_editable(name), "{name}");
        }
        for name in
            ["", "host", ":path", "X-User", "a b", "te", "x-tidegate-cluster", "x-envoy-retry-on", "cdn-loop"]
        {
            assert!(!is_editable(name), "{name}");
        }
        for value in ["a\r\nb: c", "a\nb", "a\0", " a", "a\t"] {
            assert!(!is_value(value), "{value:?}");
        }
        assert!(is_value("") && is_value("a b, \"c\"\td") && is_value("\u{e9}"));
    }
}
