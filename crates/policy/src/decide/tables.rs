//! The tables that decide requests.

use std::sync::Arc;

use crate::bans::BanTable;
use crate::flags::Flags;
use crate::geo::{CountryTable, GeoRules};
use crate::limit::Limits;
use crate::route::RouteTable;
use crate::table::AddressTable;
use crate::version::Version;

/// One consistent set of tables. A request keeps the set it began with.
pub struct Tables {
    /// The version that they are.
    pub version: Version,
    /// Which checks are answered from these tables at all.
    pub flags: Flags,
    /// Addresses that skip bans and geo rules.
    pub allow: AddressTable,
    /// Banned addresses.
    pub bans: BanTable,
    /// Where addresses are. A clone shares the bytes.
    pub countries: CountryTable,
    /// Which countries may enter.
    pub geo: Arc<GeoRules>,
    /// Routes; shared, so that a set with new bans need not compile them again.
    pub routes: Arc<RouteTable>,
    /// How many requests may pass. No check: it is asked of requests that pass.
    pub limits: Arc<Limits>,
}
