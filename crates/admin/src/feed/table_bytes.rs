//! The bytes of a table as gateways get them.

use bytes::Bytes;
use tidegate_policy::codec::{FormatError, MAX_TABLE};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::sync::BlobRef;

/// The bytes of a table that is sent whole.
#[derive(Clone, Default)]
pub(super) struct TableBytes {
    /// Hash and length of the bytes.
    pub blob: BlobRef,
    pub bytes: Bytes,
    /// Number of entries; `None`: the table is not a list.
    pub entries: Option<usize>,
}

impl TableBytes {
    /// Hashes `bytes`; an error if they are too many for a table.
    pub fn new(bytes: Vec<u8>, entries: Option<usize>) -> Result<Self, FormatError> {
        Ok(Self { blob: name(&bytes, MAX_TABLE)?, bytes: bytes.into(), entries })
    }
}

/// Hash and length of a table's bytes; an error if they are more than `max`.
pub(super) fn name(bytes: &[u8], max: usize) -> Result<BlobRef, FormatError> {
    match bytes.len() {
        len if len > max => Err(FormatError::TooLong { len, max }),
        len => Ok(BlobRef { hash: BlobHash::of(bytes), len: len as u64 }),
    }
}
