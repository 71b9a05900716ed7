//! Blobs that gateways can fetch by hash: the current bytes of each table, and superseded ones
//! for some time.

use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::tables::Table;
use tidegate_policy::wire::sync::{BlobRef, MAX_PAGE};
use tokio::time::Instant;

/// Superseded blobs of one table that are kept at most, however new, so that a table that changes
/// all the time cannot fill the memory. At least one is kept.
const MAX_SUPERSEDED: usize = 8;
/// Bytes of superseded blobs of one table that are kept at most.
const MAX_SUPERSEDED_BYTES: usize = 256 << 20;

/// All blobs that can be fetched.
#[derive(Default)]
pub(super) struct Blobs(Vec<StoredBlob>);

struct StoredBlob {
    table: Table,
    hash: BlobHash,
    bytes: Bytes,
    /// When it was superseded; `None`: it is the current one.
    superseded: Option<Instant>,
}

impl Blobs {
    /// Makes `blob` the current one of its table.
    pub fn put(&mut self, table: Table, blob: BlobRef, bytes: Bytes, keep: Duration) {
        let now = Instant::now();
        self.0.retain(|stored| stored.table != table || stored.hash != blob.hash);
        for stored in self.0.iter_mut().filter(|stored| stored.table == table) {
            stored.superseded.get_or_insert(now);
        }
        self.0.push(StoredBlob { table, hash: blob.hash, bytes, superseded: None });
        self.prune(table, keep);
    }

    /// The page of `hash` from `offset` on, at most `MAX_PAGE` bytes, and how many bytes the blob has;
    /// `None`: there is no such blob, or it is no longer kept.
    pub fn page(&self, hash: BlobHash, offset: u64) -> Option<(Bytes, usize)> {
        let stored = self.0.iter().find(|stored| stored.hash == hash)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(stored.bytes.len());
        let to = from.saturating_add(MAX_PAGE).min(stored.bytes.len());
        Some((stored.bytes.slice(from..to), stored.bytes.len()))
    }

    /// Removes superseded blobs older than `keep`, but never the last one that was superseded.
    pub fn prune_all(&mut self, keep: Duration) {
        for table in Table::ALL {
            self.prune(table, keep);
        }
    }

    fn prune(&mut self, table: Table, keep: Duration) {
        let mut superseded: Vec<(Instant, BlobHash, usize)> = self
            .0
            .iter()
            .filter(|stored| stored.table == table)
            .filter_map(|stored| Some((stored.superseded?, stored.hash, stored.bytes.len())))
            .collect();
        // Newest first; blobs are superseded in the order of the list.
        superseded.reverse();
        superseded.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        let mut total = 0usize;
        let mut gone = Vec::new();
        for (i, (at, hash, len)) in superseded.into_iter().enumerate() {
            total = total.saturating_add(len);
            if i > 0 && (at.elapsed() > keep || i >= MAX_SUPERSEDED || total > MAX_SUPERSEDED_BYTES) {
                gone.push(hash);
            }
        }
        self.0.retain(|stored| stored.table != table || !gone.contains(&stored.hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(900);

    fn put(blobs: &mut Blobs, table: Table, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef { hash: BlobHash::of(&bytes), len: bytes.len() as u64 };
        blobs.put(table, blob, bytes.into(), KEEP);
        blob
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_blob_comes_in_pages() {
        let bytes: Vec<u8> = (0..2_500_000u32).flat_map(u32::to_le_bytes).collect();
        let mut blobs = Blobs::default();
        let blob = put(&mut blobs, Table::BanBase, bytes.clone());
        let mut fetched = Vec::new();
        let mut pages = 0;
        while (fetched.len() as u64) < blob.len {
            fetched.extend_from_slice(&blobs.page(blob.hash, fetched.len() as u64).unwrap().0);
            pages += 1;
        }
        assert_eq!((fetched == bytes, pages), (true, 3));
        assert_eq!(blobs.page(blob.hash, u64::MAX), Some((Bytes::new(), bytes.len())));
        assert_eq!(blobs.page(BlobHash(1), 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_force_stays_and_of_the_rest_the_young_and_the_last() {
        let mut blobs = Blobs::default();
        let all: Vec<BlobRef> = (0..20u8).map(|n| put(&mut blobs, Table::BanBase, vec![n; 9])).collect();
        let allow = put(&mut blobs, Table::Allow, vec![99]);
        let there = |blobs: &Blobs| all.iter().filter(|blob| blobs.page(blob.hash, 0).is_some()).count();
        assert_eq!(there(&blobs), 1 + MAX_SUPERSEDED);
        tokio::time::sleep(KEEP * 2).await;
        blobs.prune_all(KEEP);
        assert_eq!(there(&blobs), 2);
        assert!(blobs.page(all[18].hash, 0).is_some() && blobs.page(all[19].hash, 0).is_some());
        assert!(blobs.page(allow.hash, 0).is_some());
        // A superseded blob that becomes current again counts as current.
        put(&mut blobs, Table::BanBase, vec![18; 9]);
        blobs.prune_all(KEEP);
        assert!(blobs.page(all[18].hash, 0).is_some());
    }
}
