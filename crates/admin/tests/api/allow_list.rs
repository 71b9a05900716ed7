//! The allow list, and what the API does not ban without `force`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::test_service::{TestService, each, has};

const BAN: &str = "/api/admin/ip/ban";

async fn status(service: &TestService, ip: &str) -> Value {
    service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()
}

async fn delete(service: &TestService, prefix: &str) -> crate::test_service::Answered {
    service.ask(Method::DELETE, &format!("/api/admin/allow-list/{prefix}"), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_listed_beats_bans_and_is_removed() {
    let service = TestService::start().await;
    service.post(BAN, r#"{"ip": "203.0.113.0/24"}"#).await.ok();
    let body = r#"{"reason": "our office", "ttl": "4h"}"#;
    let allowed = service.put("/api/admin/allow-list/::ffff:203.0.113.7", body).await.ok();
    has(&allowed, json!({"ip": "203.0.113.7", "status": "allowed", "reason": "our office"}));
    assert!(allowed["until"].is_string() && allowed["version"].is_string(), "{allowed}");
    service.put("/api/admin/allow-list/2001:db8::/32", "{}").await.ok();
    has(&status(&service, "203.0.113.7").await, json!({"status": "allowed", "reason": "our office"}));
    assert_eq!(status(&service, "203.0.113.8").await["status"], "banned");

    let list = service.get("/api/admin/allow-list").await.ok();
    assert_eq!(each(&list["items"], |item| item["ip"].as_str().unwrap()), ["203.0.113.7", "2001:db8::/32"]);
    let one = service.get("/api/admin/allow-list/2001:db8::/32").await.ok();
    has(&one, json!({"ip": "2001:db8::/32", "status": "allowed", "until": null}));

    let removed = delete(&service, "203.0.113.7").await.ok();
    has(&removed, json!({"rows": 1, "status": "banned", "entry": "203.0.113.0/24"}));
    delete(&service, "203.0.113.7").await.problem(404, "not_on_allow_list");
    delete(&service, "203.0.113.0/24").await.problem(404, "not_on_allow_list");
    service.get("/api/admin/allow-list/203.0.113.7").await.problem(404, "not_on_allow_list");
    assert_eq!(status(&service, "203.0.113.0/24").await["status"], "banned", "no ban was removed");
    let audit = service.get("/api/admin/audit").await.ok();
    assert_eq!(
        each(&audit["items"], |row| row["kind"].as_str().unwrap()),
        // The service's tokens came first.
        ["disallow", "allow", "allow", "ban", "token", "token"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowance_takes_the_place_of_a_ban_and_is_not_banned_by_mistake() {
    let service = TestService::start().await;
    service.post(BAN, r#"{"ip": "9.9.9.9"}"#).await.ok();
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('9.9.9.9/32', 'banned')");
    service.put("/api/admin/allow-list/9.9.9.9", "{}").await.ok();
    has(&status(&service, "9.9.9.9").await, json!({"status": "allowed"}));
    let list = service.get("/api/admin/ip-monitor").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");

    let refused = service.post(BAN, r#"{"ip": "9.9.9.9"}"#).await.problem(409, "address_allowed");
    assert!(refused["detail"].as_str().unwrap().contains("9.9.9.9 is on the allow list"), "{refused}");
    service.put("/api/admin/allow-list/10.0.0.0/8", "{}").await.ok();
    let refused = service.post(BAN, r#"{"ip": "10.1.0.0/16"}"#).await.problem(409, "address_allowed");
    assert!(refused["detail"].as_str().unwrap().contains("10.0.0.0/8"), "{refused}");
    service.post(BAN, r#"{"ip": "9.9.9.0/24"}"#).await.ok();
    has(&status(&service, "9.9.9.9").await, json!({"status": "allowed"}));
    service.post(BAN, r#"{"ip": "9.9.9.9", "force": true}"#).await.ok();
    has(&status(&service, "9.9.9.9").await, json!({"status": "banned", "entry": "9.9.9.9"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_networks_are_banned_with_force_only() {
    let service = TestService::start().await;
    let protected = service.get("/api/admin/protected-networks").await.ok();
    has(&protected["items"][2], json!({"block": "198.51.100.0/28", "why": "added"}));
    for (ip, named) in [
        ("127.0.0.1", "127.0.0.0/8 (loopback)"),
        ("0.0.0.0/0", "127.0.0.0/8 (loopback)"),
        ("::1", "::1 (loopback)"),
        ("198.51.100.9", "198.51.100.0/28 (--protect)"),
        ("198.51.0.0/16", "198.51.100.0/28 (--protect)"),
    ] {
        let refused =
            service.post(BAN, json!({ "ip": ip }).to_string()).await.problem(409, "protected_network");
        assert!(refused["detail"].as_str().unwrap().contains(named), "{refused}");
        assert_eq!(status(&service, ip).await["status"], "none");
        service.post(BAN, json!({ "ip": ip, "force": true }).to_string()).await.ok();
        service.post("/api/admin/ip/unban", json!({ "ip": ip }).to_string()).await.ok();
    }
    service.post(BAN, r#"{"ip": "198.51.100.16"}"#).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_entry_is_named_and_nothing_changes() {
    let service = TestService::start().await;
    let before = service.tables().await;
    let refused =
        service.put("/api/admin/allow-list/1.2.3.4/33", "{}").await.problem(400, "invalid_parameter");
    assert_eq!(refused["errors"][0]["parameter"], "prefix");
    for (body, pointer, code) in [
        (r#"{"ttl": "0s"}"#, "/ttl", "in_the_past"),
        (r#"{"ttl": "1h", "expires_at": "2100-01-01"}"#, "/expires_at", "conflict"),
        (r#"{"expires_at": "soon"}"#, "/expires_at", "invalid"),
        (r#"{"colour": "red"}"#, "/colour", "unknown_field"),
    ] {
        let answer = service.put("/api/admin/allow-list/1.2.3.4", body).await;
        answer.wrong_field(422, "invalid_field", pointer, code);
    }
    service.put("/api/admin/allow-list/1.2.3.4", "").await.problem(400, "empty_body");
    assert_eq!(service.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_allows_everybody_by_mistake() {
    let service = TestService::start().await;
    for wide in ["0.0.0.0/0", "::/0", "128.0.0.0/7"] {
        let path = format!("/api/admin/allow-list/{wide}");
        let refused = service.put(&path, "{}").await.problem(409, "block_too_wide");
        assert!(refused["detail"].as_str().unwrap().starts_with(wide), "{refused}");
    }
    assert_eq!(service.get("/api/admin/allow-list").await.ok()["items"], json!([]));
    service.put("/api/admin/allow-list/10.0.0.0/8", "{}").await.ok();
    service.put("/api/admin/allow-list/0.0.0.0/0", r#"{"force": true}"#).await.ok();
}
