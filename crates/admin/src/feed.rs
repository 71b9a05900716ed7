//! The feed: the tables as they stand, and what a gateway has to hear to hold
//! the same. `docs/ARCHITECTURE.md`, "A table change".
//!
//! One task follows the store and makes one state after another; a second
//! one releases them to open polls at a pace that the number of gateways allows.

mod answer;
mod apply;
mod backends;
mod base;
mod blobs;
mod change_log;
mod clock;
mod countries;
mod direct_tables;
mod documents;
mod fingerprint;
mod flags;
mod follower;
mod geo_rules;
mod ip_load;
mod ip_rows;
mod limits;
mod poll_pacing;
mod reconcile;
mod restart_guess;
mod routes;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tidegate_policy::decide::Tables;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{Gateway, Held};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::gateways::{Gateways, Goal};
use crate::store::{Store, StoreError, StoreTable};
use answer::{BansPlan, Plan};
use blobs::Blobs;
use direct_tables::DirectTables;
use follower::{Follower, FollowerEvent};
use restart_guess::RestartGuesses;
use state::FeedState;

pub use backends::{BackendInfo, UnknownBackend};
pub use countries::CountriesInfo;
pub use direct_tables::CurrentTables;
pub use documents::{Documents, ParsedDocument};
pub use geo_rules::{GeoRuleInfo, MissingGeoRule};
pub use ip_rows::RowStatus;
pub use limits::{LimitInfo, MissingRoute};
pub use routes::RouteInfo;
pub use snapshot::{ListedPrefix, Quarantined, Snapshot, TableDigests};

/// Notices kept for health.
const MAX_NOTICES: usize = 20;

/// How the feed behaves. The defaults are those of `docs/ARCHITECTURE.md`.
#[derive(Clone)]
pub struct FeedOptions {
    /// Who is told of new epochs, and asked whether somebody waits for acks.
    pub gateways: Gateways,
    /// A poll waits no longer, whatever it asks for.
    pub max_wait: Duration,
    /// A new base is cut when the overlay has more keys than this, and than ...
    pub overlay_min: usize,
    /// ... this fraction of the base (8: an eighth), ...
    pub overlay_fraction: usize,
    /// ... or than this in any case.
    pub overlay_max: usize,
    /// An overlay never grows beyond this: the change waits for the new base. At
    /// 25 bytes per key at most it must stay under a page.
    pub overlay_limit: usize,
    /// How long superseded bases, and the log since them, are kept at least.
    pub keep: Duration,
    /// Polls are released no sooner than this after each other, ...
    pub pace_min: Duration,
    /// ... and than this for each of them.
    pub pace_each: Duration,
    /// How often small tables are compared with the store.
    pub reconcile_small: Duration,
    /// How often large ones are.
    pub reconcile_large: Duration,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            gateways: Gateways::new(),
            max_wait: Duration::from_secs(60),
            overlay_min: 2_000,
            overlay_fraction: 8,
            overlay_max: 100_000,
            overlay_limit: 140_000,
            keep: Duration::from_secs(15 * 60),
            pace_min: Duration::from_millis(2),
            pace_each: Duration::from_micros(20),
            reconcile_small: Duration::from_secs(60),
            reconcile_large: Duration::from_secs(600),
        }
    }
}

/// Something that the feed found and mended, for health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// When.
    pub at: SystemTime,
    /// What.
    pub text: String,
}

/// How the feed itself is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeedHealth {
    /// What keeps it from following the store at this moment.
    pub trouble: Option<String>,
    /// What it found and mended, oldest first.
    pub notices: Vec<Notice>,
}

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

struct FeedInner {
    options: FeedOptions,
    store: Arc<dyn Store>,
    guesses: RestartGuesses,
    /// The newest state.
    applied: watch::Sender<Arc<FeedState>>,
    /// The newest state that polls are answered from.
    released: watch::Sender<Arc<FeedState>>,
    blobs: Mutex<Blobs>,
    /// Polls that wait at this moment.
    waiting: AtomicUsize,
    /// The newest refresh that was ordered here or that a gateway spoke of.
    refresh: AtomicU64,
    /// Held by whoever orders one: they read all tables, one after the other.
    refreshing: tokio::sync::Mutex<()>,
    events: mpsc::UnboundedSender<FollowerEvent>,
    trouble: Mutex<Option<String>>,
    notices: Mutex<VecDeque<Notice>>,
}

