//! The rollout's switches: set, merged, refused, and what they are seen to do.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tidegate_policy::check::{Answered as By, Check, PerCheck};
use tidegate_policy::wire::event::{
    Batch, EventPost, Mismatch, SealedBatch, Source, SourceReport, SourceState, TrafficEvent,
};

use crate::running::{Answered, Running};

const FLAGS: &str = "/api/admin/optimization/flags";
const HEALTH: &str = "/api/admin/optimization/health";

async fn get(running: &Running) -> Value {
    running.get(FLAGS).await.ok()
}

async fn put(running: &Running, body: &Value) -> Answered {
    running.put(FLAGS, body.to_string()).await
}

fn all(state: &Value) -> Value {
    let names = [
        "enableRouteCache",
        "enableIpBlacklistCache",
        "enableGeoRulesCache",
        "enableParallelExecution",
        "enableAsyncRecording",
    ];
    names.iter().map(|name| ((*name).to_owned(), state.clone())).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_off_at_first_and_a_put_changes_those_it_names() {
    let running = Running::start().await;
    assert_eq!(get(&running).await, all(&json!(false)));
    let mut wanted = all(&json!(false));
    // The steps of a rollout, and some on the way.
    for (name, state) in [
        ("enableRouteCache", json!("shadow")),
        ("enableRouteCache", json!({"percent": 25})),
        ("enableRouteCache", json!(true)),
        ("enableIpBlacklistCache", json!(true)),
        ("enableGeoRulesCache", json!({"percent": 0})),
        ("enableParallelExecution", json!({"percent": 100})),
        ("enableAsyncRecording", json!(true)),
        ("enableRouteCache", json!(false)),
    ] {
        wanted[name] = state.clone();
        assert_eq!(put(&running, &json!({ name: state })).await.ok(), wanted);
        assert_eq!(get(&running).await, wanted);
    }
    // What a GET says can be put back, also onto what has changed meanwhile.
    put(&running, &all(&json!(true))).await.ok();
    assert_eq!(put(&running, &wanted).await.ok(), wanted);
    assert_eq!(put(&running, &json!({})).await.ok(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_json_whatever_it_is_called_and_yaml_when_it_says_so() {
    let running = Running::start().await;
    let send = async |kind: &str, body: &'static str| {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(running.people(FLAGS))
            .header(AUTHORIZATION, format!("Bearer {}", running.admin))
            .header(CONTENT_TYPE, kind);
        running.send(request.body(Body::from(body)).unwrap()).await
    };
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send(form, r#"{"enableRouteCache":true}"#).await.ok()["enableRouteCache"], true);
    assert_eq!(send("text/plain", r#"{"enableRouteCache":false}"#).await.ok()["enableRouteCache"], false);
    let yaml =
        send("application/yaml", "enableRouteCache: {percent: 10}\nenableAsyncRecording: true\n").await.ok();
    assert_eq!(
        (&yaml["enableRouteCache"], &yaml["enableAsyncRecording"]),
        (&json!({"percent": 10}), &json!(true))
    );
    send(form, "enableRouteCache=true").await.problem(400, "invalid_json");
    send("application/yaml", "a: [").await.problem(400, "invalid_yaml");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_flag_or_no_state_is_named_and_nothing_changes() {
    let running = Running::start().await;
    put(&running, &json!({"enableIpBlacklistCache": true})).await.ok();
    let before = running.tables().await;
    let percent = "/enableRouteCache/percent";
    let cases = [
        (json!({"percent": -1}), percent, "out_of_range"),
        (json!({"percent": 101}), percent, "out_of_range"),
        (json!({"percent": 2.5}), percent, "wrong_type"),
        (json!({"percent": "25"}), percent, "wrong_type"),
        (json!({"percent": null}), percent, "required"),
        (json!({}), percent, "required"),
        (json!({"percent": 5, "sticky": true}), "/enableRouteCache/sticky", "unknown_field"),
        (json!("on"), "/enableRouteCache", "invalid"),
        (json!("true"), "/enableRouteCache", "invalid"),
        (json!(1), "/enableRouteCache", "wrong_type"),
        (json!(null), "/enableRouteCache", "wrong_type"),
        (json!([true]), "/enableRouteCache", "wrong_type"),
    ];
    for (state, pointer, code) in cases {
        // The good half of a body is not carried out either.
        let body = json!({"enableAsyncRecording": true, "enableRouteCache": state});
        let problem = put(&running, &body).await.problem(400, "invalid_flag");
        let error = &problem["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(pointer), &json!(code)), "{body}: {problem}");
        assert!(!error["detail"].as_str().unwrap().is_empty(), "{problem}");
    }
    let problem = put(&running, &json!({"enableEverything": true, "enableAsyncRecording": "shadow"})).await;
    let problem = problem.problem(400, "invalid_flag");
    let pointers: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/enableEverything", "/enableAsyncRecording"], "{problem}");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("enableRouteCache"), "{problem}");
    for body in [json!([]), json!(true), json!("enableRouteCache")] {
        put(&running, &body).await.problem(400, "invalid_flag");
    }
    running.put(FLAGS, "").await.problem(400, "empty_body");
    running.put(FLAGS, "{").await.problem(400, "invalid_json");
    running.put(&format!("{FLAGS}?wait_applied=soon"), "{}").await.problem(400, "invalid_parameter");
    running.get(&format!("{FLAGS}?status=yes")).await.problem(400, "invalid_parameter");
    running.post(FLAGS, "{}").await.problem(405, "method_not_allowed");
    assert_eq!(running.tables().await, before);
    let stranger =
        Request::put(running.people(FLAGS)).header(AUTHORIZATION, format!("Bearer {}", running.gateway));
    running.send(stranger.body(Body::from("{}")).unwrap()).await.problem(403, "wrong_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_written_by_hand_count_and_malformed_ones_are_off() {
    let running = Running::start().await;
    running.sql(
        "INSERT INTO flags (name, value) VALUES ('enableRouteCache', '\"shadow\"'),
         ('enableIpBlacklistCache', 'yes'), ('enableGeoRulesCache', '{\"percent\": 250}'), ('enableMagic', 'true')",
    );
    let flags = get(&running).await;
    assert_eq!(flags["enableRouteCache"], "shadow");
    assert_eq!(
        (&flags["enableIpBlacklistCache"], &flags["enableGeoRulesCache"]),
        (&json!(false), &json!(false))
    );
    let health = running.get(HEALTH).await.ok();
    assert_eq!(
        (&health["reasons"][0]["code"], &health["quarantine"]["count"]),
        (&json!("rows_quarantined"), &json!(3))
    );
    assert!(
        health["quarantine"]["rows"].as_array().unwrap().iter().all(|row| row["table"] == "flags"),
        "{health}"
    );
    // Setting it puts it right.
    put(&running, &json!({"enableIpBlacklistCache": false, "enableGeoRulesCache": true})).await.ok();
    assert_eq!(running.get(HEALTH).await.ok()["quarantine"]["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_named_for_what_was_set_by_hand_since() {
    let running = Running::start().await;
    put(&running, &json!({"enableRouteCache": true, "enableAsyncRecording": true})).await.ok();
    running.sql("UPDATE flags SET value = 'false' WHERE name = 'enableRouteCache'");
    let flags = running.get(&format!("{FLAGS}?status=1")).await.ok();
    assert_eq!(flags["enableRouteCache"], false);
    assert_eq!(flags["status"]["changed"]["enableRouteCache"], Value::Null, "{flags}");
    assert_eq!(flags["status"]["changed"]["enableAsyncRecording"]["to"], true, "{flags}");
}

/// A post of one event whose route check was answered and compared in shadow.
fn shadowed(number: u64, mismatch: Option<(u64, u64)>) -> Vec<u8> {
    let event = TrafficEvent {
        number,
        time_ms: 1_795_456_800_000,
        tables_seq: 5,
        modes: Some(tidegate_policy::flags::Modes {
            route: tidegate_policy::flags::Mode::Shadow,
            ..Default::default()
        }),
        answered: PerCheck { ip: By::Cache, geo: By::Fallback, route: By::Direct },
        mismatches: mismatch
            .into_iter()
            .map(|(direct_seq, cached_seq)| Mismatch {
                check: Check::Route,
                direct: "hello/0".to_owned(),
                cached: "none".to_owned(),
                direct_seq,
                cached_seq,
            })
            .collect(),
        ..TrafficEvent::default()
    };
    let batch = Batch {
        source: Source(7),
        first: number,
        numbered_hi: number,
        events: vec![event],
        ..Batch::default()
    };
    let source = SourceReport { source: Source(7), numbered_hi: number, state: SourceState::Alive };
    let batches = vec![SealedBatch(batch.to_bytes().unwrap())];
    EventPost { sources: vec![source], batches, ..EventPost::default() }.to_bytes().unwrap()
}

async fn record(running: &Running, bytes: Vec<u8>) {
    let post = running.as_gateway(Method::POST, "/api/data-plane/v1/events").body(Body::from(bytes)).unwrap();
    running.send(post).await.ok();
}

fn has(list: &Value, code: &str) -> bool {
    list.as_array().unwrap().iter().any(|reason| reason["code"] == code)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_the_flags_do_and_health_what_a_shadow_found() {
    let running = Running::start().await;
    let shadow = json!({"enableRouteCache": "shadow", "enableIpBlacklistCache": {"percent": 25}});
    put(&running, &shadow).await.ok();
    record(&running, shadowed(1, None)).await;
    let whole = running.get(&format!("{FLAGS}?status=1")).await.ok();
    assert_eq!(whole["enableRouteCache"], "shadow");
    let status = &whole["status"];
    assert_eq!(status["checks"]["route"]["clients"], json!({"cached": 0, "shadow": 100, "direct": 0}));
    assert_eq!(status["checks"]["ip"]["clients"], json!({"cached": 25, "shadow": 0, "direct": 75}));
    assert_eq!(status["checks"]["geo"]["flag"], "enableGeoRulesCache");
    let route = &status["checks"]["route"];
    assert_eq!(
        (&route["direct"], &route["compared"], &route["mismatched"]),
        (&json!(1), &json!(1), &json!(0)),
        "{status}"
    );
    let changed = &status["changed"]["enableRouteCache"];
    assert_eq!((&changed["by"], &changed["to"]), (&json!("admin"), &json!("shadow")), "{status}");
    assert_eq!(status["changed"]["enableAsyncRecording"], Value::Null);
    // However much was changed since.
    running.sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
         INSERT INTO audit (at, who, what, target) SELECT datetime('now'), 'x', 'route', 'r' FROM n",
    );
    let later = running.get(&format!("{FLAGS}?status=1")).await.ok();
    assert_eq!(later["status"]["changed"]["enableRouteCache"]["by"], "admin");
    assert_eq!(status["gateways"][0]["node"], "node-1", "{status}");
    let stats = running.get("/api/admin/optimization/recording/stats").await.ok();
    assert_eq!(
        (&stats["checks"]["ip"]["hit_ratio"], &stats["checks"]["route"]["hit_ratio"]),
        (&json!(1.0), &json!(0.0))
    );
    assert_eq!(
        (&stats["checks"]["geo"]["fallback"], &stats["checks"]["geo"]["hit_ratio"]),
        (&json!(1), &json!(0.0))
    );
    // The cache was behind: worth a note.
    record(&running, shadowed(2, Some((9, 8)))).await;
    let health = running.get(HEALTH).await.ok();
    assert!(
        has(&health["notes"], "shadow_lagging") && !has(&health["reasons"], "shadow_mismatch"),
        "{health}"
    );
    // It was not.
    record(&running, shadowed(3, Some((9, 9)))).await;
    let health = running.get(HEALTH).await.ok();
    assert!(has(&health["reasons"], "shadow_mismatch"), "{health}");
    let status = running.get(&format!("{FLAGS}?status=1")).await.ok();
    let route = &status["status"]["checks"]["route"];
    assert_eq!(
        (&route["compared"], &route["mismatched"], &route["lagging"]),
        (&json!(3), &json!(2), &json!(1))
    );
    put(&running, &json!({"enableRouteCache": false})).await.ok();
    let health = running.get(HEALTH).await.ok();
    assert!(!has(&health["reasons"], "shadow_mismatch"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_waits_says_how_far_it_has_come() {
    let running = Running::start().await;
    let body = json!({"enableRouteCache": true}).to_string();
    let waited = running.put(&format!("{FLAGS}?wait_applied=5s"), body).await.ok();
    assert_eq!(
        (&waited["enableRouteCache"], &waited["applied"]["of"]),
        (&json!(true), &json!(0)),
        "{waited}"
    );
    assert_eq!(waited["applied"]["version"], waited["version"]);
}
