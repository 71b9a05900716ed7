//! What each role may do: every endpoint, asked with every role.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use serde_json::Value;
use tidegate_admin::api::{self, endpoints::Endpoint};
use tidegate_admin::auth::Role;
use tidegate_admin::store::TokenRow;
use tower::ServiceExt;

use crate::test_service::{TestService, token_beside};

/// The pattern of a path, filled in.
fn path(pattern: &str) -> String {
    pattern
        .replace("{*ip}", "192.0.2.1")
        .replace("{*prefix}", "192.0.2.1")
        .replace("{ip}", "192.0.2.1")
        .replace(['{', '}'], "")
}

/// Status and body of a request to `endpoint`, past the listener: there is no address to be slowed
/// down.
async fn ask(service: &TestService, endpoint: &Endpoint, token: Option<&str>) -> (StatusCode, Value) {
    let app = service.running.app_state().clone();
    let router = match endpoint.path.starts_with("/api/data-plane/") {
        true => api::data_plane(app),
        false => api::people(app),
    };
    let mut request = Request::builder().method(&endpoint.method).uri(path(&endpoint.path));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_lets_in_whom_its_role_allows_and_nobody_else() {
    let service = TestService::start().await;
    let token = |name: &str, role: Role, end: Option<&str>| {
        let expires_at = end.map(str::to_owned);
        let row = TokenRow { name: name.into(), role: role.name().into(), expires_at, ..TokenRow::default() };
        (role, token_beside(&service.dir, row))
    };
    let tokens = Role::ALL.map(|role| token(&format!("one-{}", role.name()), role, None));
    let (_, expired) = token("old", Role::Admin, Some("2026-01-01"));
    let endpoints = api::declared();
    assert!(endpoints.len() > 50, "{endpoints:?}");
    for (endpoint, needed) in endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.role?))) {
        let refused = |(status, body): &(StatusCode, Value), wanted: u16, code: &str| {
            assert_eq!(
                (status.as_u16(), body["code"].as_str()),
                (wanted, Some(code)),
                "{endpoint:?}: {body}"
            );
            assert_eq!(body["needed_role"], needed.name(), "{endpoint:?}: {body}");
        };
        refused(&ask(&service, endpoint, None).await, 401, "unauthorized");
        refused(&ask(&service, endpoint, Some("tg_nobodys")).await, 401, "unauthorized");
        refused(&ask(&service, endpoint, Some(&expired)).await, 401, "token_expired");
        for (role, token) in &tokens {
            let answer = ask(&service, endpoint, Some(token)).await;
            match role.allows(needed) {
                true => {
                    assert!(!matches!(answer.0.as_u16(), 401 | 403), "{role:?}, {endpoint:?}: {answer:?}");
                }
                false => refused(&answer, 403, "wrong_role"),
            }
        }
    }
}
