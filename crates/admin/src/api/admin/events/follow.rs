//! Events as they come: server-sent events (WHATWG HTML, 9.2). The id of each is the event's, so a
//! client that comes back with `Last-Event-ID` misses nothing that is still stored.
//!
//! Nothing is kept for a client: its next events are read when it has taken those before. One that
//! is too far behind is told how many it missed, and one that takes nothing for a minute is given up. Every answer
//! ends after a while with the id up to which the client has everything: it comes back with it. An answer whose
//! token is revoked breaks off before (`auth/token_bound_body.rs`).

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::Instant;

use super::shown;
use crate::api::app_state::AppState;
use crate::api::places::Place;
use crate::api::query::QueryParams;
use crate::api::streamed_body::{Chunks, StreamedBody};
use crate::problem::{ApiResult, Problem};
use crate::store::{EventFilter, EventTail};

/// The media type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";
/// How often new events are looked for: as often as they are stored.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After this long without an event a comment shows that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After this long an answer ends: before what is between breaks it off.
const LONGEST: Duration = Duration::from_secs(300);
/// Events that are read at a time.
const PAGE: usize = 500;

/// Answers the events of `filter` as they come.
///
/// # Errors
/// When a parameter is of pages, the header `Last-Event-ID` is no event's, or too many follow already.
pub fn answer(
    app: AppState,
    params: &QueryParams,
    headers: &HeaderMap,
    filter: EventFilter,
) -> ApiResult<Response> {
    for name in ["since", "until", "limit", "cursor", "format"] {
        if params.get(name).is_some() {
            let detail = format!("`{name}` is of a page: leave it out to follow (text/event-stream)");
            return Err(Problem::parameter(name, "conflict", detail));
        }
    }
    let after = headers.get("last-event-id").map(|id| {
        let id = id.to_str().ok().and_then(|id| id.parse().ok());
        id.ok_or_else(|| {
            Problem::header("last-event-id", "invalid", "write the `id` of the last event that came")
        })
    });
    let follower = Follower { after: after.transpose()?, filter, app };
    let place = follower.app.places.follower()?;
    let (chunks, body) = StreamedBody::new();
    tokio::spawn(follower.run(chunks, place));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::new(body)).into_response())
}

struct Follower {
    app: AppState,
    filter: EventFilter,
    /// The id up to which the client has everything; `None`: it begins now.
    after: Option<u64>,
}

impl Follower {
    async fn run(mut self, chunks: Chunks, _place: Place) {
        let (began, mut quiet_since) = (Instant::now(), Instant::now());
        // What was asked for begins where the answer does.
        let mut said = ": the events that come from now on\n\n".to_owned();
        loop {
            match self.app.store.events_after(&self.filter, self.after, PAGE).await {
                Ok(tail) => {
                    let is_last = write(&tail, began.elapsed(), quiet_since.elapsed(), &mut said);
                    let is_behind = tail.more;
                    self.after = Some(tail.last);
                    if !said.is_empty() {
                        quiet_since = Instant::now();
                        if !chunks.send(Ok(Bytes::from(std::mem::take(&mut said)))).await {
                            return;
                        }
                    }
                    if is_last {
                        return;
                    }
                    if is_behind {
                        continue;
                    }
                }
                // Health says why; the client comes back with its last id if this lasts.
                Err(_) if began.elapsed() >= LONGEST => return,
                Err(error) => tracing::debug!(%error, "events cannot be read for who follows them"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = chunks.closed() => return,
                () = self.app.stopping() => return,
            }
        }
    }
}

/// Writes what has come to an answer of this `age` that was `quiet` for so long. Returns whether it ends with this.
fn write(tail: &EventTail, age: Duration, quiet: Duration, said: &mut String) -> bool {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    if tail.skipped > 0 {
        let _ = write!(said, "event: skipped\ndata: {{\"events\":{}}}\n\n", tail.skipped);
    }
    for row in &tail.rows {
        let data = serde_json::to_string(&shown(row.clone())).unwrap_or_default();
        let _ = write!(said, "id: {}\ndata: {data}\n\n", row.id);
    }
    let is_last = age >= LONGEST;
    if is_last {
        // An id without data is no event, and the client remembers it all the same.
        let _ = write!(said, "id: {}\n\n", tail.last);
    } else if said.is_empty() && quiet >= KEEP_ALIVE {
        said.push_str(":\n\n");
    }
    is_last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_after_a_while_with_the_id_to_come_back_with() {
        let tail = EventTail { last: 7, ..EventTail::default() };
        for (age, quiet, wanted, is_last) in [
            (Duration::ZERO, Duration::ZERO, "", false),
            (KEEP_ALIVE, KEEP_ALIVE, ":\n\n", false),
            (LONGEST, Duration::ZERO, "id: 7\n\n", true),
        ] {
            let mut said = String::new();
            assert_eq!((write(&tail, age, quiet, &mut said), said.as_str()), (is_last, wanted));
        }
    }
}
