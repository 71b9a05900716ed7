//! How often a request has passed gates: one that a route sends back to the gate would go in
//! circles until a time limit ends it, and every mirror on the way would multiply it.
//!
//! `CDN-Loop` (RFC 8586) is what CDNs do it with, and nobody on the way may take it out. Each pass
//! to a backend adds an entry. A client that writes entries of its own is denied the sooner; none
//! can take one away that a gate has written after it.

use tidegate_policy::route::action::LOOP_HEADER;

use crate::host::{Host, HostError};

/// What a gate writes.
const GATE: &str = "tidegate";
/// A request that has passed so many gates is not let through another one. Some systems have two
/// in a row, at the edge and within.
pub const MOST: usize = 4;
/// What a gate answers a request that goes in circles. A gate behind another one does not have it tried
/// again: each pass would multiply the tries of the next.
pub const STATUS: u16 = 508;

/// How many passes a line of the header tells of.
pub fn told_in(line: &[u8]) -> usize {
    let ids = line.split(|byte| *byte == b',').map(|entry| entry.split(|byte| *byte == b';').next());
    ids.filter(|id| id.is_some_and(|id| id.trim_ascii().eq_ignore_ascii_case(GATE.as_bytes()))).count()
}

/// Adds the pass that is about to happen to the current request.
///
/// # Errors
/// When the host refuses the change.
pub fn add<H: Host>(host: &H) -> Result<(), HostError> {
    host.add_request_header(LOOP_HEADER, GATE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_counted_beside_others() {
        for (line, passes) in [
            (&b"tidegate"[..], 1),
            (b"tidegate, cdn.example; hop=1 ,Tidegate ;a=\"tidegate\",tidegate", 3),
            (b"tidegates,a tidegate,;tidegate,\xff", 0),
            (b"", 0),
        ] {
            assert_eq!(told_in(line), passes, "{}", String::from_utf8_lossy(line));
        }
    }
}
