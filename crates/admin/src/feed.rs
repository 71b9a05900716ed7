//! The feed: the current tables, and the updates that bring gateways to them.
//! `docs/ARCHITECTURE.md`, "A table change".
//!
//! One task follows the store and makes a new state of each change; a second one releases states
//! to open polls at a pace that depends on the number of polls.

mod answer;
mod apply;
mod ban_sources;
mod base;
mod blobs;
mod blocking;
mod change_log;
mod clock;
mod countries;
mod direct_rows;
mod direct_tables;
mod documents;
mod downloads;
mod events;
mod fingerprint;
mod flags;
mod follower;
mod former_rows;
mod inner;
mod ip_load;
mod ip_monitor;
mod ip_rows;
mod plan;
mod poll_pacing;
mod reconcile;
mod references;
mod restart_guess;
mod row_index;
mod scoped_bans;
mod scoped_rows;
mod snapshot;
mod source_set;
mod state;
mod table_bytes;
mod table_room;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::decide::Tables;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{Gateway, Held};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::gateways::{Gateways, Goal, refresh_id};
use crate::lock::locked;
use crate::store::{StoreError, StoreTable, TableStore};
use direct_rows::Lateness;
use direct_tables::DirectTables;
use downloads::Downloads;
use events::FollowerEvent;
use follower::Follower;
use inner::FeedInner;
use plan::{BansPlan, Plan};
use restart_guess::RestartGuesses;

pub use countries::CountriesInfo;
pub use direct_tables::CurrentTables;
pub use documents::{Documents, ParsedDocument};
pub use downloads::PageGuard;
pub use inner::{FeedHealth, FeedOptions, Notice};
pub use ip_monitor::ListedPrefix;
pub use ip_rows::RowStatus;
pub use references::{MissingGeoRule, MissingRoute, UnknownBackend};
pub use row_index::Quarantined;
pub use snapshot::{Snapshot, TableDigest, TableDigests};
pub use source_set::SourceSet;

/// How long a direct question waits for the newest tables, before it is answered by those before
/// and by the rows. Most take under a millisecond; gateways wait a second.
const PATIENCE: Duration = Duration::from_millis(200);

/// The feed. A clone is another handle; its tasks end with the last one.
#[derive(Clone)]
pub struct Feed(Arc<Handle>);

struct Handle {
    shared: Arc<FeedInner>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Feed {
    /// Loads all tables, mints the epoch, and begins to follow the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(store: Arc<dyn TableStore>, options: FeedOptions) -> Result<Self, StoreError> {
        // Subscribed before the first read, so that every later commit is noticed.
        let hints = store.watch();
        let (events, inbox) = mpsc::unbounded_channel();
        let (state, blobs) = follower::first_state(&*store, options.table_limit).await?;
        options.gateways.set_epoch(state.version().epoch);
        let first = Arc::new(state.clone());
        let (direct_tables, compiler) = DirectTables::new();
        let shared = Arc::new(FeedInner {
            options,
            store,
            guesses: RestartGuesses::default(),
            applied: watch::Sender::new(first.clone()),
            released: watch::Sender::new(first),
            blobs: Mutex::new(blobs),
            waiting: AtomicUsize::new(0),
            downloads: Downloads::default(),
            refresh: AtomicU64::new(0),
            refreshing: tokio::sync::Mutex::default(),
            events,
            trouble: Mutex::default(),
            notices: Mutex::default(),
            compiled: direct_tables.compiled(),
            compiling: tokio::sync::Mutex::default(),
            lateness: Lateness::default(),
        });
        let follower = Follower::new(shared.clone(), state, direct_tables);
        let tasks = vec![
            tokio::spawn(follower.run(hints, inbox)),
            tokio::spawn(compiler.run()),
            tokio::spawn(poll_pacing::release(shared.clone())),
            tokio::spawn(reconcile::run(shared.clone())),
            tokio::spawn(former_rows::run(shared.clone())),
        ];
        Ok(Self(Arc::new(Handle { shared, tasks })))
    }

