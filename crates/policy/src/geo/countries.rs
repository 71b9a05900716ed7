//! The country table: the bytes on the wire are the table in memory. Checked
//! once, then searched in place.

mod check;
mod layout;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::Country;
use crate::address::canonical;
use crate::wire::WireError;

pub use check::CountryCheck;
#[cfg(test)]
pub(crate) use layout::COUNTRIES_FORMAT;
use layout::{Header, Layout, View};

/// A run of addresses of one country. Both ends are of one family and included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountryRange {
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
    /// Where they are.
    pub country: Country,
}

/// The country of an address. A clone shares the bytes.
#[derive(Clone)]
pub struct CountryTable {
    bytes: Arc<Vec<u8>>,
    layout: Layout,
    ranges: (usize, usize),
}

impl CountryTable {
    /// A table that knows no country.
    #[must_use]
    pub fn empty() -> Self {
        let header = Header::default();
        Self { bytes: Arc::new(header.to_bytes().to_vec()), layout: Layout::empty(), ranges: (0, 0) }
    }

    /// Lays out `ranges`, which come in the order of their first addresses, IPv4
    /// before IPv6, without overlap; v4-mapped IPv6 addresses come as IPv4. The
    /// same ranges always give the same bytes, and so do ranges that are cut
    /// otherwise and say the same. A run of a country costs 5 bytes in IPv4, 9 in
    /// IPv6, and so does each gap that nobody knows; an IPv6 boundary within a /64
    /// costs 12 more. With over 255 countries each of them costs another byte.
    ///
    /// # Errors
    /// When they are out of order, overlap, or are too many.
    pub fn encode(ranges: impl Iterator<Item = CountryRange>) -> Result<Vec<u8>, WireError> {
        write::encode(ranges)
    }

    /// Checks and takes `bytes` in one go; see [`CountryCheck`] for doing so in steps.
    ///
    /// # Errors
    /// When the bytes are not a table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, WireError> {
        let table = CountryCheck::new(bytes)?.step(usize::MAX)?;
        table.ok_or(WireError::Malformed("table cut short"))
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

    /// Whether it knows no country.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// The country of `address`, if it is known. v4-mapped v6 counts as v4.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Country> {
        let view = View::new(&self.bytes, &self.layout);
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
