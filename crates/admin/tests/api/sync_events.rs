//! Synchronous recording: an event before its response, and its completion.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tidegate_admin::store::sqlite::Options;
use tidegate_policy::wire::event::{
    BATCH_FORMAT, Batch, EventPost, MAX_OPEN, OPEN_FORMAT, OpenEvent, POST_FORMAT, SealedBatch, Source,
    SourceReport, SourceState, TrafficEvent,
};

use crate::running::{Answered, Running, db, until};

const EVENTS: &str = "/api/data-plane/v1/events";

fn event(number: u64, status: u16) -> TrafficEvent {
    let client = Some("203.0.113.7".parse().unwrap());
    TrafficEvent {
        number,
        time_ms: 1_795_456_800_000,
        client,
        status: Some(status),
        ..TrafficEvent::default()
    }
}

async fn post(running: &Running, path: &str, bytes: Vec<u8>) -> Answered {
    running.send(running.as_gateway(Method::POST, path).body(Body::from(bytes)).unwrap()).await
}

async fn open(running: &Running, number: u64) -> Answered {
    let open = OpenEvent { source: Source(7), event: event(number, 200) };
    post(running, &format!("{EVENTS}?sync=1"), open.to_bytes().unwrap()).await
}

async fn complete(running: &Running, first: u64, events: Vec<TrafficEvent>) -> Value {
    let numbered_hi = first + events.len() as u64 - 1;
    let batch = Batch { source: Source(7), first, numbered_hi, events, ..Batch::default() };
    let source = SourceReport { source: Source(7), numbered_hi, state: SourceState::Alive };
    let batches = vec![SealedBatch(batch.to_bytes().unwrap())];
    let bytes = EventPost { sources: vec![source], batches, ..EventPost::default() }.to_bytes().unwrap();
    post(running, EVENTS, bytes).await.ok()
}

