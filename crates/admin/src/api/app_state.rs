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
/// answer is what the feed has, and health says what keeps it.
const CATCH_UP_TIME: Duration = Duration::from_secs(1);

/// What every handler works with.
#[derive(Clone)]
pub struct AppState {
    /// The database.
    pub store: Arc<dyn Store>,
    /// What gateways get.
    pub feed: Feed,
    /// Who they are.
    pub gateways: Gateways,
    /// Who may ask.
    pub tokens: Arc<Tokens>,
    /// True once the service stops: whoever waits is answered.
    pub stop: watch::Receiver<bool>,
    /// When the service began.
    pub started: Instant,
    /// Whether gateways have countries from elsewhere than the country table.
    pub country_headers: CountryHeaders,
    /// Names of backendRefs that the gateways' Envoys have clusters for; empty: nobody
    /// said which.
    pub clusters: Arc<BTreeSet<String>>,
    /// Held by the write of a document from the look at the others to the commit: of
    /// many at once each would otherwise find, again and again, that another was
    /// quicker.
    pub documents: Arc<tokio::sync::Mutex<()>>,
    /// What the service counts of itself.
    pub metrics: Metrics,
}

/// Whether a gateway was seen to take its clients' countries from a header: then
/// it is no trouble that there is no country table.
#[derive(Clone, Debug, Default)]
pub struct CountryHeaders(Arc<AtomicBool>);

impl CountryHeaders {
    /// One was.
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
