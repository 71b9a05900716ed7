//! The set of tables that this VM enforces, and the next one while it is made.

use std::rc::Rc;

use tidegate_policy::bans::{BanTable, JoinDigest};
use tidegate_policy::decide::Tables;
use tidegate_policy::tables::{PerTable, STEP_ENTRIES, Table, TableSet};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{BlobRef, Held};

use super::load::decode_table::{DecodeError, DecodeTable};
use super::shared::manifest::Manifest;
use super::shared::service_clock::ServiceClock;

/// One consistent set of tables, verified, with their hashes.
#[derive(Clone)]
pub struct Snapshot {
    /// The refresh that it carries out.
    pub refresh: u64,
    /// See [`Manifest::clock`].
    pub clock: ServiceClock,
    /// Hashes and lengths of the tables.
    pub blobs: PerTable<BlobRef>,
    /// The tables.
    pub tables: Rc<Tables>,
}

impl Snapshot {
    /// Whether this is what `manifest` publishes.
    #[must_use]
    pub fn is(&self, manifest: &Manifest) -> bool {
        self.tables.version == manifest.version
            && self.refresh == manifest.refresh
            && self.blobs == manifest.blobs()
    }

    /// What this VM holds, so that the admin service need not send it again.
    #[must_use]
    pub fn held(&self) -> Held {
        let hash = |table: Table| {
            let is_told = table.is_sent_whole() || table == Table::BanBase;
            is_told.then(|| self.blobs[table].hash)
        };
        Held {
            hashes: PerTable::from_fn(hash),
            bans: Some(self.tables.bans.digest()),
            refresh: Some(self.refresh),
        }
    }
}

/// The tables of the next snapshot: those that arrived, the others from the
/// snapshot before.
pub struct NextTables {
    set: TableSet,
    /// All levels of the bans together; `None` as soon as one of them is replaced.
    bans: Option<BanTable>,
    /// Base and overlay together, with another recent level; `None` as soon as one of these two is
    /// replaced.
    settled: Option<BanTable>,
    join: Option<JoinDigest>,
}

impl NextTables {
    /// Begins with the tables of `held`, or with empty ones.
    #[must_use]
    pub fn new(held: Option<&Snapshot>) -> Self {
        match held {
            Some(held) => {
                let bans = Some(held.tables.bans.clone());
                Self { set: held.tables.set.clone(), settled: bans.clone(), bans, join: None }
            }
            None => Self { set: TableSet::empty(), bans: None, settled: None, join: None },
        }
    }

    /// The tables so far.
    #[must_use]
    pub fn set(&self) -> &TableSet {
        &self.set
    }

    /// Makes a step of `decode`. True once its table is in the set.
    ///
    /// # Errors
    /// See [`DecodeTable::step`].
    pub fn decode(&mut self, decode: &mut DecodeTable) -> Result<bool, DecodeError> {
        let is_done = decode.step(&mut self.set)?;
        if is_done && !decode.table().is_sent_whole() {
            (self.bans, self.join) = (None, None);
            if decode.table() != Table::BanRecent {
                self.settled = None;
            }
        }
        Ok(is_done)
    }

    /// Makes a step of joining the levels of the bans; the bans once joined.
    pub fn join(&mut self) -> Option<&BanTable> {
        if self.bans.is_none() {
            let TableSet { ban_base, ban_overlay, ban_recent, .. } = &self.set;
            let settled = &self.settled;
            let join = self.join.get_or_insert_with(|| match settled {
                Some(settled) => JoinDigest::with_recent(settled, ban_recent.clone()),
                None => JoinDigest::new(ban_base.clone(), ban_overlay.clone(), ban_recent.clone()),
            });
            self.bans = join.step(STEP_ENTRIES);
        }
        self.bans.as_ref()
    }

    /// The tables as `version`; `None` while the bans are not [joined](Self::join).
    #[must_use]
    pub fn finish(&self, version: Version) -> Option<Tables> {
        Some(Tables { version, bans: self.bans.clone()?, set: self.set.clone() })
    }
}
