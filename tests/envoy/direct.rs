//! Direct mode on a real Envoy: every request is asked about, whatever it looks
//! like, however many there are, and whether its client waits or not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::faults::{Call, Faults};
use tidegate_stack::http::{self, Method, PATIENCE, Request, raw, raw_status};
use tidegate_stack::load::Load;
use tidegate_stack::stats::Stats;
use tidegate_stack::{FlagsAtStart, Options, Stack, wait};

const ADMIN: &str = "cluster.tidegate-admin";
/// Longer than it takes until every client's call is held.
const HELD: Duration = Duration::from_secs(5);

fn options(name: &str) -> Result<Options> {
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    options.faults = Some(Faults::default());
    // A slow machine must not make the cache answer for the database.
    options.plugin = json!({
        "direct": { "timeout": "60s", "budget": "60s" },
        "events": { "sync_timeout": "60s" },
    });
    Ok(options)
}

fn parallel(stack: &Stack, on: bool) -> Result<()> {
    stack.flags(&json!({ "enableParallelExecution": on }))
}

fn assert_no_trap(stack: &Stack) -> Result<()> {
    let replaced = stack.stats()?.sum(|name| name.contains("vm_reload"));
    let log = std::fs::read(stack.log("envoy"))?;
    let log = String::from_utf8_lossy(&log);
    let trap = log.lines().find(|line| line.contains("panicked") || line.contains("RuntimeError"));
    ensure!(replaced == 0 && trap.is_none(), "a VM trapped: {replaced} replaced, {trap:?}");
    Ok(())
}

/// All five off: every request asks three times, a denied one once, and each has
/// its row when its response is there.
fn asked_about(name: &str, recorder: bool) -> Result<()> {
    let mut options = options(name)?;
    options.recorder = recorder;
    let stack = Stack::start_serving(options)?;
    let before = stack.recorded(PATIENCE)?;
    let tally = Load::start(stack.gate(), 8, Some(200), |number| {
        let client = if number % 4 == 0 { "192.0.2.13" } else { "192.0.2.14" };
        Request::get("/direct").from(client)
    })
    .finish();
    assert_eq!((tally.status(200), tally.status(403), tally.failed), (150, 50, 0), "{tally:?}");
    let after = stack.recorded(PATIENCE)?;
    assert!(after.is_whole(), "{after:?}");
    assert_eq!(after.stored, before.stored + 200);
    let asked = [after.checks.ip, after.checks.geo, after.checks.route];
    let former = [before.checks.ip, before.checks.geo, before.checks.route];
    for ((after, before), direct) in asked.iter().zip(former).zip([200, 150, 150]) {
        assert_eq!(after.direct - before.direct, direct, "{after:?}");
        assert_eq!(after.asked - before.asked, direct, "nobody else was asked: {after:?}");
    }
    let rows = stack.sql()?.run(
        "SELECT client_ip, status, modes, answered, complete, count(*) FROM traffic_events \
         WHERE path = '/direct' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1",
    )?;
    let modes = "ip=direct,geo=direct,route=direct,parallel=off,async=off";
    assert_eq!(
        rows,
        [
            format!("192.0.2.13|403|{modes}|ip=direct,geo=unneeded,route=unneeded|1|50"),
            format!("192.0.2.14|200|{modes}|ip=direct,geo=direct,route=direct|1|150"),
        ]
    );
    assert_no_trap(&stack)
}

#[test]
fn with_all_flags_off_every_request_is_asked_about() {
    asked_about("direct", true).unwrap();
}

#[test]
fn with_all_flags_off_every_request_is_asked_about_without_the_recorder() {
    asked_about("direct-bare", false).unwrap();
}

