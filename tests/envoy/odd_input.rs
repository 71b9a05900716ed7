//! What clients send by mistake or on purpose: no trap, and each request has its
//! event.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::http::{PATIENCE, raw, raw_status};
use tidegate_stack::operator::Recording;
use tidegate_stack::{Options, Stack, wait};

/// One request, byte for byte.
struct Odd {
    what: &'static str,
    bytes: Vec<u8>,
    /// What the client sees; for a refusal by Envoy, Envoy's choice.
    status: u16,
    /// Verdict and path of the event.
    event: (&'static str, Option<&'static str>),
}

fn odd(
    what: &'static str,
    bytes: impl Into<Vec<u8>>,
    status: u16,
    verdict: &'static str,
    path: Option<&'static str>,
) -> Odd {
    Odd { what, bytes: bytes.into(), status, event: (verdict, path) }
}

/// A GET of `path` with `more` header lines, closed afterwards.
fn get(path: &str, more: &[u8]) -> Vec<u8> {
    let mut bytes = format!("GET {path} HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n").into_bytes();
    bytes.extend_from_slice(more);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn inputs() -> Vec<Odd> {
    let long_path = format!("/odd/long/{}", "a".repeat(60 * 1024));
    let costly = format!("/costly/{}", "a".repeat(20 * 1024));
    let many: String = (0..200).map(|at| format!("x-h{at}: v\r\n")).collect();
    let huge = format!("x-huge: {}\r\n", "h".repeat(120 * 1024));
    vec![
        odd("a header that is not UTF-8", get("/odd/bytes", b"x-odd: \xff\xfe\x80\r\n"), 200, "allow", Some("/odd/bytes")),
        odd("a cookie of raw bytes", get("/odd/cookie", b"cookie: \xf0\x28\x8c\x28\r\n"), 200, "allow", Some("/odd/cookie")),
        odd("a user agent that is not UTF-8", get("/odd/agent", b"user-agent: \xc3\r\n"), 200, "allow", Some("/odd/agent")),
        odd("a host that is no host", &b"GET /odd/host HTTP/1.1\r\nhost: a_b:x\r\nconnection: close\r\n\r\n"[..], 400, "deny", Some("/odd/host")),
        odd("two hosts", &b"GET /odd/hosts HTTP/1.1\r\nhost: odd\r\nhost: odd\r\nconnection: close\r\n\r\n"[..], 400, "deny", Some("/odd/hosts")),
        odd("an address as host", &b"GET /odd/address HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n\r\n"[..], 200, "allow", Some("/odd/address")),
        odd("a user in an absolute target", &b"GET http://user@odd/odd/user HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\n"[..], 200, "allow", Some("/odd/user")),
        odd("no port in an absolute target", &b"GET http://odd:x/odd/port HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\n"[..], 400, "unseen", None),
        odd("escapes that are not UTF-8", get("/odd/%ff%fe", b""), 200, "allow", Some("/odd/%ff%fe")),
        odd("a path of 60 KiB", get(&long_path, b""), 200, "allow", None),
        odd("a path too long for as many expressions", get(&costly, b""), 431, "deny", None),
        odd("200 headers", get("/elsewhere", many.as_bytes()), 404, "deny", Some("/elsewhere")),
        odd("a forwarded-for of junk", get("/odd/xff", b"x-forwarded-for: \xff, not-an-address:99\r\n"), 200, "allow", Some("/odd/xff")),
        odd("HTTP/1.0", &b"GET /odd/old HTTP/1.0\r\nhost: odd\r\n\r\n"[..], 200, "allow", Some("/odd/old")),
        odd("HTTP/1.0 with an empty host", &b"GET /odd/older HTTP/1.0\r\nhost:\r\n\r\n"[..], 400, "deny", Some("/odd/older")),
        odd("HTTP/1.0 without a host", &b"GET /odd/oldest HTTP/1.0\r\n\r\n"[..], 400, "unseen", None),
        odd("an absolute target", &b"GET http://odd/odd/absolute HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n"[..], 200, "allow", Some("/odd/absolute")),
        odd(
            "a method of WebDAV",
            &b"PROPFIND /odd/dav HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\n"[..],
            200,
            "allow",
            Some("/odd/dav"),
        ),
        odd(
            "a method that nobody knows",
            &b"BREW /odd/brew HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\n"[..],
            400,
            "unseen",
            None,
        ),
        odd("an absent host", &b"GET /odd/nohost HTTP/1.1\r\nconnection: close\r\n\r\n"[..], 400, "unseen", None),
        odd("CONNECT", &b"CONNECT odd:443 HTTP/1.1\r\nhost: odd:443\r\n\r\n"[..], 404, "deny", None),
        odd("an upgrade that nobody knows", get("/odd/upgrade", b"connection: upgrade\r\nupgrade: teapot\r\n"), 403, "unseen", None),
        odd("headers over 96 KiB", get("/odd/huge", huge.as_bytes()), 431, "unseen", None),
        odd("a header with a NUL", get("/odd/nul", b"x-nul: a\0b\r\n"), 400, "unseen", None),
        odd("length and chunks at once", &b"POST /odd/smuggle HTTP/1.1\r\nhost: odd\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"[..], 400, "unseen", None),
        odd("not HTTP at all", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], 400, "unseen", None),
        odd("a version from the future", &b"GET /odd/future HTTP/9.9\r\nhost: odd\r\n\r\n"[..], 200, "allow", Some("/odd/future")),
    ]
}

