//! `ETag`, `If-Match`, `If-None-Match` and `dry_run` of everything that is read and written whole.

use reqwest::Method;
use serde_json::{Value, json};

use crate::test_service::{Answered, TestService, has};

/// What is read and written whole: its path, two contents, and the field of an answer that tells these
/// apart, as a pointer.
fn everything() -> Vec<(&'static str, Value, Value, &'static str)> {
    let route = |name: &str| json!({"spec": {"rules": [{"backendRefs": [{"name": name}]}]}});
    vec![
        ("/api/admin/routes/a", route("one"), route("two"), "/spec/rules/0/backendRefs/0/name"),
        (
            "/api/admin/geo-rules/a",
            json!({"mode": "deny", "countries": ["DE"]}),
            json!({"mode": "deny", "countries": ["FR"]}),
            "/countries/0",
        ),
        (
            "/api/admin/backends/a",
            json!({"address": "a.example:1"}),
            json!({"address": "a.example:2"}),
            "/address",
        ),
        (
            "/api/admin/limits/a",
            json!({"key": "ip", "rate": 1, "per": "second"}),
            json!({"key": "ip", "rate": 2, "per": "second"}),
            "/rate",
        ),
        ("/api/admin/listeners/a", json!({"port": 1}), json!({"port": 2}), "/port"),
        ("/api/admin/pages/no_route", json!({"html": "1"}), json!({"html": "2"}), "/html"),
        ("/api/admin/allow-list/192.0.2.0/28", json!({"reason": "1"}), json!({"reason": "2"}), "/reason"),
    ]
}

async fn send(
    service: &TestService,
    method: Method,
    path: &str,
    header: (&str, &str),
    body: &Value,
) -> Answered {
    let request = service.as_operator(method, path).header(header.0, header.1);
    Answered::to(request.body(body.to_string())).await
}

/// The strong `ETag` of what is at `path`.
async fn etag(service: &TestService, path: &str) -> String {
    let answer = service.get(path).await;
    answer.ok();
    let tag = answer.headers["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "{tag}");
    tag
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_meanwhile_is_not_overwritten() {
    let service = TestService::start().await;
    for (path, one, other, field) in everything() {
        send(&service, Method::PUT, path, ("if-match", "*"), &one).await.problem(412, "precondition_failed");
        send(&service, Method::PUT, path, ("if-none-match", "*"), &one).await.ok();
        send(&service, Method::PUT, path, ("if-none-match", "*"), &one)
            .await
            .problem(412, "precondition_failed");
        let first = etag(&service, path).await;
        assert_eq!(etag(&service, path).await, first, "{path}");
        let unchanged =
            send(&service, Method::GET, path, ("if-none-match", &format!("W/\"x\", W/{first}")), &json!(""))
                .await;
        assert_eq!((unchanged.status.as_u16(), unchanged.bytes.len()), (304, 0), "{path}");
        assert_eq!(unchanged.headers["etag"], *first, "{path}");

        // Two have read it; the first writes.
        send(&service, Method::PUT, path, ("if-match", &format!("\"x\", {first}")), &other).await.ok();
        let second = etag(&service, path).await;
        assert_ne!(first, second, "{path}");
        for stale in [first.as_str(), &format!("W/{second}")] {
            for (method, body) in [(Method::PUT, &one), (Method::DELETE, &json!(""))] {
                let refused = send(&service, method, path, ("if-match", stale), body).await;
                let problem = refused.problem(412, "precondition_failed");
                assert!(problem["detail"].as_str().unwrap().contains(&second), "{problem}");
            }
        }
        assert_eq!(service.get(path).await.ok().pointer(field), other.pointer(field), "{path}");
        send(&service, Method::PUT, path, ("if-match", "x"), &one).await.problem(400, "invalid_header");
        send(&service, Method::DELETE, path, ("if-match", &second), &json!("")).await.ok();
        assert_eq!(send(&service, Method::DELETE, path, ("if-match", &second), &json!("")).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_write_at_once_one_is_told() {
    let service = TestService::start().await;
    for (path, one, other, _) in everything() {
        service.put_json(path, &one).await.ok();
        for body in [&other, &one, &other, &one] {
            let tag = etag(&service, path).await;
            let put =
                async || send(&service, Method::PUT, path, ("if-match", &tag), body).await.status.as_u16();
            let mut statuses = <[_; 2]>::from(tokio::join!(put(), put()));
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 412], "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_have_a_tag_of_all_of_them() {
    let service = TestService::start().await;
    let path = "/api/admin/optimization/flags";
    let first = etag(&service, path).await;
    let on = json!({"enableRouteCache": true});
    let tried = service.put_json(&format!("{path}?dry_run=true"), &on).await.ok();
    has(&tried, json!({"enableRouteCache": true, "dry_run": true}));
    assert_eq!(etag(&service, path).await, first, "it was only tried");
    send(&service, Method::PUT, path, ("if-match", &first), &on).await.ok();
    send(&service, Method::PUT, path, ("if-match", &first), &json!({"enableAsyncRecording": true}))
        .await
        .problem(412, "precondition_failed");
    has(&service.get(path).await.ok(), json!({"enableRouteCache": true, "enableAsyncRecording": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_answers_what_would_be_and_changes_nothing() {
    let service = TestService::start().await;
    for (path, one, other, _) in everything() {
        let dry = format!("{path}?dry_run=true");
        let before = service.tables().await;
        let tried = service.put_json(&dry, &one).await.ok();
        assert_eq!((tried["dry_run"].clone(), service.tables().await), (json!(true), before), "{path}");
        let done = service.put_json(path, &one).await.ok();
        assert_eq!((&tried["etag"], &tried["warnings"]), (&done["etag"], &done["warnings"]), "{path}");
        let before = service.tables().await;
        service.put_json(&dry, &other).await.ok();
        has(&service.delete(&dry).await.ok(), json!({"dry_run": true}));
        service.put_json(&dry, &json!({"no_such": 1})).await.problem(422, "invalid_field");
        assert_eq!(service.tables().await, before, "{path}");
    }
    service.put_json("/api/admin/routes/a?dry_run=maybe", &json!({})).await.problem(400, "invalid_parameter");
    let ban = r#"{"ip": "9.9.9.9"}"#;
    let audited = service.get("/api/admin/audit").await.ok();
    has(
        &service.post("/api/admin/ip/ban?dry_run=true", ban).await.ok(),
        json!({"status": "banned", "dry_run": true}),
    );
    service.post("/api/admin/ip/unban?dry_run=true", ban).await.problem(404, "not_banned");
    service
        .post("/api/admin/ip/ban?dry_run=true", r#"{"ip": "127.0.0.1"}"#)
        .await
        .problem(409, "protected_network");
    let token = service.post("/api/admin/tokens?dry_run=true", r#"{"name": "t", "role": "read"}"#).await.ok();
    assert!(token["token"].is_null(), "{token}");
    service.delete("/api/admin/tokens/t?dry_run=true").await.problem(404, "token_not_found");
    assert_eq!(service.get("/api/admin/audit").await.ok(), audited);
    service.post("/api/admin/ip/ban", ban).await.ok();
    let would = service.post("/api/admin/ip/unban?dry_run=true", ban).await.ok();
    has(&would, json!({"status": "none", "rows": 1, "dry_run": true}));
    has(&service.get("/api/admin/ip-monitor/9.9.9.9").await.ok(), json!({"status": "banned"}));
}
