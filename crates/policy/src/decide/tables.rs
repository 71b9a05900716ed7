//! The tables that decide requests.

use std::ops::Deref;

use crate::bans::BanTable;
use crate::tables::TableSet;
use crate::version::Version;

/// One consistent set of tables. A request keeps the set it began with.
pub struct Tables {
    /// The tables' version.
    pub version: Version,
    /// Banned addresses: base and overlay of `set` together.
    pub bans: BanTable,
    /// The tables as they were published.
    pub set: TableSet,
}

impl Tables {
    /// The tables of `set`, with their version. Takes time in proportion to the overlay of bans:
    /// [`JoinDigest`](crate::bans::JoinDigest) does that part in steps.
    #[must_use]
    pub fn new(version: Version, set: TableSet) -> Self {
        Self { version, bans: BanTable::new(set.ban_base.clone(), set.ban_overlay.clone()), set }
    }
}

impl Deref for Tables {
    type Target = TableSet;

    fn deref(&self) -> &TableSet {
        &self.set
    }
}
