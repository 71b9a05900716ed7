//! Rewriting a request's path.

use serde::{Deserialize, Serialize};

use super::headers::is_visible;

/// How the path changes. The query stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PathEdit {
    /// This path in place of any other.
    Full(String),
    /// `with` in place of the elements of `matched`, which is the prefix that the rule
    /// matches.
    Prefix {
        /// The prefix, as the rule's match has it.
        matched: String,
        /// The replacement; empty is the same as `/`.
        with: String,
    },
}

impl PathEdit {
    /// `target` (a path, perhaps with a query) with the path changed. The result begins
    /// with `/`.
    #[must_use]
    pub fn apply(&self, target: &[u8]) -> Vec<u8> {
        let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
        let (path, query) = target.split_at_checked(end).unwrap_or((target, &[]));
        let mut edited = match self {
            Self::Full(full) => full.as_bytes().to_vec(),
            Self::Prefix { matched, with } => replace_prefix(path, matched.as_bytes(), with.as_bytes()),
        };
        if !edited.starts_with(b"/") {
            edited.insert(0, b'/');
        }
        edited.extend_from_slice(query);
        edited
    }

    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::Full(full) => is_visible(full),
            Self::Prefix { matched, with } => is_visible(matched) && is_visible(with),
        }
    }
}

/// As the specification's table has it (`HTTPPathModifier.replacePrefixMatch`):
/// elements are replaced, and where old and new meet there is one `/`.
fn replace_prefix(path: &[u8], matched: &[u8], with: &[u8]) -> Vec<u8> {
    let matched = matched.strip_suffix(b"/").unwrap_or(matched);
    // A path without the prefix was not matched by it, and stays.
    let Some(rest) = path.strip_prefix(matched) else { return path.to_vec() };
    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
    let rest = rest.get(slashes.saturating_sub(1)..).unwrap_or_default();
    match rest {
        [] => with.to_vec(),
        rest => [with.strip_suffix(b"/").unwrap_or(with), rest].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(matched: &str, with: &str, target: &str) -> String {
        let edit = PathEdit::Prefix { matched: matched.to_owned(), with: with.to_owned() };
        String::from_utf8(edit.apply(target.as_bytes())).unwrap()
    }

    #[test]
    fn a_prefix_is_replaced_as_the_specifications_table_says() {
        for (target, matched, with, edited) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/strip/three", "/strip", "/", "/three"),
            ("/foo", "/foo", "/xyz/", "/xyz/"),
            ("/a/b", "/", "/x", "/x/a/b"),
            ("/", "/", "/x", "/x/"),
            ("/a", "/", "/", "/a"),
        ] {
            assert_eq!(prefix(matched, with, target), edited, "{target} {matched} {with}");
        }
    }

    #[test]
    fn the_query_stays_and_slashes_do_not_pile_up() {
        assert_eq!(prefix("/foo", "/", "/foo?a=/foo&b"), "/?a=/foo&b");
        assert_eq!(prefix("/foo", "", "/foo//evil.example/x"), "/evil.example/x");
        assert_eq!(prefix("/foo", "/x", "/bar"), "/bar", "not matched by it");
        let full = PathEdit::Full("/all".to_owned());
        assert_eq!(full.apply(b"/a/b?c#d"), b"/all?c#d");
        assert_eq!(PathEdit::Full(String::new()).apply(b"/a?b"), b"/?b");
        assert_eq!(full.apply(b""), b"/all");
    }
}
