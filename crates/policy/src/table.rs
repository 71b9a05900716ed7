//! Address tables: the bytes on the wire are the table in memory. Checked once,
//! then searched in place.

use std::net::IpAddr;
use std::sync::Arc;

use crate::UnixSeconds;
use crate::address::Prefix;
use crate::digest::SetDigest;
use crate::wire::WireError;
use crate::wire::sync::EntryState;

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

/// A sorted, checked table of prefixes.
#[derive(Clone)]
pub struct AddressTable {
    #[expect(dead_code, reason = "the layout is still to come")]
    bytes: Arc<Vec<u8>>,
}

impl AddressTable {
    /// Lays out `entries`, which come in the order of [`Prefix`] without repeats.
    ///
    /// # Errors
    /// When they are out of order, repeated, or too many.
    pub fn encode(entries: impl Iterator<Item = Entry> + Clone) -> Result<Vec<u8>, WireError> {
        let _ = entries;
        todo!()
    }

    /// A table without entries.
    #[must_use]
    pub fn empty() -> Self {
        todo!()
    }

    /// Checks and takes `bytes` in one go; see [`TableCheck`] for doing so in steps.
    ///
    /// # Errors
    /// When the bytes are not a table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, WireError> {
        let _ = bytes;
        todo!()
    }

    /// The table's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        todo!()
    }

    /// Entries, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Digest of the entries that are present.
    #[must_use]
    pub fn digest(&self) -> SetDigest {
        todo!()
    }

    /// The entry for exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: &Prefix) -> Option<EntryState> {
        let _ = prefix;
        todo!()
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        std::iter::empty()
    }

    /// The entries that cover `address`, longest prefix first.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = Entry> + '_ {
        let _ = address;
        std::iter::empty()
    }
}

/// A check of a table's bytes in steps, so that 12 MB do not hold up a worker.
pub struct TableCheck {
    #[expect(dead_code, reason = "the layout is still to come")]
    bytes: Vec<u8>,
}

impl TableCheck {
    /// Begins; reads the header only.
    ///
    /// # Errors
    /// When the header does not fit the bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, WireError> {
        Ok(Self { bytes })
    }

    /// Checks up to `entries` more; the table once all are.
    ///
    /// # Errors
    /// When an entry is not what the layout says.
    pub fn step(&mut self, entries: usize) -> Result<Option<AddressTable>, WireError> {
        let _ = entries;
        todo!()
    }
}

/// The digest of one present entry, as it enters a [`SetDigest`].
#[must_use]
pub fn entry_bytes(prefix: &Prefix, expires: Option<UnixSeconds>) -> [u8; 22] {
    let mut bytes = [0; 22];
    let (head, tail) = bytes.split_at_mut(18);
    head.copy_from_slice(&prefix.to_bytes());
    tail.copy_from_slice(&expires.unwrap_or(0).to_be_bytes());
    bytes
}
