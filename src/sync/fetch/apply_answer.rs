//! From an answer of the admin service to a set of tables that can be
//! published: fetch large tables, fold, apply the overlay's changes, verify. In
//! steps; the tables held stay in force until all of that has succeeded.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_policy::bans::{ApplyChanges, FoldRecent, is_overgrown, is_recent};
use tidegate_policy::digest::SetDigest;
use tidegate_policy::table::{AddressTable, Entry};
use tidegate_policy::tables::{PerTable, STEP_ENTRIES, Table, TableSet};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{BansUpdate, BlobRef, MAX_PAGE, OverlayUpdate, SyncAnswer};

use super::fold_bans::FoldBans;
use crate::sync::load::decode_table::{DecodeError, DecodeTable};
use crate::sync::publish::PublishSet;
use crate::sync::shared::service_clock::ServiceClock;
use crate::sync::snapshot::{NextTables, Snapshot};

/// Why an answer did not become a set of tables. A full load follows: a poll without
/// `since` and without held tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// A table is missing in the answer and not held.
    Incomplete,
    /// A table's bytes do not have the hash or length of its [`BlobRef`].
    Hash(Table),
    /// A table does not decode.
    Layout(Table),
    /// The digest of the bans differs from the admin service's.
    Digest,
    /// A table is longer than [`Table::max_bytes`], or than [`MAX_PAGE`] within an answer.
    TooLong,
}

/// The result of a step.
pub enum ApplyStep {
    /// There is more to do.
    More,
    /// A page of this table is needed, from this offset on.
    Fetch(BlobRef, u64),
    /// The set, to publish and then to enforce.
    Done(Box<Applied>),
}

/// A set of tables, verified.
pub struct Applied {
    /// For this VM.
    pub loaded: Rc<Snapshot>,
    /// For shared data.
    pub set: Rc<PublishSet>,
    /// How often folding did not give the base that the admin service named.
    pub misfolded: u64,
}

/// A set under way.
pub struct ApplyAnswer {
    version: Version,
    refresh: u64,
    clock: ServiceClock,
    digest: Option<SetDigest>,
    overlay: Vec<Entry>,
    blobs: PerTable<Option<BlobRef>>,
    bytes: PerTable<Option<Arc<Vec<u8>>>>,
    next: NextTables,
    pending: VecDeque<PendingWork>,
    misfolded: u64,
}

enum PendingWork {
    Fetch { table: Table, blob: BlobRef, bytes: Vec<u8> },
    Decode(Box<DecodeTable>),
    Fold { fold: Box<FoldBans>, blob: BlobRef },
    Overlay { from_held: bool },
    Apply(Table, Box<ApplyChanges>),
    FoldRecent(Box<FoldRecent>),
}

impl ApplyAnswer {
    /// Begins to apply `answer`, received at `now_ns` of the monotonic clock, to `held`.
    ///
    /// # Errors
    /// When the answer cannot become a set.
    pub fn new(answer: SyncAnswer, now_ns: u64, held: Option<&Snapshot>) -> Result<Self, ApplyError> {
        let clock = ServiceClock { heard_ns: now_ns, said_ms: answer.server_time_ms };
        let mut apply = Self::begin(answer.version, answer.refresh, clock, held);
        for whole in answer.whole {
            if !whole.table.is_sent_whole() {
                return Err(ApplyError::Layout(whole.table));
            }
            apply.queue_table(whole.table, whole.blob, whole.bytes)?;
        }
        if let Some(bans) = answer.bans {
            apply.queue_bans(bans, held)?;
        }
        Ok(apply)
    }

    /// Begins to fold the recent bans of `held` into the overlay; `None` while they are few.
    /// The result has the version of `held`, and takes its place in shared data.
    #[must_use]
    pub fn fold_of(held: &Snapshot) -> Option<Self> {
        let TableSet { ban_overlay, ban_recent, .. } = &held.tables.set;
        if is_recent(ban_recent, ban_overlay) {
            return None;
        }
        let mut apply = Self::begin(held.tables.version, held.refresh, held.clock, Some(held));
        apply.digest = Some(held.tables.bans.digest());
        apply.queue_fold();
        Some(apply)
    }

    fn begin(version: Version, refresh: u64, clock: ServiceClock, held: Option<&Snapshot>) -> Self {
        Self {
            version,
            refresh,
            clock,
            digest: None,
            overlay: Vec::new(),
            blobs: PerTable::from_fn(|table| held.map(|held| held.blobs[table])),
            bytes: PerTable::default(),
            next: NextTables::new(held),
            pending: VecDeque::new(),
            misfolded: 0,
        }
    }

