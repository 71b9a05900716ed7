//! One simulated gateway: polls, downloads, acks. What it does when follows the filter
//! (`src/sync/fetch/lease_holder.rs`).

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::Empty;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request, StatusCode};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::formats::{FORMATS_HEADER, formats};
use tidegate_policy::wire::sync::{
    ACK_HEADER, Ack, BlobRef, GATEWAY_HEADER, HELD_HEADER, MAX_PAGE, POLLER_HEADER, Poller, SyncAnswer,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::connection::{Connection, body, length};
use super::progress::{Counts, Progress};
use super::tables::{Misfolded, ReadAnswer, SharedTables, Tables};

/// How long the service may hold a poll open.
const WAIT: Duration = Duration::from_secs(10);
/// What a poll's time limit adds to that.
const GRACE: Duration = Duration::from_secs(3);
/// The time limit of calls that are answered at once.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The least time between the beginnings of two polls, if the first had no news.
const POLL_GAP: Duration = Duration::from_millis(50);
/// VMs that each claims to have: workers of an Envoy on two processors.
const WORKERS: u32 = 2;

/// What all gateways use.
pub struct Common {
    feed: SocketAddr,
    bearer: String,
    formats: String,
    progress: Arc<Progress>,
    tables: SharedTables,
}

impl Common {
    /// For gateways that follow `feed` with this token.
    pub fn new(feed: SocketAddr, token: &str, progress: Arc<Progress>) -> Self {
        let bearer = format!("Bearer {token}");
        Self { feed, bearer, formats: formats(), progress, tables: SharedTables::default() }
    }
}

/// One gateway.
pub struct Gateway {
    number: u32,
    shared: Rc<Common>,
    name: String,
    polls: Connection,
    held: Option<Rc<Tables>>,
    acks: Rc<Acks>,
    backoff: Backoff,
}

/// What its other task acks.
#[derive(Default)]
struct Acks {
    current: Cell<Ack>,
    is_wanted: Notify,
}

impl Gateway {
    /// The gateway of this number.
    pub fn new(number: u32, shared: Rc<Common>) -> Self {
        let name = format!("simulated-{number:05};{:016x}", fastrand::u64(1..));
        let polls = Connection::new(shared.feed, address(number));
        let (acks, backoff) = (Rc::default(), Backoff::default());
        Self { number, shared, name, polls, held: None, acks, backoff }
    }

    /// Follows the feed for ever.
    pub async fn run(mut self) {
        tokio::task::spawn_local(ack(
            self.shared.clone(),
            self.name.clone(),
            self.acks.clone(),
            Connection::new(self.shared.feed, address(self.number)),
        ));
        loop {
            let began = Instant::now();
            match self.poll().await {
                Ok(is_news) => {
                    self.backoff.worked();
                    if !is_news {
                        sleep_until(began + POLL_GAP).await;
                    }
                }
                Err(_) => {
                    Counts::count(&self.shared.progress.counts().failures);
                    sleep(self.backoff.failed()).await;
                }
            }
        }
    }

    /// Polls once; whether there was news.
    async fn poll(&mut self) -> Result<bool> {
        let wait = WAIT.as_secs();
        let path = match &self.held {
            Some(held) => format!("/api/data-plane/v1/sync?since={}&wait={wait}s", held.version),
            None => format!("/api/data-plane/v1/sync?wait={wait}s"),
        };
        let poller = Poller { lease: 1, recorder: true, clock_ms: clock_ms() };
        let held = self.held.as_ref().map(|held| held.held().to_string()).unwrap_or_default();
        let mut headers = vec![
            (FORMATS_HEADER, self.shared.formats.clone()),
            (ACK_HEADER, self.acks.current.get().to_string()),
            (POLLER_HEADER, poller.to_string()),
        ];
        if !held.is_empty() {
            headers.push((HELD_HEADER, held));
        }
        let request = request(&self.shared, &self.name, Method::GET, &path, &headers)?;
        let progress = self.shared.progress.clone();
        let answer = self.polls.send(request, WAIT + GRACE, &progress).await?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => Ok(false),
            StatusCode::OK => {
                let bytes = body(answer, MAX_PAGE, progress.counts()).await?;
                Counts::count(&progress.counts().answers);
                let is_news = match self.shared.tables.read(&bytes) {
                    Ok(answer) => self.apply(&answer).await,
                    Err(error) => Err(error),
                };
                // What was not sent is asked for again. After a wrong answer the next poll asks for everything.
                if is_news.as_ref().is_err_and(|error| !error.is::<NoPage>()) {
                    Counts::count(&progress.counts().bad_answers);
                    self.held = None;
                }
                is_news
            }
            status => anyhow::bail!("a poll was answered with {status}"),
        }
    }

    /// Enforces what the answer says; whether that is anything new.
    async fn apply(&mut self, read: &ReadAnswer) -> Result<bool> {
        let answer = &read.answer;
        if self.held.as_ref().is_some_and(|held| held.refresh < answer.refresh) {
            self.held = None;
            return Ok(true);
        }
        let is_news = !answer.whole.is_empty()
            || answer.bans.is_some()
            || self.held.as_ref().is_none_or(|held| held.version != answer.version);
        if is_news {
            let tables = self.applied(read).await?;
            self.shared.progress.enforces(self.number, tables.version, tables.bans());
            let (version, refresh) = (tables.version, tables.refresh);
            self.acks.current.set(Ack { version, refresh, live: WORKERS, stale: 0 });
            self.held = Some(tables);
        }
        if answer.ack_wanted {
            self.acks.is_wanted.notify_one();
        }
        Ok(is_news)
    }

    /// The tables with `read` applied. Each gateway downloads what it lacks; the first of those that are at the same
    /// also works the result out.
    async fn applied(&mut self, read: &ReadAnswer) -> Result<Rc<Tables>> {
        let held = self.held.clone();
        let shared = self.shared.tables.of(held.as_ref(), read);
        let lacking = Tables::lacking(&read.answer, held.as_deref());
        let is_first = !shared.is_claimed.replace(true);
        if !is_first {
            for blob in &lacking {
                self.download(blob, false).await?;
            }
        }
        let tables = shared.tables.get_or_try_init(|| self.work_out(&read.answer, held.as_deref(), &lacking));
        Ok(tables.await?.clone())
    }

    async fn work_out(
        &mut self,
        answer: &SyncAnswer,
        held: Option<&Tables>,
        lacking: &[BlobRef],
    ) -> Result<Rc<Tables>> {
        let base = answer.bans.as_ref().map(|bans| bans.base);
        let mut bytes = None;
        for blob in lacking {
            let downloaded = self.download(blob, true).await?;
            if base.is_some_and(|base| base.hash == blob.hash) {
                bytes = Some(downloaded);
            }
        }
        match Tables::apply(answer, held, bytes.as_ref()) {
            Err(error) if error.is::<Misfolded>() => {
                Counts::count(&self.shared.progress.counts().misfolds);
                let base = self.download(&base.context("no bans")?, true).await?;
                Ok(Rc::new(Tables::apply(answer, held, Some(&base))?))
            }
            applied => Ok(Rc::new(applied?)),
        }
    }

    /// Downloads a table in pages. Returns its bytes, with their hash checked, if they are to be kept; of the others,
    /// whose processor time would be taken from the service, only the length is checked.
    async fn download(&mut self, blob: &BlobRef, keep: bool) -> Result<Bytes> {
        let progress = self.shared.progress.clone();
        let (mut kept, mut offset) = (BytesMut::new(), 0);
        while offset < blob.len {
            let page = self.page(blob, offset, keep).await.map_err(NoPage)?;
            offset += page.0;
            kept.extend_from_slice(&page.1);
        }
        ensure!(offset == blob.len && (!keep || BlobHash::of(&kept) == blob.hash), "a table of other bytes");
        Counts::count(&progress.counts().downloads);
        Ok(kept.freeze())
    }

    /// A page from `offset` on: its length, and its bytes if they are to be kept.
    async fn page(&mut self, blob: &BlobRef, offset: u64, keep: bool) -> Result<(u64, Bytes)> {
        let progress = self.shared.progress.clone();
        let path = format!("/api/data-plane/v1/sync/blob/{}?offset={offset}", blob.hash);
        let request = request(&self.shared, &self.name, Method::GET, &path, &[])?;
        let page = async {
            let answer = self.polls.send(request, TIMEOUT, &progress).await?;
            ensure!(answer.status() == StatusCode::OK, "a page was answered with {}", answer.status());
            if keep {
                let page = body(answer, MAX_PAGE, progress.counts()).await?;
                return Ok((page.len() as u64, page));
            }
            Ok((length(answer, progress.counts()).await?, Bytes::new()))
        };
        let page = tokio::time::timeout(TIMEOUT, page).await;
        if !matches!(page, Ok(Ok(_))) {
            // A rest of the page may be on its way.
            self.polls.close();
        }
        let page = page??;
        ensure!(page.0 > 0, "an empty page");
        Ok(page)
    }
}