/// How many events there are with each (verdict, path, status).
fn rows(stack: &Stack) -> Result<BTreeMap<String, u64>> {
    let mut sql = stack.sql()?;
    let rows = sql.run(
        "SELECT verdict || '|' || coalesce(substr(path, 1, 40), '') || '|' || coalesce(status, ''), count(*) \
         FROM traffic_events GROUP BY 1",
    )?;
    rows.iter()
        .map(|row| {
            let (key, count) = row.rsplit_once('|').context("two columns")?;
            Ok((key.to_owned(), count.parse()?))
        })
        .collect()
}

/// No VM has trapped since the start.
fn assert_no_trap(stack: &Stack) -> Result<()> {
    let stats = stack.stats()?;
    let reloads: Vec<_> =
        stats.matching(|name| name.contains("vm_reload")).filter(|(_, count)| *count > 0).collect();
    ensure!(reloads.is_empty(), "a VM was replaced: {reloads:?}");
    let log = std::fs::read(stack.log("envoy"))?;
    let log = String::from_utf8_lossy(&log);
    let trap = log.lines().find(|line| line.contains("panicked") || line.contains("RuntimeError"));
    ensure!(trap.is_none(), "a VM trapped: {trap:?}");
    Ok(())
}

/// Waits for the event that has this number, counted over all workers, and for
/// all before it.
fn recorded(stack: &Stack, number: u64) -> Result<Recording> {
    wait::until("the event is numbered", Duration::from_secs(20), || {
        Ok((stack.recording()?.numbered >= number).then_some(()))
    })?;
    stack.recorded(Duration::from_secs(20))
}

fn start(name: &str) -> Stack {
    let stack = Stack::start(Options::for_test(name).unwrap()).unwrap();
    stack.put_route("odd", "/odd", "demo").unwrap();
    stack
}

/// A route of 64 regular expressions that look at all of a path, and a wider rule
/// that a long path must not fall to.
fn put_costly(stack: &Stack) -> Result<()> {
    let costly = |at| json!({"path": {"type": "RegularExpression", "value": format!("/costly/.*{at}x")}});
    let matches: Vec<_> = (0..64).map(costly).collect();
    let wide = json!({"matches": [{"path": {"value": "/costly"}}], "backendRefs": [{"name": "demo"}]});
    stack.put_spec("costly", &json!({"rules": [{"matches": matches}, wide]}))
}

#[test]
fn odd_requests_are_answered_and_recorded() {
    let stack = start("odd-input");
    put_costly(&stack).unwrap();
    for input in inputs() {
        let settled = stack.recorded(Duration::from_secs(20)).unwrap();
        let before = rows(&stack).unwrap();
        let answer = raw(stack.gate(), &input.bytes, Duration::from_secs(5), 1 << 20).unwrap();
        let status = raw_status(&answer).with_context(|| input.what).unwrap();
        assert_eq!(status, input.status, "{}: {}", input.what, String::from_utf8_lossy(&answer));
        let whole = stack.recorded(Duration::from_secs(20)).with_context(|| input.what).unwrap();
        assert_eq!(whole.numbered, settled.numbered + 1, "{}: one event, no more", input.what);
        assert!(whole.is_whole(), "{}: {whole:?}", input.what);
        let (verdict, path) = input.event;
        let new: Vec<_> = rows(&stack)
            .unwrap()
            .into_iter()
            .filter(|(key, count)| before.get(key) != Some(count))
            .map(|(key, _)| key)
            .collect();
        let [new] = &new[..] else { panic!("{}: rows {new:?}", input.what) };
        assert!(new.starts_with(verdict) && new.ends_with(&format!("|{status}")), "{}: {new}", input.what);
        if let Some(path) = path {
            assert_eq!(*new, format!("{verdict}|{path}|{status}"), "{}", input.what);
        }
    }
    unreadable_forwarded_for_is_counted(&stack).unwrap();
    assert_no_trap(&stack).unwrap();
}

