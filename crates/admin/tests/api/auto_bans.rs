//! Automatic bans: from events that gateways post to bans, and what is spared.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tidegate_policy::wire::event::TrafficEvent;

use crate::test_gateway::{event, record};
use crate::test_service::{TestService, each, has, until};

const RULE: &str = "/api/admin/auto-bans/logins";
const IP: &str = "/api/admin/ip-monitor";

/// A service with this rule, and the numbers of its events.
struct Ruled {
    service: TestService,
    numbered: AtomicU64,
}

fn rule(fields: Value) -> Value {
    let mut rule =
        json!({"match": {"status": [401, "404"]}, "threshold": 3, "window": "1m", "ban": {"ttl": "1h"}});
    for (field, value) in fields.as_object().unwrap() {
        rule[field] = value.clone();
    }
    rule
}

impl Ruled {
    async fn start(fields: Value) -> Self {
        let ruled = Self { service: TestService::start().await, numbered: AtomicU64::new(1) };
        ruled.service.put_json(RULE, &rule(fields)).await.ok();
        ruled.counts().await;
        ruled
    }

    /// Waits until the rule counts, and returns what it has done.
    async fn counts(&self) -> Value {
        until("the rule counts", async || {
            let report = self.service.get("/api/admin/stats/auto-bans").await.ok();
            report["items"].as_array()?.iter().find(|rule| rule["name"] == "logins").cloned()
        })
        .await
    }

    /// `count` requests of `client` that ended now with `status`.
    async fn requests(&self, client: &str, status: u16, count: u64) {
        let first = self.numbered.fetch_add(count, Ordering::Relaxed);
        let time_ms = jiff::Timestamp::now().as_millisecond() as u64;
        let (client, status) = (Some(client.parse().unwrap()), Some(status));
        let event = |number| TrafficEvent { time_ms, client, status, ..event(number) };
        record(&self.service, first, (first..first + count).map(event).collect()).await;
    }

    /// Waits until the rule has come to so many of an outcome.
    async fn outcome(&self, name: &str, count: u64) {
        until(&format!("{count} {name}"), async || {
            (self.counts().await["outcomes"][name] == count).then_some(())
        })
        .await;
    }

    async fn status(&self, ip: &str) -> Value {
        self.service.get(&format!("{IP}/{ip}")).await.ok()
    }

    async fn unban(&self, ip: &str) {
        self.service.post("/api/admin/ip/unban", json!({"ip": ip}).to_string()).await.ok();
    }