/// The statuses of all rows of the view, in order.
fn rows(running: &Running) -> Vec<i64> {
    let connection = rusqlite::Connection::open(db(&running.dir)).unwrap();
    let mut rows = connection.prepare("SELECT status FROM traffic_events ORDER BY status").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

async fn stats(running: &Running) -> Value {
    running.get("/api/admin/optimization/recording/stats").await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_event_is_a_row_when_it_is_answered_and_one_row_when_it_ends() {
    let running = Running::start().await;
    for number in 1..=3 {
        let answer = open(&running, number).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
        assert_eq!(rows(&running).len() as u64, number);
    }
    // Twice is once.
    assert_eq!(open(&running, 3).await.status, 204);
    assert_eq!((rows(&running), stats(&running).await["open"].clone()), (vec![200, 200, 200], json!(3)));
    // A status that changed after the headers counts as it ended.
    let taken = complete(&running, 1, vec![event(1, 200), event(2, 504), event(3, 200)]).await;
    assert_eq!(taken, json!({"stored": 3, "duplicates": 0, "malformed": 0}));
    assert_eq!(rows(&running), [200, 200, 504]);
    let seen = stats(&running).await;
    assert_eq!(
        (&seen["open"], &seen["stored"], &seen["completeness"]),
        (&json!(0), &json!(3), &json!(1.0)),
        "{seen}"
    );
    // Late: its end was here first.
    assert_eq!(open(&running, 2).await.status, 204);
    assert_eq!((rows(&running), stats(&running).await["open"].clone()), (vec![200, 200, 504], json!(0)));
    let monitor = running.get("/api/admin/ip-monitor/203.0.113.7").await.ok();
    assert_eq!(
        (&monitor["status"], &monitor["requests_seen"]["count"]),
        (&json!("none"), &json!(3)),
        "{monitor}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_end_is_stored_and_said_to_be_incomplete() {
    let often = Options { housekeeping_every: Duration::from_millis(20), ..Options::default() };
    let running = Running::start_in(tempfile::tempdir().unwrap(), often).await;
    assert_eq!(open(&running, 1).await.status, 204);
    let dead = SourceReport { source: Source(7), numbered_hi: 1, state: SourceState::Dead };
    let dead = EventPost { sources: vec![dead], ..EventPost::default() };
    post(&running, EVENTS, dead.to_bytes().unwrap()).await.ok();
    let figures = |stats: &Value| ["stored", "open", "incomplete"].map(|name| stats[name].clone());
    let given_up = until("the request to be given up", async || {
        let stats = stats(&running).await;
        (stats["open"] == 0).then_some(stats)
    })
    .await;
    assert_eq!(figures(&given_up), [1, 0, 1].map(Value::from), "{given_up}");
    assert_eq!(given_up["completeness"], 1.0);
    // Its end comes after all.
    complete(&running, 1, vec![event(1, 504)]).await;
    let ended = stats(&running).await;
    assert_eq!(figures(&ended), [1, 0, 0].map(Value::from), "{ended}");
    assert_eq!((rows(&running), ended["duplicates"].clone()), (vec![504], json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_open_event_is_refused_and_counted() {
    let running = Running::start().await;
    let sync = format!("{EVENTS}?sync=1");
    for body in [Vec::new(), b"rubbish".to_vec(), EventPost::default().to_bytes().unwrap()] {
        post(&running, &sync, body).await.problem(400, "invalid_body");
    }
    open(&running, 0).await.problem(400, "invalid_body");
    post(&running, &sync, vec![1; MAX_OPEN + 1]).await.problem(413, "body_too_large");
    let bytes = OpenEvent { source: Source(7), event: event(1, 200) }.to_bytes().unwrap();
    for query in ["sync=2", "sync=true", "sync=1&sync=1", "synchronous=1"] {
        post(&running, &format!("{EVENTS}?{query}"), bytes.clone()).await.problem(400, "invalid_parameter");
    }
    // Without the parameter it is no post: its first byte could be a later version's.
    post(&running, EVENTS, bytes).await.problem(503, "newer_format");
    let seen = stats(&running).await;
    assert_eq!((&seen["malformed"], &seen["open"]), (&json!(4), &json!(0)), "{seen}");
    assert!(rows(&running).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_later_version_are_to_be_kept_and_those_of_one_too_old_are_lost() {
    let running = Running::start().await;
    let batch = |version: u8, first: u64| {
        let batch = Batch {
            source: Source(7),
            first,
            numbered_hi: first,
            events: vec![event(first, 200)],
            ..Batch::default()
        };
        let mut bytes = batch.to_bytes().unwrap();
        bytes[0] = version;
        SealedBatch(bytes)
    };
    let batches = |versions: &[u8]| {
        let batches = versions.iter().zip(1..).map(|(version, first)| batch(*version, first)).collect();
        EventPost { batches, ..EventPost::default() }.to_bytes().unwrap()
    };
    let mut later_post = batches(&[BATCH_FORMAT]);
    later_post[0] = POST_FORMAT + 1;
    for bytes in [batches(&[BATCH_FORMAT, BATCH_FORMAT + 1]), later_post] {
        let answer = post(&running, EVENTS, bytes).await;
        assert!(answer.headers.contains_key("retry-after"));
        answer.problem(503, "newer_format");
    }
    let mut open = OpenEvent { source: Source(7), event: event(1, 200) }.to_bytes().unwrap();
    open[0] = OPEN_FORMAT + 1;
    post(&running, &format!("{EVENTS}?sync=1"), open).await.problem(503, "newer_format");
    assert!(rows(&running).is_empty(), "what could be read comes again with the rest");
    assert_eq!(stats(&running).await["malformed"], 0);
    let taken = post(&running, EVENTS, batches(&[BATCH_FORMAT, BATCH_FORMAT - 1])).await.ok();
    assert_eq!(taken, json!({"stored": 1, "duplicates": 0, "malformed": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_locked_says_so_and_the_response_may_go_on() {
    let store = Options { busy_for: std::time::Duration::from_millis(300), ..Options::default() };
    let running = Running::start_in(tempfile::tempdir().unwrap(), store).await;
    let other = rusqlite::Connection::open(db(&running.dir)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    open(&running, 1).await.problem(503, "store_busy");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(complete(&running, 1, vec![event(1, 200)]).await["stored"], 1);
    assert_eq!(rows(&running), [200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_that_most_requests_came_from_are_listed() {
    let running = Running::start().await;
    running.post("/api/admin/ip/ban", r#"{"ip": "203.0.113.0/24"}"#).await.ok();
    running.post("/api/admin/ip/ban", r#"{"ip": "198.51.100.1"}"#).await.ok();
    let from =
        |number: u64, ip: &str| TrafficEvent { client: Some(ip.parse().unwrap()), ..event(number, 200) };
    let ips = ["203.0.113.7", "198.51.100.1", "203.0.113.7", "2001:db8::1", "203.0.113.8", "203.0.113.7"];
    let events = (1..).zip(ips).map(|(number, ip)| from(number, ip)).collect();
    complete(&running, 1, events).await;
    let top = running.get("/api/admin/ip-monitor?seen=1").await.ok();
    let items = top["items"].as_array().unwrap();
    assert_eq!(items.len(), 4, "{top}");
    assert_eq!((&items[0]["ip"], &items[0]["status"]), (&json!("203.0.113.7"), &json!("banned")), "{top}");
    let seen = &items[0]["requests_seen"];
    assert_eq!((&seen["count"], &seen["over"]), (&json!(3), &json!(0)), "{top}");
    assert_eq!(seen["last_seen"], "2026-11-23T18:00:00Z", "{top}");
    let one = running.get("/api/admin/ip-monitor?seen=1&limit=1").await.ok();
    assert_eq!(one["items"], json!([items[0]]));
    // A block: those of its addresses that are known.
    let block = running.get("/api/admin/ip-monitor/203.0.113.0/24").await.ok();
    assert_eq!(
        (&block["requests_seen"]["count"], &block["entry"]),
        (&json!(4), &json!("203.0.113.0/24")),
        "{block}"
    );
    let nobody = running.get("/api/admin/ip-monitor/192.0.2.1").await.ok();
    assert_eq!(nobody["requests_seen"], Value::Null);
    let list = running.get("/api/admin/ip-monitor").await.ok();
    let counts: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (&item["ip"], &item["requests_seen"]["count"]))
        .collect();
    assert_eq!(
        counts,
        [(&json!("198.51.100.1"), &json!(1)), (&json!("203.0.113.0/24"), &Value::Null)],
        "{list}"
    );
    for bad in ["seen=2", "seen=1&status=banned", "seen=1&cursor=6161"] {
        running.get(&format!("/api/admin/ip-monitor?{bad}")).await.problem(400, "invalid_parameter");
    }
}
