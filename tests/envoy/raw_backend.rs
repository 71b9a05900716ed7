//! A backend that keeps requests as they came, to the byte, and answers with lines
//! that a test gives: spelling, order and repetition are seen.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use tidegate_stack::ports::local;

/// The beginning of a message: its first line, and its header lines as they stand.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Request or status line.
    pub first: String,
    /// Names and values, spelled and ordered as they came.
    pub lines: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Reads one; `None`: it does not come to an end.
    pub fn read(from: &mut impl BufRead) -> Option<Self> {
        let first = String::from_utf8_lossy(&line(from)?).into_owned();
        let mut lines = Vec::new();
        loop {
            let line = line(from)?;
            if line.is_empty() {
                return Some(Self { first, lines });
            }
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            lines.push((String::from_utf8_lossy(name).into_owned(), value[1..].trim_ascii().to_vec()));
        }
    }

    /// The values of a name, however it is spelled.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = |line: &&(String, Vec<u8>)| line.0.eq_ignore_ascii_case(name);
        self.lines.iter().filter(named).map(|(_, value)| value.as_slice()).collect()
    }

    /// The values of a name as one, as RFC 9110 reads several lines; `None`: it is
    /// not there.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<String> {
        let values = self.values(name);
        let text = || String::from_utf8_lossy(&values.join(&b","[..])).into_owned();
        (!values.is_empty()).then(text)
    }

    /// Names that begin so, however they are spelled.
    #[must_use]
    pub fn names_with(&self, prefix: &str) -> Vec<&str> {
        let begins = |name: &str| name.to_ascii_lowercase().starts_with(prefix);
        self.lines.iter().map(|(name, _)| name.as_str()).filter(|name| begins(name)).collect()
    }
}

fn line(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).ok()?;
    Some(line.strip_suffix(b"\r\n")?.to_vec())
}

/// The backend, ended when dropped. Requests must be without body.
#[derive(Debug)]
pub struct RawBackend {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    answer: Vec<u8>,
    seen: Mutex<Vec<Head>>,
    ends: AtomicBool,
}

impl RawBackend {
    /// Starts one on a free port of 127.0.0.1, which answers 200 with these header
    /// lines, each ended by CR and LF.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(lines: &[u8]) -> Result<Self> {
        let listener = TcpListener::bind(local(0)).context("cannot listen")?;
        let address = listener.local_addr()?;
        let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", lines, b"\r\n"].concat();
        let shared = Arc::new(Shared { answer, seen: Mutex::default(), ends: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || listen(&listener, &theirs));
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests since the last call, oldest first.
    pub fn take_seen(&self) -> Vec<Head> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ends.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        // Ends with its connection.
        std::thread::spawn(move || serve(&stream, &shared));
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some(head) = Head::read(&mut reader) {
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        if stream.write_all(&shared.answer).is_err() {
            return;
        }
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // Wakes it up.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_stack::http::raw;

    use super::*;

    #[test]
    fn what_came_is_kept_as_it_came() {
        let backend = RawBackend::start(b"X-Two: \xff\r\nx-two: b\r\n").unwrap();
        let request = b"GET /a?b HTTP/1.1\r\nHost: A\r\nX-One: caf\xe9\r\nx-ONE:b\r\n\r\n";
        let answer = raw(backend.address(), request, Duration::from_secs(5), 60).unwrap();
        let answer = Head::read(&mut answer.as_slice()).unwrap();
        assert_eq!(answer.first, "HTTP/1.1 200 OK");
        assert_eq!(answer.values("x-two"), [&b"\xff"[..], b"b"]);
        let seen = backend.take_seen();
        assert_eq!((seen.len(), seen[0].first.as_str()), (1, "GET /a?b HTTP/1.1"));
        assert_eq!(seen[0].lines[1], ("X-One".to_owned(), b"caf\xe9".to_vec()));
        assert_eq!(seen[0].values("X-one"), [&b"caf\xe9"[..], b"b"]);
        assert_eq!(seen[0].joined("host").as_deref(), Some("A"));
        assert_eq!(seen[0].names_with("x-"), ["X-One", "x-ONE"]);
        assert_eq!((seen[0].joined("x"), backend.take_seen()), (None, vec![]));
    }
}
