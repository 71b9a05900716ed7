//! The ban table: an immutable base and a small overlay of what changed since.

use std::net::IpAddr;

use crate::UnixSeconds;
use crate::address::Prefix;
use crate::digest::{BlobHash, SetDigest};
use crate::table::AddressTable;
use crate::wire::WireError;
use crate::wire::sync::OverlayChange;

/// Base and overlay, searched together: an entry of the overlay stands in front
/// of the base's entry for the same prefix.
#[derive(Clone)]
pub struct BanTable {
    /// The immutable bulk.
    pub base: AddressTable,
    /// What changed since the base was cut.
    pub overlay: AddressTable,
}

/// The ban that covers an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ban {
    /// The longest prefix that covers it and has not expired.
    pub prefix: Prefix,
    /// When that entry ends.
    pub expires: Option<UnixSeconds>,
}

impl BanTable {
    /// The longest ban on `address` that has not expired. `now` is asked only
    /// when an entry that expires covers the address.
    pub fn covering(&self, address: IpAddr, now: impl FnOnce() -> UnixSeconds) -> Option<Ban> {
        let _ = (address, now);
        todo!()
    }

    /// The digest of base and overlay together.
    #[must_use]
    pub fn digest(&self) -> SetDigest {
        todo!()
    }
}

/// `overlay` with `changes` applied, as the bytes of a new overlay table.
///
/// # Errors
/// When the result would be too large.
pub fn apply(overlay: &AddressTable, changes: &[OverlayChange]) -> Result<Vec<u8>, WireError> {
    let _ = (overlay, changes);
    todo!()
}

/// Folds base and overlay into a new base, in steps.
pub struct Fold {}

impl Fold {
    /// Begins to fold `table`.
    #[must_use]
    pub fn new(table: &BanTable) -> Self {
        let _ = table;
        Self {}
    }

    /// Takes up to `entries` more; the new base's bytes and name once all are in.
    ///
    /// # Errors
    /// When the result would be too large.
    pub fn step(&mut self, entries: usize) -> Result<Option<(Vec<u8>, BlobHash)>, WireError> {
        let _ = entries;
        todo!()
    }
}
