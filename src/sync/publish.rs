//! Writes a set of tables into shared data, so that no reader ever sees a mix of
//! versions, and no publisher that was suspended overwrites a newer one's tables.
//!
//! A state machine with one host call per step. It is correct by the order of its steps:
//!
//! 1. Read the manifest. If its fence is higher: stop. If it is lower: write the same
//!    content with this publisher's fence, and begin again. From then on no publisher
//!    with a lower fence can change the manifest.
//! 2. If the manifest's tables are of the same epoch and newer: stop.
//! 3. Write each table that changed to its **inactive** side, chunk by chunk. If a
//!    chunk has a higher fence: stop. If another VM wrote it since it was read: begin
//!    again.
//! 4. Replace the manifest that was read in 1. If another VM has: begin again.
//!
//! Readers verify every table against the manifest, so a half-written one is never
//! used. `tests/sim/publish.rs` runs all interleavings of two publishers and a reader
//! through this code.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::BlobRef;

use super::shared::keys::Keys;
use super::shared::manifest::{ChunkHead, Manifest, SharedData, TableLocation, chunk_bytes};
use super::shared::service_clock::ServiceClock;
use crate::host::{Cas, Expect, HostError};

/// How often a publish begins anew before it waits for the next tick.
const TRIES: u8 = 7;

/// A set of tables to publish.
#[derive(Clone, Debug)]
pub struct PublishSet {
    /// The tables' version.
    pub version: Version,
    /// The refresh that they carry out.
    pub refresh: u64,
    /// See [`Manifest::clock`].
    pub clock: ServiceClock,
    /// Their hashes and lengths.
    pub blobs: PerTable<BlobRef>,
    /// Their bytes; those of a table that is already published may be missing.
    pub bytes: PerTable<Option<Arc<Vec<u8>>>>,
}

/// How a publish ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishEnd {
    /// This is the manifest now, with this publisher's fence.
    Done(Manifest),
    /// This manifest is published already, and at least as new.
    NotNewer(Manifest),
    /// There is no manifest, and there was nothing to publish.
    Nothing,
    /// Another VM has a lease with this higher fence.
    Outranked(u64),
    /// Other VMs wrote first too often, or the host refused: to be tried again at the
    /// next tick.
    Retry,
    /// The set lacks the bytes of a table that changed: all tables must be fetched.
    Incomplete,
}

/// A publish under way.
#[derive(Clone, Debug)]
pub struct Publish {
    fence: u64,
    set: Option<Rc<PublishSet>>,
    chunk: usize,
    tries: u8,
    /// Whether all tables are written, also those that the manifest has already.
    anew: bool,
    stage: PublishStage,
}

#[derive(Clone, Debug)]
enum PublishStage {
    Manifest,
    Adopt(Manifest, Cas),
    ReadChunk(PublishPlan, ChunkIndex),
    WriteChunk(PublishPlan, ChunkIndex, Expect),
    Commit(PublishPlan),
}

/// The manifest to write, and the expected state of the one that it replaces.
#[derive(Clone, Debug)]
struct PublishPlan {
    next: Manifest,
    expect: Expect,
    changed: PerTable<bool>,
}

#[derive(Clone, Copy, Debug)]
struct ChunkIndex {
    table: Table,
    index: usize,
}

impl Publish {
    /// Writes `fence` into the manifest and leaves its content.
    #[must_use]
    pub fn adopt(fence: u64) -> Self {
        Self {
            fence,
            set: None,
            chunk: super::shared::manifest::CHUNK,
            tries: 0,
            anew: false,
            stage: PublishStage::Manifest,
        }
    }

    /// Publishes `set` in chunks of `chunk` bytes.
    #[must_use]
    pub fn new(fence: u64, set: Rc<PublishSet>, chunk: usize) -> Self {
        Self { set: Some(set), chunk: chunk.max(1), ..Self::adopt(fence) }
    }

    /// Writes all tables if `anew`, whatever the manifest says: it cannot be loaded.
    #[must_use]
    pub fn anew(self, anew: bool) -> Self {
        Self { anew, ..self }
    }

