//! Uploads of requests that wait: Envoy holds little of each, and reads on when they may pass.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{self, PATIENCE, Request};
use tidegate_stack::ports::Ports;
use tidegate_stack::render::{at, named};
use tidegate_stack::{Control, Options, Stack, wait};

use crate::raw_backend::Head;

/// Unless `TIDEGATE_TEST_UPLOADS` says otherwise, of which the figures in docs/OPERATIONS.md are.
const UPLOADS: u64 = 60;
/// Bytes of an upload that are sent at once.
static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
/// More than each may take; with buffers of 256 KiB it is more, and by Envoy's defaults over 1 MiB.
const AT_MOST: u64 = 300 << 10;
/// More than the longest time that a check may take where uploads are held.
const ENDED: Duration = Duration::from_secs(90);

/// Bytes that Envoy has allocated.
fn allocated(stack: &Stack) -> Result<u64> {
    let memory = http::send(stack.envoy_admin(), &Request::get("/memory"))?.json()?;
    memory["allocated"].as_str().and_then(|bytes| bytes.parse().ok()).context("/memory")
}

/// Uploads, for as long as Envoy takes something, while every check waits for its answer, and until
/// none of them is under way any more.
///
/// # Errors
/// Envoy holds more of them than it should.
pub fn take_little(stack: &Stack) -> Result<()> {
    let paused = || -> Result<u64> {
        Ok(stack.stats()?.get("http.gate.downstream_flow_control_paused_reading_total").unwrap_or_default())
    };
    let count = std::env::var("TIDEGATE_TEST_UPLOADS").ok().and_then(|text| text.parse().ok());
    let count: u64 = count.unwrap_or(UPLOADS);
    let (paused_before, before) = (paused()?, allocated(stack)?);
    let mut uploads = Vec::new();
    for _ in 0..count {
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
        Ok((paused()? >= paused_before + count).then_some(()))
    })?;
    let held = allocated(stack)?.saturating_sub(before);
    println!("{count} uploads that wait take {} KiB each, {} MiB in all", (held / count) >> 10, held >> 20);
    ensure!(held < AT_MOST * count, "{held} bytes");
    drop(uploads);
    // Envoy may be told of a client's end only once it reads again, after the check's time is over.
    wait::until("Envoy has ended every upload", ENDED, || {
        Ok((stack.stats()?.get("http.gate.downstream_rq_active").unwrap_or_default() == 0).then_some(()))
    })
}

/// With a time for a whole request that a test can wait for, and with a memory that is as full as a file
/// says.
#[derive(Debug)]
struct Tight;

const MEMORY: &str = "envoy.resource_monitors.injected_resource";

impl Control for Tight {
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let mut config = options.envoy_config(ports)?;
        let gate = named(at(&mut config, "/static_resources/listeners")?, "gate")?;
        *at(gate, "/filter_chains/0/filters/0/typed_config/request_timeout")? = json!("2s");
        fill_memory(&options.dir, "0")?;
        let manager = at(&mut config, "/overload_manager")?;
        *named(at(manager, "/resource_monitors")?, "envoy.resource_monitors.fixed_heap")? = json!({
            "name": MEMORY,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
                "filename": memory_file(&options.dir),
            },
        });
        for action in ["envoy.overload_actions.shrink_heap", "envoy.overload_actions.stop_accepting_requests"]
        {
            *at(named(at(manager, "/actions")?, action)?, "/triggers/0/name")? = json!(MEMORY);
        }
        Ok(config)
    }
}

fn memory_file(dir: &Path) -> PathBuf {
    dir.join("memory")
}

/// Envoy reads the file anew when another is moved there.
fn fill_memory(dir: &Path, share: &str) -> Result<()> {
    let next = dir.join("memory.next");
    std::fs::write(&next, share)?;
    Ok(std::fs::rename(next, memory_file(dir))?)
}

fn what_there_is_no_memory_for_is_a_row(stack: &Stack) -> Result<()> {
    let dir = &stack.options().dir;
    let becomes = |status: u16| {
        wait::until(&format!("it is {status}"), PATIENCE, || {
            let answer = http::send(stack.gate(), &Request::get("/memory").from("192.0.2.14"))?;
            Ok((answer.status == status).then_some(answer))
        })
    };
    fill_memory(dir, "0.99")?;
    ensure!(becomes(503)?.text() == "envoy overloaded", "it is not for that");
    fill_memory(dir, "0")?;
    becomes(200)?;
    ensure!(stack.recorded(PATIENCE)?.is_whole(), "all are stored");
    let rows = stack.sql()?.number("SELECT count(*) FROM traffic_events")?;
    ensure!(Some(rows) == stack.stats()?.get("http.gate.downstream_rq_total"), "{rows} rows");
    let refused =
        "SELECT count(*) FROM traffic_events WHERE path = '/memory' AND verdict = 'unseen' AND status = 503";
    ensure!(stack.sql()?.number(refused)? > 0, "no row for it");
    Ok(())
}

/// Begins a request and sends nothing more.
fn begin(stack: &Stack, head: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(stack.gate())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{head}\r\nhost: a\r\nx-forwarded-for: 192.0.2.14\r\n").as_bytes())?;
    Ok(BufReader::new(stream))
}

#[test]
fn a_slow_upload_ends_and_what_takes_long_otherwise_does_not() {
    let mut options = Options::for_test("uploads").unwrap();
    options.control = Some(Arc::new(Tight));
    let stack = Stack::start_serving(options).unwrap();
    let mut socket = begin(&stack, "GET /ws HTTP/1.1").unwrap();
    let upgrade = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.get_mut().write_all(upgrade).unwrap();
    assert_eq!(Head::read(&mut socket).unwrap().first, "HTTP/1.1 101 Switching Protocols");
    let mut download = begin(&stack, "GET /slow?ms=4000 HTTP/1.1").unwrap();
    download.get_mut().write_all(b"\r\n").unwrap();
    let mut upload = begin(&stack, "POST /upload HTTP/1.1").unwrap();
    upload.get_mut().write_all(b"content-length: 1000000\r\n\r\n").unwrap();
    upload.get_ref().set_nonblocking(true).unwrap();
    let mut answer = Vec::new();
    wait::until("the upload is answered", PATIENCE, || {
        // As long as it may.
        let _ = upload.get_mut().write(b"x");
        match upload.get_mut().read_to_end(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && answer.is_empty() => Ok(None),
            _ => Ok(Some(())),
        }
    })
    .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(Head::read(&mut download).unwrap().first, "HTTP/1.1 200 OK");
    // A text of two letters, masked with zeros, and its echo.
    socket.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).unwrap();
    let mut back = [0; 4];
    socket.read_exact(&mut back).unwrap();
    assert_eq!(back, [0x81, 2, b'h', b'i']);
    stack.recorded(PATIENCE).unwrap();
    let row = "SELECT status FROM traffic_events WHERE path = '/upload'";
    assert_eq!(stack.sql().unwrap().run(row).unwrap(), ["408"]);
    drop((socket, download));
    what_there_is_no_memory_for_is_a_row(&stack).unwrap();
}
