//! Bases: all bans at one moment, as bytes that never change.

use bytes::Bytes;
use imbl::OrdMap;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::{FormatError, MAX_TABLE};
use tidegate_policy::digest::{BlobHash, SetDigest};
use tidegate_policy::table::{AddressTable, EntryState};
use tidegate_policy::wire::sync::BlobRef;

use super::change_log::LogPosition;
use super::ip_rows::{ParsedRows, PrefixStatus};
use super::snapshot::Snapshot;

/// A base that overlays are relative to.
#[derive(Clone)]
pub(super) struct Base {
    pub blob: BlobRef,
    /// Where it was cut.
    pub cut: LogPosition,
    /// Digest of its entries.
    pub digest: SetDigest,
    /// Its bytes, ready to be searched.
    pub table: AddressTable,
    /// The rows at that moment; shares what has not changed since.
    entries: OrdMap<Prefix, ParsedRows>,
}

/// A table's bytes, as gateways fetch them: not a copy.
struct Shared(AddressTable);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Base {
    /// Lays out all bans of `snapshot`. Half a second per million: not for the
    /// async threads.
    pub fn cut(snapshot: &Snapshot, cut: LogPosition) -> Result<(Self, Bytes), FormatError> {
        let bytes = AddressTable::encode(snapshot.ban_entries())?;
        let blob = name(&bytes)?;
        let table = AddressTable::from_bytes(bytes)?;
        let bytes = Bytes::from_owner(Shared(table.clone()));
        Ok((Self { blob, cut, digest: snapshot.bans, table, entries: snapshot.entries.clone() }, bytes))
    }

    /// What the base says of `prefix`.
    pub fn state(&self, prefix: &Prefix) -> EntryState {
        let rows = self.entries.get(prefix);
        let status = rows.map_or(PrefixStatus::default(), |rows| PrefixStatus::of(rows));
        status.banned.map_or(EntryState::Absent, EntryState::Present)
    }
}

/// A table's bytes with their name.
pub(super) fn named(bytes: Vec<u8>) -> Result<(BlobRef, Bytes), FormatError> {
    Ok((name(&bytes)?, bytes.into()))
}

/// The name of a table's bytes, unless they are too many for one.
pub(super) fn name(bytes: &[u8]) -> Result<BlobRef, FormatError> {
    match bytes.len() {
        len if len > MAX_TABLE => Err(FormatError::TooLong { len, max: MAX_TABLE }),
        len => Ok(BlobRef { hash: BlobHash::of(bytes), len: len as u64 }),
    }
}
