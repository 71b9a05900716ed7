//! Synchronous recording: an event before its response, and its completion.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_admin::store::sqlite::Options;
use tidegate_policy::wire::event::{
    BATCH_FORMAT, EventPost, MAX_OPEN, OPEN_FORMAT, OpenEvent, POST_FORMAT, SealedBatch, SourceState,
    TrafficEvent,
};

use crate::test_gateway::{EVENTS, SOURCE, batch, event, open, post, record};
use crate::test_service::{TestService, each, has, until};

/// An event of a client that was answered with `status`.
fn answered(number: u64, status: u16) -> TrafficEvent {
    TrafficEvent { client: Some("203.0.113.7".parse().unwrap()), status: Some(status), ..event(number) }
}

/// The statuses of all rows of the view, in order.
fn rows(service: &TestService) -> Vec<i64> {
    service.column("SELECT status FROM traffic_events ORDER BY status")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_event_is_a_row_when_it_is_answered_and_one_row_when_it_ends() {
    let service = TestService::start().await;
    for number in 1..=3 {
        let answer = open(&service, answered(number, 200)).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
        assert_eq!(rows(&service).len() as u64, number);
    }
    // A repeated event is stored once.
    assert_eq!(open(&service, answered(3, 200)).await.status, 204);
    assert_eq!(rows(&service), [200, 200, 200]);
    has(&service.recording_stats().await, json!({"open": 3}));
    // A status that changed after the headers: the final one counts.
    let taken = record(&service, 1, vec![answered(1, 200), answered(2, 504), answered(3, 200)]).await;
    assert_eq!(taken, json!({"stored": 3, "duplicates": 0, "malformed": 0}));
    assert_eq!(rows(&service), [200, 200, 504]);
    has(&service.recording_stats().await, json!({"open": 0, "stored": 3, "completeness": 1.0}));
    // Late: its completing event was stored first.
    assert_eq!(open(&service, answered(2, 200)).await.status, 204);
    assert_eq!(rows(&service), [200, 200, 504]);
    has(&service.recording_stats().await, json!({"open": 0}));
    let monitor = service.get("/api/admin/ip-monitor/203.0.113.7").await.ok();
    has(&monitor, json!({"status": "none", "requests_seen": {"count": 3}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_end_is_stored_and_said_to_be_incomplete() {
    let often = Options { housekeeping_every: Duration::from_millis(20), ..Options::default() };
    let service = TestService::start_with(often, &[]).await;
    assert_eq!(open(&service, answered(1, 200)).await.status, 204);
    service.post_as_gateway(EVENTS, post([], 1, SourceState::Dead)).await.ok();
    let given_up = until("the request to be given up", async || {
        Some(service.recording_stats().await).filter(|stats| stats["open"] == 0)
    })
    .await;
    has(&given_up, json!({"stored": 1, "incomplete": 1, "completeness": 1.0}));
    // Its completing event arrives after all.
    record(&service, 1, vec![answered(1, 504)]).await;
    let ended = json!({"stored": 1, "open": 0, "incomplete": 0, "duplicates": 0});
    has(&service.recording_stats().await, ended);
    assert_eq!(rows(&service), [504]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_open_event_is_refused_and_counted() {
    let service = TestService::start().await;
    let sync = format!("{EVENTS}?sync=1");
    for body in [Vec::new(), b"rubbish".to_vec(), EventPost::default().to_bytes().unwrap()] {
        service.post_as_gateway(&sync, body).await.problem(400, "invalid_body");
    }
    open(&service, answered(0, 200)).await.problem(400, "invalid_body");
    service.post_as_gateway(&sync, vec![1; MAX_OPEN + 1]).await.problem(413, "body_too_large");
    let bytes = OpenEvent { source: SOURCE, event: event(1) }.to_bytes().unwrap();
    for query in ["sync=2", "sync=true", "sync=1&sync=1", "synchronous=1"] {
        let answer = service.post_as_gateway(&format!("{EVENTS}?{query}"), bytes.clone()).await;
        answer.problem(400, "invalid_parameter");
    }
    // Without the parameter it is not a post: its first byte could be a later version's.
    service.post_as_gateway(EVENTS, bytes).await.problem(503, "newer_format");
    has(&service.recording_stats().await, json!({"malformed": 4, "open": 0}));
    assert!(rows(&service).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_later_version_are_to_be_kept_and_those_of_one_too_old_are_lost() {
    let service = TestService::start().await;
    let batches = |versions: &[u8]| {
        let batches = versions.iter().zip(1..).map(|(version, first)| {
            let mut bytes = batch(first, vec![answered(first, 200)]);
            bytes[0] = *version;
            SealedBatch(bytes)
        });
        EventPost { batches: batches.collect(), ..EventPost::default() }.to_bytes().unwrap()
    };
    let mut later_post = batches(&[BATCH_FORMAT]);
    later_post[0] = POST_FORMAT + 1;
    for bytes in [batches(&[BATCH_FORMAT, BATCH_FORMAT + 1]), later_post] {
        service.post_as_gateway(EVENTS, bytes).await.problem(503, "newer_format");
    }
    let mut open = OpenEvent { source: SOURCE, event: event(1) }.to_bytes().unwrap();
    open[0] = OPEN_FORMAT + 1;
    service.post_as_gateway(&format!("{EVENTS}?sync=1"), open).await.problem(503, "newer_format");
    assert!(rows(&service).is_empty(), "what could be read comes again with the rest");
    has(&service.recording_stats().await, json!({"malformed": 0}));
    let bytes = batches(&[BATCH_FORMAT, BATCH_FORMAT - 1]);
    let taken = service.post_as_gateway(EVENTS, bytes).await.ok();
    assert_eq!(taken, json!({"stored": 1, "duplicates": 0, "malformed": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_locked_says_so_and_the_response_may_go_on() {
    let impatient = Options { busy_for: Duration::from_millis(300), ..Options::default() };
    let service = TestService::start_with(impatient, &[]).await;
    let other = service.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    open(&service, answered(1, 200)).await.problem(503, "store_busy");
    other.execute_batch("ROLLBACK").unwrap();
    has(&record(&service, 1, vec![answered(1, 200)]).await, json!({"stored": 1}));
    assert_eq!(rows(&service), [200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_that_most_requests_came_from_are_listed() {
    let service = TestService::start().await;
    for ip in ["203.0.113.0/24", "198.51.100.77"] {
        service.post("/api/admin/ip/ban", json!({"ip": ip}).to_string()).await.ok();
    }
    let ips = ["203.0.113.7", "198.51.100.77", "203.0.113.7", "2001:db8::1", "203.0.113.8", "203.0.113.7"];
    let from = |(number, ip): (u64, &str)| TrafficEvent { client: ip.parse().ok(), ..event(number) };
    record(&service, 1, (1..).zip(ips).map(from).collect()).await;
    let top = service.get("/api/admin/ip-monitor?seen=1").await.ok();
    assert_eq!(top["items"].as_array().unwrap().len(), 4, "{top}");
    has(
        &top["items"][0],
        json!({"ip": "203.0.113.7", "status": "banned",
            "requests_seen": {"count": 3, "over": 0, "last_seen": "2026-11-23T18:00:00Z"}}),
    );
    let one = service.get("/api/admin/ip-monitor?seen=1&limit=1").await.ok();
    assert_eq!(one["items"], json!([top["items"][0]]));
    // A block: the sum of its known addresses.
    let block = service.get("/api/admin/ip-monitor/203.0.113.0/24").await.ok();
    has(&block, json!({"requests_seen": {"count": 4}, "entry": "203.0.113.0/24"}));
    let nobody = service.get("/api/admin/ip-monitor/192.0.2.1").await.ok();
    assert_eq!(nobody["requests_seen"], Value::Null);
    let list = service.get("/api/admin/ip-monitor").await.ok();
    let counts = each(&list["items"], |item| json!([item["ip"], item["requests_seen"]["count"]]));
    assert_eq!(counts, [json!(["198.51.100.77", 1]), json!(["203.0.113.0/24", null])], "{list}");
    for bad in ["seen=2", "seen=1&status=banned", "seen=1&cursor=6161"] {
        service.get(&format!("/api/admin/ip-monitor?{bad}")).await.problem(400, "invalid_parameter");
    }
}
