//! Limits: written, read back, refused.

use serde_json::{Value, json};

use crate::running::{Answered, Running};

const LIMITS: &str = "/api/admin/limits";
const HEALTH: &str = "/api/admin/optimization/health";

fn per_client() -> Value {
    json!({"key": "ip", "rate": 100, "per": "minute"})
}

async fn put(running: &Running, name: &str, document: &Value) -> Answered {
    running.put(&format!("{LIMITS}/{name}"), document.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_read_back_as_it_was_written() {
    let running = Running::start().await;
    let written = put(&running, "per-client", &per_client()).await.ok();
    assert!(written["name"] == "per-client" && written["version"].is_string(), "{written}");
    let mut shown = per_client();
    shown["name"] = json!("per-client");
    assert_eq!(running.get(&format!("{LIMITS}/per-client")).await.ok(), shown);
    put(&running, "per-client", &shown).await.ok();
    put(&running, "all", &json!({"key": "global", "rate": 5, "per": "10s", "shadow": true})).await.ok();
    let list = running.get(&format!("{LIMITS}?limit=1")).await.ok();
    assert_eq!(list["items"][0]["name"], "all");
    let rest = running.get(&format!("{LIMITS}?cursor={}", list["next"].as_str().unwrap())).await.ok();
    assert_eq!(rest, json!({"items": [shown]}));
    let health = running.get(HEALTH).await.ok();
    assert_eq!((&health["tables"]["limits"]["entries"], &health["status"]), (&json!(2), &json!("ok")));
    let waited = running.delete(&format!("{LIMITS}/all?wait_applied=5s")).await.ok();
    assert_eq!(waited["applied"]["of"], 0, "{waited}");
    for answer in
        [running.get(&format!("{LIMITS}/all")).await, running.delete(&format!("{LIMITS}/all")).await]
    {
        answer.problem(404, "limit_not_found");
    }
    let audit = running.get("/api/admin/audit").await.ok();
    let told = audit["items"].as_array().unwrap().iter().map(|row| (&row["what"], &row["target"]));
    assert!(told.clone().all(|(what, _)| what == "limit") && told.count() == 4, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_limit_is_named_and_nothing_changes() {
    let running = Running::start().await;
    put(&running, "kept", &per_client()).await.ok();
    let before = running.tables().await;
    let changed = |field: &str, value: Value| {
        let mut document = per_client();
        document[field] = value;
        document
    };
    for (document, pointer, code) in [
        (json!({"key": "ip", "per": "minute"}), "/rate", "required"),
        (changed("rate", json!(0)), "/rate", "out_of_range"),
        (changed("per", json!("fortnight")), "/per", "invalid"),
        (changed("key", json!("cookie:a")), "/key", "invalid"),
        (changed("match", json!({"cidr": "10.0.0.0/33"})), "/match/cidr", "invalid"),
        (changed("shadow", json!("no")), "/shadow", "wrong_type"),
        (changed("colour", json!("red")), "/colour", "unknown_field"),
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
    put(&running, "Not_A_Name", &per_client()).await.problem(422, "invalid_field");
    running.put(&format!("{LIMITS}/kept"), "").await.problem(400, "empty_body");
    assert_eq!(running.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_for_a_route_that_there_is_not_is_warned_of() {
    let running = Running::start().await;
    let document = json!({"key": "ip", "rate": 5, "per": "second", "match": {"route": ["login", "logout"]}});
    let reasons = async || {
        running.get(LIMITS).await.ok();
        let health = running.get(HEALTH).await.ok();
        health["reasons"].as_array().unwrap().clone()
    };
    let route = json!({"spec": {"rules": [{"backendRefs": [{"name": "demo"}]}]}}).to_string();
    running.put("/api/admin/routes/login", route.clone()).await.ok();
    let written = put(&running, "logins", &document).await.ok();
    let warnings = written["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("`logout`"), "{written}");
    let told = reasons().await;
    assert!(told.len() == 1 && told[0]["code"] == "limit_route_missing", "{told:?}");
    running.put("/api/admin/routes/logout", route).await.ok();
    assert_eq!(put(&running, "logins", &document).await.ok()["warnings"], Value::Null);
    assert_eq!(reasons().await, Vec::<Value>::new());
    let removed = running.delete("/api/admin/routes/login").await.ok();
    let warnings = removed["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("`logins`"), "{removed}");
    assert_eq!(reasons().await[0]["code"], "limit_route_missing");
    running.delete(&format!("{LIMITS}/logins")).await.ok();
    assert_eq!(running.delete("/api/admin/routes/logout").await.ok()["warnings"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_may_be_so_many_limits() {
    let running = Running::start().await;
    running.sql(
        r#"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 256)
           INSERT INTO limits (name, document) SELECT 'l' || i, '{"key":"ip","rate":1,"per":"day"}' FROM n"#,
    );
    let problem = put(&running, "more", &per_client()).await.problem(422, "invalid_field");
    assert_eq!(problem["errors"][0]["code"], "too_many", "{problem}");
    put(&running, "l7", &per_client()).await.ok();
    running.delete(&format!("{LIMITS}/l8")).await.ok();
    put(&running, "more", &per_client()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_written_at_once_are_taken_as_long_as_there_is_room() {
    let running = Running::start().await;
    running.sql(
        r#"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 254)
           INSERT INTO limits (name, document) SELECT 'l' || i, '{"key":"ip","rate":1,"per":"day"}' FROM n"#,
    );
    let document = per_client();
    let write = |name: &'static str| put(&running, name, &document);
    let (a, b, c, d, e, f) =
        tokio::join!(write("a"), write("b"), write("c"), write("d"), write("e"), write("f"));
    let (taken, refused): (Vec<_>, Vec<_>) =
        [a, b, c, d, e, f].into_iter().partition(|answer| answer.status == 200);
    assert_eq!(taken.len(), 2, "two places were left");
    for answer in refused {
        answer.problem(422, "invalid_field");
    }
    let health = running.get(HEALTH).await.ok();
    assert_eq!((&health["tables"]["limits"]["entries"], &health["status"]), (&json!(256), &json!("ok")));
}
