//! One state of the feed: a snapshot, and what is needed to bring any gateway to it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::codec::FormatError;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::Held;

use super::base::Base;
use super::blobs::Blobs;
use super::change_log::{ChangeLog, LogPosition};
use super::plan::AnswerCache;
use super::snapshot::{Snapshot, TableDigest, TableDigests};
use super::table_bytes::TableBytes;
use crate::store::StoredRows;

/// A state; immutable once it is published. Copies share nearly everything.
#[derive(Clone)]
pub(super) struct FeedState {
    pub position: LogPosition,
    /// Former epochs of this process, by their index in positions.
    pub past: Arc<Vec<PastEpoch>>,
    pub snapshot: Arc<Snapshot>,
    pub base: Arc<Base>,
    pub log: ChangeLog,
    /// The tables that are sent whole.
    pub whole: PerTable<TableBytes>,
    pub refresh: u64,
    pub answers: AnswerCache,
}

/// A former epoch.
#[derive(Clone, Copy)]
pub(super) struct PastEpoch {
    pub epoch: u64,
    pub last_seq: u64,
}

impl FeedState {
    /// The first state, at the start of `epoch`, and the blobs that gateways fetch. Tables of
    /// addresses have `table_limit` bytes at most.
    pub fn first(stored: StoredRows, epoch: u64, table_limit: usize) -> Result<(Self, Blobs), FormatError> {
        let position = LogPosition { epoch_index: 0, seq: stored.seq };
        let mut snapshot = Snapshot::new(table_limit);
        snapshot.replace(stored);
        snapshot.version = Version { epoch, seq: position.seq };
        let (base, base_bytes) = Base::cut(&snapshot.ips, position)?;
        let mut blobs = Blobs::default();
        blobs.put(Table::BanBase, base.blob, base_bytes, Duration::ZERO);
        let mut whole = PerTable::<TableBytes>::default();
        for table in Table::whole() {
            let bytes = snapshot.lay_out(table)?;
            blobs.put(table, bytes.blob, bytes.bytes.clone(), Duration::ZERO);
            whole[table] = bytes;
        }
        let mut state = Self {
            position,
            past: Arc::default(),
            snapshot: Arc::new(snapshot),
            base: Arc::new(base),
            log: ChangeLog::new(position),
            whole,
            refresh: 0,
            answers: AnswerCache::default(),
        };
        state.fill_in_digests();
        Ok((state, blobs))
    }

    pub fn version(&self) -> Version {
        self.snapshot.version
    }

    /// Whether a gateway holds `table` as it is now.
    pub fn is_held(&self, table: Table, held: &Held) -> bool {
        held.hashes[table] == Some(self.whole[table].blob.hash)
    }

    /// Brings the digests of the snapshot's tables up to date.
    pub fn fill_in_digests(&mut self) {
        let digest = |table| {
            let TableBytes { blob, entries, .. } = &self.whole[table];
            TableDigest { hash: blob.hash, entries: *entries }
        };
        let digests = TableDigests {
            bans: self.snapshot.ips.bans,
            base: self.base.blob,
            overlay: self.log.current.len(),
            whole: PerTable::from_fn(digest),
        };
        if self.snapshot.tables != digests {
            Arc::make_mut(&mut self.snapshot).tables = digests;
        }
    }

    /// The position of a version that this process gave out; `None` for an unknown epoch or a
    /// later `seq`.
    pub fn position_of(&self, version: Version) -> Option<LogPosition> {
        if version.epoch == self.version().epoch {
            return (version.seq <= self.position.seq)
                .then_some(LogPosition { seq: version.seq, ..self.position });
        }
        let epoch_index = self.past.iter().position(|past| past.epoch == version.epoch)?;
        let known = version.seq <= self.past.get(epoch_index)?.last_seq;
        known.then_some(LogPosition { epoch_index: u32::try_from(epoch_index).ok()?, seq: version.seq })
    }
}
