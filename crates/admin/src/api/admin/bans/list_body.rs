//! The body of an import, read as it comes: unpacked, cut into entries and checked on a thread of its
//! own, no further behind than a few chunks.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use tidegate_author::ban_list::{BanListReader, ListFormat};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::check::{CheckedList, MAX_BANS};
use crate::problem::{ApiResult, Problem, ProblemCode};

/// Bytes of a list, at most, packed and unpacked.
pub const MAX_LIST: usize = 256 << 20;
/// How long a list may take to arrive; an answer may take 60 s.
const LIST_TIME: Duration = Duration::from_secs(45);
/// How long there may be nothing.
const PAUSE_TIME: Duration = Duration::from_secs(15);
/// Bytes that are still taken of a body that is refused: a client that writes before it reads would
/// never see the answer otherwise.
const MAX_DRAINED: usize = 8 << 20;
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
        read_chunks(from, is_packed, ListSink::new(reader, list, MAX_LIST))
    });
    let sent = send(&mut body, chunks).await;
    // What was sent before the body broke off is read, and of no use.
    let read = read.await.unwrap_or_else(|_| Err(Problem::stopping()));
    match sent {
        Ok(true) => read,
        // The thread has given up.
        Ok(false) => {
            drain(&mut body).await;
            read
        }
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

/// Sends the body's chunks; false: nobody takes them any more.
async fn send(body: &mut Body, chunks: mpsc::Sender<Bytes>) -> ApiResult<bool> {
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
        let Some(frame) = timeout_at(until, body.frame()).await.map_err(late)? else { return Ok(true) };
        let frame = frame.map_err(|_| {
            Problem::new(ProblemCode::BodyIncomplete, "the connection ended before the list was complete")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > MAX_LIST {
            drain(body).await;
            return Err(too_large());
        }
        if chunks.send(data).await.is_err() {
            return Ok(false);
        }
    }
}

async fn drain(body: &mut Body) {
    let mut drained = 0usize;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            drained = drained.saturating_add(frame.into_data().map_or(0, |data| data.len()));
            if drained > MAX_DRAINED {
                return;
            }
        }
    };
    // Whether it ended or not, the answer is the same.
    let _ = timeout(PAUSE_TIME, all).await;
}

fn too_large() -> Problem {
    let detail = format!("a list may have {MAX_LIST} bytes, packed and unpacked: import it in parts");
    Problem::new(ProblemCode::BodyTooLarge, detail)
}

/// Reads all chunks. Not for the async threads.
fn read_chunks(
    mut chunks: mpsc::Receiver<Bytes>,
    is_packed: bool,
    mut sink: ListSink,
) -> ApiResult<(ListFormat, CheckedList)> {
    if !is_packed {
        while let Some(chunk) = chunks.blocking_recv() {
            sink.push(&chunk)?;
        }
        return sink.finish();
    }
    let mut packed = MultiGzDecoder::new(sink);
    while let Some(chunk) = chunks.blocking_recv() {
        if packed.write_all(&chunk).is_err() {
            return Err(packed.get_mut().refused.take().unwrap_or_else(not_gzip));
        }
    }
    if packed.try_finish().is_err() {
        return Err(packed.get_mut().refused.take().unwrap_or_else(not_gzip));
    }
    match packed.finish() {
        Ok(sink) => sink.finish(),
        Err(_) => Err(not_gzip()),
    }
}

fn not_gzip() -> Problem {
    Problem::new(ProblemCode::NotAList, "the body is no whole gzip file, as Content-Encoding says")
}

/// Takes the unpacked list.
struct ListSink {
    reader: BanListReader,
    list: CheckedList,
    /// Bytes so far, and at most.
    length: usize,
    max: usize,
    /// Why nothing more is taken.
    refused: Option<Problem>,
}

impl ListSink {
    fn new(reader: BanListReader, list: CheckedList, max: usize) -> Self {
        Self { reader, list, length: 0, max, refused: None }
    }

    fn push(&mut self, bytes: &[u8]) -> ApiResult<()> {
        self.length = self.length.saturating_add(bytes.len());
        if self.length > self.max {
            return Err(too_large());
        }
        let list = &mut self.list;
        self.reader.push(bytes, &mut |item| list.take(item)).map_err(|error| no_list(&error))?;
        if self.list.is_too_large() { in_order(&mut self.list) } else { Ok(()) }
    }

    fn finish(mut self) -> ApiResult<(ListFormat, CheckedList)> {
        let list = &mut self.list;
        let format = self.reader.finish(&mut |item| list.take(item)).map_err(|error| no_list(&error))?;
        in_order(&mut self.list)?;
        Ok((format, self.list))
    }
}

/// Brings the bans into their order, each once.
fn in_order(list: &mut CheckedList) -> ApiResult<()> {
    list.sort();
    if list.bans.len() <= MAX_BANS {
        return Ok(());
    }
    let detail = format!("an import may have {MAX_BANS} different blocks: import the list in parts");
    Err(Problem::new(ProblemCode::BodyTooLarge, detail))
}

fn no_list(error: &tidegate_author::ban_list::ListError) -> Problem {
    Problem::new(ProblemCode::NotAList, error.to_string())
}

impl Write for ListSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(problem) => {
                self.refused = Some(problem);
                Err(io::Error::other("refused"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use hyper::body::Frame;

    use super::super::check::ImportRules;
    use super::*;

    fn packed(list: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(list).unwrap();
        packed.finish().unwrap()
    }

    async fn read_packed(body: Vec<u8>, max: usize) -> ApiResult<usize> {
        let (chunks, from) = mpsc::channel(1_000);
        for chunk in body.chunks(100) {
            chunks.send(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        drop(chunks);
        let sink = ListSink::new(BanListReader::new(None, None), CheckedList::new(ImportRules::none()), max);
        let read = tokio::task::spawn_blocking(move || read_chunks(from, true, sink)).await.unwrap();
        read.map(|(_, list)| list.bans.len())
    }

    #[tokio::test]
    async fn a_packed_list_is_unpacked_as_far_as_it_may_be() {
        let list = packed(b"192.0.2.1\n192.0.2.2\n");
        assert_eq!(read_packed(list.clone(), 1_000).await.unwrap(), 2);
        assert_eq!(
            read_packed([list.clone(), list.clone()].concat(), 1_000).await.unwrap(),
            2,
            "two members"
        );
        for broken in [&list[..list.len() - 5], &b"192.0.2.1\n"[..], &[]] {
            let refused = read_packed(broken.to_vec(), 1_000).await.unwrap_err();
            assert_eq!(refused.code(), ProblemCode::NotAList, "{broken:?}");
        }
        // A bomb: two megabytes in two thousand bytes.
        let bomb = packed(&vec![b'1'; 2 << 20]);
        assert!(bomb.len() < 4_000);
        assert_eq!(read_packed(bomb, 1 << 20).await.unwrap_err().code(), ProblemCode::BodyTooLarge);
        let html = packed(b"<html>");
        assert_eq!(read_packed(html, 1_000).await.unwrap_err().code(), ProblemCode::NotAList);
    }

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
