//! The task that follows the store: each change becomes a new state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::apply::{NextSnapshot, is_little};
use super::base::Base;
use super::blobs::Blobs;
use super::blocking::{blocking, laid_out};
use super::change_log::{ChangeLog, ChangedKeys, LogPosition};
use super::direct_tables::{DirectTables, tell};
use super::events::FollowerEvent;
use super::inner::FeedInner;
use super::snapshot::Snapshot;
use super::state::{FeedState, PastEpoch};
use super::table_bytes::TableBytes;
use crate::lock::locked;
use crate::store::{ChangedRows, Changes, IMPORTED, StoreError, StoreTable, TableStore};

/// The store is read at least this often, with or without a hint.
const BACKSTOP: Duration = Duration::from_secs(1);

/// Follows the store.
pub(super) struct Follower {
    shared: Arc<FeedInner>,
    state: FeedState,
    direct_tables: DirectTables,
    cutting: bool,
}

/// The state at the start.
pub(super) async fn first_state(
    store: &dyn TableStore,
    table_limit: usize,
) -> Result<(FeedState, Blobs), StoreError> {
    let stored = store.read_tables(&StoreTable::ALL).await?;
    blocking(move || FeedState::first(stored, mint(&[]), table_limit)).await?.map_err(laid_out)
}

impl Follower {
    pub fn new(shared: Arc<FeedInner>, state: FeedState, direct_tables: DirectTables) -> Self {
        Self { shared, state, direct_tables, cutting: false }
    }

    /// Runs until the task is aborted.
    pub async fn run(
        mut self,
        mut hints: watch::Receiver<u64>,
        mut inbox: mpsc::UnboundedReceiver<FollowerEvent>,
    ) {
        let mut backstop = interval(BACKSTOP);
        backstop.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hinting = true;
        loop {
            tokio::select! {
                hint = hints.changed(), if hinting => {
                    // A store that is closing sends no more hints; the backstop finds the error.
                    hinting = hint.is_ok();
                    self.catch_up().await;
                }
                _ = backstop.tick() => {
                    self.catch_up().await;
                    self.forget_old();
                    self.direct_tables.forget_unasked();
                    self.shared.downloads.expire();
                }
                Some(event) = inbox.recv() => {
                    let mut events = vec![event];
                    while let Ok(event) = inbox.try_recv() {
                        events.push(event);
                    }
                    self.take_all(events).await;
                }
            }
        }
    }

    /// Handles messages. One read of the store answers all callers that came before it.
    async fn take_all(&mut self, events: Vec<FollowerEvent>) {
        let (mut waiting, mut askers, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            match event {
                FollowerEvent::CatchUp(done) => waiting.push(done),
                FollowerEvent::Tables(asker) => askers.push(asker),
                event => others.push(event),
            }
        }
        if !waiting.is_empty() || !askers.is_empty() {
            let read = self.read().await;
            self.shared.set_trouble(read.as_ref().err().map(ToString::to_string));
            for done in waiting {
                // The caller may be gone.
                let _ = done.send(read.clone());
            }
            match read {
                Ok(()) => self.direct_tables.answer(&self.shared.applied.borrow().clone(), askers),
                Err(error) => tell(askers, Err(error)),
            }
        }
        for event in others {
            self.take(event).await;
        }
    }

    async fn take(&mut self, event: FollowerEvent) {
        match event {
            FollowerEvent::Refresh { id, differs, done } => {
                let ordered = self.refresh(id, differs).await;
                // The caller may be gone.
                let _ = done.send(ordered);
            }
            FollowerEvent::Cut(cut, at_cut) => {
                self.cutting = false;
                match cut {
                    Ok((base, bytes)) => self.install(*base, bytes, at_cut),
                    Err(error) => {
                        self.shared.notice(format!("no new base of the bans could be cut: {error}"));
                    }
                }
                self.cut_if_due();
            }
            // Answered already.
            FollowerEvent::CatchUp(_) | FollowerEvent::Tables(_) => {}
            FollowerEvent::Differs(what) => {
                if let Err(error) = self.reload(true, &what).await {
                    self.shared.set_trouble(Some(error.to_string()));
                }
            }
        }
    }

    async fn refresh(&mut self, id: u64, differs: Option<String>) -> Result<Arc<Snapshot>, StoreError> {
        self.catch_up().await;
        if let Some(trouble) = locked(&self.shared.trouble).clone() {
            return Err(StoreError::Failed(trouble));
        }
        if let Some(what) = differs {
            self.reload(true, &what).await?;
        }
        self.state.refresh = self.state.refresh.max(id);
        self.publish();
        Ok(self.state.snapshot.clone())
    }

    /// Applies all changes that the store has. Later ones come with hints of their own, so that a
    /// caller does not wait while another program keeps writing.
    async fn catch_up(&mut self) {
        let read = self.read().await;
        self.shared.set_trouble(read.err().map(|error| error.to_string()));
    }

    /// Reads the store once, and applies what changed.
    async fn read(&mut self) -> Result<(), StoreError> {
        let seq = self.state.position.seq;
        match self.shared.store.changes_since(seq).await? {
            Changes::Rows { seq: now, .. } if now == seq => Ok(()),
            Changes::Rows { seq: now, rows } if now > seq => self.apply(now, *rows).await,
            Changes::Rows { .. } => self.reload(true, "the sequence of changes went back").await,
            Changes::Reload { new_epoch, why } => self.reload(new_epoch, why).await,
        }
    }

    async fn apply(&mut self, seq: u64, rows: ChangedRows) -> Result<(), StoreError> {
        let snapshot = Snapshot::clone(&self.state.snapshot);
        let little = is_little(&snapshot, &rows);
        let work = move || NextSnapshot::apply(snapshot, rows);
        let step = if little { work() } else { blocking(work).await? };
        self.advance(step.map_err(laid_out)?, LogPosition { seq, ..self.state.position }).await
    }