/// A page of a table did not come, or not in time.
#[derive(Debug)]
struct NoPage(anyhow::Error);

impl std::fmt::Display for NoPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a page of a table did not come: {}", self.0)
    }
}

impl std::error::Error for NoPage {}

/// Posts the ack whenever it is wanted, on a connection of its own: the other one has the poll.
async fn ack(shared: Rc<Common>, name: String, acks: Rc<Acks>, mut connection: Connection) {
    let mut backoff = Backoff::default();
    loop {
        acks.is_wanted.notified().await;
        while let Err(_refused) = post_ack(&shared, &name, &acks, &mut connection).await {
            Counts::count(&shared.progress.counts().failures);
            sleep(backoff.failed()).await;
        }
        backoff.worked();
    }
}

async fn post_ack(shared: &Common, name: &str, acks: &Acks, connection: &mut Connection) -> Result<()> {
    let headers = [(ACK_HEADER, acks.current.get().to_string())];
    let request = request(shared, name, Method::POST, "/api/data-plane/v1/sync/ack", &headers)?;
    let answer = connection.send(request, TIMEOUT, &shared.progress).await?;
    ensure!(answer.status() == StatusCode::NO_CONTENT, "an ack was answered with {}", answer.status());
    body(answer, 0, shared.progress.counts()).await?;
    Counts::count(&shared.progress.counts().acks);
    Ok(())
}

fn request(
    shared: &Common,
    gateway: &str,
    method: Method,
    path: &str,
    headers: &[(&str, String)],
) -> Result<Request<Empty<Bytes>>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, shared.feed.to_string())
        .header(AUTHORIZATION, &shared.bearer)
        .header(GATEWAY_HEADER, gateway);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    Ok(request.body(Empty::new())?)
}

/// An address of loopback for each gateway.
fn address(number: u32) -> Ipv4Addr {
    // 127.1.0.0 and on: none of them is 127.0.0.1.
    Ipv4Addr::from_bits(0x7f01_0000 | (number & 0xffff))
}

/// Milliseconds since the Unix epoch.
fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
