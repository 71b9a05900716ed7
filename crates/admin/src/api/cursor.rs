//! Opaque cursors of lists: where the next page begins, in hexadecimal.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::query::QueryParams;
use crate::problem::Problem;

/// The cursor of `position`.
#[must_use]
pub fn write(position: &str) -> String {
    hex::encode(position)
}

/// The position of `cursor`.
pub fn read(cursor: &str) -> Result<String, Problem> {
    hex::decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)
}

/// Hash of a query, without what says which page of it: a cursor with it is good for no other one.
#[must_use]
pub fn query_hash(params: &QueryParams) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut pairs: Vec<_> =
        params.pairs().filter(|(name, _)| !["cursor", "limit", "format"].contains(name)).collect();
    pairs.sort_unstable();
    pairs.hash(&mut hasher);
    hasher.finish()
}

/// The problem of a cursor that did not come from this list.
#[must_use]
pub fn bad() -> Problem {
    Problem::parameter("cursor", "invalid", "`cursor` is the `next` of the page before, as it was")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_says_what_was_written() {
        for position in ["", "2001:db8::/64", "wörter"] {
            assert_eq!(read(&write(position)).unwrap(), position);
        }
        for bad in ["x", "0", "0g", "ff", "+1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
