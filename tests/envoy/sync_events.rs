//! Synchronous recording on a real Envoy: the row is there when the response is,
//! and in the end there is one row per request, whichever way it went.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_stack::faults::{Call, Faults};
use tidegate_stack::http::{self, Method, PATIENCE, Request, raw, raw_status};
use tidegate_stack::load::Load;
use tidegate_stack::ports::local;
use tidegate_stack::{FlagsAtStart, NamedBackend, Options, Stack, wait};

fn options(name: &str) -> Result<Options> {
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    options.faults = Some(Faults::default());
    // A slow machine must not let a response go before its event is stored.
    options.plugin = json!({
        "direct": { "timeout": "30s", "budget": "60s" },
        "events": { "sync_timeout": "60s" },
    });
    Ok(options)
}

/// Requests of every kind, with what the client sees.
fn kinds() -> Vec<(Request, u16)> {
    let from = |request: Request, client: &str| request.from(client).header("user-agent", "kinds");
    vec![
        (from(Request::get("/kinds/get?secret=1"), "192.0.2.14"), 200),
        (from(Request::get("/kinds/denied"), "192.0.2.13"), 403),
        (from(Request::new(Method::POST, "/kinds/post").body("text/plain", "12345"), "2001:db8::1"), 200),
        (from(Request::new(Method::HEAD, "/kinds/head"), "192.0.2.14"), 200),
        (from(Request::get("/status/503"), "192.0.2.14"), 503),
        (from(Request::get("/status/418"), "192.0.2.15"), 418),
        (from(Request::get("/nowhere/1"), "192.0.2.15"), 500),
        (from(Request::get("/kinds/host").header("host", "A.example:80"), "192.0.2.15"), 200),
    ]
}

/// The rows of [`kinds`], without times and what else may differ, and with counts.
fn contents(stack: &Stack) -> Result<Vec<String>> {
    stack.sql()?.run(
        "SELECT method, path, host, route, client_ip, country, verdict, reason, rule, status, bytes_in, \
         tunnel, answered, complete, count(*) FROM traffic_events WHERE user_agent = 'kinds' \
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 ORDER BY 1, 2, 3, 5",
    )
}

#[test]
fn both_ways_record_the_same() {
    let stack = Stack::start_serving(options("sync-same").unwrap()).unwrap();
    stack.put_route("nowhere", "/nowhere", "no-such-cluster").unwrap();
    for is_async in [false, true] {
        stack.flags(&json!({ "enableAsyncRecording": is_async })).unwrap();
        let before = stack.recorded(PATIENCE).unwrap();
        for worker in &mut stack.connection_per_worker().unwrap() {
            for (request, status) in kinds() {
                assert_eq!(worker.send(&request).unwrap().status, status, "{request:?}");
            }
        }
        let whole = stack.recorded(PATIENCE).unwrap();
        assert!(whole.is_whole() && whole.numbered > before.numbered, "{whole:?}");
        let rows = contents(&stack).unwrap();
        assert_eq!(rows.len(), kinds().len(), "{rows:?}");
        let count = if is_async { "|4" } else { "|2" };
        assert!(rows.iter().all(|row| row.ends_with(count)), "{rows:?}");
    }
    let ways = stack.sql().unwrap().run(
        "SELECT modes LIKE '%async=on', count(*), sum(duration_ms > 0), sum(bytes_out > 0) \
         FROM traffic_events WHERE user_agent = 'kinds' GROUP BY 1",
    );
    // HEAD and Envoy's own 500 have no body.
    assert_eq!(ways.unwrap(), ["0|16|16|12", "1|16|16|12"]);
}

#[test]
fn the_row_is_there_when_the_response_is() {
    let stack = Stack::start_serving(options("sync-row").unwrap()).unwrap();
    let mut sql = stack.sql().unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    for number in 0..50 {
        let (client, status, verdict) =
            if number % 3 == 0 { ("192.0.2.13", 403, "deny") } else { ("192.0.2.14", 200, "allow") };
        let at = number % workers.len();
        let answer = workers[at].send(&Request::get(&format!("/row/{number}")).from(client)).unwrap();
        assert_eq!(answer.status, status);
        // Whether its end is stored yet or not.
        let row = sql
            .run(&format!(
                "SELECT client_ip, status, verdict FROM traffic_events WHERE path = '/row/{number}'"
            ))
            .unwrap();
        assert_eq!(row, [format!("{client}|{status}|{verdict}")], "request {number}");
    }
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole() && whole.duplicates == 0, "{whole:?}");
    stack.counted("tidegate.recording.sync.stored", 50).unwrap();
}

fn switched_under_load(name: &str, recorder: bool) -> Result<()> {
    let mut options = options(name)?;
    options.recorder = recorder;
    let stack = Stack::start_serving(options)?;
    let before = stack.recorded(PATIENCE)?;
    let load = Load::start(stack.gate(), 8, None, |number| {
        std::thread::sleep(Duration::from_millis(2));
        let client = if number % 5 == 0 { "192.0.2.13" } else { "192.0.2.14" };
        Request::get(&format!("/switched/{number}")).from(client)
    });
    let began = Instant::now();
    let mut is_async = false;
    while began.elapsed() < Duration::from_secs(6) {
        is_async = !is_async;
        stack.flags(&json!({ "enableAsyncRecording": is_async }))?;
        thread::sleep(Duration::from_millis(100));
    }
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    let whole = stack.recorded(Duration::from_secs(60))?;
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!((whole.stored, whole.duplicates), (before.stored + tally.total(), before.duplicates));
    let rows = stack.sql()?.run(
        "SELECT modes LIKE '%async=on', count(*), count(DISTINCT path) FROM traffic_events \
         WHERE path LIKE '/switched/%' AND complete GROUP BY 1 ORDER BY 1",
    )?;
    let mut total = 0;
    for row in &rows {
        let [_, count, paths] = row.split('|').collect::<Vec<_>>()[..] else { anyhow::bail!("{row}") };
        ensure!(count == paths, "a request has two rows: {rows:?}");
        total += count.parse::<u64>()?;
    }
    assert_eq!((rows.len(), total), (2, tally.total()), "both ways were taken: {rows:?}");
    println!("{name}: {rows:?}; {whole:?}");
    Ok(())
}