/// Each form, with Envoy's own entry behind it, as the shipped configuration has it.
fn unreadable_forwarded_for_is_counted(stack: &Stack) -> Result<()> {
    let counted = || -> Result<u64> {
        Ok(stack.stats()?.sum(|name| name.ends_with("requests.unreadable_forwarded_for")))
    };
    for (lines, unreadable) in [
        (&["1.2.3.4:80"][..], 1),
        (&["1.2.3.4, unknown"], 1),
        (&["[2001:db8::1]:443"], 1),
        (&["\u{e9}"], 1),
        (&["192.0.2.2", "1.2.3.4:80"], 1),
        (&["1.2.3.4:80, 127.0.0.1"], 1),
        (&["1.2.3.4"], 0),
        (&["junk, 1.2.3.4"], 0),
        (&["1.2.3.4:80,192.0.2.2"], 0),
        // Envoy makes of it what it makes of none.
        (&[""], 0),
        (&[], 0),
    ] {
        let before = counted()?;
        let more: String = lines.iter().map(|line| format!("x-forwarded-for: {line}\r\n")).collect();
        raw(stack.gate(), &get("/odd/xff", more.as_bytes()), Duration::from_secs(5), 1 << 20)?;
        // With the event's number goes what else was counted of the request.
        stack.recorded(Duration::from_secs(20))?;
        let expected = before + unreadable;
        wait::until(&format!("{lines:?} is counted or not"), Duration::from_secs(5), || {
            Ok((counted()? == expected).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_websocket_is_one_event_at_its_end() {
    let stack = start("odd-websocket");
    // The demo backend echoes below its own path only.
    stack.put_route("ws", "/ws", "demo").unwrap();
    let settled = stack.recorded(Duration::from_secs(20)).unwrap();
    let mut stream = TcpStream::connect(stack.gate()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nhost: odd\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert_eq!(raw_status(&head).unwrap(), 101);
    // A masked text frame of two letters; the echo is not masked.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(echo, [0x81, 2, b'h', b'i']);
    assert_eq!(stack.recording().unwrap().numbered, settled.numbered, "nothing yet: it is still open");
    drop(stream);
    let whole = recorded(&stack, settled.numbered + 1).unwrap();
    assert_eq!(whole.numbered, settled.numbered + 1);
    let mut sql = stack.sql().unwrap();
    let row = sql.run("SELECT status, tunnel, verdict FROM traffic_events WHERE path = '/ws'").unwrap();
    assert_eq!(row, ["101|1|allow"]);
    assert_no_trap(&stack).unwrap();
}

#[test]
fn connect_opens_no_tunnel_whatever_the_routes_say() {
    let stack = start("odd-connect");
    stack.put_route("all", "/", "demo").unwrap();
    let settled = stack.recorded(Duration::from_secs(20)).unwrap();
    let connect = b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n";
    let answer = raw(stack.gate(), connect, Duration::from_secs(2), 1 << 16).unwrap();
    let status = raw_status(&answer).unwrap();
    assert!((400..500).contains(&status), "{}", String::from_utf8_lossy(&answer));
    let whole = stack.recorded(Duration::from_secs(20)).unwrap();
    assert_eq!(whole.numbered, settled.numbered + 1);
    let mut sql = stack.sql().unwrap();
    let row = sql.run("SELECT status, tunnel FROM traffic_events WHERE method = 'CONNECT'").unwrap();
    assert_eq!(row, [format!("{status}|1")]);
    assert_no_trap(&stack).unwrap();
}

#[test]
fn a_client_that_leaves_has_its_event() {
    let stack = start("odd-leaves");
    stack.put_route("slow", "/slow", "demo").unwrap();
    let settled = stack.recorded(Duration::from_secs(20)).unwrap();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(stack.gate()).unwrap();
        stream.write_all(b"GET /slow?ms=5000 HTTP/1.1\r\nhost: odd\r\n\r\n").unwrap();
        // Gone before the answer.
    }
    let whole = recorded(&stack, settled.numbered + 20).unwrap();
    assert_eq!(whole.numbered, settled.numbered + 20);
    assert!(whole.is_whole(), "{whole:?}");
    assert_no_trap(&stack).unwrap();
}
