//! `POST /api/data-plane/v1/events`: what the gates recorded. With `sync=1` one
//! event, whose response waits for the answer.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Serialize;
use tidegate_policy::codec::FormatError;
use tidegate_policy::wire::event::{Batch, EventPost, MAX_OPEN, MAX_POST, OpenEvent, TrafficEvent};
use tidegate_policy::wire::sync::Gateway;

use super::sync::gateway;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::query::QueryParams;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Append, RecorderFigures};

/// The paths here.
pub fn routes() -> Router<AppState> {
    Router::new().route("/api/data-plane/v1/events", axum::routing::post(record))
}

/// Bytes of a post's body: the format's own limit is checked when it is read,
/// and says more.
const MAX_BODY: usize = MAX_POST + (64 << 10);
/// Posts over this size are decoded on a thread that may block.
const LARGE: usize = 64 << 10;
/// Formats count up by one: what seems to be further ahead than this is no later version
/// but rubbish, which no upgrade would make readable.
const VERSIONS_AHEAD: u8 = 16;

/// What became of a post.
#[derive(Serialize)]
pub struct PostResult {
    stored: u64,
    duplicates: u64,
    malformed: u64,
}

/// Takes a post, or with `sync=1` an open event.
///
/// # Errors
/// 400 when it cannot be read; 503 when the store is busy, or it is of a later version
/// of its format: then whoever sent it keeps it and tries again.
pub async fn record(State(app): State<AppState>, request: Request<Body>) -> ApiResult<Response> {
    let gateway = gateway(request.headers())?;
    let params = QueryParams::read(request.uri(), &["sync"])?;
    app.gateways.note_post(&gateway);
    match params.flag("sync")? {
        true => record_open(&app, gateway, request).await.map(IntoResponse::into_response),
        false => record_batches(&app, gateway, request).await.map(IntoResponse::into_response),
    }
}

/// Takes a post. Once this has answered 200, the recorder forgets it.
async fn record_batches(
    app: &AppState,
    gateway: Gateway,
    request: Request<Body>,
) -> ApiResult<Json<PostResult>> {
    let (_, bytes) = body::bytes(request, MAX_BODY).await?;
    let decoded = match bytes.len() {
        0..=LARGE => decode(gateway, &bytes),
        _ => tokio::task::spawn_blocking(move || decode(gateway, &bytes))
            .await
            .map_err(|_| Problem::stopping())?,
    };
    let (append, malformed) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => return Err(unreadable(app, "not a post of events", &error).await?),
    };
    note_countries(app, append.batches.iter().flat_map(|batch| &batch.events));
    // Counted once the rest is stored: a post that is refused comes again, and
    // its malformed batches with it.
    let appended = app.store.append(append).await?;
    if malformed > 0 {
        tracing::warn!(malformed, "batches that could not be read were passed over");
        app.store.note_malformed(malformed).await?;
    }
    Ok(Json(PostResult { stored: appended.stored, duplicates: appended.duplicates, malformed }))
}

/// Takes an event whose response waits. 204: it is committed, now or before.
async fn record_open(app: &AppState, gateway: Gateway, request: Request<Body>) -> ApiResult<StatusCode> {
    let (_, bytes) = body::bytes(request, MAX_OPEN).await?;
    let open = match OpenEvent::from_bytes(&bytes) {
        Ok(open) => open,
        Err(error) => return Err(unreadable(app, "not an open event", &error).await?),
    };
    note_countries(app, [&open.event]);
    app.store.open_event(gateway, open).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What to answer when a body, or a batch in it, is not understood. One that is only
/// newer is not counted as malformed: it comes again, and will be understood once this
/// service is of that version too.
async fn unreadable(app: &AppState, what: &str, error: &FormatError) -> ApiResult<Problem> {
    if is_newer(error) {
        tracing::warn!(%error, "a gateway of a later version keeps its events until this service is upgraded");
        return Ok(Problem::new(
            ProblemCode::NewerFormat,
            format!("{error}: keep it until this side is upgraded"),
        ));
    }
    app.store.note_malformed(1).await?;
    Ok(Problem::new(ProblemCode::InvalidBody, format!("{what}: {error}")))
}

fn is_newer(error: &FormatError) -> bool {
    let FormatError::Version { found, known } = error else { return false };
    (1..=VERSIONS_AHEAD).contains(&found.saturating_sub(*known))
}

/// A country in an event, though there is no country table, came from a header.
fn note_countries<'e>(app: &AppState, events: impl IntoIterator<Item = &'e TrafficEvent>) {
    if app.country_headers.seen() || app.feed.snapshot().countries.is_some() {
        return;
    }
    if events.into_iter().any(|event| event.country.is_some()) {
        app.country_headers.note();
    }
}

/// The post with its batches opened, and how many could not be: those are passed
/// over, for no repetition would make them readable.
///
/// # Errors
/// When the post cannot be read, or a batch of it is of a later version.
fn decode(gateway: Gateway, bytes: &[u8]) -> Result<(Append, u64), FormatError> {
    let post = EventPost::from_bytes(bytes)?;
    let mut malformed = 0u64;
    let mut batches = Vec::with_capacity(post.batches.len());
    for sealed in &post.batches {
        match Batch::from_bytes(&sealed.0) {
            Ok(batch) => batches.push(batch),
            Err(error) if is_newer(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "a batch cannot be read");
                malformed += 1;
            }
        }
    }
    let recorder = RecorderFigures {
        waiting_bytes: post.waiting_bytes,
        oldest_ms: post.oldest_ms,
        retries: post.retries,
    };
    let append = Append { gateway, sources: post.sources, dropped: post.dropped, batches, recorder };
    Ok((append, malformed))
}
