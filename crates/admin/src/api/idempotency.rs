//! `Idempotency-Key`: a POST that is sent again, because its answer was lost, changes nothing again and
//! is answered as the first time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::app_state::AppState;
use super::body::{self, MAX_PEOPLE_BODY};
use crate::lock::locked;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Author, Change, IdempotencyKey};

/// The header.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says of an answer that it is the first one's.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Bytes of a key, at most.
const MAX_KEY: usize = 255;
/// Bytes of an answer that is kept, at most.
const MAX_ANSWER: usize = 64 << 10;

/// The requests with keys that are under way: their fingerprints by their keys. Clones share it.
#[derive(Clone, Default)]
pub struct RunningKeys(Arc<Mutex<HashMap<String, String>>>);

/// A key while its request is under way.
struct Running {
    keys: RunningKeys,
    key: Arc<IdempotencyKey>,
}

impl Drop for Running {
    fn drop(&mut self) {
        locked(&self.keys.0).remove(&self.key.key);
    }
}

impl RunningKeys {
    /// # Errors
    /// When a request with the key is under way.
    fn begin(&self, key: &Arc<IdempotencyKey>) -> ApiResult<Running> {
        let mut running = locked(&self.0);
        if let Some(request) = running.get(&key.key) {
            if *request != key.request {
                return Err(reused());
            }
            let detail = "the first request with this `Idempotency-Key` is still under way: try again";
            return Err(Problem::new(ProblemCode::IdempotencyKeyInUse, detail));
        }
        running.insert(key.key.clone(), key.request.clone());
        Ok(Running { keys: self.clone(), key: Arc::clone(key) })
    }
}

fn reused() -> Problem {
    let detail = "this `Idempotency-Key` came with another request before (path, query or body): take a new one for \
                  each request, and send the same request only to repeat it";
    Problem::new(ProblemCode::IdempotencyKeyReused, detail)
}

/// Answers a POST with a key that was there before as then. It comes after the token was found.
///
/// # Errors
/// When the key cannot be one, came with another request, is of a request under way or of one whose answer
/// is not known any more.
pub async fn once_per_key(State(app): State<AppState>, request: Request, next: Next) -> ApiResult<Response> {
    if request.method() != Method::POST || !request.headers().contains_key(KEY) {
        return Ok(next.run(request).await);
    }
    let text = key(request.headers())?.to_owned();
    let (mut head, body) = request.into_parts();
    let whole = Request::from_parts(head.clone(), body);
    let (_, bytes) = body::bytes(whole, MAX_PEOPLE_BODY).await?;
    let Some(author) = head.extensions.get_mut::<Author>() else {
        return Ok(next.run(Request::from_parts(head, Body::from(bytes))).await);
    };
    // HTTP/2 has the name that was dialled in the URI, and a repetition may take another way.
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let key = Arc::new(IdempotencyKey {
        key: hash(&[author.name.as_bytes(), text.as_bytes()]),
        request: hash(&[target.as_bytes(), &bytes]),
    });
    author.key = Some(Arc::clone(&key));
    let author = author.clone();
    app.require_token(&author).await?;
    let running = app.running_keys.begin(&key)?;
    if let Some(kept) = app.store.kept_request(&key.key).await? {
        return match kept.answer {
            _ if kept.request != key.request => Err(reused()),
            Some(answer) => Ok(replayed(answer)),
            None => Err(answer_gone()),
        };
    }
    // It goes on when the client hangs up: the answer is kept for when the client asks again.
    let run = async move {
        let answer = next.run(Request::from_parts(head, Body::from(bytes))).await;
        let answer = keep(&app, answer, &author).await;
        drop(running);
        answer
    };
    tokio::spawn(run.in_current_span()).await.map_err(|_| Problem::stopping())?
}

/// A hash of these parts; their lengths are in it, so that no two lists of parts are the same bytes.
fn hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

/// The key that `headers` have.
fn key(headers: &HeaderMap) -> ApiResult<&str> {
    let mut lines = headers.get_all(KEY).iter();
    let text = lines.next().and_then(|value| value.to_str().ok()).filter(|_| lines.next().is_none());
    text.filter(|text| (1..=MAX_KEY).contains(&text.len())).ok_or_else(|| {
        let detail = format!("send one key of 1 to {MAX_KEY} visible ASCII characters, like a UUID");
        Problem::header("idempotency-key", "invalid", detail)
    })
}

fn replayed(answer: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (REPLAYED, HeaderValue::from_static("true")),
    ];
    (headers, answer).into_response()
}

fn answer_gone() -> Problem {
    let detail = "the request with this `Idempotency-Key` was carried out, and its answer is not kept: it has a secret, \
                  or the service ended before it was given. Look at what is there";
    Problem::new(ProblemCode::IdempotencyAnswerGone, detail)
}

/// Keeps an answer that says that something was done; a secret in it is not written to the disk. Whatever
/// was refused has changed nothing, and may be tried again with the same key.
async fn keep(app: &AppState, answer: Response, author: &Author) -> ApiResult<Response> {
    let is_json = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if answer.status() != StatusCode::OK || !is_json || answer.headers().contains_key(CACHE_CONTROL) {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if let Some(text) = String::from_utf8(bytes.to_vec()).ok().filter(|text| text.len() <= MAX_ANSWER) {
        // What was done may have been the revocation of the author's own token.
        let author = Author { token: None, ..author.clone() };
        let kept = app.store.commit(Change::KeepAnswer { answer: text }, &author).await;
        // The change itself is committed with its key.
        kept.inspect_err(|error| tracing::warn!(%error, "an answer could not be kept for its key")).ok();
    }
    Ok(Response::from_parts(head, Body::from(bytes)))
}
