//! Tokens and roles. What each role may do: `roles`.

use reqwest::Method;
use tidegate_admin::store::sqlite::SqliteStore;
use tidegate_admin::store::{Change, TokenRow};

use crate::test_service::{Answered, TestService, db, token_beside, until};

async fn get_with(service: &TestService, url: String, authorization: Option<&str>) -> Answered {
    let mut request = service.as_nobody(Method::GET, url);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    Answered::to(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_takes_its_own_roles_only() {
    let service = TestService::start().await;
    let people = service.people("/api/admin/gateways");
    let data = service.gateways("/api/data-plane/v1/sync");
    let (admin, gateway) = (format!("Bearer {}", service.admin), format!("bearer {}", service.gateway));
    let get = async |url: &String, authorization| get_with(&service, url.clone(), authorization).await;
    get(&people, Some(&admin)).await.ok();
    let missing = get(&data, Some(&gateway)).await.problem(400, "invalid_header");
    assert_eq!(missing["errors"][0]["header"], "x-tidegate-gateway");
    get(&people, Some(&gateway)).await.problem(403, "wrong_role");
    get(&data, Some(&admin)).await.problem(403, "wrong_role");
    let (wrong, basic) = (format!("Bearer {}x", service.admin), format!("Basic {}", service.admin));
    for authorization in [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&*wrong), Some(&*basic)] {
        let answer = get(&people, authorization).await;
        answer.problem(401, "unauthorized");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    }
    // Without a token not even the existence of paths is shown.
    get(&service.people("/api/admin/nothing"), None).await.problem(401, "unauthorized");
    // Health needs no token on either listener.
    for url in [service.people("/api/health"), service.gateways("/api/health")] {
        assert_eq!(get(&url, None).await.ok(), serde_json::json!({ "status": "ok" }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_made_and_revoked_beside_a_running_service_count_soon() {
    let service = TestService::start().await;
    service.get("/api/admin/routes").await.ok();
    let row = TokenRow { name: "late".into(), role: "read".into(), ..TokenRow::default() };
    let authorization = format!("Bearer {}", token_beside(&service.dir, row));
    let get = async || get_with(&service, service.people("/api/admin/routes"), Some(&authorization)).await;
    until("the new token is known", async || (get().await.status == 200).then_some(())).await;
    let revoke = Change::RevokeTokens { name: "late".to_owned() };
    assert_eq!(SqliteStore::commit_beside(db(&service.dir), &revoke, &"test".into()).unwrap().rows, 1);
    until("the old token is forgotten", async || (get().await.status == 401).then_some(())).await;
    service.get("/api/admin/routes").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_in_the_same_form() {
    let service = TestService::start().await;
    service.get("/api/admin/nothing").await.problem(404, "not_found");
    let answer = service.delete("/api/admin/ip/ban").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.headers["allow"], "POST");
    service.get("/api/admin/routes/%ff").await.problem(400, "invalid_parameter");
    let typo = service.get("/api/admin/routes?limitt=3").await.problem(400, "invalid_parameter");
    assert_eq!(typo["errors"][0]["parameter"], "limitt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_request_id_that_came_or_one_of_its_own() {
    let service = TestService::start().await;
    let ask = async |id: Option<&str>| {
        let request = service.as_nobody(Method::GET, service.people("/api/health"));
        let request = if let Some(id) = id { request.header("x-request-id", id) } else { request };
        Answered::to(request).await.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask(Some("mine")).await, "mine");
    assert_ne!(ask(None).await, ask(None).await);
}
