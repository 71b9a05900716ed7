//! The HTTP API. One file per endpoint family, at the place that its URL has:
//! `/api/admin/optimization/flags` is `api/admin/optimization/flags.rs`. The files
//! directly in `api/` are what several of them use.

mod admin;
pub mod app_state;
mod body;
mod cursor;
mod data_plane;
mod metrics;
mod named_documents;
pub(crate) mod query;
mod wait_applied;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use crate::auth::{RequiredScope, Scope, require_scope};
use crate::metrics::{Listener, Metrics};
use crate::problem::{Problem, ProblemCode};
use app_state::AppState;

/// No answer takes longer: over the longest wait that a client may ask for, and
/// what the store may take before it says that it is busy.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// The people's listener.
pub fn people(app: AppState) -> Router {
    let open = Router::new().route("/api/health", get(alive)).merge(metrics::routes());
    finish(Listener::People, Scope::Admin, open, admin::routes(), app)
}

/// The gateways' listener.
pub fn data_plane(app: AppState) -> Router {
    let open = Router::new().route("/api/health", get(alive));
    finish(Listener::Gateways, Scope::Gateway, open, data_plane::routes(), app)
}

fn finish(
    listener: Listener,
    scope: Scope,
    open: Router<AppState>,
    guarded: Router<AppState>,
    app: AppState,
) -> Router {
    let door = RequiredScope { tokens: Arc::clone(&app.tokens), scope };
    let guarded = guarded
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_this_method)
        .layer(from_fn_with_state(door, require_scope));
    open.method_not_allowed_fallback(not_this_method)
        .merge(guarded)
        .layer(from_fn_with_state((listener, app.metrics.clone()), bounded_and_logged))
        .with_state(app)
}

async fn alive() -> Response {
    Json(serde_json::json!({ "status": "ok" })).into_response()
}

async fn nothing_here() -> Problem {
    Problem::new(ProblemCode::NotFound, "there is nothing at this path; docs/API.md lists what there is")
}

async fn not_this_method() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed, "the header `Allow` says which methods this path takes")
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
            Problem::new(ProblemCode::Timeout, detail).into_response()
        }
    };
    let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let path = path.as_ref().map(MatchedPath::as_str).unwrap_or_default();
    metrics.answered(listener, &method, path, response.status());
    tracing::debug!(%method, path, status = response.status().as_u16(), took_us);
    response
}
