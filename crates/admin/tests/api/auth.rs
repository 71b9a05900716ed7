//! Who may ask what.

use axum::body::Body;
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, Request};
use tidegate_admin::auth;
use tidegate_admin::store::TokenRow;
use tidegate_admin::store::sqlite::SqliteStore;

use crate::running::{Running, db, until};

fn with(uri: String, authorization: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().uri(uri);
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_takes_its_own_scope_only() {
    let running = Running::start().await;
    let people = running.people("/api/admin/gateways");
    let data = running.gateways("/api/data-plane/v1/sync");
    let (admin, gateway) = (format!("Bearer {}", running.admin), format!("bearer {}", running.gateway));
    running.send(with(people.clone(), Some(&admin))).await.ok();
    let missing = running.send(with(data.clone(), Some(&gateway))).await.problem(400, "invalid_header");
    assert_eq!(missing["errors"][0]["header"], "x-tidegate-gateway");
    running.send(with(people.clone(), Some(&gateway))).await.problem(403, "wrong_scope");
    running.send(with(data, Some(&admin))).await.problem(403, "wrong_scope");
    let wrong = format!("Bearer {}x", running.admin);
    let basic = format!("Basic {}", running.admin);
    for authorization in [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&*wrong), Some(&*basic)] {
        let answer = running.send(with(people.clone(), authorization)).await;
        answer.problem(401, "unauthorized");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    }
    // What is there is nobody's business without a token.
    running.send(with(running.people("/api/admin/nothing"), None)).await.problem(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_open_on_both_listeners() {
    let running = Running::start().await;
    for uri in [running.people("/api/health"), running.gateways("/api/health")] {
        assert_eq!(running.send(with(uri, None)).await.ok(), serde_json::json!({ "status": "ok" }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_made_and_revoked_beside_a_running_service_count_soon() {
    let running = Running::start().await;
    let token = auth::new_token().unwrap();
    let ask = || with(running.people("/api/admin/routes"), Some(&*format!("Bearer {token}")));
    running.send(ask()).await.problem(401, "unauthorized");
    let row = TokenRow { hash: auth::hash_token(&token), name: "late".into(), scope: "admin".into() };
    SqliteStore::add_token_beside(db(&running.dir), &row).unwrap();
    until("the new token is known", async || (running.send(ask()).await.status == 200).then_some(())).await;
    assert_eq!(SqliteStore::remove_tokens_beside(db(&running.dir), "late").unwrap(), 1);
    until("the old token is forgotten", async || (running.send(ask()).await.status == 401).then_some(()))
        .await;
    running.get("/api/admin/routes").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_in_the_same_form() {
    let running = Running::start().await;
    running.get("/api/admin/nothing").await.problem(404, "not_found");
    let answer = running.ask(Method::DELETE, "/api/admin/ip/ban", Body::empty()).await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.headers["allow"], "POST");
    running.get("/api/admin/routes/%ff").await.problem(400, "invalid_parameter");
    let typo = running.get("/api/admin/routes?limitt=3").await.problem(400, "invalid_parameter");
    assert_eq!(typo["errors"][0]["parameter"], "limitt");
}
