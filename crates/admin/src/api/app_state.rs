//! What every handler works with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::auth::Tokens;
use crate::feed::{Feed, Snapshot};
use crate::gateways::Gateways;
use crate::metrics::Metrics;
use crate::store::Store;

/// How long a read waits for the feed to catch up with the database; past it the
/// answer comes from the older snapshot, and health gives the reason.
const CATCH_UP_TIME: Duration = Duration::from_secs(1);

/// What every handler works with.
#[derive(Clone)]
pub struct AppState {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The tables as gateways get them.
    pub feed: Feed,
    /// The gateways that are connected.
    pub gateways: Gateways,
    /// The API tokens.
    pub tokens: Arc<Tokens>,
    /// True once the service stops: long polls and waits end then.
    pub stop: watch::Receiver<bool>,
    /// When the service started.
    pub started: Instant,
    /// Whether gateways have countries from elsewhere than the country table.
    pub country_headers: CountryHeaders,
    /// Names of backendRefs that the gateways' Envoys have clusters for (`--cluster`);
    /// empty: not known.
    pub clusters: Arc<BTreeSet<String>>,
    /// Held while a document is checked against the others and committed. Without it,
    /// concurrent writes would make each other's checks out of date, again and again.
    pub documents: Arc<tokio::sync::Mutex<()>>,
    /// The service's own metrics.
    pub metrics: Metrics,
}

/// Whether a gateway was seen to take its clients' countries from a header: then
/// it is no trouble that there is no country table.
#[derive(Clone, Debug, Default)]
pub struct CountryHeaders(Arc<AtomicBool>);

impl CountryHeaders {
    /// Notes that one was.
    pub fn note(&self) {
        // Read first: all gateways' threads would pass this line around otherwise.
        if !self.seen() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether one was, since the service began.
    #[must_use]
    pub fn seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl AppState {
    /// Returns once the service stops.
    pub async fn stopping(&self) {
        // An error means that the sender is gone, and with it the service.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// The snapshot with every write in it that was committed before this was called.
    pub async fn current(&self) -> Arc<Snapshot> {
        match tokio::time::timeout(CATCH_UP_TIME, self.feed.current()).await {
            Ok(snapshot) => snapshot,
            Err(_) => self.feed.snapshot(),
        }
    }
}