#[test]
fn the_number_is_exact_when_recording_is_switched_under_load() {
    switched_under_load("sync-switched", true).unwrap();
}

#[test]
fn the_number_is_exact_when_recording_is_switched_without_the_recorder() {
    switched_under_load("sync-switched-bare", false).unwrap();
}

/// A backend that begins an answer and then breaks its connection; `pause` lies
/// between.
fn broken_backend(pause: Duration) -> Result<u16> {
    let listener = TcpListener::bind(local(0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun");
                thread::sleep(pause);
                // Dropped: the rest never comes.
            });
        }
    });
    Ok(port)
}

/// Longer than the slower backend takes to break off.
const HOLD: Duration = Duration::from_secs(2);

#[test]
fn a_response_that_breaks_off_is_recorded_as_it_ended() {
    let mut with_backends = options("sync-broken").unwrap();
    for (name, pause) in [("breaks", Duration::ZERO), ("breaks-late", Duration::from_millis(500))] {
        let port = broken_backend(pause).unwrap();
        with_backends.backends.push(NamedBackend { name: name.into(), host: "127.0.0.1".into(), port });
    }
    let stack = Stack::start_serving(with_backends).unwrap();
    stack.put_route("breaks", "/breaks", "breaks").unwrap();
    stack.put_route("breaks-late", "/breaks-late", "breaks-late").unwrap();
    let before = stack.recorded(PATIENCE).unwrap();
    let mut seen = BTreeMap::new();
    // While its event is held the response cannot begin; the second time it has broken
    // off before it could.
    for hold in [Duration::ZERO, HOLD] {
        stack.delay_calls(Call::OpenEvent, hold).unwrap();
        for path in ["/breaks", "/breaks-late"] {
            for number in 0..3 {
                let path = format!("{path}/{}/{number}", hold.as_secs());
                let bytes = format!("GET {path} HTTP/1.1\r\nhost: broken\r\nconnection: close\r\n\r\n");
                let answer = raw(stack.gate(), bytes.as_bytes(), Duration::from_secs(10), 1 << 20).unwrap();
                seen.insert(path, raw_status(&answer).unwrap());
            }
        }
    }
    stack.delay_calls(Call::OpenEvent, Duration::ZERO).unwrap();
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!((whole.stored, whole.duplicates), (before.stored + 12, before.duplicates), "{seen:?}");
    let mut sql = stack.sql().unwrap();
    for (path, status) in &seen {
        let rows =
            sql.run(&format!("SELECT status, complete FROM traffic_events WHERE path = '{path}'")).unwrap();
        assert_eq!(rows, [format!("{status}|1")], "{path}");
    }
    let held = |path: &str| seen[&format!("{path}/{}/0", HOLD.as_secs())];
    assert_eq!((held("/breaks"), held("/breaks-late")), (502, 502), "their open events said 200");
    assert_eq!(seen["/breaks-late/0/0"], 200, "this one was on its way");
}

fn killed_meanwhile(name: &str, recorder: bool) -> Result<()> {
    let mut options = options(name)?;
    options.recorder = recorder;
    let mut stack = Stack::start_serving(options)?;
    let before = stack.recorded(PATIENCE)?;
    stack.delay_calls(Call::OpenEvent, Duration::from_secs(3))?;
    let gate = stack.gate();
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let request =
                Request::get("/killed").from(if number % 4 == 0 { "192.0.2.13" } else { "192.0.2.14" });
            thread::spawn(move || http::send(gate, &request))
        })
        .collect();
    wait::until("all events are held", PATIENCE, || {
        let held = stack.stats()?.get("http.admin_faults.fault.active_faults").unwrap_or(0);
        Ok((held >= 20).then_some(()))
    })?;
    stack.kill_admin();
    let mut statuses = BTreeMap::<u16, u64>::new();
    for client in clients {
        *statuses.entry(client.join().expect("a client does not panic")?.status).or_default() += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 15), (403, 5)]), "every response was let go");
    stack.delay_calls(Call::OpenEvent, Duration::ZERO)?;
    // More of them, while nobody can store an event.
    let tally = Load::start(gate, 4, Some(20), |_| Request::get("/killed").from("192.0.2.14")).finish();
    assert_eq!((tally.status(200), tally.failed), (20, 0), "{tally:?}");
    stack.start_admin()?;
    stack.wait_gateway(PATIENCE)?;
    let whole = stack.recorded(Duration::from_secs(60))?;
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!(whole.stored, before.stored + 40);
    let rows = stack.sql()?.run(
        "SELECT status, complete, count(*) FROM traffic_events WHERE path = '/killed' GROUP BY 1, 2 ORDER BY 1",
    )?;
    assert_eq!(rows, ["200|1|35", "403|1|5"]);
    Ok(())
}

#[test]
fn a_killed_admin_service_holds_no_response_and_loses_no_event() {
    killed_meanwhile("sync-killed", true).unwrap();
}

#[test]
fn a_killed_admin_service_loses_no_event_without_the_recorder() {
    killed_meanwhile("sync-killed-bare", false).unwrap();
}
