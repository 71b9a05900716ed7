//! Streams that an open page follows: they end when their session does, after a time, and when nobody reads them.
//!
//! What a stream holds is in a task of its own: a connection that takes nothing keeps a few kilobytes, and no place.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::visitor::Visitor;

/// A reader that takes no event for this long is given up.
const READER_TIME: Duration = Duration::from_secs(60);
/// How often it is looked whether the session has ended.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The place of a stream: one of its session's, and one of all.
pub struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Place {
    /// A place for a stream of this visitor.
    ///
    /// # Errors
    /// When the session, its token, or all together have as many as they may have.
    pub fn take(dashboard: &Dashboard, visitor: &Visitor) -> Result<Self, PageError> {
        let of_all = || dashboard.streams.clone().try_acquire_owned().ok();
        let place = visitor.stream_place().and_then(|_own| Some(Self { _own, _of_all: of_all()? }));
        place.ok_or_else(|| {
            let detail =
                "Too many pages are followed at once; this one shows what was so when it was loaded.";
            PageError::refused(StatusCode::SERVICE_UNAVAILABLE, "No live parts now", detail)
        })
    }
}

/// Answers `events`, for `longest` at most.
pub fn answer(
    events: impl Stream<Item = Event> + Send + 'static,
    longest: Duration,
    place: Place,
    visitor: Visitor,
) -> Response {
    let signed_out = async move {
        while visitor.is_signed_in() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let events = while_read(events, longest, place, signed_out);
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

/// What `events` has, until `longest` is over, `end` is there, or nobody takes them. `held` is dropped then, though
/// the stream that is returned still be there.
fn while_read<T: Send + 'static>(
    events: impl Stream<Item = T> + Send + 'static,
    longest: Duration,
    held: impl Send + 'static,
    end: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = Result<T, Infallible>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _held = held;
        let all = async {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                if !matches!(timeout(READER_TIME, sender.send(event)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        tokio::select! {
            _ = timeout(longest, all) => {}
            () = end => {}
            () = sender.closed() => {}
        }
    });
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|event| (Ok(event), receiver)))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use tokio::time::{Instant, sleep};

    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    /// Returns after how long what is held for `events` is let go, although nobody reads.
    async fn held_for(
        events: impl Stream<Item = u8> + Send + 'static,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Duration {
        let (began, held) = (Instant::now(), Arc::new(()));
        let unread = while_read(events, LONG, Arc::clone(&held), end);
        while Arc::strong_count(&held) > 1 {
            sleep(Duration::from_secs(1)).await;
        }
        drop(unread);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_holds_no_place_for_long() {
        let flood = || stream::repeat(7);
        let quiet = stream::pending;
        let is_near = |time: Duration, near: Duration| time >= near && time < near + LOOK_EVERY;
        assert!(is_near(held_for(flood(), pending()).await, READER_TIME));
        assert!(is_near(held_for(quiet(), pending()).await, LONG));
        assert!(is_near(held_for(flood(), sleep(LOOK_EVERY)).await, LOOK_EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_comes_whole_and_who_leaves_holds_nothing() {
        let held = Arc::new(());
        let read = while_read(stream::iter([1, 2, 3]), LONG, Arc::clone(&held), pending());
        let all: Vec<_> = read.map(Result::unwrap_or_default).collect().await;
        assert_eq!(all, [1, 2, 3]);
        drop(while_read(stream::pending::<u8>(), LONG, Arc::clone(&held), pending()));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
