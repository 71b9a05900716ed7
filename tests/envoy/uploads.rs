//! Uploads of requests that wait: Envoy holds little of each, and reads on when they may pass.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use tidegate_stack::http::{self, PATIENCE, Request};
use tidegate_stack::{Stack, wait};

const UPLOADS: u64 = 60;
/// Bytes of an upload that are sent at once.
static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
/// More than all of them may take; by Envoy's defaults they take over 60 MiB.
const AT_MOST: u64 = 45 << 20;

/// Bytes that Envoy has allocated.
fn allocated(stack: &Stack) -> Result<u64> {
    let memory = http::send(stack.envoy_admin(), &Request::get("/memory"))?.json()?;
    memory["allocated"].as_str().and_then(|bytes| bytes.parse().ok()).context("/memory")
}

/// Uploads, for as long as Envoy takes something, while every check waits for its answer.
///
/// # Errors
/// Envoy holds more of them than it should.
pub fn take_little(stack: &Stack) -> Result<()> {
    let paused = || -> Result<u64> {
        Ok(stack.stats()?.get("http.gate.downstream_flow_control_paused_reading_total").unwrap_or_default())
    };
    let (paused_before, before) = (paused()?, allocated(stack)?);
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        let mut upload = TcpStream::connect(stack.gate())?;
        upload.write_all(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 10485760\r\n\r\n")?;
        upload.set_nonblocking(true)?;
        uploads.push(upload);
    }
    wait::until("Envoy reads no further", PATIENCE, || {
        for upload in &mut uploads {
            match upload.write(&PIECE) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                _ => {}
            }
        }
        Ok((paused()? >= paused_before + UPLOADS).then_some(()))
    })?;
    let held = allocated(stack)?.saturating_sub(before);
    println!("{UPLOADS} uploads that wait take {} KiB each", held / UPLOADS / 1024);
    ensure!(held < AT_MOST, "{held} bytes");
    Ok(())
}
