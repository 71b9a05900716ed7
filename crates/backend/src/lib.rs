//! The demo backend: answers every request with what it saw, as JSON, and keeps it
//! for tests to look at.

mod served;
#[cfg(feature = "tls")]
mod tls;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::any;
use serde::Deserialize;
use serde_json::{Value, json};

use tidegate_stack::wait;

pub use served::Served;
#[cfg(feature = "tls")]
pub use tls::{Authority, CertificateFiles};

/// The longest body that it counts, bytes.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
/// Requests that it keeps; the oldest go.
const KEPT: usize = 1_000;
/// How long [`InProcess::wait_seen`] waits.
const SEEN_LIMIT: Duration = Duration::from_secs(10);

/// The host name that a client asked for by TLS, if it did.
#[derive(Clone, Debug)]
struct Sni(Option<String>);

/// What a backend knows.
#[derive(Debug)]
struct Known {
    name: String,
    /// The last [`KEPT`] requests as it saw them, oldest first.
    seen: Mutex<VecDeque<Arc<Value>>>,
    /// Requests to `/flaky` so far, by key.
    flaky: Mutex<HashMap<String, u32>>,
}

/// The backend named `name`. Every path answers 200 with what was asked, but
/// `/status/NNN` (that status), `/slow?ms=N` (after so long, a minute at most),
/// `/flaky?times=N&status=NNN&key=K` (that status to the first N requests of that
/// key) and `/ws` (echoes a WebSocket's messages).
fn router(known: Arc<Known>) -> Router {
    Router::new()
        .route("/status/{code}", any(status))
        .route("/slow", any(slow))
        .route("/flaky", any(flaky))
        .route("/ws", any(websocket))
        .fallback(echo)
        .layer(from_fn_with_state(Arc::clone(&known), look))
        .with_state(known)
}

impl Known {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), seen: Mutex::default(), flaky: Mutex::default() })
    }

    fn keep(&self, request: Arc<Value>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == KEPT {
            seen.pop_front();
        }
        seen.push_back(request);
    }
}

/// Reads the whole request, keeps what it was and hands that on.
async fn look(State(known): State<Arc<Known>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let host = parts.headers.get("host").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // Over HTTP/2 it is in the target.
    let host = host.or_else(|| parts.uri.authority().map(ToString::to_string));
    let sni = parts.extensions.get::<ConnectInfo<Sni>>().and_then(|ConnectInfo(Sni(name))| name.clone());
    let seen = Arc::new(json!({
        "backend": known.name,
        "method": parts.method.as_str(),
        "protocol": format!("{:?}", parts.version),
        "path": parts.uri.path_and_query().map(ToString::to_string),
        "host": host,
        "sni": sni,
        "headers": all_headers(&parts.headers),
        "body_bytes": body.len(),
    }));
    known.keep(Arc::clone(&seen));
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(seen);
    next.run(request).await
}

fn all_headers(headers: &HeaderMap) -> serde_json::Map<String, Value> {
    let lines = |key| headers.get_all(key).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    headers.keys().map(|key| (key.to_string(), lines(key).collect::<Vec<_>>().join(", ").into())).collect()
}

async fn echo(Extension(seen): Extension<Arc<Value>>) -> Response {
    Json(&*seen).into_response()
}

async fn status(State(known): State<Arc<Known>>, Path(code): Path<u16>) -> Response {
    answer(code, &known)
}

fn answer(code: u16, known: &Known) -> Response {
    match StatusCode::from_u16(code) {
        Ok(code) if code.as_u16() >= 200 => (code, Json(json!({ "backend": known.name }))).into_response(),
        _ => (StatusCode::BAD_REQUEST, "a status from 200 to 999\n").into_response(),
    }
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    ms: u64,
}

async fn slow(State(known): State<Arc<Known>>, Query(slow): Query<Slow>) -> Response {
    let ms = slow.ms.min(60_000);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Json(json!({ "backend": known.name, "slept_ms": ms })).into_response()
}

#[derive(Deserialize)]
struct Flaky {
    times: u32,
    status: u16,
    key: String,
}

async fn flaky(
    State(known): State<Arc<Known>>,
    Query(flaky): Query<Flaky>,
    Extension(seen): Extension<Arc<Value>>,
) -> Response {
    let so_far = {
        let mut counts = known.flaky.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(flaky.key).or_default();
        *count = count.saturating_add(1);
        *count
    };
    if so_far <= flaky.times { answer(flaky.status, &known) } else { Json(&*seen).into_response() }
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket: WebSocket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// Serves until the process ends.
///
/// # Errors
/// The address is taken.
pub async fn serve(name: &str, address: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    Ok(axum::serve(listener, router(Known::new(name))).await?)
}

/// A backend on a thread of this process, ended when dropped.
#[derive(Debug)]
pub struct InProcess {
    known: Arc<Known>,
    served: Served,
}

impl InProcess {
    /// Starts one; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(name: &str, address: SocketAddr) -> Result<Self> {
        let known = Known::new(name);
        let app = router(Arc::clone(&known));
        let served = Served::start(address, |listener| async { axum::serve(listener, app).await })?;
        Ok(Self { known, served })
    }

    /// The last thousand requests, as it answers them: oldest first, those without a
    /// whole body not among them.
    #[must_use]
    pub fn seen(&self) -> Vec<Value> {
        let seen = self.known.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|request| Value::clone(request)).collect()
    }

    /// Waits for requests that nobody waits for otherwise: until those that are
    /// `wanted` are `count` or more, and answers with them.
    ///
    /// # Errors
    /// Not within ten seconds; the message has what came instead.
    pub fn wait_seen(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let what = format!("{} sees {count} requests", self.known.name);
        wait::until(&what, SEEN_LIMIT, || {
            let found: Vec<_> = self.seen().into_iter().filter(|request| wanted(request)).collect();
            Ok((found.len() >= count).then_some(found))
        })
        .with_context(|| format!("it saw {}", Value::from(self.seen())))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.served.address()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_stack::http::{self, Request};
    use tidegate_stack::ports::local;

    use super::*;

    #[test]
    fn it_answers_what_it_saw() {
        let backend = InProcess::start("one", local(0)).unwrap();
        let request = Request::get("/a?b=c").header("x-test", b"caf\xe9").body("text/plain", "12345");
        let seen = http::send(backend.address(), &request).unwrap().json().unwrap();
        assert_eq!(seen["backend"], "one");
        assert_eq!(seen["path"], "/a?b=c");
        assert_eq!(seen["headers"]["x-test"], "caf\u{fffd}");
        assert_eq!(seen["body_bytes"], 5);
        let teapot = http::send(backend.address(), &Request::get("/status/418")).unwrap();
        assert_eq!(teapot.status, 418);
        let paths: Vec<_> = backend.seen().iter().map(|seen| seen["path"].clone()).collect();
        assert_eq!(paths, ["/a?b=c", "/status/418"]);
    }

    #[test]
    fn a_flaky_path_fails_so_many_times_for_each_key() {
        let backend = InProcess::start("one", local(0)).unwrap();
        let ask = |key: &str| {
            let target = format!("/flaky?times=2&status=503&key={key}");
            http::send(backend.address(), &Request::get(&target)).unwrap().status
        };
        assert_eq!(
            [ask("a"), ask("a"), ask("b"), ask("a"), ask("b"), ask("b")],
            [503, 503, 503, 200, 503, 200]
        );
    }
}
