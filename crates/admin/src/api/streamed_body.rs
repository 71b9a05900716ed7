//! Bodies that are made while they are sent, no further ahead of who reads them than a chunk or two.

use std::io::{self, Read};
use std::pin::Pin;
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
pub struct StreamedBody(mpsc::Receiver<io::Result<Bytes>>);

/// Where the chunks of a body go; dropping it ends the body.
pub struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl StreamedBody {
    /// A body, and where its chunks go.
    pub fn new() -> (Chunks, Self) {
        let (chunks, body) = mpsc::channel(1);
        (Chunks(chunks), Self(body))
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
        matches!(tokio::time::timeout(READER_TIME, self.0.send(chunk)).await, Ok(Ok(())))
    }

    /// The same on a blocking thread of the runtime.
    pub fn blocking_send(&self, chunk: io::Result<Bytes>) -> bool {
        Handle::current().block_on(self.send(chunk))
    }

    /// Returns when the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl hyper::body::Body for StreamedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_on_a_blocking_thread_too() {
        let (chunks, body) = StreamedBody::new();
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
        drop(body);
    }
}
