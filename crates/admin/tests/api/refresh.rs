//! `cache/refresh` and `warmup`, with a gateway that speaks the feed's language.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tidegate_policy::wire::sync::{Held, SyncAnswer};

use crate::running::{Running, until};

const REFRESH: &str = "/api/admin/optimization/cache/refresh";
const WARMUP: &str = "/api/admin/optimization/warmup";
/// The tables that gateways get.
const ALL: [&str; 7] = ["flags", "routes", "bans", "allow", "geo", "countries", "limits"];
const SYNC: &str = "/api/data-plane/v1/sync";

/// A gateway that takes every answer for carried out, and says so if it `acks`,
/// until `over`.
async fn gateway(running: &Running, acks: bool, over: &AtomicBool) {
    let (mut held, mut since) = (Held::default(), None::<String>);
    while !over.load(Ordering::Relaxed) {
        let query = since.as_ref().map(|since| format!("&since={since}")).unwrap_or_default();
        let poll = running.as_gateway(Method::GET, &format!("{SYNC}?wait=100ms{query}"));
        let poll = poll.header("x-tidegate-held", held.to_string()).body(Body::empty()).unwrap();
        let answered = running.send(poll).await;
        if answered.status == 304 {
            continue;
        }
        let answer = SyncAnswer::from_bytes(&answered.bytes).unwrap();
        held.refresh = Some(answer.refresh);
        held.whole.extend(answer.whole.iter().map(|update| (update.table, update.blob.hash)));
        if let Some(bans) = &answer.bans {
            (held.base, held.bans) = (Some(bans.base.hash), Some(bans.digest));
        }
        since = Some(answer.version.to_string());
        if acks {
            let said = format!("{};refresh={};live=2;stale=0", answer.version, answer.refresh);
            let ack = running.as_gateway(Method::POST, &format!("{SYNC}/ack")).header("x-tidegate-ack", said);
            assert_eq!(running.send(ack.body(Body::empty()).unwrap()).await.status, 204);
        }
    }
}

