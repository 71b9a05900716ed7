//! Bases: all bans at one moment, as bytes that never change.

use bytes::Bytes;
use imbl::OrdMap;
use tidegate_policy::address::Prefix;
use tidegate_policy::digest::{BlobHash, SetDigest};
use tidegate_policy::table::AddressTable;
use tidegate_policy::wire::WireError;
use tidegate_policy::wire::sync::{BlobRef, EntryState, MAX_TABLE};

use super::log::Moment;
use super::rows::{Meaning, Rows};
use super::world::World;

/// A base that overlays are relative to.
#[derive(Clone)]
pub(super) struct Base {
    pub blob: BlobRef,
    /// The moment that it was cut at.
    pub cut: Moment,
    /// Digest of its entries.
    pub digest: SetDigest,
    /// The rows at that moment; shares what has not changed since.
    entries: OrdMap<Prefix, Rows>,
}

impl Base {
    /// Lays out all bans of `world`. Half a second per million: not for the
    /// async threads.
    pub fn cut(world: &World, cut: Moment) -> Result<(Self, Bytes), WireError> {
        let (blob, bytes) = named(AddressTable::encode(world.ban_entries())?)?;
        Ok((Self { blob, cut, digest: world.bans, entries: world.entries.clone() }, bytes))
    }

    /// What the base says of `prefix`.
    pub fn state(&self, prefix: &Prefix) -> EntryState {
        let rows = self.entries.get(prefix);
        let meaning = rows.map_or(Meaning::default(), |rows| Meaning::of(rows));
        meaning.banned.map_or(EntryState::Absent, EntryState::Present)
    }
}

/// A table's bytes with their name.
pub(super) fn named(bytes: Vec<u8>) -> Result<(BlobRef, Bytes), WireError> {
    if bytes.len() > MAX_TABLE {
        return Err(WireError::TooLong { len: bytes.len(), max: MAX_TABLE });
    }
    let blob = BlobRef { hash: BlobHash::of(&bytes), len: bytes.len() as u64 };
    Ok((blob, bytes.into()))
}
