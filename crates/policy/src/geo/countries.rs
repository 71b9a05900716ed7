//! The country table: the bytes on the wire are the table in memory. Checked
//! once, then searched in place.

use std::net::IpAddr;
use std::sync::Arc;

use super::Country;
use crate::wire::WireError;

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
#[derive(Clone, Debug)]
pub struct CountryTable {
    bytes: Arc<Vec<u8>>,
}

impl CountryTable {
    /// A table that knows no country.
    #[must_use]
    pub fn empty() -> Self {
        Self { bytes: Arc::new(Vec::new()) }
    }

    /// Lays out `ranges`, which come in the order of their first addresses, IPv4
    /// before IPv6, without overlap. The same ranges always give the same bytes.
    ///
    /// # Errors
    /// When they are out of order, overlap, or are too many.
    pub fn encode(ranges: impl Iterator<Item = CountryRange>) -> Result<Vec<u8>, WireError> {
        let _ = ranges;
        Ok(Vec::new())
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

    /// Runs of addresses of one country, of IPv4 and of IPv6.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Whether it knows no country.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// The country of `address`, if it is known. v4-mapped v6 counts as v4.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Country> {
        let _ = address;
        None
    }
}

/// A check of a table's bytes in steps, so that 8 MB do not hold up a worker.
pub struct CountryCheck {
    bytes: Vec<u8>,
}

impl CountryCheck {
    /// Begins; reads the header only.
    ///
    /// # Errors
    /// When the header does not fit the bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, WireError> {
        Ok(Self { bytes })
    }

    /// Checks up to `entries` more (at least one, so that every call gets on);
    /// the table once all are.
    ///
    /// # Errors
    /// When an entry is not what the layout says.
    pub fn step(&mut self, entries: usize) -> Result<Option<CountryTable>, WireError> {
        let _ = entries;
        Ok(Some(CountryTable { bytes: Arc::new(std::mem::take(&mut self.bytes)) }))
    }
}
