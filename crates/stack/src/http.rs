//! A small blocking HTTP/1.1 client for tests and probes: a connection is an
//! object (fresh, or kept for many requests), header values are any bytes, and
//! what no client library would send goes out through [`raw`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

pub use hyper::Method;

/// How long an answer may take before the request counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A request to send, once or many times.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    /// A request without body.
    #[must_use]
    pub fn new(method: Method, target: &str) -> Self {
        Self { method, target: target.to_owned(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// GET.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new(Method::GET, target)
    }

    /// Adds a header; the value may be any bytes that HTTP lets through.
    ///
    /// # Panics
    /// Name or value cannot be in a request at all.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let value = HeaderValue::from_bytes(value.as_ref()).expect("a header value");
        self.headers.append(name, value);
        self
    }

    /// As if it came from this address: the gate believes loopback's word.
    #[must_use]
    pub fn from(self, client: &str) -> Self {
        self.header("x-forwarded-for", client)
    }

    /// With a bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// With a body as it is.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header(CONTENT_TYPE.as_str(), content_type)
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(self, body: &serde_json::Value) -> Self {
        self.body("application/json", body.to_string())
    }

    /// As HTTP/2 has it: whom it is for, `host` or else the address, stands in the target, and not in
    /// a header.
    ///
    /// # Errors
    /// The target is none.
    pub fn build_http2(&self, address: SocketAddr) -> Result<hyper::Request<Full<Bytes>>> {
        let mut headers = self.headers.clone();
        let host = match headers.remove(HOST) {
            Some(host) => host.to_str()?.to_owned(),
            None => address.to_string(),
        };
        let mut request = hyper::Request::builder()
            .method(self.method.clone())
            .uri(format!("http://{host}{}", self.target))
            .body(Full::new(self.body.clone()))
            .with_context(|| format!("not a request target: {}", self.target))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// As HTTP/1.1 has it.
    ///
    /// # Errors
    /// The target is none.
    pub fn build(&self, address: SocketAddr) -> Result<hyper::Request<Full<Bytes>>> {
        let mut request = hyper::Request::builder()
            .method(self.method.clone())
            .uri(&self.target)
            .body(Full::new(self.body.clone()))
            .with_context(|| format!("not a request target: {}", self.target))?;
        request.headers_mut().clone_from(&self.headers);
        if !self.headers.contains_key(HOST) {
            request.headers_mut().insert(HOST, HeaderValue::try_from(address.to_string())?);
        }
        Ok(request)
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Response {
    /// The body as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is something else; the message has it, with the status.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, a body that is not JSON: {}", self.status, self.text()))
    }

    /// A header's value, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the server closes the connection after this answer.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.header(CONNECTION.as_str()).is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// One TCP connection that is kept until dropped: to one worker of an Envoy, so
/// that a test can ask each worker by itself.
#[derive(Debug)]
pub struct Connection {
    // Each its own runtime of the calling thread: nothing runs between two calls.
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime
            .block_on(async {
                let stream = tokio::net::TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                // Its error comes back from the request that it broke.
                tokio::spawn(connection);
                anyhow::Ok(sender)
            })
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Self { runtime, sender, address })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke, or no complete answer came within [`PATIENCE`].
    pub fn send(&mut self, request: &Request) -> Result<Response> {
        let built = request.build(self.address)?;
        let sender = &mut self.sender;
        let exchange = async {
            sender.ready().await?;
            let answer = sender.send_request(built).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
        };
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, exchange).await })
            .with_context(|| format!("no answer within {PATIENCE:?}"))
            .and_then(|answer| answer)
            .with_context(|| format!("{} http://{}{}", request.method, self.address, request.target))
    }
}

/// Sends a request on a connection of its own.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::send`].
pub fn send(address: SocketAddr, request: &Request) -> Result<Response> {
    Connection::open(address)?.send(request)
}

/// Writes `bytes` as they are and reads until the server closes, or has been
/// silent for `quiet`, or `limit` bytes came.
///
/// # Errors
/// Nobody listens there. A connection that the server resets is an end like any other.
pub fn raw(address: SocketAddr, bytes: &[u8], quiet: Duration, limit: usize) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // The server may refuse, and close, before all was written.
    let _ = stream.write_all(bytes);
    stream.set_read_timeout(Some(quiet))?;
    let end = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while answer.len() < limit && Instant::now() < end {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(answer)
}

/// The status of an answer that [`raw`] read.
///
/// # Errors
/// It does not begin with an HTTP/1 status line.
pub fn raw_status(answer: &[u8]) -> Result<u16> {
    let line = String::from_utf8_lossy(answer);
    let line = line.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") => Ok(status.parse()?),
        _ => bail!("not a status line: {line:?}"),
    }
}
