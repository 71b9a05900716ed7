//! What the two listeners offer: people's on one, the gateways' on the other.

mod applied;
mod audit;
mod backends;
mod bans;
pub mod body;
mod check;
mod countries;
mod cursor;
mod data_plane;
mod events;
mod explain;
mod flags;
mod gateways;
mod geo_rules;
mod health;
mod ip_monitor;
mod limits;
mod metrics;
mod named;
pub(crate) mod params;
mod recording;
mod refresh;
mod routes;
pub mod time;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tidegate_policy::check::Check;
use tidegate_policy::wire;
use tokio::sync::watch;

use crate::auth::{Door, Scope, Tokens, guard};
use crate::feed::{Feed, Snapshot};
use crate::gateways::Gateways;
use crate::metrics::{Listener, Metrics};
use crate::problem::{Code, Problem};
use crate::store::Store;

/// No answer takes longer: over the longest wait that a client may ask for, and
/// what the store may take before it says that it is busy.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// How long a read waits for the feed to catch up with the database; past it the
/// answer is what the feed has, and health says what keeps it.
const CATCH_UP_TIME: Duration = Duration::from_secs(1);

/// What every handler works with.
#[derive(Clone)]
pub struct Context {
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

impl Context {
    /// Returns once the service stops.
    async fn stopping(&self) {
        // An error means that the sender is gone, and with it the service.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// The snapshot with every write in it that was committed before this was called.
    async fn current(&self) -> Arc<Snapshot> {
        match tokio::time::timeout(CATCH_UP_TIME, self.feed.current()).await {
            Ok(snapshot) => snapshot,
            Err(_) => self.feed.snapshot(),
        }
    }

    fn door(&self, scope: Scope) -> Door {
        Door { tokens: Arc::clone(&self.tokens), scope }
    }
}

/// The people's listener.
pub fn people(context: Context) -> Router {
    let door = context.door(Scope::Admin);
    let guarded = Router::new()
        .route("/api/admin/optimization/ip/ban", post(bans::ban))
        .route("/api/admin/optimization/ip/unban", post(bans::unban))
        .route("/api/admin/ip/ban", post(bans::ban))
        .route("/api/admin/ip/unban", post(bans::unban))
        .route("/api/admin/ip-monitor", get(ip_monitor::list))
        // A block has a slash in it: 203.0.113.0/24.
        .route("/api/admin/ip-monitor/{*ip}", get(ip_monitor::one))
        .merge(named::paths::<routes::Routes>())
        .merge(named::paths::<geo_rules::Rules>())
        .merge(named::paths::<backends::Backends>())
        .merge(named::paths::<limits::Limits>())
        .route("/api/admin/geo-countries", get(countries::table))
        .route("/api/admin/geo-countries/{ip}", get(countries::one))
        .route("/api/admin/optimization/flags", get(flags::get).put(flags::put))
        .route("/api/admin/optimization/recording/stats", get(recording::stats))
        // Gateways are told to load anew as a whole: every form does that.
        .route("/api/admin/optimization/cache/refresh", post(refresh::refresh))
        .route("/api/admin/optimization/cache/routes/refresh", post(refresh::refresh))
        .route("/api/admin/optimization/cache/ip/refresh", post(refresh::refresh))
        .route("/api/admin/optimization/cache/geo/refresh", post(refresh::refresh))
        .route("/api/admin/optimization/cache/limits/refresh", post(refresh::refresh))
        .route("/api/admin/optimization/warmup", post(refresh::warmup))
        .route("/api/admin/optimization/health", get(health::detailed))
        .route("/api/admin/explain", get(explain::explain))
        .route("/api/admin/audit", get(audit::list))
        .route("/api/admin/gateways", get(gateways::list));
    // Counts, and nothing that a client sent.
    let open = Router::new().route("/api/health", get(alive)).route("/metrics", get(metrics::metrics));
    finish(Listener::People, open, guarded, door, context)
}

/// The gateways' listener.
pub fn data_plane(context: Context) -> Router {
    let door = context.door(Scope::Gateway);
    let guarded = Router::new()
        .route("/api/data-plane/v1/sync", get(data_plane::sync))
        .route("/api/data-plane/v1/sync/blob/{hash}", get(data_plane::blob))
        .route("/api/data-plane/v1/sync/ack", post(data_plane::ack))
        .route("/api/data-plane/v1/events", post(events::take))
        .route(wire::check::path(Check::Ip), post(check::ip))
        .route(wire::check::path(Check::Geo), post(check::geo))
        .route(wire::check::path(Check::Route), post(check::route));
    let open = Router::new().route("/api/health", get(alive));
    finish(Listener::Gateways, open, guarded, door, context)
}

fn finish(
    listener: Listener,
    open: Router<Context>,
    guarded: Router<Context>,
    door: Door,
    context: Context,
) -> Router {
    let guarded = guarded
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_this_method)
        .layer(from_fn_with_state(door, guard));
    open.method_not_allowed_fallback(not_this_method)
        .merge(guarded)
        .layer(from_fn_with_state((listener, context.metrics.clone()), bounded_and_logged))
        .with_state(context)
}

async fn alive() -> Response {
    Json(serde_json::json!({ "status": "ok" })).into_response()
}

async fn nothing_here() -> Problem {
    Problem::new(Code::NotFound, "there is nothing at this path; docs/API.md lists what there is")
}

async fn not_this_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "the header `Allow` says which methods this path takes")
}

/// Bounds every answer in time, counts it, and logs it without saying who asked: of the
/// path only the pattern, for addresses stand in it.
async fn bounded_and_logged(
    State((listener, metrics)): State<(Listener, Metrics)>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = match tokio::time::timeout(LONGEST_ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                format!("no answer within {} s; a change may have been made", LONGEST_ANSWER.as_secs());
            Problem::new(Code::Timeout, detail).into_response()
        }
    };
    let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let path = path.as_ref().map(MatchedPath::as_str).unwrap_or_default();
    metrics.answered(listener, &method, path, response.status());
    tracing::debug!(%method, path, status = response.status().as_u16(), took_us);
    response
}
