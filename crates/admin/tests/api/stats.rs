//! Statistics of recorded requests.

use serde_json::{Value, json};
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use crate::test_gateway::{event, record};
use crate::test_process::printed;
use crate::test_service::{TestService, binary, each, has};

/// Requests 1 to 100 of now: they take as many milliseconds as their number, and 96 to 100 are limited.
async fn record_requests(service: &TestService) {
    let now = u64::try_from(tidegate_admin::store::time_text::now_ms()).unwrap();
    let request = |number| TrafficEvent {
        time_ms: now,
        method: Some(b"GET".to_vec()),
        host: Some(b"shop.example:8443".to_vec()),
        path: Some(format!("/items/{number}").into_bytes()),
        route: Some("shop".to_owned()),
        template: Some("/items/{id}".to_owned()),
        client: Some([192, 0, 2, (number % 2) as u8].into()),
        country: tidegate_policy::geo::Country::new(if number % 3 == 0 { b"DE" } else { b"FR" }),
        duration_us: Some(number * 1_000),
        gate_us: Some(number),
        bytes_out: Some(10),
        ..match number {
            96.. => TrafficEvent {
                verdict: VerdictCode::Deny,
                reason: Some("rate_limited".to_owned()),
                rule: Some("by-address".to_owned()),
                status: Some(429),
                ..event(number)
            },
            _ => TrafficEvent { verdict: VerdictCode::Allow, status: Some(200), ..event(number) },
        }
    };
    record(service, 1, (1..=100).map(request).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_say_what_was_asked_for_how_long_it_took_and_who_came() {
    let service = TestService::start().await;
    record_requests(&service).await;
    let paths =
        service.get("/api/admin/stats/paths?since=1h&route=shop&host=Shop.example&sort=p95").await.ok();
    assert_eq!(each(&paths["items"], |item| item["template"].clone()), [json!("/items/{id}")]);
    has(
        &paths["items"][0],
        json!({"route": "shop", "method": "GET", "requests": 100, "denied": 5, "bytes_out": 1_000,
            "status": {"2xx": 95, "4xx": 5, "5xx": 0}}),
    );
    let p95 = paths["items"][0]["duration_ms"]["p95"].as_f64().unwrap();
    assert!((p95 - 95.0).abs() <= 95.0 * paths["precision"].as_f64().unwrap(), "{p95}");
    assert_eq!(service.get("/api/admin/stats/paths?route=other").await.ok()["items"], json!([]));

    let timeline = service.get("/api/admin/stats/timeline?step=1d").await.ok();
    has(
        &timeline["items"][0],
        json!({"seconds": 86_400, "requests": 100, "allow": 95, "deny": 5, "gate_ms": {"p50": 0.05}}),
    );
    assert_eq!(timeline["items"][0]["duration_ms"], paths["items"][0]["duration_ms"]);
    let one = "/api/admin/stats/timeline?template=/items/%7Bid%7D&method=get&step=auto&since=1h";
    let points = each(&service.get(one).await.ok()["items"], |item| item["requests"].as_u64().unwrap());
    assert_eq!(points.iter().sum::<u64>(), 100);
    let none = "/api/admin/stats/timeline?template=/items&method=get";
    assert_eq!(service.get(none).await.ok()["items"], json!([]));
    let routes = service.get("/api/admin/stats/paths?group=route").await.ok();
    has(&routes["items"][0], json!({"route": "shop", "template": null, "method": null, "requests": 100}));
    let top = service.get("/api/admin/stats/top?by=ip&limit=1").await.ok();
    has(&top["items"][0], json!({"requests": 50, "over": 0, "under": 0}));
    let countries = service.get("/api/admin/stats/countries").await.ok();
    has(
        &countries["items"][1],
        json!({"country": "DE", "requests": 33, "over": 0, "under": 0, "denied": 2, "geo_denied": 0,
            "reasons": {"rate_limited": 2}}),
    );
    has(&countries["items"][0], json!({"country": "FR", "requests": 67, "denied": 3}));
    let limits = service.get("/api/admin/stats/limits").await.ok();
    has(&limits["items"][0], json!({"limit": "by-address", "denied": 5, "would_deny": 0}));
    has(&limits["items"][0]["clients"][0], json!({"value": "192.0.2.0", "requests": 3}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused_with_its_parameter() {
    let service = TestService::start().await;
    for (parameter, query) in [
        ("since", "paths?since=2999-01-01"),
        ("until", "timeline?since=1h&until=2h"),
        ("sort", "paths?sort=colour"),
        ("limit", "paths?limit=0"),
        ("host", "paths?host="),
        ("step", "timeline?step=1s"),
        ("by", "top"),
        ("by", "top?by=shoe_size"),
        ("limit", "top?by=ip&limit=1001"),
        ("limit", "limits?limit=101"),
        ("colour", "limits?colour=red"),
    ] {
        let problem =
            service.get(&format!("/api/admin/stats/{query}")).await.problem(400, "invalid_parameter");
        assert_eq!(problem["errors"][0]["parameter"], parameter, "{query}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_them() {
    let service = TestService::start().await;
    record_requests(&service).await;
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command.args(args).args(["--server", &service.people("")]);
        printed(&command.env("TIDEGATE_TOKEN", &service.admin).output().await.unwrap())
    };
    let said = run(&["stats", "paths", "--sort", "p99"]).await;
    assert!(said.contains("/items/{id}") && said.contains("P95 MS") && said.contains("all"), "{said}");
    assert!(run(&["stats", "timeline", "--step", "1d"]).await.contains("86400"));
    assert!(run(&["stats", "countries"]).await.contains("DE"));
    assert!(run(&["stats", "limits"]).await.contains("by-address"), "{said}");
    let top: Value =
        serde_json::from_str(&run(&["top", "--by", "path", "--limit", "3", "-o", "json"]).await).unwrap();
    assert_eq!(top["items"].as_array().unwrap().len(), 3);
}
