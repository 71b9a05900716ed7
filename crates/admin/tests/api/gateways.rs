//! The gateways' listener: the feed, acks and events.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tidegate_policy::table::EntryState;
use tidegate_policy::wire::event::{
    Batch, EventPost, SealedBatch, Source, SourceReport, SourceState, TrafficEvent,
};
use tidegate_policy::wire::sync::{Held, OverlayUpdate, SyncAnswer, WholeUpdate};

use crate::running::{Answered, Running, send, until};

const SYNC: &str = "/api/data-plane/v1/sync";
const EVENTS: &str = "/api/data-plane/v1/events";
const STATS: &str = "/api/admin/optimization/recording/stats";

/// What a gateway knows.
#[derive(Default)]
struct Known {
    since: Option<String>,
    held: Held,
}

impl Known {
    fn learn(&mut self, answer: &SyncAnswer) {
        self.since = Some(answer.version.to_string());
        for WholeUpdate { table, blob, .. } in &answer.whole {
            self.held.whole.retain(|(held, _)| held != table);
            self.held.whole.push((*table, blob.hash));
        }
        if let Some(bans) = &answer.bans {
            self.held.base = Some(bans.base.hash);
            self.held.bans = Some(bans.digest);
        }
    }

    fn request(&self, running: &Running, wait: &str) -> Request<Body> {
        let since = self.since.as_ref().map(|since| format!("&since={since}")).unwrap_or_default();
        let mut request = running.as_gateway(Method::GET, &format!("{SYNC}?wait={wait}{since}"));
        if let Some(since) = &self.since {
            request = request.header("x-tidegate-ack", format!("{since};refresh=0;live=1;stale=0"));
        }
        request.header("x-tidegate-held", self.held.to_string()).body(Body::empty()).unwrap()
    }
}

