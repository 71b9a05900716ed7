//! A connection of a gateway to the feed, opened when it is needed and kept.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

use super::progress::{Counts, Progress};

/// An HTTP/1.1 connection, or none yet.
pub struct Connection {
    feed: SocketAddr,
    /// The address that it comes from: as with real gateways, not all from one.
    from: Ipv4Addr,
    open: Option<SendRequest<Empty<Bytes>>>,
}

impl Connection {
    /// One that is opened by the first request.
    pub fn new(feed: SocketAddr, from: Ipv4Addr) -> Self {
        Self { feed, from, open: None }
    }

    /// Sends a request, and returns the head of its answer within `limit`. After an error the next request opens
    /// another connection.
    ///
    /// # Errors
    /// It cannot be opened, breaks, or the time is over.
    pub async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
        limit: Duration,
        progress: &Progress,
    ) -> Result<Response<Incoming>> {
        let answer = tokio::time::timeout(limit, self.try_send(request, progress)).await;
        let answer = answer.context("no answer in time").flatten();
        if answer.is_err() {
            self.open = None;
        }
        answer
    }

    /// Closes it; the next request opens another one.
    pub fn close(&mut self) {
        self.open = None;
    }

    async fn try_send(
        &mut self,
        request: Request<Empty<Bytes>>,
        progress: &Progress,
    ) -> Result<Response<Incoming>> {
        let mut open = self.open.take();
        if let Some(sender) = &mut open
            && sender.ready().await.is_err()
        {
            open = None;
        }
        let sender = match open {
            Some(sender) => sender,
            None => self.connect(progress).await?,
        };
        Ok(self.open.insert(sender).send_request(request).await?)
    }

    async fn connect(&self, progress: &Progress) -> Result<SendRequest<Empty<Bytes>>> {
        progress.connected();
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let stream = socket.connect(self.feed).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// The body of an answer, of `limit` bytes at most.
///
/// # Errors
/// It breaks off, or is longer.
pub async fn body(answer: Response<Incoming>, limit: usize, counts: &Counts) -> Result<Bytes> {
    let mut body = answer.into_body();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        counts.bytes.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
        ensure!(whole.len() + piece.len() <= limit, "an answer of over {limit} bytes");
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The length of the body of an answer.
///
/// # Errors
/// It breaks off.
pub async fn length(answer: Response<Incoming>, counts: &Counts) -> Result<u64> {
    let (mut body, mut length) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        counts.bytes.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
        length += piece.len() as u64;
    }
    Ok(length)
}
