//! Fingerprints of rows: what tells a row from another one of the same key.

use tidegate_policy::digest::{BlobHash, BlobHasher};

/// A row that is compared by its fingerprint.
pub(super) trait FingerprintedRow {
    /// Its raw key.
    fn key(&self) -> &str;

    /// Everything else.
    fn fields(&self) -> [Option<&[u8]>; 3];

    /// Tells it from another row of the same key.
    fn fingerprint(&self) -> BlobHash {
        let mut hasher = BlobHasher::default();
        for field in self.fields() {
            // Its length first: what one field ends with is not what the next begins with.
            let len = field.map_or(u64::MAX, |field| field.len() as u64);
            hasher.update(&len.to_le_bytes());
            hasher.update(field.unwrap_or_default());
        }
        hasher.finish()
    }
}
