//! A load in a closed loop: a number of connections, each of which sends its next request when the last one is
//! answered. Bounded in number and time.
//!
//! No crate does this for less than it brings. oha's library is its command line: options without a constructor, and a
//! result that is printed. rlt draws on a terminal, which cannot be left out. Both would add 70 crates to the program;
//! goose is a framework with users and scenarios. The loop is all that is needed here: hyper speaks HTTP, and
//! hdrhistogram keeps the times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::client::conn::http1::SendRequest;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::connect;
use super::gate_times;
use super::result::{BenchResult, ErrorKind, ErrorsOfKind};
use super::times::Times;
use super::url_under_load::UrlUnderLoad;
use crate::cli::api_client::innermost;
use crate::time;

/// The body of these requests.
pub type Body = Empty<Bytes>;

/// How many requests, how many at once, and for how long.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct LoadArgs {
    /// Requests in all, up to 1,000,000.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    requests: u64,
    /// Connections, up to 1,000: each sends its next request when the last one is answered.
    #[arg(short = 'c', long, value_name = "COUNT", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=1_000))]
    connections: u64,
    /// No request begins later than this after the first one, up to 1h.
    #[arg(long = "for", value_name = "SPAN", default_value = "60s", value_parser = longest)]
    longest: Duration,
}

/// How long a load may begin requests.
pub fn longest(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(3_600);
    time::parse_duration(text)
        .filter(|span| range.contains(span))
        .ok_or_else(|| format!("from 1ms to 1h; {}", time::DURATION_FORM))
}

impl LoadArgs {
    /// So many requests over so many connections, for at most this long.
    pub fn new(requests: u64, connections: u64, longest: Duration) -> Self {
        Self { requests, connections, longest }
    }

    /// So many requests, one after the other, for at most this long.
    pub fn in_turn(requests: u64, longest: Duration) -> Self {
        Self::new(requests, 1, longest)
    }
}

/// A load that can be sent.
pub struct Load {
    to: Arc<UrlUnderLoad>,
    args: LoadArgs,
}

/// Why a request has no complete answer.
#[derive(Debug)]
pub struct Failure {
    kind: ErrorKind,
    why: String,
}

impl Failure {
    /// Of this kind, in words.
    pub fn new(kind: ErrorKind, why: String) -> Self {
        Self { kind, why }
    }

    /// The connection broke, or what came is not HTTP.
    pub fn broken(error: &hyper::Error) -> Self {
        Self::new(ErrorKind::Broken, innermost(error))
    }
}

/// What became of the requests of one connection, or of all.
pub struct Tally {
    begun: u64,
    status: BTreeMap<u16, u64>,
    errors: BTreeMap<ErrorKind, ErrorsOfKind>,
    bytes: u64,
    times: Times,
    gate: BTreeMap<String, Times>,
}

/// A complete answer.
struct Answer {
    status: StatusCode,
    headers: hyper::HeaderMap,
    bytes: u64,
}

impl Load {
    /// Sends nothing yet.
    pub fn new(to: UrlUnderLoad, args: LoadArgs) -> Self {
        Self { to: Arc::new(to), args }
    }

    /// What is put under load.
    pub fn url(&self) -> &UrlUnderLoad {
        &self.to
    }

