//! What is special to routes among the named documents.

use reqwest::Method;
use serde_json::json;

use crate::test_service::{TestService, each};

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
    assert_eq!(audit["items"][0]["to"]["apiVersion"], new);
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