    /// Makes the next host call; the result when that was the last.
    pub fn step(&mut self, shared: &impl SharedData, keys: &Keys) -> Option<PublishEnd> {
        match std::mem::replace(&mut self.stage, PublishStage::Manifest) {
            PublishStage::Manifest => self.read_manifest(shared, keys),
            PublishStage::Adopt(manifest, cas) => {
                let write = manifest
                    .to_bytes()
                    .map_err(|_| HostError::BadArgument)
                    .and_then(|bytes| shared.set(&keys.manifest(), &bytes, Expect::Unchanged(cas)));
                // Written or not, the manifest is read again.
                self.start_over_unless(write)
            }
            PublishStage::ReadChunk(plan, at) => self.read_chunk(shared, keys, plan, at),
            PublishStage::WriteChunk(plan, at, expect) => {
                let value = self.value(&plan, at);
                match shared.set(&self.key(keys, &plan, at), &value, expect) {
                    Ok(()) => self.next_chunk(plan, at),
                    refused => self.start_over_unless(refused),
                }
            }
            PublishStage::Commit(plan) => {
                let Ok(bytes) = plan.next.to_bytes() else { return Some(PublishEnd::Retry) };
                match shared.set(&keys.manifest(), &bytes, plan.expect) {
                    Ok(()) => Some(PublishEnd::Done(plan.next)),
                    refused => self.start_over_unless(refused),
                }
            }
        }
    }

    /// Back to the first step, up to [`TRIES`] times; `Retry` at once when the host
    /// failed for another reason than a compare-and-set mismatch.
    fn start_over_unless(&mut self, written: Result<(), HostError>) -> Option<PublishEnd> {
        self.tries = self.tries.saturating_add(1);
        match written {
            Ok(()) | Err(HostError::CasMismatch) if self.tries < TRIES => {
                self.stage = PublishStage::Manifest;
                None
            }
            _ => Some(PublishEnd::Retry),
        }
    }

    fn read_manifest(&mut self, shared: &impl SharedData, keys: &Keys) -> Option<PublishEnd> {
        let found = match shared.get(&keys.manifest()) {
            Err(_) => return Some(PublishEnd::Retry),
            Ok(None) => None,
            // A manifest that does not decode is replaced.
            Ok(Some((bytes, cas))) => Some((Manifest::from_bytes(&bytes).ok(), cas)),
        };
        match found {
            None => self.plan(None, Expect::Absent),
            Some((None, cas)) => self.plan(None, Expect::Unchanged(cas)),
            Some((Some(manifest), _)) if manifest.fence > self.fence => {
                Some(PublishEnd::Outranked(manifest.fence))
            }
            Some((Some(manifest), cas)) if manifest.fence < self.fence => {
                self.stage = PublishStage::Adopt(Manifest { fence: self.fence, ..manifest }, cas);
                None
            }
            Some((Some(manifest), cas)) => self.plan(Some(manifest), Expect::Unchanged(cas)),
        }
    }

    fn plan(&mut self, current: Option<Manifest>, expect: Expect) -> Option<PublishEnd> {
        let Some(set) = self.set.clone() else {
            return Some(current.map_or(PublishEnd::Nothing, PublishEnd::Done));
        };
        if let Some(current) = &current
            && !self.anew
            && is_covered(&set, current)
        {
            return Some(PublishEnd::NotNewer(current.clone()));
        }
        // A refresh is ordered when shared data may be wrong: all tables are written.
        let anew = self.anew || current.as_ref().is_some_and(|current| is_refresh(&set, current));
        let place = |table| {
            let blob = set.blobs[table];
            match current.as_ref().map(|current| &current.tables[table]) {
                Some(location) if location.blob == blob && !anew => *location,
                Some(location) => TableLocation { side: 1u8.saturating_sub(location.side), blob },
                None => TableLocation { side: 0, blob },
            }
        };
        let next = Manifest {
            fence: self.fence,
            version: set.version,
            refresh: set.refresh,
            clock: set.clock,
            tables: PerTable::from_fn(place),
        };
        let changed = PerTable::from_fn(|table| {
            current.as_ref().is_none_or(|current| current.tables[table] != next.tables[table])
        });
        let missing = |table: &Table| changed[*table] && set.bytes[*table].is_none();
        if Table::ALL.iter().any(missing) {
            return Some(PublishEnd::Incomplete);
        }
        self.go_to_chunk_after(PublishPlan { next, expect, changed }, None)
    }