    /// Reads all tables again; what differs becomes an ordinary change. It begins a new epoch if
    /// earlier numbers no longer count, or if rows changed and `seq` did not.
    async fn reload(&mut self, new_epoch: bool, why: &str) -> Result<(), StoreError> {
        if why != IMPORTED {
            self.shared.notice(format!("all tables are read again: {why}"));
        }
        let stored = self.shared.store.read_tables(&StoreTable::ALL).await?;
        let seq = stored.seq;
        let snapshot = Snapshot::clone(&self.state.snapshot);
        let mut step = blocking(move || NextSnapshot::reload(snapshot, stored)).await?.map_err(laid_out)?;
        let mut position = LogPosition { seq, ..self.state.position };
        if !new_epoch && position == self.state.position && !self.differs(&step) {
            // Gateways have all of it, but what the API shows may differ.
            step.snapshot.version = self.state.version();
            self.state.snapshot = Arc::new(step.snapshot);
            self.publish();
            return Ok(());
        }
        if new_epoch || position <= self.state.position {
            position.epoch_index = position.epoch_index.saturating_add(1);
        }
        self.advance(step, position).await
    }

    fn differs(&self, step: &NextSnapshot) -> bool {
        let same = |(table, new): &(Table, TableBytes)| new.blob == self.state.whole[*table].blob;
        !step.bans.is_empty() || !step.whole.iter().all(same)
    }

    /// Makes `step` the state at `position`, and publishes it.
    async fn advance(&mut self, mut step: NextSnapshot, position: LogPosition) -> Result<(), StoreError> {
        let mut state = self.state.clone();
        let mut epoch = state.version().epoch;
        if position.epoch_index != state.position.epoch_index {
            let past = PastEpoch { epoch, last_seq: state.position.seq };
            Arc::make_mut(&mut state.past).push(past);
            epoch = mint(&state.past);
        }
        step.snapshot.version = Version { epoch, seq: position.seq };
        (state.snapshot, state.position) = (Arc::new(step.snapshot), position);
        let limit = self.shared.options.overlay_limit;
        let mut base = None;
        // That many changes at once: gateways fetch a new base instead of getting each key.
        let bulk = step.bans.len() > limit;
        if !bulk {
            state.log.note(&step.bans, position);
        }
        if bulk || state.log.current.len() > limit {
            let snapshot = state.snapshot.clone();
            let (cut, bytes) =
                blocking(move || Base::cut(&snapshot.ips, position)).await?.map_err(laid_out)?;
            base = Some((cut.blob, bytes));
            state.base = Arc::new(cut);
            if bulk {
                state.log = ChangeLog::new(position);
            } else {
                let at_cut = state.log.current.clone();
                state.log.cut(at_cut, position);
            }
        }
        let keep = self.shared.options.keep;
        {
            let mut blobs = locked(&self.shared.blobs);
            if let Some((blob, bytes)) = base {
                blobs.put(Table::BanBase, blob, bytes, keep);
            }
            for (table, whole) in step.whole {
                blobs.put(table, whole.blob, whole.bytes.clone(), keep);
                state.whole[table] = whole;
            }
        }
        let new_epoch = epoch != self.state.version().epoch;
        self.state = state;
        if new_epoch {
            self.shared.options.gateways.set_epoch(epoch);
        }
        // Before any gateway can ack it.
        self.shared.options.gateways.note_version(self.state.version());
        self.publish();
        self.cut_if_due();
        Ok(())
    }

    fn publish(&mut self) {
        // A gateway may have reported a later refresh from before a restart.
        self.shared.refresh.fetch_max(self.state.refresh, Ordering::AcqRel);
        self.state.fill_in_digests();
        self.shared.applied.send_replace(Arc::new(self.state.clone()));
    }

    /// Begins to cut a base in the background when the overlay has grown enough.
    fn cut_if_due(&mut self) {
        let options = &self.shared.options;
        let base = usize::try_from(self.state.base.digest.count).unwrap_or(usize::MAX);
        let due = options.overlay_min.max(base / options.overlay_fraction.max(1)).min(options.overlay_max);
        if self.cutting || self.state.log.current.len() <= due {
            return;
        }
        self.cutting = true;
        let (snapshot, position) = (self.state.snapshot.clone(), self.state.position);
        let at_cut = self.state.log.current.clone();
        let events = self.shared.events.clone();
        spawn_blocking(move || {
            let cut = Base::cut(&snapshot.ips, position).map(|(base, bytes)| (Box::new(base), bytes));
            // The feed may have ended meanwhile.
            let _ = events.send(FollowerEvent::Cut(cut, at_cut));
        });
    }

    /// Makes a base that was cut in the background the current one.
    fn install(&mut self, base: Base, bytes: Bytes, at_cut: ChangedKeys) {
        if base.cut <= self.state.base.cut {
            return;
        }
        locked(&self.shared.blobs).put(Table::BanBase, base.blob, bytes, self.shared.options.keep);
        self.state.log.cut(at_cut, base.cut);
        self.state.base = Arc::new(base);
        self.forget_old();
        self.publish();
    }

    fn forget_old(&mut self) {
        let options = &self.shared.options;
        self.state.log.prune(options.keep, options.overlay_limit.saturating_mul(8));
        locked(&self.shared.blobs).prune_all(options.keep);
    }
}

/// A new epoch: random, not zero, not one of `past`.
fn mint(past: &[PastEpoch]) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        // If the system's random numbers fail: those of the standard library still differ at each
        // start.
        let epoch = getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(past.len()));
        if epoch != 0 && past.iter().all(|past| past.epoch != epoch) {
            return epoch;
        }
    }
}
