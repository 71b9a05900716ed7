//! The manifest of what is published, and the layout of tables in shared data.

use serde::{Deserialize, Serialize};
use tidegate_policy::codec::{FormatError, decode, encode};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::tables::PerTable;
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::BlobRef;

use super::service_clock::ServiceClock;
use crate::host::{Cas, Expect, Host, HostError};

/// Bytes of a table in one shared value. There is one lock for all shared data
/// of a process and every read copies under it, so a table is never read whole.
pub const CHUNK: usize = 256 << 10;

const MANIFEST_FORMAT: u8 = 5;
const MAX_MANIFEST: usize = 4096;

/// The host's shared data alone: all that publishing and loading need, and all that
/// the tests of their interleavings emulate.
pub trait SharedData {
    /// See [`Host::shared_get`].
    ///
    /// # Errors
    /// When the host refuses.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError>;
    /// See [`Host::shared_set`].
    ///
    /// # Errors
    /// [`HostError::CasMismatch`] when the value is not what was expected.
    fn set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError>;
}

impl<H: Host> SharedData for H {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        self.shared_get(key)
    }

    fn set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        self.shared_set(key, value, expect)
    }
}

/// Where a table is in shared data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableLocation {
    /// 0 or 1; the other side may be written.
    pub side: u8,
    /// Its hash and length.
    pub blob: BlobRef,
}

/// One consistent set of tables in shared data. Only the holder of the lease
/// writes it, by compare-and-set, and never with a lower fence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Fence of the lease under which it was written or adopted.
    pub fence: u64,
    /// The tables' version.
    pub version: Version,
    /// The refresh that they carry out.
    pub refresh: u64,
    /// The admin service's clock when it sent them, for a VM that has not looked at the lease yet.
    pub clock: ServiceClock,
    /// The tables.
    pub tables: PerTable<TableLocation>,
}

impl Manifest {
    /// The manifest's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(MANIFEST_FORMAT, self)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When the bytes are too long, malformed, or name an impossible table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let manifest: Self = decode(MANIFEST_FORMAT, MAX_MANIFEST, bytes)?;
        for (table, location) in manifest.tables.iter() {
            if location.side > 1 || location.blob.len > table.max_bytes() as u64 {
                return Err(FormatError::Malformed("a table's side or length"));
            }
        }
        Ok(manifest)
    }

    /// The tables' hashes and lengths.
    #[must_use]
    pub fn blobs(&self) -> PerTable<BlobRef> {
        PerTable::from_fn(|table| self.tables[table].blob)
    }
}

/// Head of a chunk: who wrote it, and the table that it is a part of. With the fence in every
/// chunk, a publisher that was suspended and lost the lease stops at its next write, whichever
/// chunk that is; with the hash, a reader knows at once whether the chunk belongs to the
/// manifest that it read. One head per side instead would need a protocol of its own, as two
/// keys cannot be written at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHead {
    /// Fence of the writer's lease.
    pub fence: u64,
    /// Hash of the whole table.
    pub hash: BlobHash,
}

const HEAD: usize = 24;

impl ChunkHead {
    /// The value to store for `payload`.
    #[must_use]
    pub fn with(self, payload: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(payload.len().saturating_add(HEAD));
        value.extend_from_slice(&self.fence.to_le_bytes());
        value.extend_from_slice(&self.hash.0.to_le_bytes());
        value.extend_from_slice(payload);
        value
    }

    /// Takes a stored value apart.
    #[must_use]
    pub fn split(value: &[u8]) -> Option<(Self, &[u8])> {
        let (fence, rest) = value.split_first_chunk()?;
        let (hash, payload) = rest.split_first_chunk()?;
        let head = Self { fence: u64::from_le_bytes(*fence), hash: BlobHash(u128::from_le_bytes(*hash)) };
        Some((head, payload))
    }
}

/// The bytes of a table in chunk `index`, of `chunk` bytes each.
#[must_use]
pub fn chunk_bytes(bytes: &[u8], index: usize, chunk: usize) -> &[u8] {
    let start = index.saturating_mul(chunk).min(bytes.len());
    let end = start.saturating_add(chunk).min(bytes.len());
    bytes.get(start..end).unwrap_or_default()
}
