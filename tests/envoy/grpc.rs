//! gRPC through the gate: calls with one message each way and streams in both directions, to a backend
//! that speaks HTTP/2 without TLS and nothing else; its trailers reach the client.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use anyhow::{Context, Result, bail, ensure};
use axum::extract::Request;
use axum::http::{HeaderMap, Version};
use axum::response::Response;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate_backend::Served;
use tidegate_stack::http::PATIENCE;
use tidegate_stack::ports::local;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A body whose frames are given one by one.
#[derive(Debug)]
struct Frames(UnboundedReceiver<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(task).map(|frame| frame.map(Ok))
    }
}

/// Starts a server that sends back each message as it comes, and at the end the status 0; to
/// `/test.Echo/Fail` it answers at once that there is nothing (5).
///
/// # Errors
/// There is no port.
pub fn start_server() -> Result<Served> {
    let app = axum::Router::new().fallback(answer);
    Served::start(local(0), |listener| async { axum::serve(listener, app).await })
}

async fn answer(request: Request) -> Response {
    let response = Response::builder().header("content-type", "application/grpc");
    let (head, mut body) = request.into_parts();
    let is_grpc =
        head.version == Version::HTTP_2 && head.headers.get("te").is_some_and(|te| te == "trailers");
    if !is_grpc || head.uri.path().ends_with("/Fail") {
        let status = if is_grpc { "5" } else { "13" };
        return response.header("grpc-status", status).body(axum::body::Body::empty()).unwrap_or_default();
    }
    let (frames, echoed) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                let _ = frames.send(Frame::data(data));
            }
        }
        let trailers = HeaderMap::from_iter([
            (axum::http::HeaderName::from_static("grpc-status"), "0".try_into().unwrap()),
            (axum::http::HeaderName::from_static("x-from"), "the backend".try_into().unwrap()),
        ]);
        let _ = frames.send(Frame::trailers(trailers));
    });
    response.body(axum::body::Body::new(Frames(echoed))).unwrap_or_default()
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    sender: SendRequest<Frames>,
}

/// A call that is under way.
struct Call {
    messages: UnboundedSender<Frame<Bytes>>,
    answer: hyper::Response<Incoming>,
    came: BytesMut,
}

impl Client {
    /// Connects, with HTTP/2 from the first byte.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(gate: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let sender = runtime.block_on(async {
            let io = TokioIo::new(tokio::net::TcpStream::connect(gate).await?);
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    /// Sends one message and reads the one of the answer.
    ///
    /// # Errors
    /// The call fails, or ends in another way than with status 0 in trailers.
    pub fn unary(&self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        self.within(async {
            let mut call = self.call(method, "192.0.2.1", Some(message)).await?;
            let answer = call.message().await?;
            call.end().await?;
            Ok(answer)
        })
    }

    /// Sends messages one after the other, each when the one before has come back: the request
    /// has not ended when its answer begins.
    ///
    /// # Errors
    /// As of [`unary`](Self::unary).
    pub fn both_ways(&self, method: &str, messages: &[Vec<u8>]) -> Result<()> {
        self.within(async {
            let mut call = self.call(method, "192.0.2.1", None).await?;
            for message in messages {
                call.messages.send(Frame::data(framed(message)))?;
                let echoed = call.message().await?;
                ensure!(echoed == *message, "{} bytes came back of {}", echoed.len(), message.len());
            }
            call.end().await
        })
    }

    /// The status of a call that is answered without a message.
    ///
    /// # Errors
    /// It is answered in another way.
    pub fn status(&self, method: &str, client: &str) -> Result<String> {
        self.within(async {
            let call = self.call(method, client, Some(b"x")).await?;
            let status = call.answer.headers().get("grpc-status").context("no status in the headers")?;
            Ok(status.to_str()?.to_owned())
        })
    }

    fn within<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        let done = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
        done.with_context(|| format!("not within {PATIENCE:?}"))?
    }

    /// Begins a call; with a message it is the only one.
    async fn call(&self, method: &str, client: &str, only: Option<&[u8]>) -> Result<Call> {
        let (messages, frames) = unbounded_channel();
        let messages = match only {
            Some(message) => {
                // Before the request begins: an answer may come first, and end it.
                messages.send(Frame::data(framed(message)))?;
                // Ends the request.
                drop(messages);
                unbounded_channel().0
            }
            None => messages,
        };
        let request = hyper::Request::post(format!("http://grpc.example{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-forwarded-for", client)
            .body(Frames(frames))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(Call { messages, answer, came: BytesMut::new() })
    }
}

impl Call {
    /// The next message.
    async fn message(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some((mut head, rest)) = self.came.split_at_checked(HEAD) {
                head.advance(1);
                let len = head.get_u32() as usize;
                if let Some(message) = rest.get(..len) {
                    let message = message.to_vec();
                    self.came.advance(HEAD + len);
                    return Ok(message);
                }
            }
            let frame = self.answer.body_mut().frame().await.context("the stream ended")??;
            match frame.into_data() {
                Ok(data) => self.came.extend_from_slice(&data),
                Err(trailers) => bail!("no message, but {trailers:?} after {:?}", self.answer.headers()),
            }
        }
    }

    /// Ends the request, and reads the end of the answer.
    async fn end(self) -> Result<()> {
        let Self { messages, mut answer, came } = self;
        drop(messages);
        ensure!(came.is_empty(), "more than one message");
        let end = answer.body_mut().frame().await.context("no trailers")??;
        let trailers = end.into_trailers().map_err(|frame| anyhow::anyhow!("more data: {frame:?}"))?;
        ensure!(trailers["grpc-status"] == "0" && trailers["x-from"] == "the backend", "{trailers:?}");
        Ok(())
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}
