//! Bases: all bans at one moment, as bytes that never change.

use bytes::Bytes;
use imbl::OrdMap;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::SetDigest;
use tidegate_policy::table::{AddressTable, EntryState};
use tidegate_policy::wire::sync::BlobRef;

use super::change_log::LogPosition;
use super::ip_monitor::IpMonitor;
use super::ip_rows::{ParsedRows, PrefixStatus};
use super::table_bytes::name;

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
struct BaseBytes(AddressTable);

impl AsRef<[u8]> for BaseBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Base {
    /// Lays out all bans of `ips`. Half a second per million: not for the
    /// async threads.
    pub fn cut(ips: &IpMonitor, cut: LogPosition) -> Result<(Self, Bytes), FormatError> {
        let bytes = AddressTable::encode(ips.ban_entries())?;
        let blob = name(&bytes)?;
        let table = AddressTable::from_bytes(bytes)?;
        let bytes = Bytes::from_owner(BaseBytes(table.clone()));
        Ok((Self { blob, cut, digest: ips.bans, table, entries: ips.entries.clone() }, bytes))
    }

    /// What the base says of `prefix`.
    pub fn state(&self, prefix: &Prefix) -> EntryState {
        let rows = self.entries.get(prefix);
        let status = rows.map_or(PrefixStatus::default(), |rows| PrefixStatus::of(rows));
        status.banned.map_or(EntryState::Absent, EntryState::Present)
    }
}