#[test]
fn six_hundred_connections_meet_no_limit() {
    let stack = Stack::start_serving(options("direct-many").unwrap()).unwrap();
    stack.flags(&json!({ "enableParallelExecution": true, "enableAsyncRecording": true })).unwrap();
    // Long enough that all are open at once.
    for call in [Call::Ip, Call::Geo, Call::Route] {
        stack.delay_calls(call, Duration::from_secs(8)).unwrap();
    }
    let load = Load::start(stack.gate(), 600, Some(600), |_| Request::get("/many").from("192.0.2.14"));
    wait::until("1,800 questions are open at once", PATIENCE, || {
        let active = stack.stats()?.get(&format!("{ADMIN}.upstream_rq_active")).unwrap_or(0);
        Ok((active >= 1_800).then_some(()))
    })
    .unwrap();
    let tally = load.finish();
    assert_eq!((tally.status(200), tally.failed), (600, 0), "{tally:?}");
    for call in [Call::Ip, Call::Geo, Call::Route] {
        stack.delay_calls(call, Duration::ZERO).unwrap();
    }
    let tally =
        Load::start(stack.gate(), 600, Some(3_000), |_| Request::get("/many").from("192.0.2.14")).finish();
    assert_eq!((tally.status(200), tally.failed), (3_000, 0), "{tally:?}");

    let stats = stack.stats().unwrap();
    let refused = |name: &str| {
        name.starts_with(ADMIN)
            && (name.ends_with("_overflow") || name.ends_with("upstream_rq_pending_failure_eject"))
    };
    assert_eq!(stats.sum(refused), 0, "{:?}", stats.matching(refused).collect::<Vec<_>>());
    assert_eq!(stats.sum(|name| name.contains("tidegate.direct.") && name.ends_with(".failed")), 0);
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole() && whole.checks.ip.fallback == 0, "{whole:?}");
}

/// A request that is not like the others: what it is, its bytes, and the status
/// and a part of the answer that are right.
fn unusual() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let head = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nhost: unusual\r\nconnection: close\r\n{more}\r\n").into_bytes()
    };
    let mut long = head("POST /unusual/long", "content-length: 1048576\r\n");
    long.resize(long.len() + (1 << 20), b'x');
    let mut chunked = head("POST /unusual/chunked", "transfer-encoding: chunked\r\n");
    for _ in 0..64 {
        chunked.extend_from_slice(b"400\r\n");
        chunked.resize(chunked.len() + 0x400, b'x');
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let many: String = (0..200).map(|at| format!("x-h{at}: v\r\n")).collect();
    let path = format!("GET /unusual/{}", "a".repeat(60 * 1024));
    let grpc = "content-type: application/grpc\r\nte: trailers\r\ncontent-length: 5\r\n";
    let mut call = head("POST /unusual.Service/Call", grpc);
    call.extend_from_slice(&[0; 5]);
    vec![
        ("a body of a megabyte", long, 200, "\"body_bytes\":1048576"),
        ("a body in chunks", chunked, 200, "\"body_bytes\":65536"),
        ("HEAD", head("HEAD /unusual/head", ""), 200, ""),
        ("a path of 60 KiB", head(&path, ""), 200, "\"backend\":\"demo\""),
        // The demo backend takes a hundred.
        ("200 headers", head("GET /unusual/headers", &many), 431, ""),
        ("a call of gRPC", call, 200, "\"body_bytes\":5"),
        (
            "a header that is not UTF-8",
            b"GET /unusual/bytes HTTP/1.1\r\nhost: unusual\r\nconnection: close\r\nx-odd: \xff\xfe\r\n\r\n"
                .to_vec(),
            200,
            "demo",
        ),
        ("CONNECT", b"CONNECT unusual:443 HTTP/1.1\r\nhost: unusual:443\r\n\r\n".to_vec(), 404, ""),
    ]
}

#[test]
fn unusual_requests_are_asked_about_too() {
    let stack = Stack::start_serving(options("direct-unusual").unwrap()).unwrap();
    for in_parallel in [false, true] {
        parallel(&stack, in_parallel).unwrap();
        for (what, bytes, status, part) in unusual() {
            let settled = stack.recorded(PATIENCE).unwrap();
            let answer = raw(stack.gate(), &bytes, Duration::from_secs(10), 1 << 22).unwrap();
            assert_eq!(raw_status(&answer).with_context(|| what).unwrap(), status, "{what}");
            assert!(
                String::from_utf8_lossy(&answer).contains(part),
                "{what}: {}",
                String::from_utf8_lossy(&answer)
            );
            let whole = stack.recorded(PATIENCE).with_context(|| what).unwrap();
            assert_eq!(whole.numbered, settled.numbered + 1, "{what}: one event, no more");
            assert!(whole.is_whole(), "{what}: {whole:?}");
            let direct = whole.checks.ip.direct - settled.checks.ip.direct;
            assert_eq!(direct, 1, "{what}: {whole:?}");
        }
        websocket(&stack).unwrap();
    }
    assert_no_trap(&stack).unwrap();
}

