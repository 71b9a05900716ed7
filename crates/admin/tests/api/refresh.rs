//! `cache/refresh` and `warmup`, with a gateway that follows.

use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::wire::event::EventPost;
use tidegate_policy::wire::sync::SyncAnswer;

use crate::test_gateway::{EVENTS, TestGateway, ack};
use crate::test_service::{Answered, TestService, each, has, until};

const REFRESH: &str = "/api/admin/optimization/cache/refresh";
const WARMUP: &str = "/api/admin/optimization/warmup";
/// The tables that gateways get.
const ALL: [&str; 7] = ["flags", "routes", "bans", "allow", "geo", "countries", "limits"];

/// Runs `ask` while a gateway polls, which treats every answer as applied and acks it if `acks`.
async fn beside_a_gateway(service: &TestService, acks: bool, ask: impl AsyncFnOnce()) {
    let over = AtomicBool::new(false);
    let polling = async {
        let mut gateway = TestGateway::default();
        while !over.load(Ordering::Relaxed) {
            let since = gateway.since.as_ref().map(|since| format!("&since={since}")).unwrap_or_default();
            let sync = format!("{}?wait=100ms{since}", crate::test_gateway::SYNC);
            let poll = service.as_gateway(Method::GET, &sync);
            let answered = Answered::to(poll.header("x-tidegate-held", gateway.held.to_string())).await;
            if answered.status == 304 {
                continue;
            }
            let answer = SyncAnswer::from_bytes(answered.binary()).unwrap();
            gateway.learn(&answer);
            gateway.held.refresh = Some(answer.refresh);
            if acks {
                ack(service, &answer).await;
            }
        }
    };
    let asking = async {
        until("the gateway is known", async || {
            let list = service.get("/api/admin/gateways").await.ok();
            (!list["items"].as_array().unwrap().is_empty()).then_some(())
        })
        .await;
        ask().await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(polling, asking);
}

async fn post(service: &TestService, path: &str, wait: &str) -> Value {
    service.post(&format!("{path}?wait={wait}"), "").await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_answers_once_every_gateway_has_loaded_anew() {
    let service = TestService::start().await;
    // A row written by SQL just before is included.
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('9.8.7.6', 'banned')");
    let alone = service.post(REFRESH, "").await.ok();
    has(&alone, json!({"applied": {"gateways": 0, "of": 0}, "tables": {"bans": {"count": 1}}}));
    beside_a_gateway(&service, true, async || {
        let first = post(&service, REFRESH, "15s").await;
        let all_have_it = json!({"gateways": 1, "of": 1, "version": first["version"]});
        has(&first, json!({"applied": all_have_it, "behind": [], "tables": {"bans": {"count": 1}}}));
        let health = service.health().await;
        for table in ALL {
            assert_eq!(first["tables"][table]["digest"], health["tables"][table]["digest"], "{table}");
            assert!(first["tables"][table]["digest"].is_string(), "{table}");
        }
        assert_eq!(first["version"], health["version"]);
        assert!(first["elapsed_ms"].is_u64());
        // Nothing has changed, and all tables are loaded again, also if one is named.
        let mut last = first["refresh"].as_u64().unwrap();
        for table in ["routes", "ip", "geo", "limits"] {
            let path = format!("/api/admin/optimization/cache/{table}/refresh");
            let next = post(&service, &path, "15s").await;
            has(&next, json!({"applied": all_have_it, "version": first["version"]}));
            let refreshed = next["refreshed"].as_array().unwrap();
            assert!(ALL.iter().all(|table| refreshed.contains(&json!(table))), "{next}");
            assert!(next["refresh"].as_u64().unwrap() > last, "{next}");
            last = next["refresh"].as_u64().unwrap();
        }
        let list = service.get("/api/admin/gateways").await.ok();
        assert_eq!(list["items"][0]["refresh"], last, "{list}");
    })
    .await;
}

/// A gateway says that it has carried out the highest refresh that there can be.
#[tokio::test(flavor = "multi_thread")]
async fn no_claim_of_a_gateway_makes_a_refresh_do_nothing() {
    let service = TestService::start().await;
    let sync = format!("{}?wait=0s", crate::test_gateway::SYNC);
    let liar =
        || service.as_gateway(Method::GET, &sync).header("x-tidegate-gateway", "liar;00000000000000bb");
    for claimed in [u64::MAX, u64::MAX - 1, 1 << 60] {
        let polled = liar().header("x-tidegate-held", format!("refresh={claimed}"));
        let answer = SyncAnswer::from_bytes(Answered::to(polled).await.binary()).unwrap();
        let ack = format!("{};refresh={claimed};live=1;stale=0", answer.version);
        let acked = service.as_gateway(Method::POST, &format!("{}/ack", crate::test_gateway::SYNC));
        assert_eq!(Answered::to(acked.header("x-tidegate-ack", ack)).await.status, 204);
    }
    beside_a_gateway(&service, true, async || {
        let mut last = 0;
        for _ in 0..3 {
            let refreshed = post(&service, REFRESH, "15s").await;
            let refresh = refreshed["refresh"].as_u64().unwrap();
            assert!(refresh > last, "{refreshed}");
            let behind = each(&refreshed["behind"], |node| node.as_str().unwrap().to_owned());
            assert!(!behind.contains(&"node-1".to_owned()), "{refreshed}");
            last = refresh;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_follow_is_named() {
    let service = TestService::start().await;
    beside_a_gateway(&service, false, async || {
        let behind = json!({"applied": {"gateways": 0, "of": 1}, "behind": ["node-1"]});
        has(&post(&service, REFRESH, "50ms").await, behind.clone());
        let warm = post(&service, WARMUP, "50ms").await;
        has(&warm, behind);
        has(&warm["gateways"][0], json!({"node": "node-1", "enforces": null}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warmup_answers_once_every_gateway_enforces_what_there_is() {
    let service = TestService::start().await;
    let alone = service.post(WARMUP, "").await.ok();
    has(&alone, json!({"applied": {"gateways": 0, "of": 0}, "gateways": []}));
    beside_a_gateway(&service, true, async || {
        let ban = service.post("/api/admin/ip/ban", r#"{"ip": "9.8.7.6"}"#).await.ok();
        let warm = post(&service, WARMUP, "15s").await;
        has(
            &warm,
            json!({"applied": {"gateways": 1, "of": 1}, "behind": [], "version": ban["version"],
                "tables": {"bans": {"count": 1}}}),
        );
        has(&warm["gateways"][0], json!({"enforces": warm["version"], "vms": 2}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused() {
    let service = TestService::start().await;
    for path in [REFRESH, WARMUP] {
        for query in ["wait=31s", "wait=soon", "wait=1s&wait=1s", "wait_applied=1s"] {
            service.post(&format!("{path}?{query}"), "").await.problem(400, "invalid_parameter");
        }
        service.get(path).await.problem(405, "method_not_allowed");
        let stranger = service.as_nobody(Method::POST, service.people(path));
        Answered::to(stranger).await.problem(401, "unauthorized");
    }
    // Backends are not a table of gateways: the route table contains them.
    let backends = service.post("/api/admin/optimization/cache/backends/refresh", "").await;
    backends.problem(404, "not_found");
    assert_eq!(service.health().await["status"], "ok");
    assert_eq!(service.post(REFRESH, "").await.ok()["refresh"], 1, "nothing of it was ordered");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_posts_and_does_not_poll_is_told_of_in_health() {
    let service = TestService::start().await;
    let health = until("health tells", async || {
        service.post_as_gateway(EVENTS, EventPost::default().to_bytes().unwrap()).await.ok();
        Some(service.health().await).filter(|health| health["status"] == "degraded")
    })
    .await;
    has(&health["reasons"][0], json!({"code": "gateway_not_polling"}));
    has(&health["gateways"][0], json!({"lost": false}));
}
