//! Why routes cannot be compiled, and the limits of a table.

use tidegate_policy::codec::FormatError;
use tidegate_policy::route::MAX_ROUTE_TABLE;
use tidegate_policy::route::layout::MAX_LIST;

/// The most bytes of the compiled regexes of all routes together, each different one
/// counted once.
pub const MAX_AUTOMATA: usize = 4 << 20;

/// The most candidates of all path nodes together: a match counts once for each group of
/// hostnames under which it is found.
pub(super) const MAX_CANDIDATES: usize = 4 << 20;

/// Why routes cannot be compiled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// Two routes have the same name.
    #[error("two routes are called {0}")]
    Duplicate(String),
    /// The table would be over [`MAX_ROUTE_TABLE`], or a list over [`MAX_LIST`], or an
    /// index would not fit.
    #[error(
        "the routes make a table of over {} MiB, or there are over {MAX_LIST} of them or of what they name",
        MAX_ROUTE_TABLE >> 20
    )]
    TooLarge,
    /// The regexes of all routes are over [`MAX_AUTOMATA`].
    #[error("the regular expressions of all routes take over {} MiB", MAX_AUTOMATA >> 20)]
    TooManyRegexes,
    /// The table cannot be encoded.
    #[error(transparent)]
    Wire(#[from] FormatError),
}

/// A length or an index, as encoded in the table.
pub(super) fn index_of(len: usize) -> Result<u32, CompileError> {
    u32::try_from(len).map_err(|_| CompileError::TooLarge)
}
