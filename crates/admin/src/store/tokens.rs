//! Stored tokens.

use super::time_text;

/// A stored token, without its secret: only the hash is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TokenRow {
    /// SHA-256 of the token, hexadecimal.
    pub hash: String,
    /// The operator's name for it.
    pub name: String,
    /// `read`, `operate`, `admin` or `gateway`.
    pub role: String,
    /// The node whose gateways alone may use it; `None`: any.
    pub node: Option<String>,
    /// UTC, as text; `None`: it never ends.
    pub expires_at: Option<String>,
    /// UTC, as text; set when it is stored.
    pub created_at: Option<String>,
    /// Who made it; set when it is stored.
    pub created_by: Option<String>,
    /// UTC, as text, to about a minute; `None`: never.
    pub last_used_at: Option<String>,
}

impl TokenRow {
    /// When it ends, in milliseconds since the Unix epoch. An end that cannot be read has passed.
    #[must_use]
    pub fn ends_ms(&self) -> Option<i64> {
        self.expires_at.as_deref().map(|end| time_text::to_ms(end).unwrap_or(0))
    }

    /// The beginning of the hash, which tells tokens of one name apart and is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        self.hash.get(..8).unwrap_or(&self.hash)
    }
}
