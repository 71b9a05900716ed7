//! A table as gateways get it.

use bytes::Bytes;
use tidegate_policy::codec::{FormatError, MAX_TABLE};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::sync::BlobRef;

/// The bytes of a table that travels whole.
#[derive(Clone, Default)]
pub(super) struct TableBytes {
    /// Their name and length.
    pub blob: BlobRef,
    pub bytes: Bytes,
    /// How many entries they have; `None`: they are no list.
    pub entries: Option<usize>,
}

impl TableBytes {
    /// Names `bytes`, unless they are too many for a table.
    pub fn new(bytes: Vec<u8>, entries: Option<usize>) -> Result<Self, FormatError> {
        Ok(Self { blob: name(&bytes)?, bytes: bytes.into(), entries })
    }
}

/// The name of a table's bytes, unless they are too many for one.
pub(super) fn name(bytes: &[u8]) -> Result<BlobRef, FormatError> {
    match bytes.len() {
        len if len > MAX_TABLE => Err(FormatError::TooLong { len, max: MAX_TABLE }),
        len => Ok(BlobRef { hash: BlobHash::of(bytes), len: len as u64 }),
    }
}
