//! Routes: written, read back, refused.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::running::{Answered, Running};

fn hello(backend: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "hello"},
        "spec": {"rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/hello"}}],
            "backendRefs": [{"name": backend}]
        }]}
    })
}

async fn put(running: &Running, name: &str, document: &Value) -> Answered {
    running.ask(Method::PUT, &format!("/api/admin/routes/{name}"), document.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_read_back_as_it_was_written() {
    let running = Running::start().await;
    let written = put(&running, "hello", &hello("demo")).await.ok();
    assert_eq!(written["name"], "hello");
    assert!(written["version"].is_string());
    assert_eq!(running.get("/api/admin/routes/hello").await.ok(), hello("demo"));
    put(&running, "hello", &hello("other")).await.ok();
    assert_eq!(running.get("/api/admin/routes").await.ok(), json!({"items": [hello("other")]}));
    let health = running.get("/api/admin/optimization/health").await.ok();
    assert_eq!(health["tables"]["routes"]["entries"], 1, "{health}");
    running.ask(Method::DELETE, "/api/admin/routes/hello", Body::empty()).await.ok();
    running.get("/api/admin/routes/hello").await.problem(404, "route_not_found");
    running
        .ask(Method::DELETE, "/api/admin/routes/hello", Body::empty())
        .await
        .problem(404, "route_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_is_read_and_the_name_may_come_from_the_address() {
    let running = Running::start().await;
    let text = "
spec:
  rules:
  - matches: [{path: {type: PathPrefix, value: /hello}}]
    backendRefs: [{name: demo}]
";
    let send = async |text: String| {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(running.people("/api/admin/routes/hello"))
            .header(AUTHORIZATION, format!("Bearer {}", running.admin))
            .header(CONTENT_TYPE, "application/yaml")
            .body(Body::from(text))
            .unwrap();
        running.send(request).await
    };
    send(text.to_owned()).await.ok();
    let held = running.get("/api/admin/routes/hello").await.ok();
    assert_eq!((&held["metadata"], &held["spec"]), (&json!({"name": "hello"}), &hello("demo")["spec"]));
    send("spec: [".to_owned()).await.problem(400, "invalid_yaml");
    send(" ".to_owned()).await.problem(400, "empty_body");
    send("[".repeat(500_000)).await.problem(400, "invalid_yaml");
    send("just a text".to_owned()).await.problem(422, "invalid_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_route_is_named_and_nothing_changes() {
    let running = Running::start().await;
    put(&running, "hello", &hello("demo")).await.ok();
    let before = running.tables().await;
    let changed = |pointer: &str, value: Value| {
        let mut document = hello("demo");
        let (place, name) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(place).unwrap()[name] = value;
        document
    };
    let rule = "/spec/rules/0";
    let path = |kind: &str, value: &str| json!([{"path": {"type": kind, "value": value}}]);
    let cases = [
        (changed("/metadata/name", json!("other")), "/metadata/name".to_owned(), "name_mismatch"),
        (changed("/kind", json!("Ingress")), "/kind".to_owned(), "invalid"),
        (changed("/spec/colour", json!("red")), "/spec/colour".to_owned(), "unknown_field"),
        (
            json!({"metadata": {"name": "hello"}, "spec": {"rules": [{"filters": [{"type": "Teleport"}]}]}}),
            format!("{rule}/filters/0"),
            "invalid",
        ),
        (
            json!({"spec": {"rules": [{"matches": path("RegularExpression", "(")}]}}),
            format!("{rule}/matches/0/path/value"),
            "bad_regex",
        ),
        (
            json!({"spec": {"rules": [{"matches": path("RegularExpression", "(a{1,900}){1,900}")}]}}),
            format!("{rule}/matches/0/path/value"),
            "bad_regex",
        ),
    ];
    for (document, pointer, code) in cases {
        let problem = put(&running, "hello", &document).await.problem(422, "invalid_field");
        let errors = problem["errors"].as_array().unwrap();
        let named = errors.iter().any(|error| {
            error["pointer"].as_str().unwrap().starts_with(&pointer)
                && (code.is_empty() || error["code"] == code)
        });
        assert!(named, "{pointer} {code}: {problem}");
    }
    for document in [json!([]), json!("x"), json!(null), json!({"metadata": 5, "spec": {}})] {
        put(&running, "hello", &document).await.problem(422, "invalid_field");
    }
    let large = changed("/metadata/annotations", json!({"x": "y".repeat(1 << 20)}));
    put(&running, "hello", &large).await.problem(413, "body_too_large");
    put(&running, "Not_A_Name", &json!({"spec": {"rules": []}})).await.problem(422, "invalid_field");
    running.ask(Method::PUT, "/api/admin/routes/hello", "").await.problem(400, "empty_body");
    running.ask(Method::PUT, "/api/admin/routes/hello", "{").await.problem(400, "invalid_json");
    assert_eq!(running.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_likely_not_meant_so_is_warned_of() {
    let running = Running::start().await;
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}});
    let document = json!({"spec": {"rules": [{"filters": [redirect]}]}});
    let written = put(&running, "circle", &document).await.ok();
    let warnings = written["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("in circles"), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_pages() {
    let running = Running::start().await;
    for i in 0..5 {
        let mut document = hello("demo");
        document["metadata"]["name"] = json!(format!("r{i}"));
        put(&running, &format!("r{i}"), &document).await.ok();
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = running.get(&format!("/api/admin/routes?limit=2{cursor}")).await.ok();
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["r0", "r1", "r2", "r3", "r4"]);
}
