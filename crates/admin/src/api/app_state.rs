//! State that all handlers share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_dashboard::Sessions;
use tokio::sync::watch;

use super::address_limits::AddressLimits;
use super::idempotency::RunningKeys;
use super::metrics::CachedPage;
use super::places::StreamPlaces;
use crate::auth::Tokens;
use crate::feed::{Feed, Snapshot};
use crate::gateways::Gateways;
use crate::metrics::Metrics;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::protected_networks::ProtectedNetworks;
use crate::rollouts::Rollouts;
use crate::serve::connections::Connections;
use crate::serve::tls::Tls;
use crate::sources::Sources;
use crate::store::{Author, Store, StoreError};

/// How long a read waits for the feed to catch up with the database. After that the answer comes
/// from the older snapshot, and health gives the reason.
const CATCH_UP_TIME: Duration = Duration::from_secs(1);
/// How long the feed may take to read what others have written, where an older state would not do: a million bans
/// take some seconds.
const READ_TIME: Duration = Duration::from_secs(20);

/// State that all handlers share. A clone is another handle: each request makes several.
#[derive(Clone)]
pub struct AppState(Arc<AppParts>);

impl std::ops::Deref for AppState {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}

impl From<AppParts> for AppState {
    fn from(parts: AppParts) -> Self {
        Self(Arc::new(parts))
    }
}

/// What [`AppState`] consists of.
pub struct AppParts {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The tables as gateways get them.
    pub feed: Feed,
    /// The gateways that are connected.
    pub gateways: Gateways,
    /// The API tokens.
    pub tokens: Arc<Tokens>,
    /// The sessions of the dashboard.
    pub sessions: Arc<Sessions>,
    /// True once the service stops: long polls and waits end then.
    pub stop: watch::Receiver<bool>,
    /// When the service started.
    pub started: Instant,
    /// Whether gateways get countries from a header instead of the country table.
    pub country_headers: CountryHeaders,
    /// Names of backendRefs that the gateways' Envoys have clusters for (`--cluster`);
    /// empty: not known.
    pub clusters: Arc<BTreeSet<String>>,
    /// What a ban needs `force` for.
    pub protected: ProtectedNetworks,
    /// The sources of bans.
    pub sources: Sources,
    /// The runs of rollouts.
    pub rollouts: Rollouts,
    /// Held while a document is checked against the others and committed. Without it,
    /// concurrent writes would make each other's checks out of date, again and again.
    pub documents: Arc<tokio::sync::Mutex<()>>,
    /// `Idempotency-Key`s of requests under way.
    pub running_keys: RunningKeys,
    /// Held while a list of bans is read and committed.
    pub imports: Arc<tokio::sync::Mutex<()>>,
    /// The service's own metrics.
    pub metrics: Metrics,
    /// The rates of callers without a token.
    pub limits: AddressLimits,
    /// The page of metrics as it was last made.
    pub metrics_page: Arc<tokio::sync::Mutex<Option<CachedPage>>>,
    /// Places for what takes a thread, a connection or much memory for long.
    pub places: StreamPlaces,
    /// The open connections of both listeners.
    pub connections: PerListener<Arc<Connections>>,
    /// TLS of both listeners; `None`: in the clear.
    pub tls: PerListener<Option<Arc<Tls>>>,
}

/// Something of each listener.
#[derive(Clone, Debug, Default)]
pub struct PerListener<T> {
    /// Of the people's listener.
    pub people: T,
    /// Of the gateways' listener.
    pub gateways: T,
}

impl<T> PerListener<T> {
    /// Both, with the listener's name in metrics.
    pub fn named(&self) -> [(&'static str, &T); 2] {
        [("people", &self.people), ("gateways", &self.gateways)]
    }
}

/// Whether any gateway takes its clients' countries from a header: then a missing country table
/// is not a fault.
#[derive(Clone, Debug, Default)]
pub struct CountryHeaders(Arc<AtomicBool>);

impl CountryHeaders {
    /// Notes that a gateway does.
    pub fn note(&self) {
        // Read first: a store on every event would move this cache line between all threads.
        if !self.seen() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a gateway did so since the service began.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl AppState {
    /// The TLS of the listeners that have any.
    pub fn all_tls(&self) -> Vec<Arc<Tls>> {
        self.tls.named().into_iter().filter_map(|(_, tls)| tls.clone()).collect()
    }

    /// Returns when the service stops.
    pub async fn stopping(&self) {
        // An error means that the sender is gone, and with it the service.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Asks again whether `author` may do this, where the store does not: what changes nothing in the
    /// tables, and tries of changes.
    ///
    /// # Errors
    /// 401 when their token was revoked or has ended since the request was let in.
    pub async fn require_token(&self, author: &Author) -> ApiResult<()> {
        let Some(token) = &author.token else { return Ok(()) };
        match self.tokens.still_let_in(token).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::TokenRevoked.into()),
            Err(error) => Err(Problem::unreadable(&error)),
        }
    }

    /// The snapshot with every write that was committed before this call, or an older one if that takes
    /// too long: for what is asked again when it turns out to be old. What is answered as being in force at
    /// this moment is of [`in_force`](Self::in_force).
    pub async fn current(&self) -> Arc<Snapshot> {
        match tokio::time::timeout(CATCH_UP_TIME, self.feed.current()).await {
            Ok(snapshot) => snapshot,
            Err(_) => self.feed.snapshot(),
        }
    }

    /// The snapshot with every write that was committed before this call, and no older one, for lists and
    /// exports: what is read by an older one, and applied again, would take away what was written last.
    ///
    /// # Errors
    /// When the database cannot be read, or what changed in it takes over 20 s.
    pub async fn in_force(&self) -> ApiResult<Arc<Snapshot>> {
        self.caught_up(READ_TIME).await
    }

    /// The snapshot with every write that was committed before this call, and no older one; `within`: how
    /// long that may take, a second at least.
    ///
    /// # Errors
    /// When the database cannot be read, or what changed in it takes longer.
    pub async fn caught_up(&self, within: Duration) -> ApiResult<Arc<Snapshot>> {
        let within = within.max(CATCH_UP_TIME);
        match tokio::time::timeout(within, self.feed.caught_up()).await {
            Ok(read) => read.map_err(|error| Problem::unreadable(&error)),
            Err(_) => {
                let detail = format!("what changed in the database is still being read after {within:?}");
                Err(Problem::new(ProblemCode::StoreUnreadable, detail))
            }
        }
    }
}