    /// The newest version; polls may be answered from it a moment later.
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared().applied.borrow().version()
    }

    /// The snapshot at [`Feed::version`].
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared().applied.borrow().snapshot.clone()
    }

    /// The snapshot, once it is not `last` any more.
    pub async fn after(&self, last: &Arc<Snapshot>) -> Arc<Snapshot> {
        let mut applied = self.shared().applied.subscribe();
        let newer = applied.wait_for(|state| !Arc::ptr_eq(&state.snapshot, last)).await;
        // An error would mean that the sender is gone, which `self` holds.
        newer.map_or_else(|_| last.clone(), |state| state.snapshot.clone())
    }

    /// The snapshot with everything that was committed before the call, by the service or another
    /// program; an older one when the store cannot be read.
    pub async fn current(&self) -> Arc<Snapshot> {
        self.caught_up().await.unwrap_or_else(|_| self.snapshot())
    }

    /// The snapshot with everything that was committed before the call.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn caught_up(&self) -> Result<Arc<Snapshot>, StoreError> {
        let (done, caught_up) = oneshot::channel();
        // An error would mean that the follower is gone, which `self` holds.
        let _ = self.shared().events.send(FollowerEvent::CatchUp(done));
        caught_up.await.map_err(|_| StoreError::Closed)??;
        Ok(self.snapshot())
    }

    /// State of the feed, for health.
    #[must_use]
    pub fn health(&self) -> FeedHealth {
        let notices = locked(&self.shared().notices).iter().cloned().collect();
        FeedHealth { trouble: locked(&self.shared().trouble).clone(), notices }
    }

    /// The tables to answer a direct question from, with everything that was committed to the
    /// database before the call, by the service or another program. They are compiled anew only
    /// if something changed.
    ///
    /// # Errors
    /// When the store cannot be read: older tables would give outdated answers.
    pub async fn tables(&self) -> Result<Arc<Tables>, StoreError> {
        Ok(self.current_tables().await?.tables)
    }

    /// The tables to answer a direct question about `client` from: those of [`Feed::tables`]. When
    /// these take long, as after a restore or an import, the tables before, in which nothing is
    /// banned and allowed but what the database's rows say of `client` at this moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tables_about(&self, client: Option<IpAddr>) -> Result<Arc<Tables>, StoreError> {
        let lateness = &self.shared().lateness;
        if !lateness.is_late() {
            if let Ok(current) = timeout(PATIENCE, self.tables()).await {
                return current;
            }
            if lateness.note_late() {
                let feed = self.clone();
                tokio::spawn(async move {
                    // Whatever comes, the next question finds out.
                    let _ = feed.tables().await;
                    feed.shared().lateness.note_there();
                });
            }
        }
        direct_rows::tables(self.shared(), client).await
    }

    /// The tables of [`Feed::tables`], with what they were made from.
    ///
    /// # Errors
    /// As [`Feed::tables`].
    pub async fn current_tables(&self) -> Result<CurrentTables, StoreError> {
        let (done, caught_up) = oneshot::channel();
        let _ = self.shared().events.send(FollowerEvent::Tables(done));
        caught_up.await.map_err(|_| StoreError::Closed)?
    }

    /// Answers a poll: an encoded [`SyncAnswer`](tidegate_policy::wire::sync::SyncAnswer) as soon
    /// as there is anything that a gateway at `since`, holding `held`, does not have; `None` if
    /// there is nothing within `wait`, or it is not the gateway's [turn](downloads) by then. An
    /// unknown `since` is answered at once with what `held` lacks. Tables that the gateway cannot
    /// read, by `formats`, are left out.
    ///
    /// While the returned future lives, the gateway counts as live.
    pub async fn sync(
        &self,
        gateway: &Gateway,
        since: Option<Version>,
        held: &Held,
        formats: &Formats,
        wait: Duration,
    ) -> Option<Bytes> {
        let poll = self.gateways().poll(gateway);
        let shared = self.shared();
        let deadline = Instant::now() + wait.min(shared.options.max_wait);
        let mut released = shared.released.subscribe();
        let mut nudges = shared.options.gateways.nudges();
        let claimed = held.refresh.filter(|refresh| *refresh <= refresh_id::highest_believed());
        let known_refresh = claimed.unwrap_or_else(|| released.borrow().refresh);
        shared.refresh.fetch_max(known_refresh, Ordering::AcqRel);
        let _waiting = Waiting::new(&shared.waiting);
        let has_tables = held.hashes[Table::BanBase].is_some();
        let mut turn = shared.downloads.turn(gateway, has_tables);
        loop {
            let state = released.borrow_and_update().clone();
            let version = state.version();
            let newest = Goal { version, refresh: state.refresh };
            if since != Some(version) || known_refresh < state.refresh || poll.misses_ack(&newest) {
                let mut plan = Plan::new(&state, since, held, formats, poll.ack_wanted(newest));
                if let Some(since) = state.to_guess(&plan, since, held)
                    && let Some(guess) = shared.guesses.guess(&*shared.store, since, state.position).await
                {
                    plan.bans = BansPlan::FoldRestartGuess(guess);
                }
                let answer = state.answer(&plan);
                if turn.has_come(answer.len(), state.to_fetch(&plan, held)) {
                    return Some(answer);
                }
            } else {
                turn.ends();
            }
            tokio::select! {
                () = turn.comes() => {}
                // An error would mean that the sender is gone, which `self` holds.
                _ = released.changed() => {}
                _ = nudges.changed() => {}
                () = sleep_until(deadline) => return None,
            }
        }
    }

    /// The same for `gateway`, which is sent it: large tables only to so many gateways at once. A
    /// page that has its guard is under way until that is dropped.
    ///
    /// # Errors
    /// When too many others are sent theirs, for two seconds.
    pub async fn page(
        &self,
        gateway: &Gateway,
        hash: BlobHash,
        offset: u64,
    ) -> Result<Option<(Bytes, PageGuard)>, TooManyDownloads> {
        let Some((bytes, all)) = locked(&self.shared().blobs).page(hash, offset) else { return Ok(None) };
        let guard = self.shared().downloads.page(gateway, bytes.len(), all).await;
        guard.map(|guard| Some((bytes, guard))).ok_or(TooManyDownloads)
    }

    /// Up to [`MAX_PAGE`](tidegate_policy::wire::sync::MAX_PAGE) bytes of a table from `offset`
    /// on; `None` when the table is superseded and no longer kept: start again.
    #[must_use]
    pub fn blob(&self, hash: BlobHash, offset: u64) -> Option<Bytes> {
        locked(&self.shared().blobs).page(hash, offset).map(|(bytes, _)| bytes)
    }

    /// Waits until the feed includes `seq`, and returns the version that does; `None` when it
    /// does not `within` that time.
    pub async fn reached(&self, seq: u64, within: Duration) -> Option<Version> {
        let mut applied = self.shared().applied.subscribe();
        let reached = applied.wait_for(|state| state.position.seq >= seq);
        timeout(within, reached).await.ok()?.ok().map(|state| state.version())
    }

    /// Compares every row with the database, takes over what differs, and orders a refresh:
    /// gateways drop their tables and load them anew, even if equal. Returns the goal that acks
    /// will show once that is done, and the tables that it is about. Changes are followed
    /// meanwhile.
    ///
    /// # Errors
    /// When the store cannot be read: then no refresh is ordered.
    pub async fn refresh(&self) -> Result<(Goal, Arc<Snapshot>), StoreError> {
        let shared = self.shared();
        let _alone = shared.refreshing.lock().await;
        let differs = reconcile::compare(shared, &StoreTable::ALL).await?;
        // Higher than any refresh that gateways know from before a restart; otherwise they would
        // not carry it out.
        let id = shared.refresh.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let (done, ordered) = oneshot::channel();
        // The follower ends only with the last handle.
        let _ = shared.events.send(FollowerEvent::Refresh { id, differs, done });
        let snapshot = ordered.await.map_err(|_| StoreError::Closed)??;
        Ok((Goal { version: snapshot.version, refresh: id }, snapshot))
    }

    /// The registry of gateways that this feed uses.
    #[must_use]
    pub fn gateways(&self) -> &Gateways {
        &self.shared().options.gateways
    }

    fn shared(&self) -> &FeedInner {
        &self.0.shared
    }
}

/// A page cannot be sent now: too many gateways are sent theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyDownloads;

/// Counts a poll as waiting until it is dropped.
struct Waiting<'c>(&'c AtomicUsize);

impl<'c> Waiting<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
