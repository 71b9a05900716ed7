//! Backends: written, read back, refused, needed.

use serde_json::{Value, json};

use crate::running::{Answered, Running};

const BACKENDS: &str = "/api/admin/backends";
const HEALTH: &str = "/api/admin/optimization/health";

async fn put(running: &Running, name: &str, document: &Value) -> Answered {
    running.put(&format!("{BACKENDS}/{name}"), document.to_string()).await
}

/// Puts a route with these `backendRefs`; what it is warned of.
async fn route(running: &Running, name: &str, references: Value) -> Vec<String> {
    let document = json!({"spec": {"rules": [{"backendRefs": references}]}});
    let written = running.put(&format!("/api/admin/routes/{name}"), document.to_string()).await.ok();
    let warnings = written["warnings"].as_array().cloned().unwrap_or_default();
    warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

fn of_api(name: &str) -> Value {
    json!([{"group": "tidegate.dev", "kind": "Backend", "name": name}])
}

/// What health says of references: its reasons, and what nobody knows.
async fn unknown(running: &Running) -> (bool, Value) {
    running.get(BACKENDS).await.ok();
    let health = running.get(HEALTH).await.ok();
    let reasons = health["reasons"].as_array().unwrap();
    (reasons.iter().any(|reason| reason["code"] == "unknown_backend"), health["unknown_backends"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_read_back_as_it_was_written() {
    let running = Running::start().await;
    let document = json!({"address": "api.example.com:443", "tls": {"trust": "own"}});
    let written = put(&running, "orders", &document).await.ok();
    assert!(written["name"] == "orders" && written["version"].is_string(), "{written}");
    let mut shown = document.clone();
    shown["name"] = json!("orders");
    assert_eq!(running.get(&format!("{BACKENDS}/orders")).await.ok(), shown);
    put(&running, "orders", &shown).await.ok();
    put(&running, "local", &json!({"address": "127.0.0.1:80", "allow_private": true})).await.ok();
    let list = running.get(&format!("{BACKENDS}?limit=1")).await.ok();
    assert_eq!(list["items"][0]["name"], "local");
    let rest = running.get(&format!("{BACKENDS}?cursor={}", list["next"].as_str().unwrap())).await.ok();
    assert_eq!(rest, json!({"items": [shown]}));
    let waited = running.delete(&format!("{BACKENDS}/orders?wait_applied=5s")).await.ok();
    assert_eq!(waited["applied"]["of"], 0, "{waited}");
    for answer in [
        running.get(&format!("{BACKENDS}/orders")).await,
        running.delete(&format!("{BACKENDS}/orders")).await,
    ] {
        answer.problem(404, "backend_not_found");
    }
    let audit = running.get("/api/admin/audit").await.ok();
    let told = audit["items"].as_array().unwrap().iter().filter(|row| row["target"] == "orders");
    assert!(told.map(|row| &row["what"]).all(|what| what == "backend"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_backend_is_named_and_nothing_changes() {
    let running = Running::start().await;
    put(&running, "kept", &json!({"address": "198.51.100.7:80"})).await.ok();
    let before = running.tables().await;
    for (document, pointer, code) in [
        (json!({}), "/address", "required"),
        (json!({"address": "api.example.com"}), "/address", "invalid"),
        (json!({"address": "169.254.169.254:80"}), "/address", "private_address"),
        (json!({"address": "[::ffff:10.0.0.1]:80"}), "/address", "private_address"),
        (json!({"address": "localhost:80"}), "/address", "private_address"),
        (json!({"address": "198.51.100.7:443", "tls": {}}), "/tls/sni", "required"),
        (json!({"address": "a.test:443", "tls": {"trust": "a b"}}), "/tls/trust", "invalid"),
        (json!({"address": "a.test:443", "weight": 1}), "/weight", "unknown_field"),
        (json!({"address": "a.test:443", "name": "other"}), "/name", "invalid"),
        (json!([]), "", "wrong_type"),
    ] {
        let problem = put(&running, "kept", &document).await.problem(422, "invalid_field");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["code"]),
            (&json!(pointer), &json!(code)),
            "{document}: {problem}"
        );
    }
    put(&running, "Not_A_Name", &json!({"address": "a.test:80"})).await.problem(422, "invalid_field");
    running.put(&format!("{BACKENDS}/kept"), "").await.problem(400, "empty_body");
    assert_eq!(running.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_routes_need_stays() {
    let running = Running::start().await;
    put(&running, "orders", &json!({"address": "a.test:80"})).await.ok();
    assert!(route(&running, "by-kind", of_api("orders")).await.is_empty());
    assert!(route(&running, "by-name", json!([{"name": "orders"}])).await.is_empty());
    let elsewhere = json!([{"name": "orders", "namespace": "shop"}]);
    assert!(route(&running, "elsewhere", elsewhere).await.is_empty());
    let before = running.tables().await;
    let problem = running.delete(&format!("{BACKENDS}/orders")).await.problem(409, "backend_in_use");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with("`by-kind`, `by-name`"), "{problem}");
    assert_eq!(running.tables().await, before);
    // Written beside us, and seen.
    running.sql("DELETE FROM routes WHERE name = 'by-name'");
    route(&running, "by-kind", json!([{"name": "demo"}])).await;
    running.delete(&format!("{BACKENDS}/orders")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_and_a_route_that_needs_it_are_one_after_the_other() {
    let running = Running::start().await;
    for round in 0..20 {
        put(&running, "orders", &json!({"address": "a.test:80"})).await.ok();
        running.delete("/api/admin/routes/r").await;
        let path = format!("{BACKENDS}/orders");
        let (warnings, deleted) = tokio::join!(route(&running, "r", of_api("orders")), running.delete(&path));
        match deleted.status.as_u16() {
            // Then the route came after it, and was told.
            200 => assert_eq!(warnings.len(), 1, "{round}"),
            409 => assert!(running.get(&path).await.status == 200 && warnings.is_empty(), "{round}"),
            _ => panic!("{:?}", deleted.json()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_that_nobody_answers_are_warned_of() {
    let running = Running::start().await;
    assert_eq!(unknown(&running).await, (false, json!([])));
    // Nobody said which clusters there are.
    assert!(route(&running, "any", json!([{"name": "some-cluster"}])).await.is_empty());
    let warnings = route(&running, "api", of_api("orders")).await;
    assert!(warnings[0].contains("`orders`") && warnings.len() == 1, "{warnings:?}");
    let foreign = json!([{"group": "example.com", "kind": "Lambda", "name": "f"}]);
    let warnings = route(&running, "foreign", foreign).await;
    assert!(warnings[0].contains("example.com/Lambda f") && warnings.len() == 1, "{warnings:?}");
    let shown = json!([
        {"route": "api", "backend": "orders"}, {"route": "foreign", "backend": "example.com/Lambda f"}
    ]);
    assert_eq!(unknown(&running).await, (true, shown));
    put(&running, "orders", &json!({"address": "a.test:80"})).await.ok();
    running.delete("/api/admin/routes/foreign").await.ok();
    assert_eq!(unknown(&running).await, (false, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_clusters_that_are_known_every_other_name_is_warned_of() {
    let running = Running::start_with_clusters(&["demo", "orders"]).await;
    assert!(route(&running, "known", json!([{"name": "demo"}])).await.is_empty());
    let warnings = route(&running, "unknown", json!([{"name": "demo"}, {"name": "dmeo"}])).await;
    assert!(warnings[0].contains("`dmeo`") && warnings.len() == 1, "{warnings:?}");
    let mirrored = json!({"spec": {"rules": [{"backendRefs": [{"name": "demo"}], "filters": [
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 80}}}]}]}});
    let written = running.put("/api/admin/routes/mirrored", mirrored.to_string()).await.ok();
    assert!(written["warnings"][0].as_str().unwrap().contains("`copy`"), "{written}");
    let shown = json!([{"route": "mirrored", "backend": "copy"}, {"route": "unknown", "backend": "dmeo"}]);
    assert_eq!(unknown(&running).await, (true, shown));
    // Where a cluster takes over, a backend of the API may go.
    put(&running, "orders", &json!({"address": "a.test:80"})).await.ok();
    route(&running, "known", json!([{"name": "orders"}])).await;
    running.delete(&format!("{BACKENDS}/orders")).await.ok();
}