fn decode(answer: &Answered) -> SyncAnswer {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.headers["content-type"], "application/octet-stream");
    SyncAnswer::from_bytes(&answer.bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_by_a_ban_and_the_ban_by_the_ack() {
    let running = Running::start().await;
    let mut known = Known::default();
    let first = decode(&running.send(known.request(&running, "0s")).await);
    known.learn(&first);
    assert_eq!(running.send(known.request(&running, "10ms")).await.status, 304);
    let poll = async {
        let answer = decode(&running.send(known.request(&running, "20s")).await);
        let Some(OverlayUpdate::Delta(changes)) = answer.bans.as_ref().map(|bans| bans.overlay.clone())
        else {
            panic!("no delta: {answer:?}")
        };
        assert_eq!(changes.len(), 1);
        assert_eq!(
            (changes[0].prefix.to_string(), changes[0].state),
            ("9.8.7.6".into(), EntryState::Present(None))
        );
        assert!(answer.ack_wanted);
        let ack = running
            .as_gateway(Method::POST, "/api/data-plane/v1/sync/ack")
            .header("x-tidegate-ack", format!("{};refresh=0;live=2;stale=0", answer.version))
            .body(Body::empty())
            .unwrap();
        assert_eq!(running.send(ack).await.status, 204);
        answer
    };
    let ban = async {
        // The gateway counts from its first poll on.
        until("the gateway is known", async || {
            let list = running.get("/api/admin/gateways").await.ok();
            (list["items"][0]["silent_for_ms"] == 0).then_some(())
        })
        .await;
        running.post("/api/admin/ip/ban?wait_applied=15s", r#"{"ip": "9.8.7.6"}"#).await.ok()
    };
    let (answer, banned) = tokio::join!(poll, ban);
    let version = json!(answer.version.to_string());
    assert_eq!(banned["applied"], json!({"gateways": 1, "of": 1, "lost": 0, "version": version}));
    let list = running.get("/api/admin/gateways").await.ok();
    assert_eq!((&list["items"][0]["enforces"], &list["items"][0]["vms"]), (&version, &json!(2)), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gateways_or_without_their_ack_the_numbers_say_so() {
    let running = Running::start().await;
    let alone = running.post("/api/admin/ip/ban?wait_applied=5s", r#"{"ip": "9.8.7.6"}"#).await.ok();
    assert_eq!((&alone["applied"]["gateways"], &alone["applied"]["of"]), (&json!(0), &json!(0)));
    running.send(Known::default().request(&running, "0s")).await;
    let late = running.post("/api/admin/ip/ban?wait_applied=50ms", r#"{"ip": "9.8.7.7"}"#).await.ok();
    assert_eq!((&late["applied"]["gateways"], &late["applied"]["of"]), (&json!(0), &json!(1)));
    assert_eq!(late["applied"]["version"], late["version"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_closes_its_poll() {
    let running = Running::start().await;
    let mut known = Known::default();
    known.learn(&decode(&running.send(known.request(&running, "0s")).await));
    let silent = async || {
        let list = running.get("/api/admin/gateways").await.ok();
        list["items"][0]["silent_for_ms"].as_u64().unwrap()
    };
    let gone = tokio::time::timeout(Duration::from_millis(200), running.send(known.request(&running, "30s")));
    let (gone, ()) = tokio::join!(gone, async {
        until("the poll is open", async || (silent().await == 0).then_some(())).await;
    });
    assert!(gone.is_err());
    until("the poll is closed", async || (silent().await > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_is_served() {
    let running = Running::start().await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let answer = send(&client, Known::default().request(&running, "0s")).await;
    decode(&answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_by_pages_and_go() {
    let running = Running::start().await;
    let first = decode(&running.send(Known::default().request(&running, "0s")).await);
    let base = first.bans.unwrap().base;
    let page = |what: &str| {
        let path = format!("{SYNC}/blob/{what}");
        running.send(running.as_gateway(Method::GET, &path).body(Body::empty()).unwrap())
    };
    let whole = page(&base.hash.to_string()).await;
    assert_eq!((whole.status.as_u16(), whole.bytes.len() as u64), (200, base.len));
    let tail = page(&format!("{}?offset=3", base.hash)).await;
    assert_eq!(tail.bytes, whole.bytes[3..]);
    page(&"0".repeat(32)).await.problem(410, "blob_gone");
    page("nonsense").await.problem(400, "invalid_parameter");
    page(&format!("{}?offset=-1", base.hash)).await.problem(400, "invalid_parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_headers_are_named() {
    let running = Running::start().await;
    for (name, value) in [("x-tidegate-ack", "nonsense"), ("x-tidegate-held", "bans=x")] {
        let request = running.as_gateway(Method::GET, SYNC).header(name, value).body(Body::empty()).unwrap();
        let problem = running.send(request).await.problem(400, "invalid_header");
        assert_eq!(problem["errors"][0]["header"], name);
    }
    let request =
        running.as_gateway(Method::GET, &format!("{SYNC}?since=yesterday")).body(Body::empty()).unwrap();
    assert_eq!(
        running.send(request).await.problem(400, "invalid_parameter")["errors"][0]["parameter"],
        "since"
    );
    let ack = running.as_gateway(Method::POST, "/api/data-plane/v1/sync/ack").body(Body::empty()).unwrap();
    running.send(ack).await.problem(400, "invalid_header");
}

fn batch(first: u64, count: u64) -> Batch {
    let event = |number| TrafficEvent { number, time_ms: 1_795_456_800_000, ..TrafficEvent::default() };
    let numbered_hi = first + count - 1;
    let events = (first..=numbered_hi).map(event).collect();
    Batch { source: Source(7), first, numbered_hi, events, ..Batch::default() }
}

fn post(batches: Vec<Vec<u8>>, numbered_hi: u64) -> Vec<u8> {
    let source = SourceReport { source: Source(7), numbered_hi, state: SourceState::Alive };
    let batches = batches.into_iter().map(SealedBatch).collect();
    EventPost { sources: vec![source], batches, waiting_bytes: 12, ..EventPost::default() }
        .to_bytes()
        .unwrap()
}

async fn record(running: &Running, bytes: Vec<u8>) -> Answered {
    running.send(running.as_gateway(Method::POST, EVENTS).body(Body::from(bytes)).unwrap()).await
}

async fn stats(running: &Running) -> Value {
    running.get(STATS).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_once_and_counted() {
    let running = Running::start().await;
    let alone = running.post("/api/admin/ip/ban?wait_applied=5s", r#"{"ip": "9.8.7.6"}"#).await.ok();
    assert_eq!(alone["applied"]["of"], 0);
    let bytes = post(vec![batch(1, 10).to_bytes().unwrap(), batch(11, 5).to_bytes().unwrap()], 20);
    let taken = record(&running, bytes.clone()).await.ok();
    assert_eq!(taken, json!({"stored": 15, "duplicates": 0, "malformed": 0}));
    assert_eq!(record(&running, bytes).await.ok()["stored"], 0);
    // Whoever posts serves, whether it has polled yet or not.
    let ban = running.post("/api/admin/ip/ban?wait_applied=50ms", r#"{"ip": "9.8.7.6"}"#).await.ok();
    assert_eq!((&ban["applied"]["gateways"], &ban["applied"]["of"]), (&json!(0), &json!(1)), "{ban}");
    let seen = stats(&running).await;
    assert_eq!(
        (&seen["numbered"], &seen["stored"], &seen["pending"]),
        (&json!(20), &json!(15), &json!(5)),
        "{seen}"
    );
    assert_eq!((&seen["completeness"], &seen["duplicates"]), (&json!(0.75), &json!(15)), "{seen}");
    assert_eq!((&seen["alive"], &seen["queue"]["waiting_bytes"]), (&json!(1), &json!(12)), "{seen}");
    // Over 64 KiB: decoded elsewhere.
    let large = post(vec![batch(16, 5_000).to_bytes().unwrap()], 5_015);
    assert!(large.len() > 64 << 10);
    assert_eq!(record(&running, large).await.ok()["stored"], 5_000);
    let seen = stats(&running).await;
    assert_eq!(
        (&seen["completeness"], &seen["exact"], &seen["silent"]),
        (&json!(1.0), &json!(true), &json!(0))
    );
    // It ended, or cannot reach us: it may have seen more than it told.
    until("the gateway is missed", async || {
        let seen = stats(&running).await;
        (seen["silent"] == 1 && seen["exact"] == false).then_some(())
    })
    .await;
    record(&running, post(vec![], 5_015)).await.ok();
    assert_eq!(stats(&running).await["exact"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_counted_and_the_rest_is_stored() {
    let running = Running::start().await;
    let bytes = post(vec![b"\x01rubbish".to_vec(), batch(1, 3).to_bytes().unwrap()], 3);
    let taken = record(&running, bytes).await.ok();
    assert_eq!(taken, json!({"stored": 3, "duplicates": 0, "malformed": 1}));
    record(&running, b"rubbish".to_vec()).await.problem(400, "invalid_body");
    record(&running, Vec::new()).await.problem(400, "invalid_body");
    record(&running, vec![1; (4 << 20) + (64 << 10) + 1]).await.problem(413, "body_too_large");
    assert_eq!(stats(&running).await["malformed"], 3);
}
