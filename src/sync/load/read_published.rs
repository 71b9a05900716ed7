//! Reads a set of tables from shared data: the manifest, then the tables that changed,
//! one chunk a step. If a chunk does not fit the manifest, the manifest is read again; a
//! table's own hash is verified afterwards, by [`DecodeTable`](super::decode_table::DecodeTable).

use tidegate_policy::digest::BlobHash;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::wire::sync::BlobRef;

use crate::host::Cas;
use crate::sync::shared::keys::Keys;
use crate::sync::shared::manifest::{ChunkHead, Manifest, SharedData, TableLocation};

/// How often a read begins anew before it waits for the next tick.
const TRIES: u8 = 7;

/// How a read ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadEnd {
    /// Nothing is published yet.
    Nothing,
    /// This is published.
    Read(Box<Published>),
    /// The manifest does not decode.
    Unreadable(Cas),
    /// What was read was overwritten too often, or the host refused: to be tried again
    /// at the next tick.
    Retry,
}

/// What is published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// The manifest.
    pub manifest: Manifest,
    /// Its compare-and-set token, which every write changes.
    pub cas: Cas,
    /// The bytes of the tables that the reader did not hold.
    pub bytes: PerTable<Option<Vec<u8>>>,
}

/// A read under way.
#[derive(Clone, Debug)]
pub struct ReadPublished {
    held: PerTable<Option<BlobRef>>,
    got: PerTable<Option<Partial>>,
    chunk: usize,
    tries: u8,
    manifest: Option<(Manifest, Cas)>,
}

/// The chunks of a table that were read. Kept when the read begins anew: else a large
/// base would never be complete while bans arrive faster than it is read.
#[derive(Clone, Debug)]
struct Partial {
    blob: BlobRef,
    bytes: Vec<u8>,
}

impl ReadPublished {
    /// A read that leaves out the tables `held`, in chunks of `chunk` bytes.
    #[must_use]
    pub fn new(held: PerTable<Option<BlobRef>>, chunk: usize) -> Self {
        Self { held, got: PerTable::default(), chunk: chunk.max(1), tries: 0, manifest: None }
    }

    /// Makes the next host call; the result when that was the last.
    pub fn step(&mut self, shared: &impl SharedData, keys: &Keys) -> Option<ReadEnd> {
        match self.manifest.take() {
            None => self.read_manifest(shared, keys),
            Some((manifest, cas)) => match self.first_incomplete(&manifest) {
                Some((table, location)) => {
                    self.manifest = Some((manifest, cas));
                    self.read_chunk(shared, keys, table, location)
                }
                None => Some(self.finish(manifest, cas)),
            },
        }
    }

    fn read_manifest(&mut self, shared: &impl SharedData, keys: &Keys) -> Option<ReadEnd> {
        let (bytes, cas) = match shared.get(&keys.manifest()) {
            Ok(Some(found)) => found,
            Ok(None) => return Some(ReadEnd::Nothing),
            Err(_) => return Some(ReadEnd::Retry),
        };
        let Ok(manifest) = Manifest::from_bytes(&bytes) else { return Some(ReadEnd::Unreadable(cas)) };
        for (table, location) in manifest.tables.iter() {
            let (blob, got) = (location.blob, &mut self.got[table]);
            if got.as_ref().is_some_and(|got| got.blob != blob) {
                *got = None;
            }
        }
        if self.first_incomplete(&manifest).is_none() {
            return Some(self.finish(manifest, cas));
        }
        self.manifest = Some((manifest, cas));
        None
    }

    /// The first table that is not complete.
    fn first_incomplete(&self, manifest: &Manifest) -> Option<(Table, TableLocation)> {
        manifest.tables.iter().map(|(table, location)| (table, *location)).find(|(table, location)| {
            let got = self.got[*table].as_ref().map_or(0, |got| got.bytes.len() as u64);
            self.held[*table] != Some(location.blob) && got < location.blob.len
        })
    }

    fn read_chunk(
        &mut self,
        shared: &impl SharedData,
        keys: &Keys,
        table: Table,
        location: TableLocation,
    ) -> Option<ReadEnd> {
        let chunk = self.chunk;
        let got = self.got[table].get_or_insert_with(|| Partial { blob: location.blob, bytes: Vec::new() });
        let index = got.bytes.len().checked_div(chunk).unwrap_or_default();
        let len = usize::try_from(location.blob.len).unwrap_or(usize::MAX);
        let want = len.saturating_sub(got.bytes.len()).min(chunk);
        let Ok(found) = shared.get(&keys.chunk(table, location.side, index)) else {
            return Some(ReadEnd::Retry);
        };
        let payload = found.as_ref().and_then(|(value, _)| verified_payload(value, location.blob.hash, want));
        let Some(payload) = payload else { return self.start_over() };
        if got.bytes.is_empty() && got.bytes.try_reserve_exact(len).is_err() {
            return Some(ReadEnd::Retry);
        }
        got.bytes.extend_from_slice(payload);
        None
    }

    /// A chunk does not fit the manifest: it was overwritten, so there is a newer
    /// manifest.
    fn start_over(&mut self) -> Option<ReadEnd> {
        self.manifest = None;
        self.tries = self.tries.saturating_add(1);
        (self.tries >= TRIES).then_some(ReadEnd::Retry)
    }

    fn finish(&mut self, manifest: Manifest, cas: Cas) -> ReadEnd {
        let mut got = std::mem::take(&mut self.got);
        let held = self.held;
        let bytes = PerTable::from_fn(|table| {
            let is_held = held[table] == Some(manifest.tables[table].blob);
            let got = got[table].take().map(|got| got.bytes);
            (!is_held).then(|| got.unwrap_or_default())
        });
        ReadEnd::Read(Box::new(Published { manifest, cas, bytes }))
    }
}

fn verified_payload(value: &[u8], hash: BlobHash, len: usize) -> Option<&[u8]> {
    let (head, payload) = ChunkHead::split(value)?;
    (head.hash == hash && payload.len() == len).then_some(payload)
}
