//! The body of an import, read as it comes: unpacked, cut into entries and checked on a thread of its
//! own, no further behind than a few chunks.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use tidegate_author::ban_list::{BanListReader, ListFormat};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::ban_lists::check::{CheckedList, MAX_BANS};
use crate::ban_lists::unpack::{ListFault, ListSink, MAX_LIST, read_chunks};
use crate::problem::{ApiResult, Problem, ProblemCode};

/// How long a list may take to arrive; an answer may take 60 s.
const LIST_TIME: Duration = Duration::from_secs(45);
/// How long there may be nothing.
const PAUSE_TIME: Duration = Duration::from_secs(15);
/// How long, and how much, of a body that is refused is still taken beside the answer: a connection that is closed
/// with unread bytes is reset, and its client may lose the answer.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const MAX_DRAINED: usize = 64 << 20;
/// Chunks between the connection and the thread.
const CHUNKS_AHEAD: usize = 8;

/// Reads the list in the body of `request` into `list`.
///
/// # Errors
/// When it is too large, no list, or does not come to its end in time.
pub async fn read(
    request: Request<Body>,
    reader: BanListReader,
    list: CheckedList,
) -> ApiResult<(ListFormat, CheckedList)> {
    let (head, mut body) = request.into_parts();
    let is_packed = is_gzip(&head.headers)?;
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|len| len > MAX_LIST) {
        return Err(too_large());
    }
    let (chunks, from) = mpsc::channel(CHUNKS_AHEAD);
    let read = tokio::task::spawn_blocking(move || {
        read_chunks(from, is_packed, ListSink::new(reader, list, MAX_LIST)).map_err(Problem::from)
    });
    let sent = send(&mut body, chunks).await;
    // What was sent before the body broke off is read, and of no use.
    let read = read.await.unwrap_or_else(|_| Err(Problem::stopping()));
    // Whether the body has ended or not.
    tokio::spawn(timeout(DRAIN_TIME, drain(body)));
    match sent {
        Ok(()) => read,
        Err(broken) => Err(broken),
    }
}

fn is_gzip(headers: &HeaderMap) -> ApiResult<bool> {
    match headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes().to_ascii_lowercase()) {
        None => Ok(false),
        Some(encoding) if encoding == b"identity" => Ok(false),
        Some(encoding) if encoding == b"gzip" || encoding == b"x-gzip" => Ok(true),
        Some(_) => Err(Problem::new(
            ProblemCode::UnsupportedMediaType,
            "send the list as it is, or with Content-Encoding: gzip",
        )),
    }
}

/// Sends the body's chunks, until it ends or nobody takes them any more: then the thread says why.
async fn send(body: &mut Body, chunks: mpsc::Sender<Bytes>) -> ApiResult<()> {
    let end = Instant::now() + LIST_TIME;
    let late = |_| {
        let detail = format!(
            "a list must arrive within {} s, without a pause of over {} s",
            LIST_TIME.as_secs(),
            PAUSE_TIME.as_secs()
        );
        Problem::new(ProblemCode::BodyTimeout, detail)
    };
    let mut length = 0usize;
    loop {
        let until = end.min(Instant::now() + PAUSE_TIME);
        let Some(frame) = timeout_at(until, body.frame()).await.map_err(late)? else { return Ok(()) };
        let frame = frame.map_err(|_| {
            Problem::new(ProblemCode::BodyIncomplete, "the connection ended before the list was complete")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > MAX_LIST {
            return Err(too_large());
        }
        if chunks.send(data).await.is_err() {
            return Ok(());
        }
    }
}

async fn drain(mut body: Body) {
    let mut drained = 0usize;
    while let Some(Ok(frame)) = body.frame().await {
        drained = drained.saturating_add(frame.into_data().map_or(0, |data| data.len()));
        if drained > MAX_DRAINED {
            return;
        }
    }
}

fn too_large() -> Problem {
    let detail = format!("a list may have {MAX_LIST} bytes, packed and unpacked: import it in parts");
    Problem::new(ProblemCode::BodyTooLarge, detail)
}

impl From<ListFault> for Problem {
    fn from(fault: ListFault) -> Self {
        match fault {
            ListFault::TooLarge => too_large(),
            ListFault::TooMany => {
                let detail =
                    format!("an import may have {MAX_BANS} different blocks: import the list in parts");
                Self::new(ProblemCode::BodyTooLarge, detail)
            }
            ListFault::NotGzip => {
                let detail = "the body is no whole gzip file, as Content-Encoding says";
                Self::new(ProblemCode::NotAList, detail)
            }
            ListFault::NoList(error) => Self::new(ProblemCode::NotAList, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body that sends a chunk again and again, or nothing at all.
    struct Endless(Option<Bytes>);

    impl hyper::body::Body for Endless {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            match &self.0 {
                Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk.clone())))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_refused() {
        for (chunk, code) in [
            (None, ProblemCode::BodyTimeout),
            (Some(Bytes::from(vec![0; 16 << 20])), ProblemCode::BodyTooLarge),
        ] {
            let (chunks, mut from) = mpsc::channel(1);
            let taken = tokio::spawn(async move { while from.recv().await.is_some() {} });
            let refused = send(&mut Body::new(Endless(chunk)), chunks).await.unwrap_err();
            assert_eq!(refused.code(), code);
            taken.await.unwrap();
        }
    }
}
