//! Fingerprints of rows: hashes that differ when rows of one key differ.

use tidegate_policy::digest::{BlobHash, BlobHasher};

/// A row that is compared by its fingerprint.
pub(super) trait FingerprintedRow {
    /// Its raw key.
    fn key(&self) -> &str;

    /// All other fields.
    fn fields(&self) -> [Option<&[u8]>; 3];

    /// Hash of all fields but the key.
    fn fingerprint(&self) -> BlobHash {
        let mut hasher = BlobHasher::default();
        for field in self.fields() {
            // The length first, so that moving bytes from one field to the next changes the hash.
            let len = field.map_or(u64::MAX, |field| field.len() as u64);
            hasher.update(&len.to_le_bytes());
            hasher.update(field.unwrap_or_default());
        }
        hasher.finish()
    }
}
