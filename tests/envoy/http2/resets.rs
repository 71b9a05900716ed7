//! Streams that no client library would send, byte for byte.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;
const CANCEL: [u8; 4] = 8u32.to_be_bytes();

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field that is in no table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A GET of `path` with more fields.
fn get(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", path)];
    fields.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

/// What a connection begins with.
fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// Requests that the codec refuses, each in a stream of its own and between two that are good (the second
/// has the path `after`); the last one's headers never end. The connection is open until it is dropped.
///
/// # Errors
/// Nobody listens there.
pub fn refused(gate: SocketAddr, after: &str) -> Result<(TcpStream, usize)> {
    let refused = [
        field(":method", "GET"),
        get("/", &[("connection", "close")]),
        get("/", &[("X-Upper", "a")]),
        get("/", &[("te", "gzip")]),
        get("/", &[(":path", "/again")]),
        get("/", &[(":status", "200")]),
        get("/", &[("a b", "a")]),
        get("/", &[("nul", "a\0b")]),
        get("/", &[("content-length", "5")]),
        get("/", &[("content-length", "5"), ("content-length", "6")]),
    ];
    let blocks = [vec![get("/", &[])], refused.to_vec(), vec![get(after, &[])]].concat();
    let mut bytes = preface();
    let mut stream = 1;
    for block in &blocks {
        bytes.extend(frame(HEADERS, WHOLE, stream, block));
        stream += 2;
    }
    bytes.extend(frame(HEADERS, 0, stream, &get("/", &[])));
    let mut connection = TcpStream::connect(gate)?;
    connection.write_all(&bytes)?;
    Ok((connection, blocks.len() + 1))
}

/// Opens so many streams with a GET of `path` and resets each, all in one write. The connection is
/// open until it is dropped.
///
/// # Errors
/// Nobody listens there.
pub fn reset(gate: SocketAddr, path: &str, streams: u32) -> Result<TcpStream> {
    let block = get(path, &[]);
    let mut bytes = preface();
    for number in 0..streams {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, WHOLE, stream, &block));
        bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    let mut connection = TcpStream::connect(gate)?;
    connection.write_all(&bytes)?;
    Ok(connection)
}
