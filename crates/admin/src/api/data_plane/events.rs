//! `POST /api/data-plane/v1/events`: recorded events. With `sync=1` one open event, whose
//! response waits for the answer.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_policy::codec::FormatError;
use tidegate_policy::wire::event::{
    Batch, EventPost, MAX_OPEN, MAX_POST, OpenEvent, TrafficEvent, UNTOLD_HEADER,
};
use tidegate_policy::wire::sync::Gateway;
use utoipa::ToSchema;

use super::ban_sources;
use super::sync::gateway;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::SYNC;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Append, Appended, Author, RecorderFigures};

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Stores recorded events")
        .query(&[&SYNC])
        .takes_binary()
        .answers::<PostResult>()
        .answers_with(204, "the event is stored", None)
        .problems(&[ProblemCode::PostTooLarge, ProblemCode::ImpossibleClaim, ProblemCode::NewerFormat]);
    Endpoints::default().post(Role::Gateway, "/api/data-plane/v1/events", record).about(about)
}

/// Bytes of a post's body, at most. Slightly over the format's own limit, which is checked later
/// with a better message.
const MAX_BODY: usize = MAX_POST + (64 << 10);
/// Posts over this many bytes are decoded on a blocking thread.
const LARGE: usize = 64 << 10;
/// Format versions count up by one. A version further ahead than this is taken for garbage, which
/// no upgrade would make readable.
const VERSIONS_AHEAD: u8 = 16;

/// What one post may carry: several times what a recorder that works puts into one. It says so much
/// of at most 1,024 VMs, gives up at most 1,000 ranges at a time, and holds 4 MiB of batches.
const MAX_SOURCES: usize = 4_096;
/// Dropped ranges, its own and those of its batches.
const MAX_RANGES: usize = 20_000;
/// Batches.
const MAX_BATCHES: usize = 40_000;

/// Result of a post.
#[derive(Serialize, ToSchema)]
pub struct PostResult {
    stored: u64,
    duplicates: u64,
    malformed: u64,
    /// Batches, reports and dropped ranges with a number that their source cannot have reached;
    /// absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<u64>,
}

/// Stores a post, or with `sync=1` an open event.
///
/// # Errors
/// 400 when it cannot be read; 503 when the store is busy, or the post has a later version of its
/// format: then the sender keeps it and tries again.
pub async fn record(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Response> {
    let gateway = gateway(request.headers())?;
    let params = QueryParams::read(request.uri(), &["sync"])?;
    app.gateways.note_heard(&gateway);
    match params.flag("sync")? {
        true => record_open(&app, &author, gateway, request).await.map(IntoResponse::into_response),
        false => record_batches(&app, &author, gateway, request).await.map(IntoResponse::into_response),
    }
}

/// Stores a post. After a 200 the recorder drops it.
async fn record_batches(
    app: &AppState,
    author: &Author,
    gateway: Gateway,
    request: Request<Body>,
) -> ApiResult<Json<PostResult>> {
    let untold = request.headers().contains_key(UNTOLD_HEADER);
    let (_, bytes) = body::bytes(request, MAX_BODY).await?;
    let decoded = match bytes.len() {
        0..=LARGE => decode(gateway, &bytes),
        _ => tokio::task::spawn_blocking(move || decode(gateway, &bytes))
            .await
            .map_err(|_| Problem::stopping())?,
    };
    // Before anything is counted: what is not let in any more says nothing.
    app.require_token(author).await?;
    let (append, malformed) = match decoded {
        Ok((append, malformed)) => {
            let ban_sources = ban_sources::of_events(&app.feed, &append.batches).await;
            (Append { untold, ban_sources, ..append }, malformed)
        }
        Err(error) => return Err(unreadable(app, "not a post of events", &error).await?),
    };
    check_size(&append)?;
    note_countries(app, append.batches.iter().flat_map(|batch| &batch.events));
    // Counted after the rest is stored: a refused post is sent again, with its malformed batches.
    let appended = app.store.append(append).await?;
    if malformed > 0 {
        tracing::warn!(malformed, "batches that could not be read were passed over");
        app.store.note_malformed(malformed).await?;
    }
    let Appended { stored, duplicates, refused } = appended;
    if refused > 0 && stored == 0 && duplicates == 0 {
        return Err(impossible(&format!("{refused} claims in this post, and no event that could be stored")));
    }
    let refused = (refused > 0).then_some(refused);
    Ok(Json(PostResult { stored, duplicates, malformed, refused }))
}

/// Refuses a post that is more work than its size says. A recorder that did send so much gets rid of
/// it batch by batch.
fn check_size(append: &Append) -> ApiResult<()> {
    let ranges = append.batches.iter().map(|batch| batch.dropped.len()).sum::<usize>() + append.dropped.len();
    for (what, count, most) in [
        ("sources", append.sources.len(), MAX_SOURCES),
        ("dropped ranges", ranges, MAX_RANGES),
        ("batches", append.batches.len(), MAX_BATCHES),
    ] {
        if count > most {
            let detail = format!("{count} {what} in one post, at most {most}: send them in several");
            return Err(Problem::new(ProblemCode::PostTooLarge, detail));
        }
    }
    Ok(())
}

fn impossible(what: &str) -> Problem {
    let detail = format!("{what}: a number that no VM can have reached since it was last heard of");
    Problem::new(ProblemCode::ImpossibleClaim, detail)
}

/// Stores an open event. 204: it is committed, now or before.
async fn record_open(
    app: &AppState,
    author: &Author,
    gateway: Gateway,
    request: Request<Body>,
) -> ApiResult<StatusCode> {
    let (_, bytes) = body::bytes(request, MAX_OPEN).await?;
    app.require_token(author).await?;
    let open = match OpenEvent::from_bytes(&bytes) {
        Ok(open) => open,
        Err(error) => return Err(unreadable(app, "not an open event", &error).await?),
    };
    note_countries(app, [&open.event]);
    let number = open.event.number;
    match app.store.open_event(gateway, open).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(impossible(&format!("event {number}"))),
    }
}

/// The problem when a body, or a batch in it, cannot be read. One of a later version is not
/// counted as malformed: it is sent again, and will be read once this service has that version.
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

/// Notes a country in an event while there is no country table: it came from a header.
fn note_countries<'e>(app: &AppState, events: impl IntoIterator<Item = &'e TrafficEvent>) {
    if app.country_headers.seen() || app.feed.snapshot().countries.is_some() {
        return;
    }
    if events.into_iter().any(|event| event.country.is_some()) {
        app.country_headers.note();
    }
}

/// The post with its batches decoded, and the number of those that could not be decoded. Those
/// are skipped: repeating them would not help.
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
    let EventPost { sources, dropped, .. } = post;
    let append =
        Append { gateway, sources, dropped, batches, recorder, untold: false, ban_sources: HashMap::new() };
    Ok((append, malformed))
}
