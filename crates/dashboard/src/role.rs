//! What a token may do, as far as pages differ by it.

use serde::Deserialize;

/// The role of a token, the lowest first. Each may do what the one before it may; that it may is checked by the
/// API, and pages only leave out what would be refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at everything but tokens.
    Read,
    /// Bans, sets flags, orders refreshes.
    Operate,
    /// Writes documents and tokens as well.
    Admin,
}

impl Role {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}
