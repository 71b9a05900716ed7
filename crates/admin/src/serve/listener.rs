//! One listener: HTTP/1 and HTTP/2 (prior knowledge, or as agreed by TLS) on the same port, with
//! limits on connections ([`Connections`]) and header time. It is stopped without cutting off
//! answers.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connections::{CloseReason, Connections, OpenConnection, Place};
use super::tls::Tls;

/// How long the head of a later request may take, including the wait for it.
const HEAD_TIME: Duration = Duration::from_secs(90);
/// Concurrent requests on one HTTP/2 connection, at most.
const MAX_STREAMS: u32 = 1_000;
/// Bytes of all headers of one request, at most.
const MAX_HEADERS: u32 = 64 << 10;
/// How long answers under way may take once the service stops.
const DRAIN_TIME: Duration = Duration::from_secs(4);
/// After a connection could not be accepted, until the next try.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a listener serves, and how.
struct Serving {
    router: Router,
    server: auto::Builder<TokioExecutor>,
    /// `None`: in the clear.
    tls: Option<Arc<Tls>>,
    stop: watch::Receiver<bool>,
}

/// Serves `router` on `listener`, with `tls` if there is any, until `stop` is true, then finishes the
/// answers under way, for at most 4 s.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    connections: Arc<Connections>,
    tls: Option<Arc<Tls>>,
    mut stop: watch::Receiver<bool>,
) {
    let open = GracefulShutdown::new();
    let serving = Arc::new(Serving { router, server: server(), tls, stop: stop.clone() });
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok(Some((stream, place))) => {
                tokio::spawn(connection(Arc::clone(&serving), stream, place, open.watcher()));
            }
            Ok(None) => {}
            // It was closed before it was accepted.
            Err(error) if is_its_own(&error) => tracing::debug!(%error, "a connection broke off"),
            // No file descriptors left: the next attempt may succeed, but not at once.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                connections.note_failure(&error);
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIME, open.shutdown()).await.is_err() {
        tracing::warn!("some answers were still under way after {} s and are cut off", DRAIN_TIME.as_secs());
    }
}

/// Whether an error of [`accept`] is one connection's and says nothing of the next.
fn is_its_own(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | InvalidInput | NotConnected)
}

/// The next connection; `None`: there was no place for it, and it is closed.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
) -> std::io::Result<Option<(TcpStream, Place)>> {
    let (stream, from) = listener.accept().await?;
    let Some(place) = connections.place(from.ip()) else { return Ok(None) };
    // Answers are small and urgent.
    stream.set_nodelay(true)?;
    Ok(Some((stream, place)))
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

/// One connection, until it ends or is closed to make room. A handshake counts within the time for the
/// first head.
async fn connection(serving: Arc<Serving>, stream: TcpStream, place: Place, open: Watcher) {
    tokio::select! {
        () = serving.begin(stream, &place.connection, open) => {}
        () = place.connection.displaced() => {}
        () = place.is_silent() => place.count(CloseReason::Silent),
    }
}

impl Serving {
    async fn begin(&self, stream: TcpStream, connection: &Arc<OpenConnection>, open: Watcher) {
        let Some(tls) = &self.tls else { return self.serve(stream, connection, open).await };
        let mut stop = self.stop.clone();
        let shaken = tokio::select! {
            shaken = tls.accept(stream) => shaken,
            // Nothing was asked yet.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match shaken {
            Ok(stream) => self.serve(stream, connection, open).await,
            Err(error) => tracing::debug!(%error, "a handshake failed"),
        }
    }

    async fn serve<S>(&self, stream: S, connection: &Arc<OpenConnection>, open: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let this = Arc::clone(connection);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let guard = this.request();
            request.extensions_mut().insert(Arc::clone(&this));
            let answer = router.call(request);
            async move {
                let answer = answer.await;
                drop(guard);
                answer
            }
        });
        let served = self.server.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = open.watch(served).await {
            tracing::debug!(%error, "a connection ended badly");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::serve::tls::TlsFiles;

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

    #[tokio::test]
    async fn who_sends_no_whole_head_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_keep, stop) = watch::channel(false);
        let router = Router::new().route("/", get(|| async { "here" }));
        let connections = Connections::with_head_time(9, Duration::from_millis(500));
        tokio::spawn(listen(listener, router, Arc::clone(&connections), None, stop));
        let connect = async |sent: &[u8]| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            stream
        };
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
        let mut kept = connect(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut answer = [0; 15];
        kept.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let mut silent = Vec::new();
        for sent in [&b""[..], b"GET / HTTP/1.1\r\nhost:", &preface] {
            silent.push(connect(sent).await);
        }
        for mut stream in silent {
            // Ends when the other side has closed.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        assert_eq!(connections.closed(CloseReason::Silent), 3);
        assert_eq!(connections.open(), 1, "one that has asked may wait before it asks again");
    }

    /// The head counts from the connection on, whatever there is before it.
    #[tokio::test]
    async fn who_ends_no_handshake_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let authority = tidegate_backend::Authority::new(&dir.path().join("ca.pem")).unwrap();
        let files = authority.files("localhost").unwrap();
        let tls = TlsFiles { certificate: files.certificate, key: files.key, client_ca: None };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_keep, stop) = watch::channel(false);
        let connections = Connections::with_head_time(9, Duration::from_millis(500));
        let tls = Tls::open(tls).unwrap();
        tokio::spawn(listen(listener, Router::new(), Arc::clone(&connections), Some(Arc::clone(&tls)), stop));
        // Nothing, the beginning of a record, and what is none.
        for sent in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            // Ends when the other side has closed.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        assert_eq!((connections.closed(CloseReason::Silent), tls.state().failed_handshakes), (2, 1));
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
        tokio::spawn(listen(listener, router, Connections::new(1), None, stop));
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
