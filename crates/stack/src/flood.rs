//! Requests of very many clients in a short time, down a few connections, and answers
//! counted by their status. What an answer says besides is left aside; a test that
//! wants to know uses [`load`](crate::load), which takes several times as long.
//!
//! Each connection waits for its answer: Envoy closes one of HTTP/1.1 on which more
//! than two answers are under way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::http::PATIENCE;

/// Most requests of a flood.
pub const MAX_REQUESTS: u32 = 2_000_000;

/// `GET path` once from each of these addresses, down so many connections to a gate on
/// this machine. Answers by status.
///
/// # Errors
/// A connection breaks, an answer does not come, or the flood is over
/// [`MAX_REQUESTS`].
pub fn flood(
    gate: SocketAddr,
    path: &'static str,
    clients: std::ops::Range<u32>,
    connections: u32,
) -> Result<BTreeMap<u16, u64>> {
    ensure!(gate.ip().is_loopback(), "{gate} is not of this machine");
    ensure!(clients.len() <= MAX_REQUESTS as usize, "{} requests, {MAX_REQUESTS} at most", clients.len());
    let part = (clients.end - clients.start).div_ceil(connections.max(1)).max(1);
    let parts: Vec<_> = clients.clone().step_by(part as usize).collect();
    let threads: Vec<_> = parts
        .into_iter()
        .map(|begin| {
            let end = begin.saturating_add(part).min(clients.end);
            std::thread::spawn(move || one_connection(gate, path, begin..end))
        })
        .collect();
    let mut by_status = BTreeMap::new();
    for thread in threads {
        let counts = thread.join().expect("a flood's thread does not panic")?;
        for (status, count) in counts {
            *by_status.entry(status).or_default() += count;
        }
    }
    Ok(by_status)
}

fn one_connection(gate: SocketAddr, path: &str, clients: std::ops::Range<u32>) -> Result<BTreeMap<u16, u64>> {
    let mut stream = TcpStream::connect(gate).with_context(|| format!("cannot connect to {gate}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut by_status, mut request, mut unread) = (BTreeMap::new(), Vec::new(), Vec::new());
    for client in clients {
        let client = Ipv4Addr::from_bits(client);
        request.clear();
        write!(request, "GET {path} HTTP/1.1\r\nhost: {gate}\r\nx-forwarded-for: {client}\r\n\r\n")?;
        stream.write_all(&request)?;
        *by_status.entry(answer(&mut stream, &mut unread)?).or_default() += 1;
    }
    Ok(by_status)
}

/// Reads one answer out of `unread` and, as far as it takes, the connection.
fn answer(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<u16> {
    loop {
        if let Some((status, len)) = complete(unread)? {
            unread.drain(..len);
            return Ok(status);
        }
        let mut chunk = [0; 16 * 1024];
        let read = stream.read(&mut chunk).context("no answer")?;
        ensure!(read > 0, "the connection was closed");
        unread.extend_from_slice(&chunk[..read]);
    }
}

/// Status and length of the answer at the front, if all of it is there.
fn complete(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).context("a head that is no text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.with_context(|| format!("not an answer: {text:?}"))?;
    let length = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    // An empty answer that Envoy gives itself says no length.
    let len = head + 4 + length.unwrap_or(0);
    Ok((bytes.len() >= len).then_some((status, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_one_after_the_other() {
        let two =
            b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nx: y\r\n\r\n";
        let first = complete(two).unwrap().unwrap();
        assert_eq!(first.0, 429);
        assert_eq!(complete(&two[first.1..]).unwrap(), Some((200, 25)));
        assert_eq!(complete(&two[..first.1 - 1]).unwrap(), None);
        assert_eq!(complete(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(complete(b"<html>\r\n\r\n").is_err());
    }
}