/// A WebSocket is asked about once, at its beginning, and echoes then.
fn websocket(stack: &Stack) -> Result<()> {
    let mut stream = TcpStream::connect(stack.gate())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        b"GET /ws HTTP/1.1\r\nhost: unusual\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    assert_eq!(raw_status(&head)?, 101);
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])?;
    let mut echo = [0; 4];
    stream.read_exact(&mut echo)?;
    assert_eq!(echo, [0x81, 2, b'h', b'i']);
    let mut sql = stack.sql()?;
    let open = sql
        .number("SELECT count(*) FROM traffic_events WHERE path = '/ws' AND complete = 0 AND status = 101")?;
    assert_eq!(open, 1, "its response waited for its event");
    drop(stream);
    wait::until("the tunnel's event is complete", PATIENCE, || {
        let open = sql.number("SELECT count(*) FROM traffic_events WHERE path = '/ws' AND complete = 0")?;
        Ok((open == 0).then_some(()))
    })
}

fn active(stats: &Stats, what: &str) -> u64 {
    stats.get(&format!("{what}_rq_active")).unwrap_or(0)
}

/// Clients go while the calls of this kind are held: nothing stays behind, and each
/// request has its event.
fn clients_leave(stack: &Stack, held: Call, count: usize) -> Result<()> {
    let settled = stack.recorded(PATIENCE)?;
    stack.delay_calls(held, HELD)?;
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(stack.gate())?;
        stream.write_all(b"GET /leaves HTTP/1.1\r\nhost: leaves\r\n\r\n")?;
        clients.push(stream);
    }
    // A poll and a post of events may be open beside them.
    let behind = || Ok::<_, anyhow::Error>(active(&stack.stats()?, &format!("{ADMIN}.upstream")));
    wait::until("every client's call is held", PATIENCE, || Ok((behind()? >= count as u64).then_some(())))?;
    drop(clients);
    // Envoy may keep a call of a request that is over until it is answered, or its
    // time is up.
    wait::until("nobody waits any more", PATIENCE, || {
        let at_gate = active(&stack.stats()?, "http.gate.downstream");
        Ok((at_gate == 0 && behind()? <= 3).then_some(()))
    })
    .with_context(|| format!("{held:?}"))?;
    stack.delay_calls(held, Duration::ZERO)?;
    let whole = wait::until("each has its event", PATIENCE, || {
        let now = stack.recorded(PATIENCE)?;
        Ok((now.numbered >= settled.numbered + count as u64).then_some(now))
    })?;
    assert_eq!(whole.numbered, settled.numbered + count as u64, "{held:?}");
    assert!(whole.is_whole(), "{held:?}: {whole:?}");
    assert_eq!(http::send(stack.gate(), &Request::get("/stays").from("192.0.2.14"))?.status, 200);
    Ok(())
}

#[test]
fn clients_that_leave_leave_nothing_behind() {
    let stack = Stack::start_serving(options("direct-leaves").unwrap()).unwrap();
    for held in [Call::Ip, Call::Geo, Call::Route, Call::OpenEvent] {
        clients_leave(&stack, held, 100).unwrap();
    }
    parallel(&stack, true).unwrap();
    clients_leave(&stack, Call::Route, 100).unwrap();
    assert_no_trap(&stack).unwrap();
}