/// What `ask` finds while a gateway polls.
async fn beside_a_gateway(running: &Running, acks: bool, ask: impl AsyncFnOnce()) {
    let over = AtomicBool::new(false);
    let asking = async {
        until("the gateway is known", async || {
            let list = running.get("/api/admin/gateways").await.ok();
            (!list["items"].as_array().unwrap().is_empty()).then_some(())
        })
        .await;
        ask().await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(gateway(running, acks, &over), asking);
}

fn applied(answer: &Value) -> (u64, u64) {
    let number = |name: &str| answer["applied"][name].as_u64().unwrap();
    (number("gateways"), number("of"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_answers_once_every_gateway_has_loaded_anew() {
    let running = Running::start().await;
    running.post("/api/admin/ip/ban", r#"{"ip": "9.8.7.6"}"#).await.ok();
    beside_a_gateway(&running, true, async || {
        let first = running.post(&format!("{REFRESH}?wait=15s"), Body::empty()).await.ok();
        assert_eq!((applied(&first), &first["behind"]), ((1, 1), &json!([])), "{first}");
        assert_eq!(first["tables"]["bans"]["count"], 1);
        let health = running.get("/api/admin/optimization/health").await.ok();
        for table in ALL {
            assert_eq!(first["tables"][table]["digest"], health["tables"][table]["digest"], "{table}");
            assert!(first["tables"][table]["digest"].is_string(), "{table}");
        }
        assert_eq!(first["version"], health["version"]);
        assert_eq!(first["applied"]["version"], first["version"]);
        assert!(first["elapsed_ms"].is_u64());
        // Nothing has changed, and all is loaded again; of one table as well.
        let mut last = first["refresh"].as_u64().unwrap();
        for table in ["routes/", "ip/", "geo/"] {
            let path = format!("/api/admin/optimization/cache/{table}refresh?wait=15s");
            let next = running.post(&path, Body::empty()).await.ok();
            assert_eq!((applied(&next), &next["version"]), ((1, 1), &first["version"]), "{next}");
            assert_eq!(next["refreshed"], json!(ALL));
            assert!(next["refresh"].as_u64().unwrap() > last, "{next}");
            last = next["refresh"].as_u64().unwrap();
        }
        let list = running.get("/api/admin/gateways").await.ok();
        assert_eq!(list["items"][0]["refresh"], last, "{list}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_written_by_hand_just_before_is_in_it() {
    let running = Running::start().await;
    running.sql("INSERT INTO ip_monitor (ip, status) VALUES ('9.8.7.6', 'banned')");
    let answer = running.post(REFRESH, Body::empty()).await.ok();
    assert_eq!((applied(&answer), &answer["tables"]["bans"]["count"]), ((0, 0), &json!(1)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_follow_is_named() {
    let running = Running::start().await;
    beside_a_gateway(&running, false, async || {
        let refresh = running.post(&format!("{REFRESH}?wait=50ms"), Body::empty()).await.ok();
        assert_eq!((applied(&refresh), &refresh["behind"]), ((0, 1), &json!(["node-1"])), "{refresh}");
        let warm = running.post(&format!("{WARMUP}?wait=50ms"), Body::empty()).await.ok();
        assert_eq!((applied(&warm), &warm["behind"]), ((0, 1), &json!(["node-1"])), "{warm}");
        assert_eq!(
            (&warm["gateways"][0]["node"], &warm["gateways"][0]["enforces"]),
            (&json!("node-1"), &Value::Null)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warmup_answers_once_every_gateway_enforces_what_there_is() {
    let running = Running::start().await;
    let alone = running.post(WARMUP, Body::empty()).await.ok();
    assert_eq!((applied(&alone), &alone["gateways"]), ((0, 0), &json!([])), "{alone}");
    beside_a_gateway(&running, true, async || {
        let ban = running.post("/api/admin/ip/ban", r#"{"ip": "9.8.7.6"}"#).await.ok();
        let warm = running.post(&format!("{WARMUP}?wait=15s"), Body::empty()).await.ok();
        assert_eq!((applied(&warm), &warm["behind"]), ((1, 1), &json!([])), "{warm}");
        assert_eq!((&warm["version"], &warm["tables"]["bans"]["count"]), (&ban["version"], &json!(1)));
        let gateway = &warm["gateways"][0];
        assert_eq!((&gateway["enforces"], &gateway["vms"]), (&warm["version"], &json!(2)), "{warm}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused() {
    let running = Running::start().await;
    for path in [REFRESH, WARMUP] {
        for query in ["wait=31s", "wait=soon", "wait=1s&wait=1s", "wait_applied=1s"] {
            let refused = running.post(&format!("{path}?{query}"), Body::empty()).await;
            refused.problem(400, "invalid_parameter");
        }
        running.get(path).await.problem(405, "method_not_allowed");
        let stranger = axum::http::Request::post(running.people(path)).body(Body::empty()).unwrap();
        running.send(stranger).await.problem(401, "unauthorized");
    }
    // Backends are no table of the gateways': the routes' has them.
    let backends = running.post("/api/admin/optimization/cache/backends/refresh", Body::empty()).await;
    backends.problem(404, "not_found");
    let health = running.get("/api/admin/optimization/health").await.ok();
    assert_eq!(health["status"], "ok");
    assert_eq!(running.post(REFRESH, Body::empty()).await.ok()["refresh"], 1, "nothing of it was ordered");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_posts_and_does_not_poll_is_told_of_in_health() {
    let running = Running::start().await;
    let health = until("health tells", async || {
        let post = tidegate_policy::wire::event::EventPost::default().to_bytes().unwrap();
        let post =
            running.as_gateway(Method::POST, "/api/data-plane/v1/events").body(Body::from(post)).unwrap();
        running.send(post).await.ok();
        let health = running.get("/api/admin/optimization/health").await.ok();
        (health["status"] == "degraded").then_some(health)
    })
    .await;
    assert_eq!(health["reasons"][0]["code"], "gateway_not_polling", "{health}");
    assert_eq!(health["gateways"][0]["lost"], false);
}
