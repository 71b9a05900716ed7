//! HTTP/2 without TLS (prior knowledge): many requests at once down one connection.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use tidegate_stack::http::{PATIENCE, Request, Response};

/// One connection, kept until dropped.
#[derive(Debug)]
pub struct Connection {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or not for HTTP/2.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let sender = runtime
            .block_on(async {
                let stream = tokio::net::TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let io = TokioIo::new(stream);
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                // Its error comes back from the requests that it broke.
                tokio::spawn(connection);
                anyhow::Ok(sender)
            })
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Self { runtime, sender, address })
    }

    /// Sends all of them at once, each in a stream of its own; their answers come later,
    /// out of [`Streams::finish`].
    ///
    /// # Errors
    /// One of them is no request.
    pub fn send(&self, requests: &[Request]) -> Result<Streams<'_>> {
        let mut open = JoinSet::new();
        for (at, request) in requests.iter().enumerate() {
            let request = request.build_http2(self.address)?;
            let mut sender = self.sender.clone();
            let exchange = async move {
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let (head, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                anyhow::Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
            };
            open.spawn_on(
                async move { (at, tokio::time::timeout(PATIENCE, exchange).await) },
                self.runtime.handle(),
            );
        }
        Ok(Streams { connection: self, open })
    }
}

/// Requests that are under way.
#[derive(Debug)]
pub struct Streams<'c> {
    connection: &'c Connection,
    open: JoinSet<(usize, Result<Result<Response>, tokio::time::error::Elapsed>)>,
}

impl Streams<'_> {
    /// The answers, in the order of the requests.
    ///
    /// # Errors
    /// The connection broke, a stream was reset, or an answer did not come.
    pub fn finish(self) -> Result<Vec<Response>> {
        let done = self.connection.runtime.block_on(self.open.join_all());
        let mut answers = done
            .into_iter()
            .map(|(at, answer)| {
                let answer = answer.with_context(|| format!("no answer within {PATIENCE:?}"))?;
                Ok((at, answer.with_context(|| format!("stream {at}"))?))
            })
            .collect::<Result<Vec<_>>>()?;
        answers.sort_by_key(|(at, _)| *at);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}
