//! The demo backend: answers every request with what it saw, as JSON.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::any;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

/// The longest body that it counts, bytes.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// The backend named `name`. Every path answers 200 with what was asked, but
/// `/status/NNN` (that status), `/slow?ms=N` (after so long, a minute at most)
/// and `/ws` (echoes a WebSocket's messages).
pub fn router(name: &str) -> Router {
    Router::new()
        .route("/status/{code}", any(status))
        .route("/slow", any(slow))
        .route("/ws", any(websocket))
        .fallback(echo)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(name.to_owned())
}

async fn echo(
    State(name): State<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let host = headers.get("host").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let headers: serde_json::Map<_, _> = headers
        .keys()
        .map(|key| {
            let values: Vec<_> = headers
                .get_all(key)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            (key.to_string(), values.join(", ").into())
        })
        .collect();
    Json(json!({
        "backend": name,
        "method": method.as_str(),
        "path": uri.to_string(),
        "host": host,
        "headers": headers,
        "body_bytes": body.len(),
    }))
    .into_response()
}

async fn status(State(name): State<String>, Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(code) if code.as_u16() >= 200 => (code, Json(json!({ "backend": name }))).into_response(),
        _ => (StatusCode::BAD_REQUEST, "a status from 200 to 999\n").into_response(),
    }
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    ms: u64,
}

async fn slow(State(name): State<String>, Query(slow): Query<Slow>) -> Response {
    let ms = slow.ms.min(60_000);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Json(json!({ "backend": name, "slept_ms": ms })).into_response()
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
    Ok(axum::serve(listener, router(name)).await?)
}

/// A backend on a thread of this process, ended when dropped.
#[derive(Debug)]
pub struct InProcess {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl InProcess {
    /// Starts one; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(name: &str, address: SocketAddr) -> Result<Self> {
        let listener =
            std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let app = router(name);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                tokio::select! {
                    _ = axum::serve(listener, app) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{self, Request};
    use crate::ports::local;

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
    }
}
