//! Searching a table that is checked.

use std::net::IpAddr;
use std::sync::Arc;

use super::entry::{Entry, EntryState};
use super::layout::{FamilyColumns, HEADER, Shape, TableHeader, TableLayout, V4, V6};
use super::view::{FamilyView, Walk};
use crate::address::{Prefix, canonical};
use crate::digest::SetDigest;

/// A sorted, checked table of prefixes. A clone shares the bytes.
#[derive(Clone)]
pub struct AddressTable {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) shape: Shape,
    pub(super) layout: TableLayout,
    pub(super) digest: SetDigest,
}

impl AddressTable {
    /// A table without entries.
    #[must_use]
    pub fn empty() -> Self {
        let shape = Shape::default();
        let header = TableHeader { shape, sum: 0 };
        let none = FamilyColumns::empty(HEADER);
        Self {
            bytes: Arc::new(header.to_bytes().to_vec()),
            shape,
            layout: TableLayout { v4: none.clone(), v6: none, len: HEADER },
            digest: SetDigest::default(),
        }
    }

    /// The table's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes that a table of that many entries takes at most: whatever of them expire. So
    /// whether a further entry fits does not depend on what becomes of the others' ends.
    #[must_use]
    pub fn most_bytes(v4: usize, v6: usize) -> usize {
        TableLayout::unbounded(&Shape::expiring(v4, v6)).len
    }

    /// Entries, expired and absent ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.entries()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Digest of the entries that are present, computed by the check.
    #[must_use]
    pub fn digest(&self) -> SetDigest {
        self.digest
    }

    /// The entry for exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: &Prefix) -> Option<EntryState> {
        if let Some((address, len)) = prefix.as_v4() {
            return self.v4().find(address, len);
        }
        let (address, len) = prefix.as_v6()?;
        self.v6().find(address, len)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        (0..self.len()).map_while(|i| self.entry(i))
    }

    /// The entries behind `prefix`, which need not be one, in order.
    pub fn iter_behind<'t>(&'t self, prefix: &Prefix) -> impl Iterator<Item = Entry> + Clone + use<'t> {
        let (mut from, mut until) = (0, self.len());
        while from < until {
            let middle = from.midpoint(until);
            match self.entry(middle) {
                Some(entry) if entry.prefix <= *prefix => from = middle.saturating_add(1),
                _ => until = middle,
            }
        }
        (from..self.len()).map_while(|i| self.entry(i))
    }

    /// The entries that cover `address`, longest prefix first, expired and absent
    /// ones included. v4-mapped v6 counts as v4.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = Entry> + '_ {
        match canonical(address) {
            IpAddr::V4(v4) => Covering::V4(self.v4().covering(v4.to_bits())),
            IpAddr::V6(v6) => Covering::V6(self.v6().covering(v6.to_bits())),
        }
    }

    /// Entry `i` of [`AddressTable::iter`].
    pub(crate) fn entry(&self, i: usize) -> Option<Entry> {
        match i.checked_sub(self.shape.v4.entries as usize) {
            None => self.v4().entry(i),
            Some(i) => self.v6().entry(i),
        }
    }

    /// How many entries there are of each kind.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    fn v4(&self) -> FamilyView<'_, V4> {
        FamilyView::new(&self.bytes, &self.layout)
    }

    fn v6(&self) -> FamilyView<'_, V6> {
        FamilyView::new(&self.bytes, &self.layout)
    }
}

/// [`AddressTable::covering`] of IPv4 or IPv6.
enum Covering<'t> {
    V4(Walk<'t, V4>),
    V6(Walk<'t, V6>),
}

impl Iterator for Covering<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        match self {
            Self::V4(walk) => walk.next(),
            Self::V6(walk) => walk.next(),
        }
    }
}
