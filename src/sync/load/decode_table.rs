//! From a table's bytes to the table that is searched: verifies the hash, then decodes,
//! both in steps so short that a worker's requests need not wait.

use std::sync::Arc;

use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::BlobHasher;
use tidegate_policy::tables::{Table, TableDecoder, TableSet};
use tidegate_policy::wire::sync::BlobRef;

use crate::sync::shared::manifest::{CHUNK, chunk_bytes};

/// Why bytes did not become a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Their hash or length is not the expected one.
    Hash,
    /// The hash is right, but they do not decode: to read them again would not help.
    Malformed(FormatError),
}

impl From<FormatError> for DecodeError {
    fn from(error: FormatError) -> Self {
        Self::Malformed(error)
    }
}

/// One table under way.
pub struct DecodeTable {
    table: Table,
    bytes: Arc<Vec<u8>>,
    /// The expected hash and length, or the ones that were computed.
    blob: Option<BlobRef>,
    stage: DecodeStage,
}

enum DecodeStage {
    Hash { hasher: Box<BlobHasher>, next: usize },
    Decode(TableDecoder),
}

impl DecodeTable {
    /// Decodes `bytes`, of which hash and length should be `blob`. `None`: they were
    /// made in this VM, and the hash is to be computed.
    #[must_use]
    pub fn new(table: Table, blob: Option<BlobRef>, bytes: Vec<u8>) -> Self {
        let stage = DecodeStage::Hash { hasher: Box::default(), next: 0 };
        Self { table, bytes: Arc::new(bytes), blob, stage }
    }

    /// Decodes `bytes` that were made in this VM, with known hash and length.
    ///
    /// # Errors
    /// When they do not decode.
    pub fn named(table: Table, blob: BlobRef, bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let bytes = Arc::new(bytes);
        let stage = DecodeStage::Decode(TableDecoder::new(table, &bytes)?);
        Ok(Self { table, bytes, blob: Some(blob), stage })
    }

    /// Which table this becomes.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table
    }

    /// Hash and length of the bytes; `None` before they are computed.
    #[must_use]
    pub fn blob(&self) -> Option<BlobRef> {
        self.blob
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Arc<Vec<u8>> {
        &self.bytes
    }

    /// Does a bounded piece of the work. True when that was the last, and the table
    /// is in `set`.
    ///
    /// # Errors
    /// When the hash is wrong or the bytes do not decode. There is no further step then.
    pub fn step(&mut self, set: &mut TableSet) -> Result<bool, DecodeError> {
        match &mut self.stage {
            DecodeStage::Hash { hasher, next } => {
                hasher.update(chunk_bytes(&self.bytes, *next, CHUNK));
                *next = next.saturating_add(1);
                if next.saturating_mul(CHUNK) < self.bytes.len() {
                    return Ok(false);
                }
                let found = BlobRef { hash: hasher.finish(), len: self.bytes.len() as u64 };
                if *self.blob.get_or_insert(found) != found {
                    return Err(DecodeError::Hash);
                }
                self.stage = DecodeStage::Decode(TableDecoder::new(self.table, &self.bytes)?);
                Ok(false)
            }
            DecodeStage::Decode(decoder) => Ok(decoder.step(set)?),
        }
    }
}
