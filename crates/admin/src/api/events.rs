//! `POST /api/data-plane/v1/events`: what the gates recorded.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use serde::Serialize;
use tidegate_policy::wire::WireError;
use tidegate_policy::wire::event::{Batch, EventPost, MAX_POST};
use tidegate_policy::wire::sync::Gateway;

use super::{Context, body, data_plane};
use crate::problem::{Answer, Code, Problem};
use crate::store::{Append, RecorderFigures};

/// Bytes of a post's body: the format's own limit is checked when it is read,
/// and says more.
const MAX_BODY: usize = MAX_POST + (64 << 10);
/// Posts over this size are decoded on a thread that may block.
const LARGE: usize = 64 << 10;

/// What became of a post.
#[derive(Serialize)]
pub struct Taken {
    stored: u64,
    duplicates: u64,
    malformed: u64,
}

/// Takes a post. Once this has answered 200, the recorder forgets it.
///
/// # Errors
/// 400 when the post itself cannot be read, 503 when the store is busy: then the
/// recorder keeps it and tries again.
pub async fn take(State(context): State<Context>, request: Request<Body>) -> Answer<Json<Taken>> {
    let gateway = data_plane::gateway(request.headers())?;
    context.gateways.seen(&gateway);
    let (_, bytes) = body::bytes(request, MAX_BODY).await?;
    let decoded = match bytes.len() {
        0..=LARGE => decode(gateway, &bytes),
        _ => tokio::task::spawn_blocking(move || decode(gateway, &bytes))
            .await
            .map_err(|_| Problem::new(Code::Stopping, "the service is stopping"))?,
    };
    let (append, malformed) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            context.store.note_malformed(1).await?;
            return Err(Problem::new(Code::InvalidBody, format!("not a post of events: {error}")));
        }
    };
    // Counted once the rest is stored: a post that is refused comes again, and
    // its malformed batches with it.
    let appended = context.store.append(append).await?;
    if malformed > 0 {
        tracing::warn!(malformed, "batches that could not be read were passed over");
        context.store.note_malformed(malformed).await?;
    }
    Ok(Json(Taken { stored: appended.stored, duplicates: appended.duplicates, malformed }))
}

/// The post with its batches opened, and how many could not be: those are passed
/// over, for no repetition would make them readable.
fn decode(gateway: Gateway, bytes: &[u8]) -> Result<(Append, u64), WireError> {
    let post = EventPost::from_bytes(bytes)?;
    let mut malformed = 0u64;
    let open = |sealed: &tidegate_policy::wire::event::SealedBatch| match Batch::from_bytes(&sealed.0) {
        Ok(batch) => Some(batch),
        Err(error) => {
            tracing::debug!(%error, "a batch cannot be read");
            malformed += 1;
            None
        }
    };
    let batches = post.batches.iter().filter_map(open).collect();
    let recorder = RecorderFigures {
        waiting_bytes: post.waiting_bytes,
        oldest_ms: post.oldest_ms,
        retries: post.retries,
    };
    let append = Append { gateway, sources: post.sources, dropped: post.dropped, batches, recorder };
    Ok((append, malformed))
}