#[test]
fn what_envoy_answers_itself_stays_its_answer() {
    // A body that is no body makes Envoy refuse a request that is being asked about.
    let stack = Stack::start_serving(options("direct-early").unwrap()).unwrap();
    for (in_parallel, is_async) in [(false, true), (true, true), (true, false)] {
        stack
            .flags(&json!({ "enableParallelExecution": in_parallel, "enableAsyncRecording": is_async }))
            .unwrap();
        stack.delay_calls(Call::Route, HELD).unwrap();
        let settled = stack.recorded(PATIENCE).unwrap();
        let before = active(&stack.stats().unwrap(), "http.admin_faults.downstream");
        let mut stream = TcpStream::connect(stack.gate()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(
                b"POST /early HTTP/1.1\r\nhost: early\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            )
            .unwrap();
        wait::until("it is asked about", PATIENCE, || {
            let now = active(&stack.stats()?, "http.admin_faults.downstream");
            Ok((now > before).then_some(()))
        })
        .unwrap();
        stream.write_all(b"this is no chunk\r\n").unwrap();
        let mut answer = Vec::new();
        // Envoy closes after it, or resets.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(raw_status(&answer).unwrap(), 400, "{}", String::from_utf8_lossy(&answer));
        stack.delay_calls(Call::Route, Duration::ZERO).unwrap();
        let whole = wait::until("it has its event", PATIENCE, || {
            let now = stack.recorded(PATIENCE)?;
            Ok((now.numbered > settled.numbered).then_some(now))
        })
        .unwrap();
        assert!(whole.is_whole() && whole.numbered == settled.numbered + 1, "{whole:?}");
    }
    let rows = stack
        .sql()
        .unwrap()
        .run("SELECT status, count(*) FROM traffic_events WHERE path = '/early' GROUP BY 1");
    assert_eq!(rows.unwrap(), ["400|3"]);
    assert_no_trap(&stack).unwrap();
}

#[test]
fn a_client_that_breaks_the_protocol_is_answered_before_its_event_is_stored() {
    // Decided and on its way when the body breaks: Envoy answers 400 and closes at
    // once, so an answer that waited for its event would never leave.
    let stack = Stack::start_serving(options("direct-broken").unwrap()).unwrap();
    stack.delay_calls(Call::OpenEvent, HELD).unwrap();
    let with_backend = || Ok::<_, anyhow::Error>(active(&stack.stats()?, "cluster.demo.upstream"));
    let before = with_backend().unwrap();
    let mut stream = TcpStream::connect(stack.gate()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = b"POST /broken HTTP/1.1\r\nhost: broken\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    stream.write_all(head).unwrap();
    wait::until("it is with the backend", PATIENCE, || Ok((with_backend()? > before).then_some(()))).unwrap();
    stream.write_all(b"this is no chunk\r\n").unwrap();
    let mut answer = Vec::new();
    // Envoy closes after it, or resets.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(raw_status(&answer).unwrap(), 400, "{}", String::from_utf8_lossy(&answer));
    stack.delay_calls(Call::OpenEvent, Duration::ZERO).unwrap();
    assert!(stack.recorded(PATIENCE).unwrap().is_whole());
    let rows = stack
        .sql()
        .unwrap()
        .run("SELECT status, complete FROM traffic_events WHERE path = '/broken'")
        .unwrap();
    assert_eq!(rows, ["400|1"]);
}

#[test]
fn the_database_is_asked_and_not_what_was_published() {
    // A gate whose tables stay as they are still hears of every change, row by row.
    let stack = Stack::start_serving(options("direct-fresh").unwrap()).unwrap();
    stack.freeze_tables().unwrap();
    let status = |client: &str, path: &str| -> Result<(u16, Value)> {
        let answer = http::send(stack.gate(), &Request::get(path).from(client))?;
        Ok((answer.status, answer.json()?["code"].clone()))
    };
    for round in 0..20 {
        let client = format!("198.51.100.{round}");
        assert_eq!(status(&client, "/").unwrap().0, 200);
        let ban = json!({ "ip": client });
        stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban", Some(&ban)).unwrap();
        assert_eq!(status(&client, "/").unwrap(), (403, json!("ip_banned")));
        stack.api_ok(Method::POST, "/api/admin/optimization/ip/unban", Some(&ban)).unwrap();
        assert_eq!(status(&client, "/").unwrap().0, 200);
    }
    let mut sql = stack.sql().unwrap();
    sql.run("INSERT INTO ip_monitor (ip, status) VALUES ('198.51.100.99', 'banned')").unwrap();
    assert_eq!(status("198.51.100.99", "/").unwrap(), (403, json!("ip_banned")), "at once, by SQL");
    stack.api_ok(Method::DELETE, "/api/admin/routes/all", None).unwrap();
    assert_eq!(status("192.0.2.14", "/").unwrap(), (404, json!("no_route")));
}