    /// Folds the recent bans as they are now into the overlay, after all else.
    fn queue_fold(&mut self) {
        let TableSet { ban_overlay, ban_recent, .. } = self.next.set();
        let fold = Box::new(FoldRecent::new(ban_overlay, ban_recent));
        self.pending.push_back(PendingWork::FoldRecent(fold));
    }

    fn queue_table(&mut self, table: Table, blob: BlobRef, bytes: Option<Vec<u8>>) -> Result<(), ApplyError> {
        if blob.len > table.max_bytes() as u64 {
            return Err(ApplyError::TooLong);
        }
        self.blobs[table] = Some(blob);
        self.pending.push_back(match bytes {
            Some(bytes) if bytes.len() <= MAX_PAGE => {
                PendingWork::Decode(Box::new(DecodeTable::new(table, Some(blob), bytes)))
            }
            Some(_) => return Err(ApplyError::TooLong),
            None => PendingWork::Fetch { table, blob, bytes: Vec::new() },
        });
        Ok(())
    }

    fn queue_bans(&mut self, bans: BansUpdate, held: Option<&Snapshot>) -> Result<(), ApplyError> {
        let has_base = held.is_some_and(|held| held.blobs[Table::BanBase] == bans.base);
        let (from_held, changes) = match bans.overlay {
            OverlayUpdate::Delta(changes) => (true, changes),
            OverlayUpdate::Whole(changes) => (false, changes),
        };
        if from_held && !has_base {
            // Changes to an overlay whose base is not held.
            return Err(ApplyError::Incomplete);
        }
        if !has_base {
            self.queue_base(bans.base, bans.fold, held)?;
        }
        self.digest = Some(bans.digest);
        self.overlay = changes;
        self.pending.push_back(PendingWork::Overlay { from_held });
        Ok(())
    }

    /// The base is new: it is folded from the held bans if the answer says how, else
    /// fetched.
    fn queue_base(
        &mut self,
        base: BlobRef,
        fold: Option<Vec<Entry>>,
        held: Option<&Snapshot>,
    ) -> Result<(), ApplyError> {
        match fold.zip(held) {
            Some((changes, held)) if base.len <= Table::BanBase.max_bytes() as u64 => {
                let fold = Box::new(FoldBans::new(held, &changes));
                self.pending.push_back(PendingWork::Fold { fold, blob: base });
                Ok(())
            }
            _ => self.queue_table(Table::BanBase, base, None),
        }
    }

    /// Does a bounded piece of the work.
    ///
    /// # Errors
    /// When the answer is wrong. There is no further step then.
    pub fn step(&mut self) -> Result<ApplyStep, ApplyError> {
        let Some(pending) = self.pending.pop_front() else { return self.verify_digest() };
        match pending {
            PendingWork::Fetch { table, blob, bytes } if (bytes.len() as u64) < blob.len => {
                let offset = bytes.len() as u64;
                self.pending.push_front(PendingWork::Fetch { table, blob, bytes });
                return Ok(ApplyStep::Fetch(blob, offset));
            }
            PendingWork::Fetch { table, blob, bytes } => {
                self.pending.push_front(PendingWork::Decode(Box::new(DecodeTable::new(
                    table,
                    Some(blob),
                    bytes,
                ))));
            }
            PendingWork::Decode(decode) => self.decode(decode)?,
            PendingWork::Fold { fold, blob } => self.fold(fold, blob)?,
            PendingWork::Overlay { from_held } => self.begin_overlay(from_held),
            PendingWork::Apply(table, apply) => self.apply(table, apply)?,
            PendingWork::FoldRecent(fold) => self.fold_recent(fold)?,
        }
        Ok(ApplyStep::More)
    }

    /// A page of the table that [`ApplyStep::Fetch`] asked for.
    ///
    /// # Errors
    /// When it is empty, or more than the table has.
    pub fn add_page(&mut self, page: &[u8]) -> Result<(), ApplyError> {
        let Some(PendingWork::Fetch { table, blob, bytes }) = self.pending.front_mut() else { return Ok(()) };
        let len = bytes.len().saturating_add(page.len());
        // All at once: a vector that grows has a table of 200 MB twice.
        let rest = usize::try_from(blob.len).unwrap_or(usize::MAX).saturating_sub(bytes.len());
        if page.is_empty() || len as u64 > blob.len || bytes.try_reserve_exact(rest).is_err() {
            return Err(ApplyError::Hash(*table));
        }
        bytes.extend_from_slice(page);
        Ok(())
    }

