//! The admin service over HTTP/2, as the gates see it, made of frames: what it is asked it
//! asks the real one and passes the answer on, or gives a wrong answer in its place.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tidegate_backend::Served;
use tidegate_policy::wire::sync::TIME_HEADER;
use tidegate_stack::ports::{Ports, local};
use tidegate_stack::render::{at, named};
use tidegate_stack::{Control, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::hpack::{Decoder, literal};
use super::kinds::{Kind, Step};

const MAX_FRAME: usize = 16_384;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// Of [`DATA`] and [`HEADERS`].
pub const END_STREAM: u8 = 1;
/// Of [`SETTINGS`] and [`PING`].
const ACK: u8 = 1;
/// Of [`HEADERS`] and [`CONTINUATION`].
pub const END_HEADERS: u8 = 4;
const PRIORITY: u8 = 0x20;

/// What a gate asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// About a request.
    Check,
    /// To store an event that a response waits for.
    Open,
    /// To store batches of events.
    Events,
    /// For tables.
    Poll,
    /// For a page of a table.
    Page,
    /// To take an ack.
    Ack,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/api/data-plane/v1/")? {
            path if path.starts_with("check/") => Self::Check,
            "events?sync=1" => Self::Open,
            "events" => Self::Events,
            "sync/ack" => Self::Ack,
            path if path.starts_with("sync/blob/") => Self::Page,
            _ => Self::Poll,
        })
    }
}

/// Which calls are answered wrongly, and how.
#[derive(Clone, Copy)]
struct Wrong {
    calls: &'static [Call],
    kind: Kind,
}

/// Of questions and open events one in so many of each kind: after some wrong answers in a row a
/// gate asks no more.
const ONE_IN: u64 = 3;

/// The service, ended when the last handle is dropped.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    served: Served,
}

struct Shared {
    /// The real one.
    to: OnceLock<SocketAddr>,
    wrong: watch::Sender<Option<Wrong>>,
    /// Questions and open events, each kind by itself.
    asked: [AtomicU64; 4],
    /// Wrong answers.
    given: AtomicU64,
}

impl Shared {
    /// How many questions there were of this kind, or open events.
    fn asked_like(&self, path: &str) -> &AtomicU64 {
        let [ip, geo, route, open] = &self.asked;
        match path.rsplit('/').next() {
            Some("ip") => ip,
            Some("geo") => geo,
            Some("route") => route,
            _ => open,
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Service").field(&self.0.served.address()).finish()
    }
}

impl Service {
    /// Starts it on a free port; a stack with it among its options tells it where the real one
    /// is.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start() -> Result<Self> {
        let (to, wrong) = (OnceLock::new(), watch::Sender::new(None));
        let shared = Arc::new(Shared { to, wrong, asked: Default::default(), given: AtomicU64::new(0) });
        let accepting = Arc::clone(&shared);
        let served = Served::start(local(0), |listener| accept(listener, accepting))?;
        Ok(Self(Arc::new(Inner { shared, served })))
    }

    /// From now on these calls are answered wrongly, also those that wait for an answer; of
    /// questions and open events one in three.
    pub fn answer_wrongly(&self, calls: &'static [Call], kind: Kind) {
        self.0.shared.wrong.send_replace(Some(Wrong { calls, kind }));
    }

    /// How many were answered wrongly since the last right answers.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.0.shared.given.load(Ordering::Relaxed)
    }

    /// From now on all are answered rightly. Returns how many were not, since the last time.
    pub fn answer_rightly(&self) -> u64 {
        self.0.shared.wrong.send_replace(None);
        self.0.shared.given.swap(0, Ordering::Relaxed)
    }
}

impl Control for Service {
    /// As the options say, with this between the gate and the service.
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let _ = self.0.shared.to.set(local(ports.gateways));
        let mut config = options.envoy_config(ports)?;
        let cluster = named(at(&mut config, "/static_resources/clusters")?, "tidegate-admin")?;
        let socket = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
        *at(cluster, socket)? = self.0.served.address().port().into();
        Ok(config)
    }
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of header fields in as many frames as it needs.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let (first, rest) = block.split_at(block.len().min(MAX_FRAME));
    let chunks = rest.chunks(MAX_FRAME);
    let last = chunks.len();
    let end = |at| if at == last { END_HEADERS } else { 0 };
    let more = chunks.enumerate().flat_map(|(at, chunk)| frame(CONTINUATION, end(at + 1), stream, chunk));
    frame(HEADERS, flags | end(0), stream, first).into_iter().chain(more).collect()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // How it ends is for the gate to see.
        let shared = Arc::clone(&shared);
        connections.spawn(async move { serve(stream, shared).await });
    }
}

/// What a request has said so far.
#[derive(Default)]
struct Asked {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Result<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        Ok(&found.with_context(|| format!("no {name}"))?.1)
    }
}

type Writer = Arc<Mutex<OwnedWriteHalf>>;

async fn send(writer: &Writer, bytes: &[u8]) -> Result<()> {
    Ok(writer.lock().await.write_all(bytes).await?)
}

