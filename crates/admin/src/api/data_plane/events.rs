//! `POST /api/data-plane/v1/events`: what the gates recorded. With `sync=1` one
//! event, whose response waits for the answer.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Serialize;
use tidegate_policy::wire::event::{EventPost, MAX_OPEN, MAX_POST, TrafficEvent};
use tidegate_policy::wire::sync::Gateway;
use tidegate_policy::wire::{WireError, former};

use super::sync::gateway;
use crate::api::app_state::Context;
use crate::api::body;
use crate::api::query::Params;
use crate::problem::{Answer, Code, Problem};
use crate::store::{Append, RecorderFigures};

/// The paths here.
pub fn routes() -> Router<Context> {
    Router::new().route("/api/data-plane/v1/events", axum::routing::post(take))
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
pub struct Taken {
    stored: u64,
    duplicates: u64,
    malformed: u64,
}

/// Takes a post, or with `sync=1` an open event.
///
/// # Errors
/// 400 when it cannot be read; 503 when the store is busy, or it is of a later version
/// of its format: then whoever sent it keeps it and tries again.
pub async fn take(State(context): State<Context>, request: Request<Body>) -> Answer<Response> {
    let gateway = gateway(request.headers())?;
    let params = Params::read(request.uri(), &["sync"])?;
    context.gateways.seen(&gateway);
    match params.flag("sync")? {
        true => open(&context, gateway, request).await.map(IntoResponse::into_response),
        false => post(&context, gateway, request).await.map(IntoResponse::into_response),
    }
}

/// Takes a post. Once this has answered 200, the recorder forgets it.
async fn post(context: &Context, gateway: Gateway, request: Request<Body>) -> Answer<Json<Taken>> {
    let (_, bytes) = body::bytes(request, MAX_BODY).await?;
    let decoded = match bytes.len() {
        0..=LARGE => decode(gateway, &bytes),
        _ => tokio::task::spawn_blocking(move || decode(gateway, &bytes))
            .await
            .map_err(|_| Problem::new(Code::Stopping, "the service is stopping"))?,
    };
    let (append, malformed) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => return Err(unreadable(context, "not a post of events", &error).await?),
    };
    note_countries(context, append.batches.iter().flat_map(|batch| &batch.events));
    // Counted once the rest is stored: a post that is refused comes again, and
    // its malformed batches with it.
    let appended = context.store.append(append).await?;
    if malformed > 0 {
        tracing::warn!(malformed, "batches that could not be read were passed over");
        context.store.note_malformed(malformed).await?;
    }
    Ok(Json(Taken { stored: appended.stored, duplicates: appended.duplicates, malformed }))
}

/// Takes an event whose response waits. 204: it is committed, now or before.
async fn open(context: &Context, gateway: Gateway, request: Request<Body>) -> Answer<StatusCode> {
    let (_, bytes) = body::bytes(request, MAX_OPEN).await?;
    let open = match former::read_open(&bytes) {
        Ok(open) => open,
        Err(error) => return Err(unreadable(context, "not an open event", &error).await?),
    };
    note_countries(context, [&open.event]);
    context.store.open_event(gateway, open).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What to answer when a body, or a batch in it, is not understood. One that is only
/// newer is not counted as malformed: it comes again, and will be understood once this
/// service is of that version too.
async fn unreadable(context: &Context, what: &str, error: &WireError) -> Answer<Problem> {
    if is_newer(error) {
        tracing::warn!(%error, "a gateway of a later version keeps its events until this service is upgraded");
        return Ok(Problem::new(Code::NewerFormat, format!("{error}: keep it until this side is upgraded")));
    }
    context.store.note_malformed(1).await?;
    Ok(Problem::new(Code::InvalidBody, format!("{what}: {error}")))
}

fn is_newer(error: &WireError) -> bool {
    let WireError::Version { found, known } = error else { return false };
    (1..=VERSIONS_AHEAD).contains(&found.saturating_sub(*known))
}

/// A country in an event, though there is no country table, came from a header.
fn note_countries<'e>(context: &Context, events: impl IntoIterator<Item = &'e TrafficEvent>) {
    if context.country_headers.seen() || context.feed.snapshot().countries.is_some() {
        return;
    }
    if events.into_iter().any(|event| event.country.is_some()) {
        context.country_headers.note();
    }
}

/// The post with its batches opened, and how many could not be: those are passed
/// over, for no repetition would make them readable.
///
/// # Errors
/// When the post cannot be read, or a batch of it is of a later version.
fn decode(gateway: Gateway, bytes: &[u8]) -> Result<(Append, u64), WireError> {
    let post = EventPost::from_bytes(bytes)?;
    let mut malformed = 0u64;
    let mut batches = Vec::with_capacity(post.batches.len());
    for sealed in &post.batches {
        match former::read_batch(&sealed.0) {
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