impl Feed {
    /// Loads all tables, mints the epoch, and begins to follow the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(store: Arc<dyn Store>, options: FeedOptions) -> Result<Self, StoreError> {
        // Before the first read: what is committed after it is heard of.
        let hints = store.watch();
        let (events, inbox) = mpsc::unbounded_channel();
        let (state, blobs) = follower::first_state(&*store).await?;
        options.gateways.set_epoch(state.version().epoch);
        let first = Arc::new(state.clone());
        let shared = Arc::new(FeedInner {
            options,
            store,
            guesses: RestartGuesses::default(),
            applied: watch::Sender::new(first.clone()),
            released: watch::Sender::new(first),
            blobs: Mutex::new(blobs),
            waiting: AtomicUsize::new(0),
            refresh: AtomicU64::new(0),
            refreshing: tokio::sync::Mutex::default(),
            events,
            trouble: Mutex::default(),
            notices: Mutex::default(),
        });
        let (direct_tables, compiler) = DirectTables::new();
        let follower = Follower::new(shared.clone(), state, direct_tables);
        let tasks = vec![
            tokio::spawn(follower.run(hints, inbox)),
            tokio::spawn(compiler.run()),
            tokio::spawn(poll_pacing::release(shared.clone())),
            tokio::spawn(reconcile::run(shared.clone())),
        ];
        Ok(Self(Arc::new(Handle { shared, tasks })))
    }

    /// The newest version; polls may be answered from it a moment later.
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared().applied.borrow().version()
    }

    /// The canonical view at [`Feed::version`].
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared().applied.borrow().snapshot.clone()
    }

    /// The canonical view with everything that was committed before the call,
    /// whoever committed it; an older one when the store cannot be read.
    pub async fn current(&self) -> Arc<Snapshot> {
        let (done, caught_up) = oneshot::channel();
        // Errors would mean that the follower is gone, which `self` holds.
        let _ = self.shared().events.send(FollowerEvent::CatchUp(done));
        let _ = caught_up.await;
        self.snapshot()
    }

    /// How the feed itself is.
    #[must_use]
    pub fn health(&self) -> FeedHealth {
        let notices = lock(&self.shared().notices).iter().cloned().collect();
        FeedHealth { trouble: lock(&self.shared().trouble).clone(), notices }
    }

    /// The tables to answer a direct question from: the database as it stands,
    /// with everything that was committed before the call, whoever committed it.
    /// They are compiled already unless something changed.
    ///
    /// # Errors
    /// When the store cannot be read: an older answer would not be the truth.
    pub async fn tables(&self) -> Result<Arc<Tables>, StoreError> {
        Ok(self.current_tables().await?.tables)
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

    /// Answers a poll: an encoded [`SyncAnswer`](tidegate_policy::wire::sync::SyncAnswer)
    /// as soon as there is anything that a gateway at `since`, holding `held`,
    /// has not got; `None` after `wait` without. An unknown `since` is answered
    /// at once with what `held` lacks. Tables that the gateway does not read as
    /// `formats` has it are left out.
    ///
    /// While the returned future lives, the gateway counts as there.
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
        let known_refresh = held.refresh.unwrap_or_else(|| released.borrow().refresh);
        shared.refresh.fetch_max(known_refresh, Ordering::AcqRel);
        let _waiting = Waiting::new(&shared.waiting);
        loop {
            let state = released.borrow_and_update().clone();
            let version = state.version();
            let newest = Goal { version, refresh: state.refresh };
            if since != Some(version) || known_refresh < state.refresh || poll.misses_ack(&newest) {
                let mut plan = Plan::new(&state, since, held, formats, poll.ack_wanted(newest));
                if let Some(since) = state.to_guess(&plan, since, held)
                    && let Some(guess) = shared.guesses.guess(&*shared.store, since, &state).await
                {
                    plan.bans = BansPlan::FoldGuess(guess);
                }
                return Some(state.answer(plan));
            }
            tokio::select! {
                // An error would mean that the sender is gone, which `self` holds.
                _ = released.changed() => {}
                _ = nudges.changed() => {}
                () = sleep_until(deadline) => return None,
            }
        }
    }

    /// Up to [`MAX_PAGE`](tidegate_policy::wire::sync::MAX_PAGE) bytes of a table
    /// from `offset` on; `None` when nobody needs it any more: start again.
    #[must_use]
    pub fn blob(&self, hash: BlobHash, offset: u64) -> Option<Bytes> {
        lock(&self.shared().blobs).page(hash, offset)
    }

    /// Waits until the feed includes `seq`: the version that does. `None` when it
    /// does not `within` that time.
    pub async fn reached(&self, seq: u64, within: Duration) -> Option<Version> {
        let mut applied = self.shared().applied.subscribe();
        let reached = applied.wait_for(|state| state.position.seq >= seq);
        timeout(within, reached).await.ok()?.ok().map(|state| state.version())
    }

    /// Compares every row with the database, takes over what differs, and orders
    /// a refresh: gateways drop and load their tables anew, whatever seems equal.
    /// What is to be found in acks once that is done, and the tables that it
    /// names. Changes go on being followed meanwhile.
    ///
    /// # Errors
    /// When the store cannot be read: then nothing is ordered.
    pub async fn refresh(&self) -> Result<(Goal, Arc<Snapshot>), StoreError> {
        let shared = self.shared();
        let _alone = shared.refreshing.lock().await;
        let differs = reconcile::compare(shared, &StoreTable::ALL).await?;
        // Higher than what any gateway knows from before a restart, or it would
        // be no news to it.
        let id = shared.refresh.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let (done, ordered) = oneshot::channel();
        // The follower ends with the last handle only.
        let _ = shared.events.send(FollowerEvent::Refresh { id, differs, done });
        let snapshot = ordered.await.map_err(|_| StoreError::Closed)??;
        Ok((Goal { version: snapshot.version, refresh: id }, snapshot))
    }

    /// The gateways that this feed counts with.
    #[must_use]
    pub fn gateways(&self) -> &Gateways {
        &self.shared().options.gateways
    }

    fn shared(&self) -> &FeedInner {
        &self.0.shared
    }
}

impl FeedInner {
    fn notice(&self, text: String) {
        tracing::warn!("{text}");
        let mut notices = lock(&self.notices);
        if notices.len() >= MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice { at: SystemTime::now(), text });
    }

    fn set_trouble(&self, trouble: Option<String>) {
        let mut held = lock(&self.trouble);
        if *held != trouble {
            match &trouble {
                Some(text) => tracing::error!("the feed stands still: {text}"),
                None => tracing::info!("the feed goes on"),
            }
            *held = trouble;
        }
    }
}

/// Counts a poll as waiting while it lives.
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
