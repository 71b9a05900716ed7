//! Entries of the audit, and the check of its chain.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an entry of the audit may be about, the kinds of documents ([`DocumentKind::name`]) at the end.
///
/// [`DocumentKind::name`]: super::DocumentKind::name
pub const AUDIT_KINDS: [&str; 26] = [
    "ban",
    "unban",
    "allow",
    "disallow",
    "watch",
    "enforce",
    "import",
    "ip-monitor",
    "source-set",
    "flag",
    "countries",
    "token",
    "backup",
    "restore",
    "database",
    "tables",
    "rollout-step",
    "route",
    "geo-rule",
    "backend",
    "limit",
    "listener",
    "page",
    "auto-ban",
    "source",
    "rollout",
];

/// An entry of the audit: one change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditRow {
    /// Counts up from 1 without a hole.
    pub id: u64,
    /// UTC, as text. Of what another program wrote: when it was found.
    pub at: String,
    /// [`Author::name`].
    pub actor: String,
    /// [`Author::address`].
    pub address: Option<String>,
    /// [`Author::request_id`].
    pub request_id: Option<String>,
    /// Kind of change: one of [`AUDIT_KINDS`].
    pub kind: String,
    /// What was changed: the flag's name, the prefix, the document's name.
    pub name: String,
    /// Value before, as JSON; `None`: it did not exist.
    pub before: Option<String>,
    /// Value after, as JSON; `None`: it was removed.
    pub after: Option<String>,
    /// How many changes these were, if several were found at once.
    pub changes: Option<u64>,
    /// SHA-256 over this entry and the hash of the one before it, hexadecimal.
    pub hash: String,
}

/// An entry's id and hash: kept elsewhere, they show later that neither it nor any before it was
/// changed since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditAnchor {
    /// [`AuditRow::id`].
    pub id: u64,
    /// [`AuditRow::hash`].
    pub hash: String,
}

impl AuditAnchor {
    /// The format as text, for messages.
    pub const FORM: &str = "write ID:HASH, as `verify` has given them";
}

impl std::str::FromStr for AuditAnchor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, hash) = text.split_once(':').ok_or(())?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = id.parse().map_err(|_| ())?;
        is_hash.then(|| Self { id, hash: hash.to_ascii_lowercase() }).ok_or(())
    }
}

/// Which entries of the audit; `None`: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditFilter {
    /// Ids below this.
    pub before: Option<u64>,
    /// [`AuditRow::actor`].
    pub actor: Option<String>,
    /// [`AuditRow::kind`]: one of these; empty: any.
    pub kinds: Vec<String>,
    /// [`AuditRow::name`].
    pub name: Option<String>,
    /// Not earlier than this, as [`AuditRow::at`].
    pub since: Option<String>,
    /// Earlier than this, as [`AuditRow::at`].
    pub until: Option<String>,
}

/// Result of a check of the audit's chain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AuditCheck {
    /// Entries that there are.
    pub entries: u64,
    /// The newest entry; `None`: there is none.
    pub last: Option<AuditAnchor>,
    /// What is wrong, as sentences: the first [`MAX_AUDIT_FAULTS`].
    pub faults: Vec<String>,
}

/// Faults that a check of the audit lists, at most.
pub const MAX_AUDIT_FAULTS: usize = 20;
