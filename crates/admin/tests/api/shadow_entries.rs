//! Entries in shadow: bans and geo rules that deny nobody, and what they would have denied.

use serde_json::{Value, json};
use tidegate_policy::wire::event::TrafficEvent;

use crate::command_line::Desk;
use crate::test_gateway::{event, record};
use crate::test_service::{TestService, each, has, until};

const BAN: &str = "/api/admin/ip/ban";
const ENFORCE: &str = "/api/admin/bans/enforce";

async fn status(service: &TestService, ip: &str) -> Value {
    service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()
}

/// Address, status and source of all rows.
fn rows(service: &TestService) -> Vec<String> {
    service.column("SELECT ip || ' ' || status || coalesce(' ' || source, '') FROM ip_monitor ORDER BY ip")
}

/// An event that an entry in shadow would have denied.
fn would_deny(number: u64, reason: &str, entry: &str) -> TrafficEvent {
    TrafficEvent {
        would_deny: Some(reason.to_owned()),
        would_deny_rule: Some(entry.to_owned()),
        ..event(number)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_in_shadow_is_shown_with_its_hits_and_enforced_as_it_is() {
    let service = TestService::start().await;
    let banned =
        service.post(BAN, r#"{"ip": "203.0.113.0/24", "reason": "r", "ttl": "4h", "mode": "shadow"}"#);
    let banned = banned.await.ok();
    has(&banned, json!({"status": "watched"}));
    has(&status(&service, "203.0.113.7").await, json!({"status": "watched", "entry": "203.0.113.0/24"}));
    let explained = service.get("/api/admin/explain?path=/&ip=203.0.113.7").await.ok();
    has(&explained["decision"], json!({"would_deny": "ip_banned", "would_deny_rule": "203.0.113.0/24"}));
    assert_ne!(explained["decision"]["reason"], "ip_banned");
    has(&explained["checks"]["ip"], json!({"says": "watched", "reason": "r"}));

    let hit = |number| would_deny(number, "ip_banned", "203.0.113.0/24");
    record(&service, 1, (1..=5).map(hit).chain([would_deny(6, "geo_denied", "law"), event(7)]).collect())
        .await;
    let list = service.get("/api/admin/ip-monitor?status=watched").await.ok();
    has(&list["items"][0]["would_deny"], json!({"requests": 5, "over": 0, "under": 0}));
    service.post(BAN, r#"{"ip": "203.0.113.7", "reason": "also"}"#).await.ok();
    let covering = status(&service, "203.0.113.7").await["entries"].clone();
    assert_eq!(each(&covering, |entry| entry["ip"].clone()), [json!("203.0.113.7"), json!("203.0.113.0/24")]);
    has(&covering[0], json!({"status": "banned", "reason": "also", "until": null, "expired": false}));
    has(&covering[1], json!({"status": "watched", "reason": "r", "would_deny": {"requests": 5}}));
    assert_eq!(status(&service, "203.0.112.0/22").await["entries"], json!([]), "of what is around it");
    service.post("/api/admin/ip/unban", r#"{"ip": "203.0.113.7"}"#).await.ok();
    let top = service.get("/api/admin/stats/top?by=would_deny").await.ok();
    let top = each(&top["items"], |item| json!([item["value"], item["requests"]]));
    assert_eq!(top, [json!(["ip_banned 203.0.113.0/24", 5]), json!(["geo_denied law", 1])]);
    for (filter, count) in [
        ("would_deny=ip_banned", 5),
        ("would_deny=geo_denied&would_deny_rule=law", 1),
        ("would_deny_rule=203.0.113.0/24", 5),
        ("would_deny=ip_banned&would_deny_rule=law", 0),
    ] {
        let found = service.get(&format!("/api/admin/events?{filter}")).await.ok();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{filter}");
    }
    service.get("/api/admin/events?would_deny=rate_limited").await.problem(400, "invalid_parameter");

    has(
        &service.post(&format!("{ENFORCE}?dry_run=true"), r#"{"ip": "203.0.113.0/24"}"#).await.ok(),
        json!({"rows": 1}),
    );
    has(&status(&service, "203.0.113.7").await, json!({"status": "watched"}));
    let enforced = service.post(ENFORCE, r#"{"ip": "203.0.113.9/24"}"#).await.ok();
    has(&enforced, json!({"ip": "203.0.113.0/24", "status": "banned", "rows": 1}));
    let now = json!({"status": "banned", "reason": "r", "until": banned["until"]});
    has(&status(&service, "203.0.113.7").await, now);
    service.post(ENFORCE, r#"{"ip": "203.0.113.0/24"}"#).await.problem(404, "not_in_shadow");
    let audit = service.get("/api/admin/audit?kind=ban").await.ok();
    has(&audit["items"][0], json!({"before": {"status": "watched"}, "after": {"status": "banned"}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_enforced_stays_in_shadow() {
    let service = TestService::start().await;
    service.sql(
        "INSERT INTO ip_monitor (ip, status) VALUES ('127.0.0.1', 'watched'), ('9.9.9.9', 'Watched'),
         ('9.9.9.0/24', 'allowed')",
    );
    let before = service.tables().await;
    for (body, status, code) in [
        (r#"{"ip": "127.0.0.1"}"#, 409, "protected_network"),
        (r#"{"ip": "9.9.9.9"}"#, 409, "address_allowed"),
        (r#"{"ip": "9.9.9.0/24"}"#, 404, "not_in_shadow"),
        (r#"{"source": "none"}"#, 404, "not_in_shadow"),
        ("{}", 422, "invalid_field"),
        (r#"{"ip": "9.9.9.9", "source": "x"}"#, 422, "invalid_field"),
        (r#"{"source": "A B"}"#, 422, "invalid_field"),
        (r#"{"ip": "9.9.9"}"#, 422, "invalid_field"),
    ] {
        service.post(ENFORCE, body).await.problem(status, code);
    }
    assert_eq!(service.tables().await, before);
    has(&service.post(ENFORCE, r#"{"ip": "127.0.0.1", "force": true}"#).await.ok(), json!({"rows": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_in_shadow_and_is_enforced_as_a_whole() {
    let service = TestService::start().await;
    let import = async |query: &str, list: &'static str| {
        service.post(&format!("/api/admin/bans/import?{query}"), list).await.ok()
    };
    service.post(BAN, r#"{"ip": "192.0.2.1"}"#).await.ok();
    import("source=a", "192.0.2.2\n192.0.2.3\n").await;
    let taken = import("source=b&shadow=true", "192.0.2.1\n192.0.2.2\n192.0.2.4\n192.0.2.5\n").await;
    has(&taken, json!({"shadow": true, "added": 2, "kept": 2}));
    let wanted = [
        "192.0.2.1 banned",
        "192.0.2.2 banned a",
        "192.0.2.3 banned a",
        "192.0.2.4 watched b",
        "192.0.2.5 watched b",
    ];
    assert_eq!(rows(&service), wanted, "what denies goes on denying");
    // A list that denied goes into shadow, but for what others have too.
    import("source=c", "192.0.2.3\n192.0.2.6\n").await;
    has(&import("source=c&shadow=true", "192.0.2.3\n192.0.2.6\n").await, json!({"added": 0, "kept": 2}));
    assert_eq!(rows(&service)[2], "192.0.2.3 banned a");
    assert_eq!(rows(&service)[5], "192.0.2.6 watched c");
    has(&import("source=b&shadow=true&mode=replace", "192.0.2.4\n").await, json!({"removed": 1}));
    let exported = service.get("/api/admin/bans/export?shadow=true").await.bytes;
    assert_eq!(exported, b"192.0.2.4\n192.0.2.6\n");

    let enforced = service.post(ENFORCE, r#"{"source": "b"}"#).await.ok();
    has(&enforced, json!({"source": "b", "rows": 1}));
    assert_eq!(rows(&service)[3], "192.0.2.4 banned b");
    assert_eq!(rows(&service)[4], "192.0.2.6 watched c");
    let audit = service.get("/api/admin/audit?kind=enforce").await.ok();
    has(&audit["items"][0], json!({"name": "b", "changes": 1}));
    // An import that denies takes the place of one in shadow.
    has(&import("source=d", "192.0.2.6\n").await, json!({"added": 1}));
    assert_eq!(rows(&service)[4], "192.0.2.6 banned d");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_enforced_at_once() {
    let service = TestService::start().await;
    service.sql(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         INSERT INTO ip_monitor (ip, status, source)
         SELECT '10.' || (i / 65536) || '.' || (i / 256 % 256) || '.' || (i % 256), 'watched', 'big' FROM n",
    );
    until("the feed has them", async || {
        (status(&service, "10.1.134.160").await["status"] == "watched").then_some(())
    })
    .await;
    has(&service.post(ENFORCE, r#"{"source": "big"}"#).await.ok(), json!({"rows": 100_001}));
    until("they deny", async || (status(&service, "10.1.134.160").await["status"] == "banned").then_some(()))
        .await;
    assert_eq!(service.health().await["feed"]["notices"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_geo_rule_in_shadow_is_explained() {
    let service = TestService::start().await;
    let rule = json!({"mode": "deny", "countries": ["DE"], "shadow": true, "status": 451});
    service.put_json("/api/admin/geo-rules/law", &rule).await.ok();
    let explained = service.get("/api/admin/explain?path=/&ip=192.0.2.1&country=DE").await.ok();
    has(&explained["decision"], json!({"would_deny": "geo_denied", "would_deny_rule": "law"}));
    has(&explained["checks"]["geo"]["rules"][0], json!({"says": "deny", "status": 451, "shadow": true}));
    service.put_json("/api/admin/geo-rules/law", &json!({"mode": "deny", "countries": ["DE"]})).await.ok();
    let explained = service.get("/api/admin/explain?path=/&ip=192.0.2.1&country=DE").await.ok();
    has(&explained["decision"], json!({"reason": "geo_denied", "would_deny": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_in_shadow_are_enforced_and_else_stay_as_they_are() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let rule = json!({"mode": "deny", "countries": ["DE"], "status": 451});
    let limit = json!({"key": "ip", "rate": 5, "per": "minute"});
    let auto = json!({"match": {"status": [404]}, "threshold": 10, "window": "1m", "ban": {"ttl": "1h"}});
    for (kind, document, field, shadow) in [
        ("geo-rules", rule, "shadow", json!(true)),
        ("limits", limit, "shadow", json!(true)),
        ("auto-bans", auto, "mode", json!("shadow")),
    ] {
        let path = format!("/api/admin/{kind}/a");
        let mut in_shadow = document.clone();
        in_shadow[field] = shadow;
        service
            .post(&format!("{path}/enforce"), "")
            .await
            .problem(404, &format!("{}_not_found", kind.replace('-', "_").trim_end_matches('s')));
        service.put_json(&path, &in_shadow).await.ok();
        let before = service.get(&path).await.ok();
        has(&service.post(&format!("{path}/enforce?dry_run=true"), "").await.ok(), json!({"dry_run": true}));
        assert_eq!(service.get(&path).await.ok(), before, "{kind}");
        let said = desk.tidegate(kind, &["enforce", "a"]).await.done();
        assert!(said.starts_with("a is enforced; "), "{said}");
        let mut wanted = before;
        match field {
            "mode" => wanted["mode"] = "enforce".into(),
            field => drop(wanted.as_object_mut().unwrap().remove(field)),
        }
        assert_eq!(service.get(&path).await.ok(), wanted, "{kind}");
        service.post(&format!("{path}/enforce"), "").await.problem(404, "not_in_shadow");
    }
    // Others have no shadow.
    assert_eq!(service.post("/api/admin/pages/a/enforce", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_bans_in_shadow_lists_and_enforces() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let said =
        desk.tidegate("ban", &["203.0.113.0/24", "9.9.9.9", "--shadow", "--reason", "scraper"]).await.done();
    assert!(said.starts_with("203.0.113.0/24 is banned in shadow; "), "{said}");
    record(&service, 1, vec![would_deny(1, "ip_banned", "203.0.113.0/24")]).await;
    let list = desk.tidegate("bans", &["list", "--shadow"]).await.done();
    let hits: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    // Since, and "for ever", are in two words each or one.
    assert!(list.lines().next().unwrap().contains("WOULD DENY") && list.contains("203.0.113.0/24"), "{list}");
    assert!(hits.len() == 3, "{list}");
    assert_eq!(desk.tidegate("bans", &["list"]).await.done().lines().count(), 1);
    let said = desk.tidegate("bans", &["enforce", "9.9.9.9"]).await.done();
    assert!(said.starts_with("9.9.9.9 is banned; "), "{said}");
    let refused = desk.tidegate("bans", &["enforce", "9.9.9.9"]).await.failed();
    assert!(refused.contains("not_in_shadow"), "{refused}");
    let events = desk.tidegate("events", &["--would-deny-rule", "203.0.113.0/24", "-o", "json"]).await.done();
    assert!(events.contains("\"would_deny\": \"ip_banned\""), "{events}");
    let top = desk.tidegate("top", &["--by", "would_deny"]).await.done();
    assert!(top.contains("ip_banned 203.0.113.0/24"), "{top}");
}
