//! Searching a country table that is checked.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::layout::{CountryHeader, CountryLayout, CountryView};
use crate::address::canonical;
use crate::geo::country::Country;

/// A run of addresses of one country. Both ends are of one family and included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountryRange {
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
    /// Their country.
    pub country: Country,
}

/// The country of an address. A clone shares the bytes.
#[derive(Clone)]
pub struct CountryTable {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) layout: CountryLayout,
    pub(super) ranges: (usize, usize),
}

impl CountryTable {
    /// A table without countries.
    #[must_use]
    pub fn empty() -> Self {
        let header = CountryHeader::default();
        Self { bytes: Arc::new(header.to_bytes().to_vec()), layout: CountryLayout::empty(), ranges: (0, 0) }
    }

    /// The table's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Runs of addresses of one country, of IPv4 and of IPv6. Adjacent ranges of
    /// one country are one run.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        self.ranges
    }

    /// Whether it has no countries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// The country of `address`, if it is known. v4-mapped v6 counts as v4.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Country> {
        let view = CountryView::new(&self.bytes, &self.layout);
        match canonical(address) {
            IpAddr::V4(v4) => view.find_v4(v4.to_bits()),
            IpAddr::V6(v6) => view.find_v6(v6.to_bits()),
        }
    }
}

impl fmt::Debug for CountryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (v4, v6) = self.ranges;
        f.debug_struct("CountryTable").field("v4", &v4).field("v6", &v6).finish_non_exhaustive()
    }
}
