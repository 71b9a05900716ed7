//! One entry of an address table.

use serde::{Deserialize, Serialize};

use crate::UnixSeconds;
use crate::address::Prefix;

/// One entry of a table. In a base or allow table its state is always
/// [`EntryState::Present`]; an overlay also has [`EntryState::Absent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The addresses that it covers.
    pub prefix: Prefix,
    /// Whether it is present, and until when.
    pub state: EntryState,
}

impl Entry {
    /// Whether the entry is present and has not expired. `now` is called only if it has an
    /// expiry.
    pub fn is_in_force(&self, now: impl FnOnce() -> UnixSeconds) -> bool {
        match self.state {
            EntryState::Present(None) => true,
            EntryState::Present(Some(expires)) => now() < expires,
            EntryState::Absent => false,
        }
    }
}

/// An entry, or its absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EntryState {
    /// There is an entry; it expires at this time, if any.
    Present(Option<UnixSeconds>),
    /// There is none, even if the base has one.
    Absent,
}

impl EntryState {
    /// The number in the expiry column: 0 for an entry that does not expire. One that
    /// expired at second 0 is written as one that expired at second 1.
    pub(crate) fn expiry_column(self) -> UnixSeconds {
        match self {
            Self::Present(Some(expires)) => expires.max(1),
            Self::Present(None) | Self::Absent => 0,
        }
    }
}

/// The canonical bytes of one present entry, for a set digest. An expiry at second 0
/// counts as one at second 1, as in the table.
#[must_use]
pub fn entry_bytes(prefix: &Prefix, expires: Option<UnixSeconds>) -> [u8; 22] {
    let mut bytes = [0; 22];
    let (head, tail) = bytes.split_at_mut(18);
    head.copy_from_slice(&prefix.to_bytes());
    tail.copy_from_slice(&EntryState::Present(expires).expiry_column().to_be_bytes());
    bytes
}
