//! One state of the feed: a snapshot, and everything needed to bring any gateway
//! to it.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{BlobRef, Held};

use super::answer::Cache;
use super::base::Base;
use super::change_log::{ChangeLog, LogPosition};
use super::snapshot::{Snapshot, TableDigests};

/// A table that travels whole.
#[derive(Clone, Default)]
pub(super) struct Whole {
    pub blob: BlobRef,
    pub bytes: Bytes,
}

/// A state; never changes once it is published. A copy shares nearly all.
#[derive(Clone)]
pub(super) struct FeedState {
    pub position: LogPosition,
    /// Epochs of this process that are over: their era is the index.
    pub past: Arc<Vec<PastEpoch>>,
    pub snapshot: Arc<Snapshot>,
    pub base: Arc<Base>,
    pub log: ChangeLog,
    /// The tables that travel whole; empty for those of the bans.
    pub whole: PerTable<Whole>,
    pub refresh: u64,
    pub cache: Cache,
}

/// An epoch that is over.
#[derive(Clone, Copy)]
pub(super) struct PastEpoch {
    pub epoch: u64,
    pub last_seq: u64,
}

impl FeedState {
    pub fn version(&self) -> Version {
        self.snapshot.version
    }

    /// Whether a gateway holds `table` as it is now.
    pub fn is_held(&self, table: Table, held: &Held) -> bool {
        held.hashes[table] == Some(self.whole[table].blob.hash)
    }

    /// Brings the digests of the snapshot's tables up to date.
    pub fn fill_in_digests(&mut self) {
        let countries = self.snapshot.countries.as_ref().map_or((0, 0), |info| (info.v4, info.v6));
        let figures = TableDigests {
            flags: self.whole[Table::Flags].blob.hash,
            bans: self.snapshot.bans,
            base: self.base.blob,
            overlay: self.log.current.len(),
            allow_entries: self.snapshot.allow.len(),
            allow: self.whole[Table::Allow].blob.hash,
            geo_entries: self.snapshot.geo_rules.in_force.len(),
            geo: self.whole[Table::Geo].blob.hash,
            countries_v4: countries.0,
            countries_v6: countries.1,
            countries: self.whole[Table::Countries].blob.hash,
            routes_entries: self.snapshot.routes.in_force.len(),
            routes: self.whole[Table::Routes].blob.hash,
            limits_entries: self.snapshot.limits.in_force.len(),
            limits: self.whole[Table::Limits].blob.hash,
        };
        if self.snapshot.tables != figures {
            Arc::make_mut(&mut self.snapshot).tables = figures;
        }
    }

    /// The position of a version that this process gave out; `None` for one of an
    /// epoch that it never had, or from the future.
    pub fn position_of(&self, version: Version) -> Option<LogPosition> {
        if version.epoch == self.version().epoch {
            return (version.seq <= self.position.seq)
                .then_some(LogPosition { seq: version.seq, ..self.position });
        }
        let era = self.past.iter().position(|past| past.epoch == version.epoch)?;
        let known = version.seq <= self.past.get(era)?.last_seq;
        known.then_some(LogPosition { era: u32::try_from(era).ok()?, seq: version.seq })
    }
}