    /// Reads a chunk before it is written: for its fence, and for the compare-and-set
    /// token of the write.
    fn read_chunk(
        &mut self,
        shared: &impl SharedData,
        keys: &Keys,
        plan: PublishPlan,
        at: ChunkIndex,
    ) -> Option<PublishEnd> {
        let found = match shared.get(&self.key(keys, &plan, at)) {
            Err(_) => return Some(PublishEnd::Retry),
            Ok(found) => found,
        };
        let expect = match found {
            None => Expect::Absent,
            Some((value, cas)) => match ChunkHead::split(&value).map(|(head, _)| head) {
                Some(head) if head.fence > self.fence => return Some(PublishEnd::Outranked(head.fence)),
                // Written by this publish before it began anew.
                Some(head) if head == self.head(&plan, at.table) => return self.next_chunk(plan, at),
                _ => Expect::Unchanged(cas),
            },
        };
        self.stage = PublishStage::WriteChunk(plan, at, expect);
        None
    }

    fn next_chunk(&mut self, plan: PublishPlan, at: ChunkIndex) -> Option<PublishEnd> {
        self.go_to_chunk_after(plan, Some(at))
    }

    /// Goes to the chunk after `done`, or to the commit when that was the last.
    fn go_to_chunk_after(&mut self, plan: PublishPlan, done: Option<ChunkIndex>) -> Option<PublishEnd> {
        let next_in = |at: ChunkIndex| ChunkIndex { index: at.index.saturating_add(1), ..at };
        let mut tables = Table::ALL.into_iter();
        let mut candidate = match done {
            Some(done) => {
                tables.find(|table| *table == done.table);
                Some(next_in(done))
            }
            None => tables.next().map(|table| ChunkIndex { table, index: 0 }),
        };
        while let Some(at) = candidate {
            let len = usize::try_from(plan.next.tables[at.table].blob.len).unwrap_or(usize::MAX);
            if plan.changed[at.table] && at.index < len.div_ceil(self.chunk) {
                self.stage = PublishStage::ReadChunk(plan, at);
                return None;
            }
            candidate = tables.next().map(|table| ChunkIndex { table, index: 0 });
        }
        self.stage = PublishStage::Commit(plan);
        None
    }

    fn head(&self, plan: &PublishPlan, table: Table) -> ChunkHead {
        ChunkHead { fence: self.fence, hash: plan.next.tables[table].blob.hash }
    }

    fn key(&self, keys: &Keys, plan: &PublishPlan, at: ChunkIndex) -> String {
        keys.chunk(at.table, plan.next.tables[at.table].side, at.index)
    }

    fn value(&self, plan: &PublishPlan, at: ChunkIndex) -> Vec<u8> {
        let bytes = self.set.as_ref().and_then(|set| set.bytes[at.table].as_deref());
        let bytes = bytes.map(Vec::as_slice).unwrap_or_default();
        self.head(plan, at.table).with(chunk_bytes(bytes, at.index, self.chunk))
    }
}

fn is_refresh(set: &PublishSet, current: &Manifest) -> bool {
    set.refresh > current.refresh
}

/// Whether `current` is newer than `set`, or has the same version and tables. The
/// same version with other tables is a repair, and is published.
fn is_covered(set: &PublishSet, current: &Manifest) -> bool {
    if set.version.epoch != current.version.epoch {
        return false;
    }
    let order = |version: &Version, refresh| (version.seq, refresh);
    match order(&current.version, current.refresh).cmp(&order(&set.version, set.refresh)) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => current.blobs() == set.blobs,
        std::cmp::Ordering::Less => false,
    }
}
