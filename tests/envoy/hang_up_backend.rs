//! A backend that ends connections before it has answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tidegate_backend::Served;
use tidegate_stack::ports::local;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Said to who was patient.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A server on a port of 127.0.0.1 that reads a request and hangs up, so many times,
/// and then answers 200.
#[derive(Debug)]
pub struct HangUpBackend {
    served: Served,
    taken: Arc<AtomicU32>,
}

impl HangUpBackend {
    /// Starts one that hangs up on its first `times` requests.
    ///
    /// # Errors
    /// The system has no port left.
    pub fn start(times: u32) -> Result<Self> {
        let taken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&taken);
        let served = Served::start(local(0), move |listener| async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                // One that was opened ahead of its request holds up nobody.
                tokio::spawn(async move { take(stream, &count, times).await });
            }
        })?;
        Ok(Self { served, taken })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.served.address()
    }

    /// Requests so far, answered or not.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// One connection, of a request without a body.
async fn take(mut stream: TcpStream, count: &AtomicU32, times: u32) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(read) if read > 0) {
            return;
        }
    }
    if count.fetch_add(1, Ordering::Relaxed) >= times {
        let _ = stream.write_all(ANSWER).await;
    }
}

#[cfg(test)]
mod tests {
    use tidegate_stack::http::{self, Request};

    use super::*;

    #[test]
    fn it_hangs_up_so_many_times() {
        let hangs_up = HangUpBackend::start(2).unwrap();
        let asked = [(); 3].map(|()| http::send(hangs_up.address(), &Request::get("/")).is_ok());
        assert_eq!(asked, [false, false, true]);
        assert_eq!(hangs_up.taken(), 3);
    }
}