    fn decode(&mut self, mut decode: Box<DecodeTable>) -> Result<(), ApplyError> {
        let table = decode.table();
        match self.next.decode(&mut decode) {
            Ok(false) => self.pending.push_front(PendingWork::Decode(decode)),
            Ok(true) => {
                self.blobs[table] = decode.blob();
                self.bytes[table] = Some(decode.bytes().clone());
            }
            Err(DecodeError::Hash) => return Err(ApplyError::Hash(table)),
            Err(DecodeError::Malformed(_)) => return Err(ApplyError::Layout(table)),
        }
        Ok(())
    }

    fn fold(&mut self, mut fold: Box<FoldBans>, blob: BlobRef) -> Result<(), ApplyError> {
        match fold.step() {
            Ok(None) => self.pending.push_front(PendingWork::Fold { fold, blob }),
            Ok(Some((bytes, hash))) if hash == blob.hash && bytes.len() as u64 == blob.len => {
                let decode = DecodeTable::named(Table::BanBase, blob, bytes);
                let decode = decode.map_err(|_| ApplyError::Layout(Table::BanBase))?;
                self.pending.push_front(PendingWork::Decode(Box::new(decode)));
            }
            // The held bans are not those that the admin service assumed: its base is
            // downloaded instead.
            _ => {
                self.misfolded = self.misfolded.saturating_add(1);
                self.pending.push_front(PendingWork::Fetch {
                    table: Table::BanBase,
                    blob,
                    bytes: Vec::new(),
                });
            }
        }
        Ok(())
    }

    /// Changes to the overlay held become recent ones; a whole overlay has none beside it.
    fn begin_overlay(&mut self, from_held: bool) {
        let changes = std::mem::take(&mut self.overlay);
        let (table, apply) = match from_held {
            true => (Table::BanRecent, ApplyChanges::new(&self.next.set().ban_recent, &changes)),
            false => {
                self.decode_first(Table::BanRecent, AddressTable::empty().as_bytes().to_vec());
                (Table::BanOverlay, ApplyChanges::new(&AddressTable::empty(), &changes))
            }
        };
        self.pending.push_front(PendingWork::Apply(table, Box::new(apply)));
    }

    fn apply(&mut self, table: Table, mut apply: Box<ApplyChanges>) -> Result<(), ApplyError> {
        match apply.step(STEP_ENTRIES).map_err(|_| ApplyError::Layout(table))? {
            None => self.pending.push_front(PendingWork::Apply(table, apply)),
            Some(bytes) => self.decode_first(table, bytes),
        }
        Ok(())
    }

    /// Decodes, before anything else, a table that was made here.
    fn decode_first(&mut self, table: Table, bytes: Vec<u8>) {
        self.pending.push_front(PendingWork::Decode(Box::new(DecodeTable::new(table, None, bytes))));
    }

    fn fold_recent(&mut self, mut fold: Box<FoldRecent>) -> Result<(), ApplyError> {
        let bytes = fold.step(STEP_ENTRIES).map_err(|_| ApplyError::Layout(Table::BanOverlay))?;
        match bytes {
            None => self.pending.push_front(PendingWork::FoldRecent(fold)),
            Some(bytes) => {
                self.decode_first(Table::BanRecent, AddressTable::empty().as_bytes().to_vec());
                self.decode_first(Table::BanOverlay, bytes);
            }
        }
        Ok(())
    }

    /// All tables are decoded: joins the bans and verifies their digest.
    fn verify_digest(&mut self) -> Result<ApplyStep, ApplyError> {
        let TableSet { ban_overlay, ban_recent, .. } = self.next.set();
        if is_overgrown(ban_recent, ban_overlay) {
            self.queue_fold();
            return Ok(ApplyStep::More);
        }
        let Some(bans) = self.next.join() else { return Ok(ApplyStep::More) };
        if self.digest.is_some_and(|expected| bans.digest() != expected) {
            return Err(ApplyError::Digest);
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<ApplyStep, ApplyError> {
        if self.blobs.iter().any(|(_, blob)| blob.is_none()) {
            return Err(ApplyError::Incomplete);
        }
        let blobs = PerTable::from_fn(|table| self.blobs[table].unwrap_or_default());
        let tables = Rc::new(self.next.finish(self.version).ok_or(ApplyError::Incomplete)?);
        let bytes = std::mem::take(&mut self.bytes);
        let (version, refresh, clock) = (self.version, self.refresh, self.clock);
        let set = PublishSet { version, refresh, clock, blobs, bytes };
        let loaded = Snapshot { refresh, clock, blobs, tables };
        Ok(ApplyStep::Done(Box::new(Applied {
            loaded: Rc::new(loaded),
            set: Rc::new(set),
            misfolded: self.misfolded,
        })))
    }
}

#[cfg(test)]
mod tests;
