//! What is special to routes among the named documents.

use reqwest::Method;
use serde_json::{Value, json};

use crate::test_service::{TestService, each, has};

const HELLO: &str = "/api/admin/routes/hello";

#[tokio::test(flavor = "multi_thread")]
async fn yaml_is_read_and_the_name_may_come_from_the_address() {
    let service = TestService::start().await;
    let text = "
spec:
  rules:
  - matches: [{path: {type: PathPrefix, value: /hello}}]
    backendRefs: [{name: demo}]
";
    let send = async |text: &str| service.send(Method::PUT, HELLO, "application/yaml", text.to_owned()).await;
    send(text).await.ok();
    let spec = json!({"rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": "/hello"}}], "backendRefs": [{"name": "demo"}]
    }]});
    assert_eq!(service.get(HELLO).await.ok(), json!({"metadata": {"name": "hello"}, "spec": spec}));
    let merged = "x: &x {rules: [{}]}\nspec: {<<: *x}\n";
    send(merged).await.wrong_field(422, "invalid_field", "/x", "unknown_field");
    send("spec: {rules: [&x {backendRefs: [{name: demo}]}, {<<: *x, name: second}]}").await.ok();
    let second = json!({"backendRefs": [{"name": "demo"}], "name": "second"});
    assert_eq!(service.get(HELLO).await.ok()["spec"]["rules"][1], second);
    send("spec: [").await.problem(400, "invalid_yaml");
    send(" ").await.problem(400, "empty_body");
    send(&"[".repeat(500_000)).await.problem(400, "invalid_yaml");
    send("just a text").await.problem(422, "invalid_field");
}

