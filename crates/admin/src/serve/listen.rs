//! One listener: HTTP/1 and HTTP/2 (prior knowledge) on the same port, bounded
//! in connections and header time, and stopped without cutting an answer off.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a connection may take over the head of a request, the wait for a
/// next one on it included.
const HEAD_TIME: Duration = Duration::from_secs(90);
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of all headers of one request.
const MAX_HEADERS: u32 = 64 << 10;
/// How long answers under way may take once the service stops.
const DRAIN_TIME: Duration = Duration::from_secs(4);

/// Serves `router` on `listener` until `stop` says true, then until every answer
/// under way has been given, at most 4 s.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let open = GracefulShutdown::new();
    let server = server();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, permit)) => connection(&server, &open, stream, permit, router.clone()),
            // Out of descriptors, or a connection that was gone before it was
            // taken: the next one may do, but not at once.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIME, open.shutdown()).await.is_err() {
        tracing::warn!("some answers were still under way after {} s and are cut off", DRAIN_TIME.as_secs());
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are small and waited for.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEADERS as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    server
}

fn connection(
    server: &auto::Builder<TokioExecutor>,
    open: &GracefulShutdown,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    router: Router,
) {
    let connection =
        server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned();
    let watched = open.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended badly");
        }
        drop(permit);
    });
}
