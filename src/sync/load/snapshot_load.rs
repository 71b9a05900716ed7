//! Brings a VM's tables up to what is published: read, verify, swap. In steps, so
//! that the worker's requests need not wait for a base of a million entries; they
//! are decided by the previous tables meanwhile.

use std::rc::Rc;

use tidegate_policy::tables::{PerTable, Table};

use super::decode_table::{DecodeError, DecodeTable};
use super::read_published::{Published, ReadEnd, ReadPublished};
use crate::host::Cas;
use crate::sync::shared::keys::Keys;
use crate::sync::shared::manifest::{CHUNK, Manifest, SharedData};
use crate::sync::snapshot::{NextTables, Snapshot};

/// How a load ended.
pub enum LoadEnd {
    /// A snapshot that differs from the one held.
    Loaded(Rc<Snapshot>, Cas),
    /// What is published is what is held.
    Same(Cas),
    /// Nothing is published yet.
    Nothing,
    /// A manifest, or a table with the right hash, that does not decode (which, is the
    /// text). To read this manifest again would not help.
    Undecodable(Cas, &'static str),
    /// Overwritten while it was read, or refused by the host: to be tried again at the
    /// next tick.
    Retry,
}

/// A load under way.
pub struct SnapshotLoad {
    held: Option<Rc<Snapshot>>,
    stage: LoadStage,
}

enum LoadStage {
    ReadPublished(Box<ReadPublished>),
    Decode(Box<DecodePublished>),
}

struct DecodePublished {
    manifest: Manifest,
    cas: Cas,
    waiting: Vec<DecodeTable>,
    next: NextTables,
}

impl SnapshotLoad {
    /// A load by a VM that holds `held`.
    #[must_use]
    pub fn new(held: Option<Rc<Snapshot>>) -> Self {
        let names = PerTable::from_fn(|table| held.as_ref().map(|held| held.blobs[table]));
        Self { stage: LoadStage::ReadPublished(Box::new(ReadPublished::new(names, CHUNK))), held }
    }

    /// A load that reads all tables, also those held: a refresh was ordered.
    #[must_use]
    pub fn of_all_tables(held: Option<Rc<Snapshot>>) -> Self {
        Self {
            stage: LoadStage::ReadPublished(Box::new(ReadPublished::new(PerTable::default(), CHUNK))),
            held,
        }
    }

    /// Makes one host call, or does one bounded piece of work.
    pub fn step(&mut self, shared: &impl SharedData, keys: &Keys) -> Option<LoadEnd> {
        match &mut self.stage {
            LoadStage::ReadPublished(read) => match read.step(shared, keys)? {
                ReadEnd::Nothing => Some(LoadEnd::Nothing),
                ReadEnd::Retry => Some(LoadEnd::Retry),
                ReadEnd::Unreadable(cas) => Some(LoadEnd::Undecodable(cas, "the manifest")),
                ReadEnd::Read(published) => self.begin_decode(*published),
            },
            LoadStage::Decode(decode) => decode.step(),
        }
    }

    fn begin_decode(&mut self, published: Published) -> Option<LoadEnd> {
        let Published { manifest, cas, mut bytes } = published;
        let held = self.held.take();
        if held.as_ref().is_some_and(|held| held.is(&manifest)) {
            return Some(LoadEnd::Same(cas));
        }
        let decode =
            |table| Some(DecodeTable::new(table, Some(manifest.tables[table].blob), bytes[table].take()?));
        let waiting = Table::ALL.into_iter().rev().filter_map(decode).collect();
        let next = NextTables::new(held.as_deref());
        self.stage = LoadStage::Decode(Box::new(DecodePublished { manifest, cas, waiting, next }));
        None
    }
}

impl DecodePublished {
    fn step(&mut self) -> Option<LoadEnd> {
        let Some(decode) = self.waiting.last_mut() else { return self.finish() };
        match self.next.decode(decode) {
            Ok(false) => None,
            Ok(true) => {
                self.waiting.pop();
                None
            }
            // Overwritten while it was read, which no chunk's head showed.
            Err(DecodeError::Hash) => Some(LoadEnd::Retry),
            Err(DecodeError::Malformed(_)) => Some(LoadEnd::Undecodable(self.cas, decode.table().name())),
        }
    }

    fn finish(&mut self) -> Option<LoadEnd> {
        self.next.join()?;
        let snapshot = Snapshot {
            refresh: self.manifest.refresh,
            clock: self.manifest.clock,
            blobs: self.manifest.blobs(),
            tables: Rc::new(self.next.finish(self.manifest.version)?),
        };
        Some(LoadEnd::Loaded(Rc::new(snapshot), self.cas))
    }
}
