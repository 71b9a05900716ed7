//! Address tables: the bytes on the wire are the table in memory. Checked once,
//! then searched in place.

mod check;
mod layout;
mod view;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::UnixSeconds;
use crate::address::{Prefix, canonical};
use crate::digest::SetDigest;
use crate::wire::WireError;
use crate::wire::sync::EntryState;

pub use check::TableCheck;
pub(crate) use layout::Shape;
#[cfg(test)]
pub(crate) use layout::TABLE_FORMAT;
use layout::{Columns, HEADER, Layout, V4, V6};
use view::{View, Walk};
pub(crate) use write::Writer;

/// One entry of a table. In a base or allow table its state is always
/// [`EntryState::Present`]; an overlay also says [`EntryState::Absent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it covers.
    pub prefix: Prefix,
    /// What it says.
    pub state: EntryState,
}

impl Entry {
    /// Whether the entry is there and has not expired. `now` is asked only when
    /// it has an expiry.
    pub fn is_in_force(&self, now: impl FnOnce() -> UnixSeconds) -> bool {
        match self.state {
            EntryState::Present(None) => true,
            EntryState::Present(Some(expires)) => now() < expires,
            EntryState::Absent => false,
        }
    }
}

/// A sorted, checked table of prefixes. A clone shares the bytes.
#[derive(Clone)]
pub struct AddressTable {
    bytes: Arc<Vec<u8>>,
    shape: Shape,
    layout: Layout,
    digest: SetDigest,
}

impl AddressTable {
    /// Lays out `entries`, which come in the order of [`Prefix`] without repeats.
    /// The same entries always give the same bytes: 5.25 bytes per IPv4 entry
    /// and 18.25 per IPv6 entry, and 4 more each when any of the family expires.
    /// An expiry at second 0 is kept as one at second 1.
    ///
    /// # Errors
    /// When they are out of order, repeated, or too many.
    pub fn encode(entries: impl Iterator<Item = Entry> + Clone) -> Result<Vec<u8>, WireError> {
        let mut shape = Shape::default();
        entries.clone().for_each(|entry| shape.insert(&entry));
        let mut writer = Writer::new(shape)?;
        for entry in entries {
            writer.push(&entry)?;
        }
        writer.finish()
    }

    /// A table without entries.
    #[must_use]
    pub fn empty() -> Self {
        let shape = Shape::default();
        let header = layout::Header { shape, sum: 0 };
        let none = Columns::empty(HEADER);
        Self {
            bytes: Arc::new(header.to_bytes().to_vec()),
            shape,
            layout: Layout { v4: none.clone(), v6: none, len: HEADER },
            digest: SetDigest::default(),
        }
    }

    /// Checks and takes `bytes` in one go; see [`TableCheck`] for doing so in steps.
    ///
    /// # Errors
    /// When the bytes are not a table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, WireError> {
        let table = TableCheck::new(bytes)?.step(usize::MAX)?;
        table.ok_or(WireError::Malformed("table cut short"))
    }

    /// The table's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
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

    /// Digest of the entries that are present. Known since the check: costs nothing.
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

    fn v4(&self) -> View<'_, V4> {
        View::new(&self.bytes, &self.layout)
    }

    fn v6(&self) -> View<'_, V6> {
        View::new(&self.bytes, &self.layout)
    }
}

/// [`AddressTable::covering`] in one family or the other.
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

/// The digest of one present entry, as it enters a [`SetDigest`]. An expiry at
/// second 0 counts as one at second 1, as in the table.
#[must_use]
pub fn entry_bytes(prefix: &Prefix, expires: Option<UnixSeconds>) -> [u8; 22] {
    let mut bytes = [0; 22];
    let (head, tail) = bytes.split_at_mut(18);
    head.copy_from_slice(&prefix.to_bytes());
    tail.copy_from_slice(&layout::expiry(EntryState::Present(expires)).to_be_bytes());
    bytes
}
