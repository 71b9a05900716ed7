//! The flags of the rollout: set, merged, refused, and their effect.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::check::{Answered as By, Check, PerCheck};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::wire::event::{Mismatch, TrafficEvent};

use crate::test_gateway::{event, record};
use crate::test_service::{Answered, TestService, each, has};

const FLAGS: &str = "/api/admin/optimization/flags";

async fn get(service: &TestService) -> Value {
    service.get(FLAGS).await.ok()
}

async fn put(service: &TestService, body: &Value) -> Answered {
    service.put_json(FLAGS, body).await
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
    let service = TestService::start().await;
    assert_eq!(get(&service).await, all(&json!(false)));
    let mut wanted = all(&json!(false));
    // The steps of a rollout, and some in between.
    for (name, state) in [
        ("enableRouteCache", json!("shadow")),
        ("enableRouteCache", json!({"percent": 25})),
        ("enableRouteCache", json!(true)),
        ("enableIpBlacklistCache", json!(true)),
        ("enableGeoRulesCache", json!({"percent": 0})),
        ("enableParallelExecution", json!({"percent": 100})),
        ("enableAsyncRecording", json!(true)),
        ("enableRouteCache", json!(false)),
        ("enableRouteCache", json!({"percent": 25, "gateways": ["node-1"], "hostnames": ["*.a.example"]})),
        ("enableGeoRulesCache", json!({"percent": 100, "routes": ["shop", "team/orders"]})),
    ] {
        wanted[name] = state.clone();
        assert_eq!(put(&service, &json!({ name: state })).await.ok(), wanted);
        assert_eq!(get(&service).await, wanted);
    }
    // The answer of a GET can be put back, also after other changes.
    put(&service, &all(&json!(true))).await.ok();
    assert_eq!(put(&service, &wanted).await.ok(), wanted);
    assert_eq!(put(&service, &json!({})).await.ok(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_flag_or_no_state_is_named_and_nothing_changes() {
    let service = TestService::start().await;
    put(&service, &json!({"enableIpBlacklistCache": true})).await.ok();
    let before = service.tables().await;
    // The valid part of a refused body is not applied either.
    let body = json!({"enableAsyncRecording": true, "enableRouteCache": {"percent": 101}});
    let percent = "/enableRouteCache/percent";
    put(&service, &body).await.wrong_field(400, "invalid_flag", percent, "out_of_range");
    let problem = put(&service, &json!({"enableEverything": true, "enableAsyncRecording": "shadow"})).await;
    let problem = problem.problem(400, "invalid_flag");
    let pointers = each(&problem["errors"], |error| &error["pointer"]);
    assert_eq!(pointers, ["/enableEverything", "/enableAsyncRecording"], "{problem}");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("enableRouteCache"), "{problem}");
    // The route is what this cache is asked for.
    let body = json!({"enableRouteCache": {"percent": 5, "routes": ["shop"]}});
    let routes = "/enableRouteCache/routes";
    put(&service, &body).await.wrong_field(400, "invalid_flag", routes, "not_supported");
    for body in [json!([]), json!(true), json!("enableRouteCache")] {
        put(&service, &body).await.problem(400, "invalid_flag");
    }
    service.put(FLAGS, "").await.problem(400, "empty_body");
    service.put(FLAGS, "{").await.problem(400, "invalid_json");
    service.put(&format!("{FLAGS}?wait_applied=soon"), "{}").await.problem(400, "invalid_parameter");
    service.get(&format!("{FLAGS}?status=yes")).await.problem(400, "invalid_parameter");
    service.post(FLAGS, "{}").await.problem(405, "method_not_allowed");
    assert_eq!(service.tables().await, before);
    let stranger = service.as_nobody(Method::PUT, service.people(FLAGS)).bearer_auth(&service.gateway);
    Answered::to(stranger.body("{}")).await.problem(403, "wrong_role");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_written_by_hand_count_and_malformed_ones_are_off() {
    let service = TestService::start().await;
    service.sql(
        "INSERT INTO flags (name, value) VALUES ('enableRouteCache', '\"shadow\"'),
         ('enableIpBlacklistCache', 'yes'), ('enableGeoRulesCache', '{\"percent\": 250}'), ('enableMagic', 'true')",
    );
    let off = json!(false);
    has(
        &get(&service).await,
        json!({"enableRouteCache": "shadow", "enableIpBlacklistCache": off, "enableGeoRulesCache": off}),
    );
    let health = service.health().await;
    has(&health["reasons"][0], json!({"code": "rows_quarantined"}));
    assert_eq!(each(&health["quarantine"]["rows"], |row| &row["table"]), ["flags"; 3]);
    // Setting the flag repairs its row.
    put(&service, &json!({"enableIpBlacklistCache": false, "enableGeoRulesCache": true})).await.ok();
    assert_eq!(service.health().await["quarantine"]["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_named_for_what_was_set_by_hand_since() {
    let service = TestService::start().await;
    put(&service, &json!({"enableRouteCache": true, "enableAsyncRecording": true})).await.ok();
    service.sql("UPDATE flags SET value = 'false' WHERE name = 'enableRouteCache'");
    let flags = service.get(&format!("{FLAGS}?status=1")).await.ok();
    assert_eq!(flags["enableRouteCache"], false);
    // Until the change is found in the log, at most for 50 ms, nothing is said of it.
    let changed = &flags["status"]["changed"]["enableRouteCache"];
    assert!(changed.is_null() || changed["by"] == "sql", "{flags}");
    assert_eq!(flags["status"]["changed"]["enableAsyncRecording"]["to"], true, "{flags}");
}

/// Records an event whose route check was answered and compared in shadow.
async fn shadowed(service: &TestService, number: u64, mismatches: Option<(u64, u64)>) {
    let mismatch = |(direct_seq, cached_seq)| Mismatch {
        check: Check::Route,
        direct: "hello/0".to_owned(),
        cached: "none".to_owned(),
        direct_seq,
        cached_seq,
    };
    let event = TrafficEvent {
        tables_seq: 5,
        modes: Some(Modes { route: Mode::Shadow, ..Default::default() }),
        answered: PerCheck { ip: By::Cache, geo: By::Fallback, route: By::Direct },
        mismatches: mismatches.into_iter().map(mismatch).collect(),
        ..event(number)
    };
    record(service, number, vec![event]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_the_flags_do_and_health_what_a_shadow_found() {
    let service = TestService::start().await;
    let status = async || service.get(&format!("{FLAGS}?status=1")).await.ok()["status"].clone();
    let shadow = json!({"enableRouteCache": "shadow", "enableIpBlacklistCache": {"percent": 25, "hostnames": ["a.example"]}});
    put(&service, &shadow).await.ok();
    shadowed(&service, 1, None).await;
    let first = status().await;
    has(
        &first["checks"],
        json!({
            "route": {"clients": {"cached": 0, "shadow": 100, "direct": 0},
                "direct": 1, "compared": 1, "mismatched": 0},
            "ip": {"clients": {"cached": 25, "shadow": 0, "direct": 75}},
            "geo": {"flag": "enableGeoRulesCache"},
        }),
    );
    has(
        &first["changed"],
        json!({"enableRouteCache": {"by": "admin", "to": "shadow"}, "enableAsyncRecording": null}),
    );
    has(&first["gateways"][0], json!({"node": "node-1"}));
    // Even after many other changes.
    service.sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
         INSERT INTO audit (at, who, what, target) SELECT datetime('now'), 'x', 'route', 'r' FROM n",
    );
    has(&status().await, json!({"changed": {"enableRouteCache": {"by": "admin"}}}));
    let checks = json!({"ip": {"hit_ratio": 1.0}, "route": {"hit_ratio": 0.0}, "geo": {"fallback": 1, "hit_ratio": 0.0}});
    has(&service.recording_stats().await, json!({"checks": checks}));
    // The gateway's tables were behind: a note.
    shadowed(&service, 2, Some((9, 8))).await;
    let codes = async |list| service.health_codes(list).await;
    let mismatch = "shadow_mismatch".to_owned();
    assert!(codes("notes").await.contains(&"shadow_lagging".to_owned()));
    assert!(!codes("reasons").await.contains(&mismatch));
    // They were not behind: a reason.
    shadowed(&service, 3, Some((9, 9))).await;
    assert!(codes("reasons").await.contains(&mismatch));
    has(&status().await, json!({"checks": {"route": {"compared": 3, "mismatched": 2, "lagging": 1}}}));
    put(&service, &json!({"enableRouteCache": false})).await.ok();
    assert!(!codes("reasons").await.contains(&mismatch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_waits_says_how_far_it_has_come() {
    let service = TestService::start().await;
    let body = json!({"enableRouteCache": true}).to_string();
    let waited = service.put(&format!("{FLAGS}?wait_applied=5s"), body).await.ok();
    has(&waited, json!({"enableRouteCache": true, "applied": {"of": 0, "version": waited["version"]}}));
}
