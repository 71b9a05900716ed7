//! The tables that decide requests.

use std::ops::Deref;

use crate::bans::{BanTable, JoinDigest};
use crate::tables::TableSet;
use crate::version::Version;

/// One consistent set of tables. A request keeps the set it began with.
pub struct Tables {
    /// The tables' version.
    pub version: Version,
    /// Banned addresses: base, overlay and recent changes of `set` together.
    pub bans: BanTable,
    /// The tables as they were published.
    pub set: TableSet,
}

impl Tables {
    /// The tables of `set`, with their version. Takes time in proportion to the overlay of bans:
    /// [`JoinDigest`] does that part in steps.
    #[must_use]
    pub fn new(version: Version, set: TableSet) -> Self {
        let (base, overlay, recent) = (&set.ban_base, &set.ban_overlay, &set.ban_recent);
        let bans = JoinDigest::new(base.clone(), overlay.clone(), recent.clone()).finish();
        Self { version, bans, set }
    }

    /// Whether there are bans that apply at some hostnames or routes only.
    #[must_use]
    pub fn has_scoped_bans(&self) -> bool {
        !(self.scoped_bans.is_empty() && self.scoped_sources.is_empty())
    }
}

impl Deref for Tables {
    type Target = TableSet;

    fn deref(&self) -> &TableSet {
        &self.set
    }
}
