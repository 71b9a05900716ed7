//! What is special to listeners: routes are held to them.

use serde_json::{Value, json};

use crate::test_service::{Answered, TestService, each, has};

const WEB: &str = "/api/admin/listeners/web";

fn held(parents: Value, host: &str, rule: Value) -> Value {
    json!({"spec": {"parentRefs": parents, "hostnames": [host], "rules": [rule]}})
}

/// Puts a route for the listener of this name.
async fn put_route(service: &TestService, name: &str, section: &str) -> Answered {
    let parents = json!([{"name": "g", "sectionName": section}]);
    let document = held(parents, "a.example", json!({"backendRefs": [{"name": "demo"}]}));
    service.put_json(&format!("/api/admin/routes/{name}"), &document).await
}

async fn explain(service: &TestService, query: &str) -> Value {
    service.get(&format!("/api/admin/explain?path=/&host=a.example{query}")).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_https_are_there_from_the_start_and_others_are_declared() {
    let service = TestService::start().await;
    let first = json!([{"name": "http", "scheme": "http"}, {"name": "https", "scheme": "https"}]);
    assert_eq!(service.get("/api/admin/listeners").await.ok()["items"], first);
    put_route(&service, "first", "https").await.ok();
    let before = service.tables().await;
    let refused = put_route(&service, "r", "web").await;
    refused.wrong_field(422, "invalid_field", "/spec/parentRefs/0/sectionName", "unknown_listener");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("PUT /api/admin/listeners/web") && detail.contains("`http`, `https`"),
        "{detail}"
    );
    assert_eq!(service.tables().await, before);
    service.put_json(WEB, &json!({"port": 8080})).await.ok();
    put_route(&service, "r", "web").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_routes_need_stays_what_they_need() {
    let service = TestService::start().await;
    service.put_json(WEB, &json!({"port": 8080})).await.ok();
    put_route(&service, "by-name", "web").await.ok();
    let by_port = held(json!([{"name": "g", "port": 8080}]), "b.example", json!({}));
    service.put_json("/api/admin/routes/by-port", &by_port).await.ok();
    let before = service.tables().await;
    let problem = service.delete(WEB).await.problem(409, "listener_in_use");
    assert!(problem["detail"].as_str().unwrap().contains("`by-name`, `by-port` ("), "{problem}");
    // Nothing would be left that has the port, or the hostname.
    let problem = service.put_json(WEB, &json!({"port": 8081})).await.problem(409, "listener_in_use");
    assert!(problem["detail"].as_str().unwrap().contains(": `by-port` ("), "{problem}");
    let other_host = json!({"port": 8080, "hostname": "b.example"});
    let problem = service.put_json(WEB, &other_host).await.problem(409, "listener_in_use");
    assert!(problem["detail"].as_str().unwrap().contains(": `by-name` ("), "{problem}");
    assert_eq!(service.tables().await, before);
    service.put_json(WEB, &json!({"port": 8080, "scheme": "https"})).await.ok();
    for route in ["by-name", "by-port"] {
        service.delete(&format!("/api/admin/routes/{route}")).await.ok();
    }
    service.delete(WEB).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_removed_by_sql_closes_its_routes_and_hands_them_to_no_wider_one() {
    let service = TestService::start().await;
    service.put_json(WEB, &json!({"scheme": "https"})).await.ok();
    put_route(&service, "held", "web").await.ok();
    let wide = json!({"spec": {"rules": [{"backendRefs": [{"name": "demo"}]}]}});
    service.put_json("/api/admin/routes/wide", &wide).await.ok();
    has(&explain(&service, "&scheme=http").await["decision"], json!({"verdict": "allow", "route": "wide"}));
    has(&explain(&service, "&scheme=https").await["decision"], json!({"verdict": "allow", "route": "held"}));
    service.sql("DELETE FROM listeners WHERE name = 'web'");
    for scheme in ["http", "https"] {
        let said = explain(&service, &format!("&scheme={scheme}")).await;
        has(
            &said["decision"],
            json!({"verdict": "deny", "status": 500, "reason": "no_backend", "route": "held"}),
        );
        has(&said["checks"]["route"]["matches"][0], json!({"closed": true, "wins": true}));
    }
    let reasons = service.health().await["reasons"].clone();
    let reason = each(&reasons, Value::clone).into_iter().find(|reason| reason["code"] == "unknown_listener");
    assert!(reason.unwrap()["detail"].as_str().unwrap().contains("`held`, /spec/parentRefs/0/sectionName"));
    service.sql("INSERT INTO listeners (name, document) VALUES ('web', '{\"scheme\": \"https\"}')");
    has(&explain(&service, "&scheme=https").await["decision"], json!({"verdict": "allow", "route": "held"}));
    // A slip leaves what was meant before.
    service.sql("UPDATE listeners SET document = '{\"scheme\": \"htps\"}' WHERE name = 'web'");
    has(&explain(&service, "&scheme=http").await["decision"], json!({"route": "wide"}));
    assert!(service.health_codes("reasons").await.contains(&"rows_quarantined".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_takes_a_listener() {
    let service = TestService::start().await;
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}});
    let document =
        held(json!([{"name": "g", "sectionName": "http"}]), "a.example", json!({"filters": [redirect]}));
    let written = service.put_json("/api/admin/routes/redirect", &document).await.ok();
    assert_eq!(written["warnings"], Value::Null);
    put_route(&service, "shop", "https").await.ok();
    service.put_json(WEB, &json!({"scheme": "https", "port": 8443, "hostname": "*.example"})).await.ok();

    let http = explain(&service, "&listener=http").await;
    has(&http["decision"], json!({"verdict": "redirect", "route": "redirect"}));
    assert_eq!(http["checks"]["route"]["listeners"], json!(["http"]));
    let https = explain(&service, "&listener=https").await;
    has(&https["decision"], json!({"verdict": "allow", "route": "shop"}));
    assert_eq!(https["checks"]["route"]["listeners"], json!(["https"]));
    let web = explain(&service, "&listener=web").await;
    assert_eq!(web["checks"]["route"]["listeners"], json!(["https", "web"]));
    assert_eq!(explain(&service, "&listener=http&port=81").await["decision"]["route"], "redirect");
    for (query, code) in [
        ("host=a.example&listener=gone", "unknown_listener"),
        ("host=a.example&listener=http&scheme=https", "conflict"),
        ("host=a.example&listener=web&port=443", "conflict"),
        ("host=example&listener=web", "conflict"),
    ] {
        let refused = service.get(&format!("/api/admin/explain?path=/&{query}")).await;
        let problem = refused.problem(400, "invalid_parameter");
        has(&problem["errors"][0], json!({"parameter": "listener", "code": code}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_are_not_told_apart_are_warned_of() {
    let service = TestService::start().await;
    let put = async |name: &str, gateway: &str, host: &str| {
        let document = held(json!([{"name": gateway}]), host, json!({"backendRefs": [{"name": "demo"}]}));
        let written = service.put_json(&format!("/api/admin/routes/{name}"), &document).await.ok();
        written["warnings"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(put("inside", "internal", "*.example").await, 0);
    assert_eq!(put("same", "internal", "a.example").await, 0);
    assert_eq!(put("apart", "public", "b.test").await, 0);
    assert_eq!(put("public", "public", "a.example").await, 1);
}
