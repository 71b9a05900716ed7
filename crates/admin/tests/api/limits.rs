//! What is special to limits among the named documents.

use serde_json::{Value, json};

use crate::test_service::{Answered, TestService, each, has};

const LIMITS: &str = "/api/admin/limits";

async fn put(service: &TestService, name: &str) -> Answered {
    let per_client = json!({"key": "ip", "rate": 100, "per": "minute"});
    service.put_json(&format!("{LIMITS}/{name}"), &per_client).await
}

/// Creates the limits l1 to `l<count>`.
fn make(service: &TestService, count: usize) {
    service.sql(&format!(
        r#"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
           INSERT INTO limits (name, document) SELECT 'l' || i, '{{"key":"ip","rate":1,"per":"day"}}' FROM n"#
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_for_a_route_that_there_is_not_is_warned_of() {
    let service = TestService::start().await;
    let document = json!({"key": "ip", "rate": 5, "per": "second", "match": {"route": ["login", "logout"]}});
    let route = json!({"spec": {"rules": [{"backendRefs": [{"name": "demo"}]}]}});
    let warnings = |written: &Value| match &written["warnings"] {
        Value::Null => Vec::new(),
        some => each(some, |warning| warning.as_str().unwrap().to_owned()),
    };
    let logins = format!("{LIMITS}/logins");
    service.put_json("/api/admin/routes/login", &route).await.ok();
    let told = warnings(&service.put_json(&logins, &document).await.ok());
    assert!(told.len() == 1 && told[0].contains("`logout`"), "{told:?}");
    assert_eq!(service.health_codes("reasons").await, ["limit_route_missing"]);
    service.put_json("/api/admin/routes/logout", &route).await.ok();
    assert_eq!(warnings(&service.put_json(&logins, &document).await.ok()), [""; 0]);
    assert_eq!(service.health_codes("reasons").await, [""; 0]);
    let told = warnings(&service.delete("/api/admin/routes/login").await.ok());
    assert!(told.len() == 1 && told[0].contains("`logins`"), "{told:?}");
    assert_eq!(service.health_codes("reasons").await, ["limit_route_missing"]);
    service.delete(&logins).await.ok();
    assert_eq!(warnings(&service.delete("/api/admin/routes/logout").await.ok()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_may_be_so_many_limits() {
    let service = TestService::start().await;
    make(&service, 256);
    put(&service, "more").await.wrong_field(422, "invalid_field", "", "too_many");
    put(&service, "l7").await.ok();
    service.delete(&format!("{LIMITS}/l8")).await.ok();
    put(&service, "more").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_written_at_once_are_taken_as_long_as_there_is_room() {
    let service = TestService::start().await;
    make(&service, 254);
    let write = |name: &'static str| put(&service, name);
    let (a, b, c, d, e, f) =
        tokio::join!(write("a"), write("b"), write("c"), write("d"), write("e"), write("f"));
    let (taken, refused): (Vec<_>, Vec<_>) =
        [a, b, c, d, e, f].into_iter().partition(|answer| answer.status == 200);
    assert_eq!(taken.len(), 2, "two places were left");
    for answer in refused {
        answer.problem(422, "invalid_field");
    }
    has(&service.health().await, json!({"status": "ok", "tables": {"limits": {"entries": 256}}}));
}