    /// Seconds from now to the end of a ban.
    async fn ends_in(&self, ip: &str) -> i64 {
        let status = self.status(ip).await;
        let end: jiff::Timestamp = status["until"].as_str().unwrap().parse().unwrap();
        end.as_second() - jiff::Timestamp::now().as_second()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reaches_the_threshold_is_banned_and_it_is_told_why() {
    let ruled = Ruled::start(json!({})).await;
    ruled.requests("192.0.2.1", 404, 2).await;
    ruled.requests("192.0.2.2", 401, 3).await;
    ruled.outcome("banned", 1).await;
    let banned = ruled.status("192.0.2.2").await;
    let reason = "auto-bans/logins: 3 requests within 60 s";
    has(
        &banned,
        json!({"status": "banned", "entry": "192.0.2.2", "source": "auto.logins", "reason": reason}),
    );
    assert!((3_590..=3_601).contains(&ruled.ends_in("192.0.2.2").await), "{banned}");
    assert_eq!(ruled.status("192.0.2.1").await["status"], "none");
    let audit = ruled.service.get("/api/admin/audit?kind=ban").await.ok();
    let entry = &audit["items"][0];
    has(entry, json!({"actor": "auto-bans/logins", "name": "192.0.2.2", "before": null}));
    has(&entry["after"], json!({"requests": 3, "of": null, "within_s": 60, "source": "auto.logins"}));
    let explained = ruled.service.get("/api/admin/explain?path=/&ip=192.0.2.2").await.ok();
    assert!(explained.to_string().contains(reason), "{explained}");
    // Requests that were under way are no repetition.
    ruled.requests("192.0.2.2", 404, 3).await;
    ruled.outcome("known", 1).await;
    // An unban is respected: it takes as many again.
    ruled.requests("192.0.2.2", 404, 2).await;
    ruled.unban("192.0.2.2").await;
    ruled.requests("192.0.2.2", 404, 2).await;
    ruled.requests("192.0.2.3", 404, 3).await;
    ruled.outcome("banned", 2).await;
    assert_eq!(ruled.status("192.0.2.2").await["status"], "none");
    ruled.requests("192.0.2.2", 404, 1).await;
    ruled.outcome("banned", 3).await;
    // Without the rule its bans stay until they end, and nobody else is banned.
    ruled.service.delete(RULE).await.ok();
    assert_eq!(ruled.status("192.0.2.2").await["status"], "banned");
    assert_eq!(ruled.service.get("/api/admin/stats/auto-bans").await.ok(), json!({"items": []}));
    let metrics = ruled.service.as_nobody(reqwest::Method::GET, ruled.service.people("/metrics"));
    let page = metrics.bearer_auth(&ruled.service.admin).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("tidegate_admin_auto_bans_total{outcome=\"banned\"} 3"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_twice_counts_once() {
    let ruled = Ruled::start(json!({})).await;
    ruled.requests("192.0.2.1", 404, 2).await;
    ruled.numbered.store(1, Ordering::Relaxed);
    ruled.requests("192.0.2.1", 404, 2).await;
    ruled.requests("192.0.2.2", 404, 3).await;
    ruled.outcome("banned", 1).await;
    assert_eq!(ruled.status("192.0.2.1").await["status"], "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_private_and_allowed_addresses_are_spared() {
    let ruled = Ruled::start(json!({})).await;
    ruled.service.put_json("/api/admin/allow-list/192.0.2.0%2F24", &json!({})).await.ok();
    for client in ["127.0.0.1", "198.51.100.1", "10.1.2.3", "fd00::1"] {
        ruled.requests(client, 404, 3).await;
    }
    ruled.outcome("protected", 4).await;
    ruled.requests("192.0.2.1", 404, 3).await;
    ruled.outcome("allowed", 1).await;
    ruled.service.put_json(RULE, &rule(json!({"include_private": true}))).await.ok();
    ruled.outcome("protected", 0).await;
    ruled.requests("10.1.2.3", 404, 3).await;
    ruled.outcome("banned", 1).await;
    let bans = ruled.service.get(&format!("{IP}?status=banned")).await.ok();
    assert_eq!(each(&bans["items"], |ban| ban["ip"].clone()), ["10.1.2.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_bound_a_rule_bans_nobody_and_says_so() {
    let ruled = Ruled::start(json!({"max_bans": 2, "window": "24h"})).await;
    assert_eq!(ruled.service.health_codes("reasons").await, [""; 0]);
    for host in 1..=4 {
        ruled.requests(&format!("192.0.2.{host}"), 404, 3).await;
    }
    ruled.outcome("held_back", 2).await;
    ruled.outcome("banned", 2).await;
    assert_eq!(ruled.service.health_codes("reasons").await, ["auto_bans_held_back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_in_shadow_watches() {
    let ruled = Ruled::start(json!({"mode": "shadow", "share": 50})).await;
    ruled.service.post("/api/admin/ip/ban", r#"{"ip": "192.0.2.1", "ttl": "9h"}"#).await.ok();
    ruled.requests("192.0.2.1", 404, 3).await;
    ruled.outcome("known", 1).await;
    ruled.requests("192.0.2.2", 200, 1).await;
    ruled.requests("192.0.2.2", 404, 3).await;
    ruled.outcome("watched", 1).await;
    let reason = "auto-bans/logins: 3 of 4 requests within 60 s";
    has(
        &ruled.status("192.0.2.2").await,
        json!({"status": "watched", "source": "auto.logins", "reason": reason}),
    );
    assert_eq!(ruled.status("192.0.2.1").await["source"], Value::Null);
    let audit = ruled.service.get("/api/admin/audit?kind=watch").await.ok();
    has(&audit["items"][0], json!({"actor": "auto-bans/logins", "name": "192.0.2.2"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_further_ban_is_longer_until_one_is_taken_back() {
    let ruled = Ruled::start(json!({"ban": {"ttl": "1h", "factor": 4, "max_ttl": "10h"}})).await;
    let mut bans = 0;
    for hours in [1, 4, 10, 10] {
        ruled.requests("192.0.2.1", 404, 3).await;
        bans += 1;
        ruled.outcome("banned", bans).await;
        let (seconds, wanted) = (ruled.ends_in("192.0.2.1").await, hours * 3_600);
        assert!((wanted - 10..=wanted + 1).contains(&seconds), "{seconds}, not {wanted}");
        // As if it had ended.
        ruled.service.sql("UPDATE ip_monitor SET expires_at = '2026-01-01 00:00:00.000'");
    }
    ruled.requests("192.0.2.1", 404, 3).await;
    ruled.outcome("banned", 5).await;
    ruled.unban("192.0.2.1").await;
    ruled.requests("192.0.2.1", 404, 3).await;
    ruled.outcome("banned", 6).await;
    assert!(ruled.ends_in("192.0.2.1").await <= 3_601);
}

/// Unlike an unban of the API: what came since the ban counts, and the ban is remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_sql_lifts_is_followed_by_a_longer_one_after_what_is_left_to_the_threshold() {
    let ruled = Ruled::start(json!({"ban": {"ttl": "1h", "factor": 4, "max_ttl": "10h"}})).await;
    ruled.requests("192.0.2.1", 404, 3).await;
    ruled.outcome("banned", 1).await;
    ruled.requests("192.0.2.1", 404, 2).await;
    ruled.service.sql("DELETE FROM ip_monitor WHERE ip = '192.0.2.1'");
    until("it is lifted", async || (ruled.status("192.0.2.1").await["status"] == "none").then_some(())).await;
    // Whoever comes after it was decided about by then.
    ruled.requests("192.0.2.2", 404, 3).await;
    ruled.outcome("banned", 2).await;
    assert_eq!(ruled.status("192.0.2.1").await["status"], "none");
    ruled.requests("192.0.2.1", 404, 1).await;
    ruled.outcome("banned", 3).await;
    assert_eq!(ruled.status("192.0.2.1").await["source"], "auto.logins");
    let seconds = ruled.ends_in("192.0.2.1").await;
    assert!((4 * 3_600 - 10..=4 * 3_600 + 1).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bans_of_the_same_address_live_beside() {
    let ruled = Ruled::start(json!({})).await;
    ruled
        .service
        .post("/api/admin/ip/ban", r#"{"ip": "192.0.2.1", "ttl": "9h", "reason": "own"}"#)
        .await
        .ok();
    ruled
        .service
        .post("/api/admin/ip/ban", r#"{"ip": "192.0.2.2", "ttl": "9m", "reason": "own"}"#)
        .await
        .ok();
    ruled.service.post("/api/admin/bans/import?source=list&ttl=9m", "192.0.2.3\n").await.ok();
    ruled.requests("192.0.2.1", 404, 3).await;
    ruled.outcome("known", 1).await;
    has(&ruled.status("192.0.2.1").await, json!({"source": null, "reason": "own"}));
    for host in ["192.0.2.2", "192.0.2.3"] {
        ruled.requests(host, 404, 3).await;
    }
    ruled.outcome("banned", 2).await;
    assert_eq!(ruled.status("192.0.2.2").await["source"], "auto.logins");
    assert_eq!(ruled.status("192.0.2.3").await["source"], "list,auto.logins");
    assert!(ruled.ends_in("192.0.2.3").await > 3_000);
    // The list without it: the rule's stays.
    ruled.service.post("/api/admin/bans/import?source=list&mode=replace", "192.0.2.4\n").await.ok();
    assert_eq!(ruled.status("192.0.2.3").await["source"], "auto.logins");
    // All of the rule's end, and no others.
    ruled.service.post("/api/admin/bans/import?source=auto.logins&mode=replace&force=true", "").await.ok();
    for (host, status) in
        [("192.0.2.1", "banned"), ("192.0.2.2", "none"), ("192.0.2.3", "none"), ("192.0.2.4", "banned")]
    {
        assert_eq!(ruled.status(host).await["status"], status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_may_be_so_many_rules() {
    let ruled = Ruled::start(json!({})).await;
    ruled.service.sql(
        r#"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 31)
           INSERT INTO auto_bans (name, document) SELECT 'r' || i,
           '{"match":{"status":404},"threshold":1,"window":"1m","ban":{"ttl":"1h"}}' FROM n"#,
    );
    let more = "/api/admin/auto-bans/more";
    ruled.service.put_json(more, &rule(json!({}))).await.wrong_field(422, "invalid_field", "", "too_many");
    let document = json!({"apiVersion": "tidegate.dev/v1", "kind": "AutoBan", "metadata": {"name": "more"},
        "spec": rule(json!({}))});
    let body = json!({"documents": [document]}).to_string();
    let refused = ruled.service.post("/api/admin/apply", body).await.problem(422, "invalid_field");
    assert_eq!(refused["errors"][0]["code"], "too_many");
    assert_eq!(ruled.service.health_codes("reasons").await, [""; 0]);
    // Other programs can write more, and the doctor says that they do nothing.
    ruled.service.sql(
        "INSERT INTO auto_bans SELECT 'z', document, created_at, updated_at FROM auto_bans WHERE name = 'r1'",
    );
    assert_eq!(ruled.service.health_codes("reasons").await, ["auto_bans_too_many"]);
    let found = ruled.service.get("/api/admin/doctor").await.ok()["findings"].to_string();
    assert!(found.contains("from `z` on"), "{found}");
    ruled.service.sql("DELETE FROM auto_bans WHERE name = 'z'");
    let told =
        ruled.service.put_json(RULE, &rule(json!({"match": {"route": "login", "status": 401}}))).await.ok();
    assert!(told["warnings"][0].as_str().unwrap().contains("`login`"), "{told}");
}
