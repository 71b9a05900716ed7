//! What is special to backends: routes need them.

use serde_json::{Value, json};

use crate::test_service::{TestService, each};

const ORDERS: &str = "/api/admin/backends/orders";

async fn put_orders(service: &TestService) {
    service.put_json(ORDERS, &json!({"address": "a.test:80"})).await.ok();
}

/// Puts a route with this rule; returns the warnings.
async fn put_rule(service: &TestService, name: &str, rule: Value) -> Vec<String> {
    let document = json!({"spec": {"rules": [rule]}});
    let written = service.put_json(&format!("/api/admin/routes/{name}"), &document).await.ok();
    match &written["warnings"] {
        Value::Null => Vec::new(),
        warnings => each(warnings, |warning| warning.as_str().unwrap().to_owned()),
    }
}

/// Puts a route with these `backendRefs`; returns the warnings.
async fn route(service: &TestService, name: &str, references: Value) -> Vec<String> {
    put_rule(service, name, json!({"backendRefs": references})).await
}

fn of_api(name: &str) -> Value {
    json!([{"group": "tidegate.dev", "kind": "Backend", "name": name}])
}

/// References to unknown backends: whether they are a reason in health, and which they are.
async fn unknown(service: &TestService) -> (bool, Value) {
    let codes = service.health_codes("reasons").await;
    (codes.iter().any(|code| code == "unknown_backend"), service.health().await["unknown_backends"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_routes_need_stays() {
    let service = TestService::start().await;
    put_orders(&service).await;
    assert!(route(&service, "by-kind", of_api("orders")).await.is_empty());
    assert!(route(&service, "by-name", json!([{"name": "orders"}])).await.is_empty());
    let elsewhere = json!([{"name": "orders", "namespace": "shop"}]);
    assert!(route(&service, "elsewhere", elsewhere).await.is_empty());
    let before = service.tables().await;
    let problem = service.delete(ORDERS).await.problem(409, "backend_in_use");
    assert!(problem["detail"].as_str().unwrap().ends_with("`by-kind`, `by-name`"), "{problem}");
    assert_eq!(service.tables().await, before);
    // Written by another program, and noticed.
    service.sql("DELETE FROM routes WHERE name = 'by-name'");
    route(&service, "by-kind", json!([{"name": "demo"}])).await;
    service.delete(ORDERS).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_and_a_route_that_needs_it_are_one_after_the_other() {
    let service = TestService::start().await;
    for round in 0..20 {
        put_orders(&service).await;
        service.delete("/api/admin/routes/r").await;
        let (warnings, deleted) =
            tokio::join!(route(&service, "r", of_api("orders")), service.delete(ORDERS));
        match deleted.status.as_u16() {
            // Then the route was put after the removal, and got a warning.
            200 => assert_eq!(warnings.len(), 1, "{round}"),
            409 => assert!(service.get(ORDERS).await.status == 200 && warnings.is_empty(), "{round}"),
            _ => panic!("{:?}", deleted.json()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_that_nobody_answers_are_warned_of() {
    let service = TestService::start().await;
    assert_eq!(unknown(&service).await, (false, json!([])));
    // The clusters are not known.
    assert!(route(&service, "any", json!([{"name": "some-cluster"}])).await.is_empty());
    let warnings = route(&service, "api", of_api("orders")).await;
    assert!(warnings[0].contains("`orders`") && warnings.len() == 1, "{warnings:?}");
    let foreign = json!([{"group": "example.com", "kind": "Lambda", "name": "f"}]);
    let warnings = route(&service, "foreign", foreign).await;
    assert!(warnings[0].contains("example.com/Lambda f") && warnings.len() == 1, "{warnings:?}");
    let shown = json!([
        {"route": "api", "backend": "orders"}, {"route": "foreign", "backend": "example.com/Lambda f"}
    ]);
    assert_eq!(unknown(&service).await, (true, shown));
    put_orders(&service).await;
    service.delete("/api/admin/routes/foreign").await.ok();
    assert_eq!(unknown(&service).await, (false, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_clusters_that_are_known_every_other_name_is_warned_of() {
    let service = TestService::start_with(Default::default(), &["demo", "orders"]).await;
    assert!(route(&service, "known", json!([{"name": "demo"}])).await.is_empty());
    let warnings = route(&service, "unknown", json!([{"name": "demo"}, {"name": "dmeo"}])).await;
    assert!(warnings[0].contains("`dmeo`") && warnings.len() == 1, "{warnings:?}");
    let mirror =
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 80}}});
    let rule = json!({"backendRefs": [{"name": "demo"}], "filters": [mirror]});
    assert!(put_rule(&service, "mirrored", rule).await[0].contains("`copy`"));
    let shown = json!([{"route": "mirrored", "backend": "copy"}, {"route": "unknown", "backend": "dmeo"}]);
    assert_eq!(unknown(&service).await, (true, shown));
    // A backend of the API may be removed if a cluster has its name.
    put_orders(&service).await;
    route(&service, "known", json!([{"name": "orders"}])).await;
    service.delete(ORDERS).await.ok();
}
