//! Ban bases: all bans at one moment, as immutable bytes.

use bytes::Bytes;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::{FormatError, MAX_BAN_BASE};
use tidegate_policy::digest::SetDigest;
use tidegate_policy::table::{AddressTable, EntryState};
use tidegate_policy::wire::sync::BlobRef;

use super::change_log::LogPosition;
use super::ip_monitor::IpMonitor;
use super::table_bytes::name;

/// A base that overlays are relative to.
#[derive(Clone)]
pub(super) struct Base {
    pub blob: BlobRef,
    /// The position at which it was cut.
    pub cut: LogPosition,
    /// Digest of its entries.
    pub digest: SetDigest,
    /// Its bytes as a table that can be searched.
    pub table: AddressTable,
    /// The rows at that moment; unchanged ones are shared with the current snapshot.
    ips: IpMonitor,
}

/// A table's bytes as a buffer, without copying them.
struct BaseBytes(AddressTable);

impl AsRef<[u8]> for BaseBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Base {
    /// Lays out all bans of `ips`. Takes half a second per million: not for the async threads.
    pub fn cut(ips: &IpMonitor, cut: LogPosition) -> Result<(Self, Bytes), FormatError> {
        let bytes = AddressTable::encode(ips.ban_entries())?;
        let blob = name(&bytes, MAX_BAN_BASE)?;
        let table = AddressTable::from_bytes(bytes)?;
        let bytes = Bytes::from_owner(BaseBytes(table.clone()));
        Ok((Self { blob, cut, digest: ips.bans, table, ips: ips.clone() }, bytes))
    }

    /// The entry of `prefix` in the base.
    pub fn state(&self, prefix: &Prefix) -> EntryState {
        self.ips.ban(prefix)
    }
}