    /// Sends it.
    ///
    /// # Errors
    /// Only for errors of this program: failed requests are counted.
    pub async fn run(&self) -> anyhow::Result<BenchResult> {
        let connections = self.args.connections.min(self.args.requests);
        let (at, began, used) = (time::now(), Instant::now(), thread_time());
        let numbers = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let (to, numbers, args) = (Arc::clone(&self.to), Arc::clone(&numbers), self.args);
            workers.spawn(async move {
                let is_more = || {
                    began.elapsed() < args.longest && numbers.fetch_add(1, Ordering::Relaxed) < args.requests
                };
                one_connection(&to, is_more).await
            });
        }
        let mut all = Tally::new();
        while let Some(ended) = workers.join_next().await {
            all.add_all(ended.context("a connection's task failed")?);
        }
        let took = began.elapsed();
        let busy = thread_time().zip(used).map(|(now, before)| now.saturating_sub(before));
        Ok(BenchResult {
            url: self.to.url.to_string(),
            host: self.to.host.clone(),
            began: time::rfc3339(time::to_the_millisecond(at)),
            seconds: took.as_secs_f64(),
            connections,
            requests: all.begun,
            stopped_by_time: all.begun < self.args.requests,
            errors: all.errors,
            status: all.status,
            bytes: all.bytes,
            latency: all.times,
            gate: all.gate,
            load_cpu: busy.map(|busy| (busy.as_secs_f64() / took.as_secs_f64().max(1e-9)).min(1.0)),
            ..BenchResult::default()
        }
        .with_derived())
    }
}

/// One connection's requests, as long as there `is_more`. A broken connection is replaced.
async fn one_connection(to: &UrlUnderLoad, is_more: impl Fn() -> bool) -> Tally {
    let (mut tally, mut kept) = (Tally::new(), None);
    while is_more() {
        tally.begun += 1;
        let began = Instant::now();
        match timeout(to.timeout, ask(to, &mut kept)).await {
            Ok(Ok(answer)) => tally.answered(&answer, began.elapsed()),
            Ok(Err(failure)) => tally.failed(failure),
            Err(_) => {
                let why = format!("no complete answer within {} ms", to.timeout.as_millis());
                tally.failed(Failure::new(ErrorKind::Timeout, why));
            }
        }
    }
    tally
}

/// Sends a request and reads its answer. The connection stays in `kept` if another request can follow.
async fn ask(to: &UrlUnderLoad, kept: &mut Option<SendRequest<Body>>) -> Result<Answer, Failure> {
    let kept_open = match kept.take() {
        Some(open) => still_open(open).await,
        None => None,
    };
    let mut open = match kept_open {
        Some(open) => open,
        None => connect(to).await?,
    };
    let response = match open.send_request(to.request()).await {
        // The server closed the connection meanwhile, and this request was not sent.
        Err(error) if error.is_canceled() => {
            open = connect(to).await?;
            open.send_request(to.request()).await
        }
        sent => sent,
    };
    let (head, mut body) = response.map_err(|error| Failure::broken(&error))?.into_parts();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::broken(&error))?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    *kept = Some(open);
    Ok(Answer { status: head.status, headers: head.headers, bytes })
}

/// A kept connection, unless the server has closed it.
async fn still_open(mut open: SendRequest<Body>) -> Option<SendRequest<Body>> {
    open.ready().await.is_ok().then_some(open)
}

impl Tally {
    fn new() -> Self {
        Self {
            begun: 0,
            status: BTreeMap::new(),
            errors: BTreeMap::new(),
            bytes: 0,
            times: Times::new(),
            gate: BTreeMap::new(),
        }
    }

    fn answered(&mut self, answer: &Answer, took: Duration) {
        *self.status.entry(answer.status.as_u16()).or_default() += 1;
        self.bytes += answer.bytes;
        self.times.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        gate_times::add(&mut self.gate, &answer.headers);
    }

    fn failed(&mut self, Failure { kind, why }: Failure) {
        self.errors.entry(kind).or_insert_with(|| ErrorsOfKind { count: 0, first: why }).count += 1;
    }

    fn add_all(&mut self, other: Self) {
        self.begun += other.begun;
        self.bytes += other.bytes;
        for (status, count) in other.status {
            *self.status.entry(status).or_default() += count;
        }
        for (kind, ErrorsOfKind { count, first }) in other.errors {
            self.errors.entry(kind).or_insert(ErrorsOfKind { count: 0, first }).count += count;
        }
        self.times.add_all(&other.times);
        for (name, times) in other.gate {
            self.gate.entry(name).or_insert_with(Times::new).add_all(&times);
        }
    }
}