/// The ids of the routes that the list shows, as `namespace/name`.
async fn listed(service: &TestService) -> Vec<String> {
    let all = service.pages("/api/admin/routes", 1).await;
    let of = |route: &Value, field: &str| route["metadata"][field].as_str().unwrap_or("-").to_owned();
    all.iter().map(|route| format!("{}/{}", of(route, "namespace"), of(route, "name"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_its_namespace_and_name() {
    let service = TestService::start().await;
    let of = |host: &str| {
        let rules = json!([{"backendRefs": [{"group": "tidegate.dev", "kind": "Backend", "name": host}]}]);
        json!({"spec": {"hostnames": [host], "rules": rules}})
    };
    let at = |id: &str| format!("/api/admin/routes/{id}");
    for (address, id) in [
        ("http", "http"),
        ("team-a/http", "team-a/http"),
        ("team-b%2Fhttp", "team-b/http"),
        ("default/http", "http"),
    ] {
        let written = service.put_json(&at(address), &of(&id.replace('/', "."))).await.ok();
        assert_eq!(written["name"], id);
    }
    assert_eq!(listed(&service).await, ["-/http", "team-a/http", "team-b/http"]);
    has(
        &service.get(&at("team-a/http")).await.ok(),
        json!({"metadata": {"namespace": "team-a", "name": "http"}}),
    );
    assert_eq!(service.get(&at("default/http")).await.ok(), service.get(&at("http")).await.ok());
    service.get(&at("team-c/http")).await.problem(404, "route_not_found");
    let unknown = &service.health().await["unknown_backends"];
    let routes = each(unknown, |one| one["route"].as_str().unwrap().to_owned());
    assert_eq!(routes, ["http", "team-a/http", "team-b/http"]);
    // A limit names one of them.
    let limit =
        json!({"key": "route", "rate": 5, "per": "day", "match": {"route": ["team-b/http", "team-c/http"]}});
    let written = service.put_json("/api/admin/limits/l", &limit).await.ok();
    assert_eq!(each(&written["warnings"], |told| told.as_str().unwrap().contains("`team-c/http`")), [true]);
    for (id, limits) in [("http", 0), ("team-a/http", 0), ("team-b/http", 1)] {
        let host = id.replace('/', ".");
        let backend = json!({"address": "b.test:80"});
        service.put_json(&format!("/api/admin/backends/{host}"), &backend).await.ok();
        let explained = service.get(&format!("/api/admin/explain?path=/&host={host}")).await.ok();
        let checks = &explained["checks"];
        assert_eq!(
            (&explained["decision"]["route"], &checks["route"]["matches"][0]["route"]),
            (&json!(id), &json!(id))
        );
        assert_eq!(checks["route"]["matches"][0]["wins"], true);
        assert_eq!(checks["limits"].as_array().unwrap().len(), limits, "{id}");
    }
    let removed = service.delete(&at("team-b/http")).await.ok();
    assert_eq!(each(&removed["warnings"], |told| told.as_str().unwrap().contains("`l`")), [true]);
    assert_eq!(listed(&service).await, ["-/http", "team-a/http"]);
    has(
        &service.get("/api/admin/audit").await.ok()["items"][0],
        json!({"name": "team-b/http", "after": null}),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_address_does_not_name_is_refused() {
    let service = TestService::start().await;
    let of = |namespace: &str| json!({"metadata": {"namespace": namespace}, "spec": {}});
    service.put_json(HELLO, &of("default")).await.ok();
    let before = service.tables().await;
    for (address, namespace) in [("hello", "team-a"), ("team-b/hello", "team-a"), ("team-b/hello", "default")]
    {
        let answer = service.put_json(&format!("/api/admin/routes/{address}"), &of(namespace)).await;
        answer.wrong_field(422, "invalid_field", "/metadata/namespace", "name_mismatch");
    }
    let bad = service.put_json("/api/admin/routes/Team/hello", &json!({"spec": {}})).await;
    bad.wrong_field(422, "invalid_field", "/metadata/namespace", "invalid");
    let backend = service.put_json("/api/admin/backends/team-a%2Fb", &json!({"address": "b.test:80"})).await;
    backend.wrong_field(422, "invalid_field", "/name", "invalid");
    assert_eq!(service.tables().await, before);
}

/// Rows have a route's id as their name.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_named_by_namespace_and_name() {
    let service = TestService::start().await;
    let row = |name: &str, metadata: &str| {
        format!(
            r#"INSERT INTO routes (name, document) VALUES ('{name}', '{{"metadata": {metadata},
               "spec": {{}}}}');"#
        )
    };
    let of_team_a = r#"{"name": "http", "namespace": "team-a"}"#;
    let rows = [
        ("http", r#"{"name": "http"}"#),
        ("team-a/http", of_team_a),
        ("other", of_team_a),
        ("default/http", r#"{"name": "http"}"#),
    ];
    service.sql(&rows.map(|(name, metadata)| row(name, metadata)).concat());
    assert_eq!(listed(&service).await, ["-/http", "team-a/http"]);
    let rows = &service.health().await["quarantine"]["rows"];
    let wrong = each(rows, |row| {
        (row["key"].as_str().unwrap(), row["detail"].as_str().unwrap().contains("is the route `"))
    });
    assert_eq!(wrong, [("default/http", true), ("other", true)], "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_as_v1beta1_is_shown_as_v1() {
    let service = TestService::start().await;
    let (old, new) = ("gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1");
    let document = json!({"apiVersion": old, "kind": "HTTPRoute", "metadata": {"name": "row"}, "spec": {}});
    service.sql(&format!("INSERT INTO routes (name, document) VALUES ('row', '{document}')"));
    service.put_json(HELLO, &json!({"apiVersion": old, "spec": {}})).await.ok();
    let all = service.get("/api/admin/routes").await.ok();
    assert_eq!(each(&all["items"], |route| &route["apiVersion"]), [new; 2]);
    let audit = service.get("/api/admin/audit").await.ok();
    assert_eq!(audit["items"][0]["after"]["apiVersion"], new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_likely_not_meant_so_is_warned_of() {
    let service = TestService::start().await;
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}});
    let document = json!({"spec": {"rules": [{"filters": [redirect]}]}});
    let written = service.put_json(HELLO, &document).await.ok();
    let warnings = each(&written["warnings"], |warning| warning.as_str().unwrap());
    assert!(warnings.len() == 1 && warnings[0].contains("in circles"), "{written}");
}
