//! One listener: HTTP/1 and HTTP/2 (prior knowledge) on the same port, with limits on connections
//! and header time. It is stopped without cutting off answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long the head of a request may take, including the wait for a next request on the
/// connection.
const HEAD_TIME: Duration = Duration::from_secs(90);
/// Concurrent requests on one HTTP/2 connection, at most.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of all headers of one request, at most.
const MAX_HEADERS: u32 = 64 << 10;
/// How long answers under way may take once the service stops.
const DRAIN_TIME: Duration = Duration::from_secs(4);

/// Serves `router` on `listener` until `stop` is true, then finishes the answers under way, for
/// at most 4 s.
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
            // No file descriptors left, or the connection was closed before it was accepted: the
            // next attempt may succeed, but not at once.
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
    // Answers are small and urgent.
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
        // A gateway resets its questions that were not answered in time. If this process was
        // suspended for a second, it finds up to as many of those as there may be streams.
        // hyper's default of 20 would end the connection with ENHANCE_YOUR_CALM, and with it the
        // questions that can still be answered.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;

    /// A frame of HTTP/2 (RFC 9113, section 4.1).
    fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
    }

    /// `GET http://a/` without a body, in HPACK.
    fn question(stream: u32) -> Vec<u8> {
        frame(HEADERS, 0x5, stream, b"\x82\x86\x84\x41\x01a")
    }

    /// The questions of a second in which this process was suspended: all but the last were
    /// reset.
    #[tokio::test]
    async fn questions_that_were_taken_back_do_not_end_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut gateway = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        sent.extend(frame(SETTINGS, 0, 0, &[]));
        let last = MAX_STREAMS * 2 - 1;
        for stream in (1..last).step_by(2) {
            sent.extend(question(stream));
            sent.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        sent.extend(question(last));
        gateway.write_all(&sent).await.unwrap();

        let (_keep, stop) = watch::channel(false);
        let router = Router::new().route("/", get(|| async { "here" }));
        tokio::spawn(listen(listener, router, 1, stop));
        let answered = async {
            loop {
                let mut head = [0; 9];
                gateway.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut body = vec![0; usize::try_from(length).unwrap()];
                gateway.read_exact(&mut body).await.unwrap();
                assert_ne!(head[3], GOAWAY, "the connection is ended: {body:?}");
                if head[3] == HEADERS && head[5..] == last.to_be_bytes() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answered).await.unwrap();
    }
}
