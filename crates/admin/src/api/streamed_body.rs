//! Bodies that are made while they are sent, no further ahead of who reads them than a chunk or two.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A reader that takes no chunk for this long is given up.
const READER_TIME: Duration = Duration::from_secs(60);

/// Bytes that are read from a source at a time.
const CHUNK: usize = 256 << 10;

/// A body that comes chunk by chunk.
pub struct StreamedBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    is_given_up: Arc<AtomicBool>,
}

/// Where the chunks of a body go; dropping it ends the body.
pub struct Chunks {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    /// Whether the reader took nothing for too long: then the body must not end as if it were whole.
    is_given_up: Arc<AtomicBool>,
}

impl StreamedBody {
    /// A body, and where its chunks go.
    pub fn new() -> (Chunks, Self) {
        let (sender, chunks) = mpsc::channel(1);
        let is_given_up = Arc::new(AtomicBool::new(false));
        (Chunks { chunks: sender, is_given_up: Arc::clone(&is_given_up) }, Self { chunks, is_given_up })
    }

    /// What `source` has, read on a thread of its own. `on_read` is told how many bytes were read.
    pub fn of(
        mut source: impl Read + Send + 'static,
        mut on_read: impl FnMut(usize) + Send + 'static,
    ) -> Self {
        let (chunks, body) = Self::new();
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let read = source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
                let is_last = !matches!(read, Ok(1..));
                on_read(chunk.len());
                if matches!(read, Ok(0)) || !chunks.blocking_send(read.map(|_| chunk.into())) || is_last {
                    return;
                }
            }
        });
        body
    }
}

impl Chunks {
    /// Sends a chunk, or breaks the body off with an error; waits for the reader. Returns whether to go on.
    pub async fn send(&self, chunk: io::Result<Bytes>) -> bool {
        let sent = tokio::time::timeout(READER_TIME, self.chunks.send(chunk)).await;
        self.is_given_up.fetch_or(sent.is_err(), Ordering::Relaxed);
        matches!(sent, Ok(Ok(())))
    }

    /// The same on a blocking thread of the runtime.
    pub fn blocking_send(&self, chunk: io::Result<Bytes>) -> bool {
        Handle::current().block_on(self.send(chunk))
    }

    /// Returns when the reader is gone.
    pub async fn closed(&self) {
        self.chunks.closed().await;
    }
}

impl hyper::body::Body for StreamedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.chunks.poll_recv(cx).map(|chunk| match chunk {
            None if self.is_given_up.swap(false, Ordering::Relaxed) => {
                Some(Err(io::ErrorKind::TimedOut.into()))
            }
            chunk => chunk.map(|chunk| chunk.map(Frame::data)),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_on_a_blocking_thread_too() {
        let (chunks, mut body) = StreamedBody::new();
        let chunk = || Ok(Bytes::from_static(b"x"));
        let sender = tokio::task::spawn_blocking(move || {
            assert!(chunks.blocking_send(chunk()), "there is room for one");
            chunks.blocking_send(chunk())
        });
        while !sender.is_finished() {
            tokio::time::advance(READER_TIME).await;
            tokio::task::yield_now().await;
        }
        assert!(!sender.await.unwrap());
        // One that comes back after all sees that this is not everything.
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