/// The processor time of this thread, which does all of a load's work; `None` where Linux does not say.
fn thread_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::http::HeaderName;
    use axum::response::IntoResponse;

    use super::super::url_under_load::{ReachArgs, http_url};
    use super::*;

    /// A server on a free port; its URL, and how many connections it has taken.
    async fn serve(app: Router) -> (String, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, taken)
    }

    async fn load(url: &str, args: LoadArgs, timeout: Duration) -> BenchResult {
        let reach = ReachArgs { timeout, ..ReachArgs::plain(None, None, false) };
        let to = UrlUnderLoad::new(&http_url(url).unwrap(), &reach).await.unwrap();
        Load::new(to, args).run().await.unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn every_request_is_counted_by_what_became_of_it() {
        let number = Arc::new(AtomicU64::new(0));
        let app = Router::new().fallback(move || async move {
            let said = ["total", "route", "ip", "geo", "recording"]
                .map(|part| (HeaderName::try_from(format!("x-performance-{part}")).unwrap(), "0.250"));
            let status = match number.fetch_add(1, Ordering::Relaxed) % 4 {
                0 => StatusCode::FORBIDDEN,
                _ => StatusCode::OK,
            };
            (status, said, "12345").into_response()
        });
        let (url, taken) = serve(app).await;
        let args = LoadArgs { requests: 200, connections: 5, longest: LONG };
        let result = load(&url, args, LONG).await;
        assert_eq!(result.status, BTreeMap::from([(200, 150), (403, 50)]), "{result:?}");
        assert!(result.errors.is_empty() && !result.stopped_by_time, "{result:?}");
        assert_eq!((result.requests, result.bytes, result.success()), (200, 1_000, Some(0.75)));
        assert_eq!((result.latency.count(), result.gate["own"].count()), (200, 200));
        assert_eq!(result.gate["own"].quantile(0.5), Some(1.0));
        assert_eq!(taken.load(Ordering::Relaxed), 5, "connections are kept, and no more than asked for");
    }

    #[tokio::test]
    async fn a_server_that_closes_after_each_answer_is_no_error() {
        let app = Router::new().fallback(async || ([("connection", "close")], "x"));
        let (url, taken) = serve(app).await;
        let result = load(&url, LoadArgs { requests: 20, connections: 2, longest: LONG }, LONG).await;
        assert_eq!(result.status, BTreeMap::from([(200, 20)]), "{result:?}");
        assert_eq!(taken.load(Ordering::Relaxed), 20);
    }

    #[tokio::test]
    async fn errors_are_counted_by_kind() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = LoadArgs::in_turn(3, LONG);
        let kinds = |result: &BenchResult| {
            result.errors.iter().map(|(kind, of)| (*kind, of.count)).collect::<Vec<_>>()
        };
        let result = load(&format!("http://{nobody}/"), args, LONG).await;
        assert_eq!((kinds(&result), result.success()), (vec![(ErrorKind::Connect, 3)], Some(0.0)));
        let (url, _) = serve(Router::new().fallback(std::future::pending::<()>)).await;
        let result = load(&url, args, Duration::from_millis(20)).await;
        assert_eq!(kinds(&result), [(ErrorKind::Timeout, 3)]);
        let result = load(&url.replace("http:", "https:"), args, LONG).await;
        assert_eq!(kinds(&result), [(ErrorKind::Tls, 3)], "{result:?}");
        assert!(result.errors[&ErrorKind::Tls].first.contains("http:// in the place"), "{result:?}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        let result = load(&url, args, LONG).await;
        assert_eq!(kinds(&result), [(ErrorKind::Broken, 3)], "{result:?}");
    }

    #[tokio::test]
    async fn a_load_ends_in_time() {
        let (url, _) = serve(Router::new().fallback(async || "x")).await;
        let args = LoadArgs { requests: 1_000_000, connections: 2, longest: Duration::from_millis(50) };
        let result = load(&url, args, LONG).await;
        assert!(result.stopped_by_time && result.requests < 1_000_000, "{result:?}");
        assert_eq!(result.requests, result.answers());
    }
}
