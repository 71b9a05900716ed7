//! The gateways' listener: the feed, acks and events.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tidegate_policy::table::EntryState;
use tidegate_policy::wire::event::{RECEIPT, REFUSALS, SourceState};
use tidegate_policy::wire::sync::{OverlayUpdate, TIME_HEADER};

use crate::test_gateway::{EVENTS, SYNC, TestGateway, ack, batch, event, post};
use crate::test_service::{Answered, TestService, client_builder, has, until};

/// The gateway as the service lists it.
async fn listed(service: &TestService) -> serde_json::Value {
    service.get("/api/admin/gateways").await.ok()["items"][0].clone()
}

async fn ban(service: &TestService, wait: &str) -> serde_json::Value {
    let path = format!("/api/admin/ip/ban?wait_applied={wait}");
    service.post(&path, r#"{"ip": "9.8.7.6"}"#).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_by_a_ban_and_the_ban_by_the_ack() {
    let service = TestService::start().await;
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    assert_eq!(Answered::to(gateway.poll(&service, "10ms")).await.status, 304);
    let poll = async {
        let answer = gateway.sync(&service, "20s").await;
        let Some(OverlayUpdate::Delta(changes)) = answer.bans.as_ref().map(|bans| bans.overlay.clone())
        else {
            panic!("no delta: {answer:?}")
        };
        let changes: Vec<_> = changes.iter().map(|one| (one.prefix.to_string(), one.state)).collect();
        assert_eq!(changes, [("9.8.7.6".into(), EntryState::Present(None))]);
        assert!(answer.ack_wanted);
        ack(&service, &answer).await;
        answer
    };
    let ban = async {
        // The gateway counts as live from its first poll on.
        until("the poll is open", async || (listed(&service).await["silent_for_ms"] == 0).then_some(()))
            .await;
        ban(&service, "15s").await
    };
    let (answer, banned) = tokio::join!(poll, ban);
    let version = json!(answer.version.to_string());
    assert_eq!(banned["applied"], json!({"gateways": 1, "of": 1, "lost": 0, "version": version}));
    has(&listed(&service).await, json!({"enforces": version, "vms": 2}));
    // Of the next change it has said nothing yet.
    let next = service.post("/api/admin/ip/ban", r#"{"ip": "9.8.7.7"}"#).await.ok()["version"].clone();
    for (asked, is_enforced) in [(&version, true), (&next, false)] {
        let asked = asked.as_str().unwrap();
        // The feed hears of a change a moment after it is committed.
        let list = until("gateways could have the next change", async || {
            let list = service.get(&format!("/api/admin/gateways?version={asked}")).await.ok();
            (list["version"] == next).then_some(list)
        })
        .await;
        has(&list["items"][0], json!({"enforces": version, "enforces_asked": is_enforced}));
    }
    service.get("/api/admin/gateways?version=9").await.problem(400, "invalid_parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_to_gateways_has_the_services_time() {
    let service = TestService::start().await;
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    let strange = crate::test_service::client().get(service.gateways(SYNC));
    let requests = [
        (200, service.as_gateway(Method::GET, &format!("{SYNC}?wait=0s"))),
        (304, gateway.poll(&service, "10ms")),
        (400, service.as_gateway(Method::POST, EVENTS).body("nothing")),
        (413, service.as_gateway(Method::POST, EVENTS).body(vec![0; 5 << 20])),
        (401, strange),
        (404, service.as_gateway(Method::GET, "/nothing")),
        (405, service.as_gateway(Method::PUT, EVENTS)),
    ];
    for (status, request) in requests {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        let said: u64 = response.headers()[TIME_HEADER].to_str().unwrap().parse().unwrap();
        assert!(said > 1_700_000_000_000, "{said}");
        if [400, 413].contains(&status) {
            let problem = response.bytes().await.unwrap();
            assert!(REFUSALS.iter().any(|refusal| problem.starts_with(refusal)), "gateways look for it");
        }
    }
    let response = crate::test_service::client().get(service.people("/api/health")).send().await.unwrap();
    assert!(!response.headers().contains_key(TIME_HEADER), "people have clocks");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gateways_or_without_their_ack_the_numbers_say_so() {
    let service = TestService::start().await;
    has(&ban(&service, "5s").await, json!({"applied": {"gateways": 0, "of": 0}}));
    TestGateway::default().sync(&service, "0s").await;
    let late = ban(&service, "50ms").await;
    has(&late, json!({"applied": {"gateways": 0, "of": 1, "version": late["version"]}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_closes_its_poll() {
    let service = TestService::start().await;
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    let silent = async || listed(&service).await["silent_for_ms"].as_u64().unwrap();
    let poll = Answered::to(gateway.poll(&service, "30s"));
    let (gone, ()) = tokio::join!(tokio::time::timeout(Duration::from_millis(200), poll), async {
        until("the poll is open", async || (silent().await == 0).then_some(())).await;
    });
    assert!(gone.is_err());
    until("the poll is closed", async || (silent().await > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_is_served() {
    let service = TestService::start().await;
    let client = client_builder().http2_prior_knowledge().tls_certs_only([]).build().unwrap();
    let request = TestGateway::default().poll(&service, "0s").build().unwrap();
    let answer = client.execute(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_by_pages_and_go() {
    let service = TestService::start().await;
    let base = TestGateway::default().sync(&service, "0s").await.bans.unwrap().base;
    let page = |what: &str| Answered::to(service.as_gateway(Method::GET, &format!("{SYNC}/blob/{what}")));
    let whole = page(&base.hash.to_string()).await;
    assert_eq!(whole.binary().len() as u64, base.len);
    assert_eq!(page(&format!("{}?offset=3", base.hash)).await.binary(), &whole.bytes[3..]);
    page(&"0".repeat(32)).await.problem(410, "blob_gone");
    page("nonsense").await.problem(400, "invalid_parameter");
    page(&format!("{}?offset=-1", base.hash)).await.problem(400, "invalid_parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_headers_are_named() {
    let service = TestService::start().await;
    for (name, value) in [("x-tidegate-ack", "nonsense"), ("x-tidegate-held", "bans=x")] {
        let request = service.as_gateway(Method::GET, SYNC).header(name, value);
        let problem = Answered::to(request).await.problem(400, "invalid_header");
        assert_eq!(problem["errors"][0]["header"], name);
    }
    let answer = Answered::to(service.as_gateway(Method::GET, &format!("{SYNC}?since=yesterday"))).await;
    assert_eq!(answer.problem(400, "invalid_parameter")["errors"][0]["parameter"], "since");
    service.post_as_gateway(&format!("{SYNC}/ack"), "").await.problem(400, "invalid_header");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_once_and_counted() {
    let service = TestService::start().await;
    has(&ban(&service, "5s").await, json!({"applied": {"of": 0}}));
    let events = |first: u64, count: u64| batch(first, (first..first + count).map(event).collect());
    let alive = |batches: Vec<Vec<u8>>, numbered_hi| post(batches, numbered_hi, SourceState::Alive);
    let bytes = alive(vec![events(1, 10), events(11, 5)], 20);
    let taken = service.post_as_gateway(EVENTS, bytes.clone()).await;
    assert!(taken.bytes.starts_with(RECEIPT), "gateways look for it");
    assert_eq!(taken.ok(), json!({"stored": 15, "duplicates": 0, "malformed": 0}));
    has(&service.post_as_gateway(EVENTS, bytes).await.ok(), json!({"stored": 0}));
    // A gateway that posts counts as live, whether it has polled yet or not.
    has(&ban(&service, "50ms").await, json!({"applied": {"gateways": 0, "of": 1}}));
    has(
        &service.recording_stats().await,
        json!({"numbered": 20, "stored": 15, "pending": 5, "completeness": 0.75, "duplicates": 15,
            "alive": 1, "queue": {"waiting_bytes": 12}}),
    );
    // Over 64 KiB: decoded on a blocking thread.
    let large = alive(vec![events(16, 5_000)], 5_015);
    assert!(large.len() > 64 << 10);
    has(&service.post_as_gateway(EVENTS, large).await.ok(), json!({"stored": 5_000}));
    has(&service.recording_stats().await, json!({"completeness": 1.0, "exact": true, "silent": 0}));
    // The gateway ended or cannot reach the service: it may have numbered more events than it
    // reported.
    until("the gateway is missed", async || {
        let seen = service.recording_stats().await;
        (seen["silent"] == 1 && seen["exact"] == false).then_some(())
    })
    .await;
    assert_eq!(service.health_codes("reasons").await, ["gateway_lost"]);
    until("metrics tell of it", async || {
        let page = crate::metrics::page(&service).await;
        (crate::metrics::figure(&page, "tidegate_admin_gateways_silent") == Some(1.0)).then_some(())
    })
    .await;
    service.post_as_gateway(EVENTS, alive(vec![], 5_015)).await.ok();
    has(&service.recording_stats().await, json!({"exact": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_counted_and_the_rest_is_stored() {
    let service = TestService::start().await;
    let good = batch(1, (1..=3).map(event).collect());
    let bytes = post([b"\x01rubbish".to_vec(), good], 3, SourceState::Alive);
    let taken = service.post_as_gateway(EVENTS, bytes).await.ok();
    assert_eq!(taken, json!({"stored": 3, "duplicates": 0, "malformed": 1}));
    for unreadable in [b"rubbish".to_vec(), Vec::new()] {
        service.post_as_gateway(EVENTS, unreadable).await.problem(400, "invalid_body");
    }
    let large = vec![1; (4 << 20) + (64 << 10) + 1];
    service.post_as_gateway(EVENTS, large).await.problem(413, "body_too_large");
    has(&service.recording_stats().await, json!({"malformed": 3}));
}
