//! Imports of many bans at once.

use std::sync::Arc;

use serde::Serialize;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use utoipa::ToSchema;

use super::change::BanMode;

/// Bans that are written together, in one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BanImport {
    /// Whose they are: a name of `a-z`, `0-9`, `.`, `_` and `-`; `None`: as if banned one by one.
    pub source: Option<String>,
    /// Remove the bans of this source that are not among these.
    pub replaces: bool,
    /// Whether they deny.
    pub mode: BanMode,
    /// In the order of their prefixes, then of where they apply, each once.
    pub bans: Vec<ImportedBan>,
}

/// A ban of an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportedBan {
    /// What is banned.
    pub prefix: Prefix,
    /// The second at which it ends; `None`: never.
    pub expires: Option<UnixSeconds>,
    /// Why.
    pub reason: Option<Arc<str>>,
    /// Where it applies, as JSON; `None`: everywhere.
    pub applies_to: Option<Arc<str>>,
}

impl BanImport {
    /// The place of the ban of `prefix` among them that applies at `applies_to`; `None`: everywhere.
    #[must_use]
    pub fn position(&self, prefix: &Prefix, applies_to: Option<&str>) -> Option<usize> {
        self.bans
            .binary_search_by(|ban| (&ban.prefix, ban.applies_to.as_deref()).cmp(&(prefix, applies_to)))
            .ok()
    }
}

/// What an import changed, or would change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
pub struct ImportCounts {
    /// Bans that there were not before.
    pub added: u64,
    /// Bans that there were already; their end or reason may have changed.
    pub kept: u64,
    /// Bans that are gone, because their source no longer has them.
    pub removed: u64,
    /// Bans that the source no longer has, and another source still has.
    pub released: u64,
    /// Not banned: exactly this prefix is on the allow list.
    pub allowed: u64,
}
