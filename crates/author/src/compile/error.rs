//! Why routes do not make a table, and the limits of one.

use tidegate_policy::codec::FormatError;
use tidegate_policy::route::MAX_ROUTE_TABLE;
use tidegate_policy::route::layout::MAX_LIST;

/// Bytes that the compiled regexes of all routes may take together, each
/// different one counted once.
pub const MAX_AUTOMATA: usize = 4 << 20;

/// Candidates of all path nodes together: a match counts once for each group of
/// hostnames under which it is found.
pub(super) const MAX_CANDIDATES: usize = 4 << 20;

/// Why routes do not make a table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// Two routes have one name.
    #[error("two routes are called {0}")]
    Duplicate(String),
    /// The table would be over [`MAX_ROUTE_TABLE`], or have over [`MAX_LIST`] of
    /// something, or be larger than its indices.
    #[error(
        "the routes make a table of over {} MiB, or there are over {MAX_LIST} of them or of what they name",
        MAX_ROUTE_TABLE >> 20
    )]
    TooLarge,
    /// The regexes of all routes are over [`MAX_AUTOMATA`].
    #[error("the regular expressions of all routes take over {} MiB", MAX_AUTOMATA >> 20)]
    TooManyRegexes,
    /// The table cannot be written.
    #[error(transparent)]
    Wire(#[from] FormatError),
}

/// A length or a place in a list, as the table writes it.
pub(super) fn index_of(len: usize) -> Result<u32, CompileError> {
    u32::try_from(len).map_err(|_| CompileError::TooLarge)
}