/// One connection. It is closed when this ends.
async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    reader.read_exact(&mut [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await?;
    // So much may each stream have under way; the whole connection is told as it goes.
    let initial_window_size = [&[0, 4][..], &(16u32 << 20).to_be_bytes()].concat();
    send(&writer, &frame(SETTINGS, 0, 0, &initial_window_size)).await?;
    let (mut decoder, mut asked) = (Decoder::new(), HashMap::<u32, Asked>::new());
    let (close, mut closed) = mpsc::channel::<()>(1);
    let (mut calls, mut running) = (JoinSet::new(), HashMap::<u32, AbortHandle>::new());
    loop {
        let (kind, flags, stream, payload) = tokio::select! {
            frame = read_frame(&mut reader) => frame?,
            _ = closed.recv() => return Ok(()),
        };
        while calls.try_join_next().is_some() {}
        match kind {
            HEADERS => {
                ensure!(flags & END_HEADERS != 0, "more headers than a gate sends");
                let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
                let block = payload.get(priority..).context("a short frame")?;
                let headers = decoder.decode(block).context("unreadable headers")?;
                asked.insert(stream, Asked { headers, body: Vec::new() });
            }
            DATA => {
                asked.entry(stream).or_default().body.extend_from_slice(&payload);
                let more = u32::try_from(payload.len())?;
                if more > 0 {
                    send(&writer, &frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes())).await?;
                }
            }
            RST_STREAM => {
                asked.remove(&stream);
                if let Some(call) = running.remove(&stream) {
                    call.abort();
                }
            }
            SETTINGS if flags & ACK == 0 => send(&writer, &frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => send(&writer, &frame(PING, ACK, 0, &payload)).await?,
            _ => {}
        }
        if matches!(kind, DATA | HEADERS)
            && flags & END_STREAM != 0
            && let Some(asked) = asked.remove(&stream)
        {
            let (shared, writer, close) = (Arc::clone(&shared), Arc::clone(&writer), close.clone());
            let call = calls.spawn(async move { answer(&shared, stream, &asked, &writer, &close).await });
            running.insert(stream, call);
        }
    }
}

async fn read_frame(reader: &mut OwnedReadHalf) -> Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await?;
    let [l0, l1, l2, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
    reader.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}

/// Answers one call, as the real service does or wrongly.
async fn answer(
    shared: &Shared,
    stream: u32,
    asked: &Asked,
    writer: &Writer,
    close: &mpsc::Sender<()>,
) -> Result<()> {
    let call = Call::of(asked.header(":path")?).context("a call of no gate")?;
    let mut wrong = shared.wrong.subscribe();
    let is_spared = matches!(call, Call::Check | Call::Open)
        && !shared.asked_like(asked.header(":path")?).fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_IN);
    let applies =
        |wrong: &Option<Wrong>| !is_spared && wrong.is_some_and(|wrong| wrong.calls.contains(&call));
    let was_wrong = applies(&wrong.borrow_and_update());
    let begins = async { wrong.wait_for(applies).await.ok().and_then(|wrong| *wrong) };
    let kind = tokio::select! {
        biased;
        wrong = begins => wrong.context("nothing is wrong")?.kind,
        answer = pass(shared, asked) => {
            let answer = answer.unwrap_or_else(|_| Answer { status: 503, time: None, body: Bytes::new() });
            return send(writer, &whole(stream, &answer)).await;
        }
    };
    let number = shared.given.fetch_add(1, Ordering::Relaxed);
    // Every other one is heard all the same, and only its answer is wrong.
    if was_wrong && call != Call::Poll && number % 2 == 1 {
        let _ = pass(shared, asked).await;
    }
    for step in (kind.steps)(stream, number) {
        match step {
            Step::Send(bytes) => send(writer, &bytes).await?,
            Step::Wait(time) => tokio::time::sleep(time).await,
            Step::Close => {
                close.send(()).await?;
                std::future::pending::<()>().await;
            }
        }
    }
    Ok(())
}

/// A right answer.
struct Answer {
    status: u16,
    /// The header by which a gate knows the service.
    time: Option<Vec<u8>>,
    body: Bytes,
}

fn whole(stream: u32, Answer { status, time, body }: &Answer) -> Vec<u8> {
    let fields = [
        literal(b":status", status.to_string().as_bytes()),
        literal(b"content-length", body.len().to_string().as_bytes()),
        time.as_ref().map(|time| literal(TIME_HEADER.as_bytes(), time)).unwrap_or_default(),
    ];
    let end = if body.is_empty() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, END_HEADERS | end, stream, &fields.concat());
    let mut left = &body[..];
    while let Some((chunk, rest)) =
        left.split_at_checked(left.len().min(MAX_FRAME)).filter(|_| !left.is_empty())
    {
        left = rest;
        bytes.extend(frame(DATA, if rest.is_empty() { END_STREAM } else { 0 }, stream, chunk));
    }
    bytes
}

/// What the real service answers, over HTTP/1.1.
async fn pass(shared: &Shared, asked: &Asked) -> Result<Answer> {
    let mut request = hyper::Request::builder().method(asked.header(":method")?).uri(asked.header(":path")?);
    for (name, value) in asked.headers.iter().filter(|(name, _)| !name.starts_with(':')) {
        request = request.header(name, value);
    }
    let request = request.header("host", asked.header(":authority")?);
    let to = shared.to.get().context("no stack said where the service is")?;
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // With this call the connection ends, also when the gate gives it up.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let (head, body) =
        sender.send_request(request.body(Full::new(Bytes::from(asked.body.clone())))?).await?.into_parts();
    let time = head.headers.get(TIME_HEADER).map(|time| time.as_bytes().to_vec());
    Ok(Answer { status: head.status.as_u16(), time, body: body.collect().await?.to_bytes() })
}
