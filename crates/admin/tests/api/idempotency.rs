//! `Idempotency-Key`.

use reqwest::Method;
use serde_json::json;

use crate::test_service::{Answered, TestService, client_builder, each, has};

const BAN: &str = "/api/admin/ip/ban";

async fn post(service: &TestService, path: &str, key: &str, body: &str) -> Answered {
    let request = service.as_operator(Method::POST, path).header("idempotency-key", key);
    Answered::to(request.body(body.to_owned())).await
}

fn is_replayed(answer: &Answered) -> bool {
    answer.headers.contains_key("idempotency-replayed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_is_answered_as_before_and_done_once() {
    let service = TestService::start().await;
    let body = r#"{"ip": "9.9.9.9", "ttl": "1h"}"#;
    let first = post(&service, BAN, "k1", body).await;
    assert!(!is_replayed(&first));
    service.post("/api/admin/ip/unban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    let again = post(&service, BAN, "k1", body).await;
    assert!(is_replayed(&again));
    assert_eq!(again.ok(), first.ok());
    has(&service.get("/api/admin/ip-monitor/9.9.9.9").await.ok(), json!({"status": "none"}));
    // By another name of the service and another version of HTTP, which has the name in the URI.
    let client = client_builder().http2_prior_knowledge().tls_certs_only([]).build().unwrap();
    let url = service.people(BAN).replace("127.0.0.1", "localhost");
    let request = client.post(url).bearer_auth(&service.admin).header("idempotency-key", "k1");
    assert_eq!(Answered::to(request.body(body)).await.ok(), first.ok());
    let audit = service.get("/api/admin/audit?name=9.9.9.9").await.ok();
    assert_eq!(each(&audit["items"], |entry| entry["kind"].as_str().unwrap()), ["unban", "ban"]);

    for (path, body) in [
        (BAN, r#"{"ip": "9.9.9.8"}"#),
        ("/api/admin/ip/unban", body),
        (&format!("{BAN}?wait_applied=1s"), body),
    ] {
        post(&service, path, "k1", body).await.problem(422, "idempotency_key_reused");
    }
    // What was refused has changed nothing, and may be sent again when it is right.
    post(&service, BAN, "k2", r#"{"ip": "127.0.0.1"}"#).await.problem(409, "protected_network");
    post(&service, BAN, "k2", r#"{"ip": "127.0.0.1", "force": true}"#).await.ok();
    for bad in ["", &"k".repeat(256)] {
        post(&service, BAN, bad, body).await.problem(400, "invalid_header");
    }
    // One of a megabyte does not get through hyper, which may close before all of it is sent.
    let request = service.as_operator(Method::POST, BAN).header("idempotency-key", "k".repeat(1 << 20));
    assert!(request.body(body).send().await.map_or(true, |answer| answer.status() == 431));
    assert_eq!(service.column::<i64>("SELECT count(*) FROM idempotency_keys"), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_not_kept_and_keys_are_of_one_token() {
    let service = TestService::start().await;
    let body = r#"{"name": "new", "role": "operate"}"#;
    let made = post(&service, "/api/admin/tokens", "k", body).await.ok();
    let secret = made["token"].as_str().unwrap();
    post(&service, "/api/admin/tokens", "k", body).await.problem(409, "idempotency_answer_gone");
    assert_eq!(service.column::<Option<String>>("SELECT answer FROM idempotency_keys"), [None]);
    let request = service.as_nobody(Method::POST, service.people(BAN)).bearer_auth(secret);
    let other = Answered::to(request.header("idempotency-key", "k").body(r#"{"ip": "9.9.9.9"}"#)).await;
    other.ok();
    assert!(!is_replayed(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_at_once_one_is_carried_out() {
    let service = TestService::start().await;
    let send = || post(&service, BAN, "k", r#"{"ip": "9.9.9.9"}"#);
    let answers = <[Answered; 4]>::from(tokio::join!(send(), send(), send(), send()));
    for answer in &answers {
        match answer.status.as_u16() {
            200 => drop(answer.ok()),
            _ => drop(answer.problem(409, "idempotency_key_in_use")),
        }
    }
    assert_eq!(answers.iter().filter(|one| one.status == 200 && !is_replayed(one)).count(), 1);
    assert_eq!(service.column::<i64>("SELECT count(*) FROM audit WHERE what = 'ban'"), [1]);
}
