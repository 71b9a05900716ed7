//! Bans, and the IP monitor.

use serde_json::{Value, json};
use tidegate_admin::store::sqlite::Options;
use tidegate_policy::table::AddressTable;

use crate::test_service::{TestService, has, until};

const BAN: &str = "/api/admin/optimization/ip/ban";
const UNBAN: &str = "/api/admin/optimization/ip/unban";

/// The status of an address.
async fn status(service: &TestService, ip: &str) -> Value {
    service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_is_seen_and_lifted() {
    let service = TestService::start().await;
    assert_eq!(status(&service, "1.2.3.4").await["status"], "none");
    let banned = service.post(BAN, r#"{"ip": "::ffff:1.2.3.4", "reason": "scraper"}"#).await.ok();
    has(&banned, json!({"ip": "1.2.3.4", "status": "banned", "applied": null}));
    assert!(banned["version"].as_str().unwrap().contains('.'), "{banned}");
    let seen = status(&service, "1.2.3.4").await;
    has(&seen, json!({"status": "banned", "entry": "1.2.3.4", "reason": "scraper", "until": null}));
    assert!(seen["since"].is_string(), "{seen}");
    // The shorter URL of the same.
    has(
        &service.post("/api/admin/ip/unban", r#"{"ip": "1.2.3.4"}"#).await.ok(),
        json!({"status": "none", "rows": 1}),
    );
    assert_eq!(status(&service, "1.2.3.4").await["status"], "none");
    service.post(UNBAN, r#"{"ip": "1.2.3.4"}"#).await.problem(404, "not_banned");
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_covers_and_an_allowance_beats_it() {
    let service = TestService::start().await;
    service.post(BAN, r#"{"ip": "203.0.113.0/24", "reason": "block"}"#).await.ok();
    service.post(BAN, r#"{"ip": "2001:db8:1:2::9/64"}"#).await.ok();
    has(&status(&service, "203.0.113.7").await, json!({"status": "banned", "entry": "203.0.113.0/24"}));
    assert_eq!(status(&service, "203.0.113.128/25").await["status"], "banned");
    assert_eq!(status(&service, "203.0.112.0/23").await["status"], "none");
    assert_eq!(status(&service, "2001:db8:1:2:3::").await["entry"], "2001:db8:1:2::/64");
    let refused = service.post(UNBAN, r#"{"ip": "203.0.113.7"}"#).await.problem(404, "not_banned");
    assert!(refused["detail"].as_str().unwrap().contains("203.0.113.0/24"), "{refused}");
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('203.0.113.7', 'allowed')");
    assert_eq!(status(&service, "203.0.113.7").await["status"], "allowed");
    assert_eq!(status(&service, "203.0.113.8").await["status"], "banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn unban_removes_every_spelling_and_what_is_in_shadow_also_right_after_it_was_written() {
    let service = TestService::start().await;
    service.sql(
        "INSERT INTO ip_monitor (ip, status) VALUES ('9.9.9.9', 'banned'), ('9.9.9.9/32', 'banned'),
         ('::ffff:9.9.9.9', 'watched')",
    );
    let lifted = service.post(UNBAN, r#"{"ip": "::ffff:9.9.9.9"}"#).await.ok();
    has(&lifted, json!({"rows": 3, "status": "none"}));
    service.post(UNBAN, r#"{"ip": "9.9.9.9"}"#).await.problem(404, "not_banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slip_by_sql_lifts_no_ban_and_can_be_lifted() {
    let service = TestService::start().await;
    let banned = service.post(BAN, r#"{"ip": "1.1.1.1", "expires_at": "2100-01-01"}"#).await.ok();
    for slip in ["expires_at = '2100-31-12'", "status = 'bannd'", "ip = '1.1.1.1/33'"] {
        service.sql(&format!("UPDATE ip_monitor SET {slip} WHERE ip = '1.1.1.1'"));
        has(&status(&service, "1.1.1.1").await, json!({"status": "banned", "until": banned["until"]}));
        assert_eq!(service.health_codes("reasons").await, ["rows_quarantined"], "{slip}");
    }
    has(&service.post(UNBAN, r#"{"ip": "1.1.1.1"}"#).await.ok(), json!({"rows": 1, "status": "none"}));
    assert_eq!(service.health_codes("reasons").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_ends_by_itself() {
    let service = TestService::start().await;
    for body in [
        r#"{"ip": "1.1.1.1", "ttl": "90m"}"#,
        r#"{"ip": "1.1.1.2", "ttl": 3600}"#,
        r#"{"ip": "1.1.1.3", "expires_at": "2100-01-01 00:00:00"}"#,
        r#"{"ip": "1.1.1.4", "expires_at": "2100-01-01T00:00:00+01:00"}"#,
        r#"{"ip": "1.1.1.5", "expires_at": "2100-01-01"}"#,
        r#"{"ip": "1.1.1.6", "expires_at": 4102444800}"#,
        r#"{"ip": "1.1.1.7", "expires_at": "4102444799.5"}"#,
        r#"{"ip": "1.1.1.8", "ttl": "3h59m46.15s"}"#,
    ] {
        let banned = service.post(BAN, body).await.ok();
        assert!(banned["until"].is_string(), "{banned}");
        assert_eq!(status(&service, banned["ip"].as_str().unwrap()).await["status"], "banned");
    }
    for ip in ["1.1.1.3", "1.1.1.5", "1.1.1.6", "1.1.1.7"] {
        assert_eq!(status(&service, ip).await["until"], "2100-01-01T00:00:00Z", "{ip}");
    }
    let never = service.post(BAN, r#"{"ip": "1.1.1.9", "expires_at": ""}"#).await.ok();
    assert_eq!(never["until"], Value::Null);
    service.post(BAN, r#"{"ip": "1.1.1.9", "ttl": "1s", "expires_at": ""}"#).await.ok();
    assert_eq!(status(&service, "1.1.1.9").await["status"], "banned");
    until("the ban is over", async || (status(&service, "1.1.1.9").await["status"] == "none").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_ban_is_named_and_nothing_changes() {
    let service = TestService::start().await;
    service.post(BAN, r#"{"ip": "7.7.7.7"}"#).await.ok();
    // Any moment that SQL may say.
    service.post(BAN, r#"{"ip": "7.7.7.8", "expires_at": "9999-12-31"}"#).await.ok();
    let before = service.tables().await;
    let long = format!(r#"{{"ip": "1.1.1.1", "reason": "{}"}}"#, "x".repeat(1_001));
    let cases: [(&str, &str, &str); 21] = [
        (r#"{"ip": "999.1.1.1"}"#, "/ip", "invalid_ip"),
        (r#"{"ip": "1.2.3.4/33"}"#, "/ip", "invalid_ip"),
        (r#"{"ip": ""}"#, "/ip", "invalid_ip"),
        (r#"{"ip": "localhost"}"#, "/ip", "invalid_ip"),
        (r#"{"ip": 5}"#, "/ip", "wrong_type"),
        (r#"{"ip": null}"#, "/ip", "wrong_type"),
        (r#"{"ip": ["1.1.1.1"]}"#, "/ip", "wrong_type"),
        ("{}", "/ip", "required"),
        (r#"["1.1.1.1", null, null, null]"#, "", "wrong_type"),
        (r#""1.1.1.1""#, "", "wrong_type"),
        (r#"{"ip": "1.1.1.1", "reson": "typo"}"#, "/reson", "unknown_field"),
        (r#"{"ip": "1.1.1.1", "reason": 5}"#, "/reason", "wrong_type"),
        (&long, "/reason", "too_long"),
        (r#"{"ip": "1.1.1.1", "ttl": "soon"}"#, "/ttl", "invalid"),
        (r#"{"ip": "1.1.1.1", "ttl": -5}"#, "/ttl", "wrong_type"),
        (r#"{"ip": "1.1.1.1", "ttl": "0s"}"#, "/ttl", "in_the_past"),
        (r#"{"ip": "1.1.1.1", "ttl": "1h", "expires_at": "2100-01-01 00:00:00"}"#, "/expires_at", "conflict"),
        (r#"{"ip": "1.1.1.1", "expires_at": "tomorrow"}"#, "/expires_at", "invalid"),
        (r#"{"ip": "1.1.1.1", "expires_at": 3600}"#, "/expires_at", "invalid"),
        (r#"{"ip": "1.1.1.1", "expires_at": true}"#, "/expires_at", "wrong_type"),
        (r#"{"ip": "1.1.1.1", "expires_at": "2020-01-01 00:00:00"}"#, "/expires_at", "in_the_past"),
    ];
    for (body, pointer, code) in cases {
        service.post(BAN, body.to_owned()).await.wrong_field(422, "invalid_field", pointer, code);
    }
    for (body, code) in
        [("", "empty_body"), ("ip=1.1.1.1", "invalid_json"), (r#"{"ip": "1.1.1.1""#, "invalid_json")]
    {
        service.post(BAN, body).await.problem(400, code);
        service.post(UNBAN, body).await.problem(400, code);
    }
    service.post(UNBAN, r#"{"ip": "7.7.7.7", "force": true}"#).await.problem(422, "invalid_field");
    service.post(UNBAN, r#"{"ip": 7}"#).await.problem(422, "invalid_field");
    let wait = service.post(&format!("{BAN}?wait_applied=soon"), r#"{"ip": "1.1.1.1"}"#).await;
    assert_eq!(wait.problem(400, "invalid_parameter")["errors"][0]["parameter"], "wait_applied");
    service.get("/api/admin/ip-monitor/999.1.1.1").await.problem(400, "invalid_parameter");
    let all = r#"{"ip": "1.2.3.4/33", "ttl": "0s"}"#;
    let problem = service.post(BAN, all).await.problem(422, "invalid_field");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2, "{problem}");
    assert_eq!(service.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_comes_in_pages_without_gaps_or_repeats() {
    let service = TestService::start().await;
    service.sql(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 24)
         INSERT INTO ip_monitor (ip, status) SELECT '10.0.0.' || i, 'banned' FROM n;
         INSERT INTO ip_monitor (ip, status) VALUES ('10.0.0.5/32', 'allowed'), ('::ffff:10.0.0.5', 'watched'),
         ('2001:db8::/32', 'watched')",
    );
    let whole = service.get("/api/admin/ip-monitor?limit=1000").await.ok()["items"].clone();
    assert_eq!(whole.as_array().unwrap().len(), 28);
    for limit in [1, 2, 3, 7, 27, 28] {
        assert_eq!(json!(service.pages("/api/admin/ip-monitor", limit).await), whole, "limit {limit}");
    }
    let watched = service.get("/api/admin/ip-monitor?status=watched").await.ok();
    assert_eq!(watched["items"].as_array().unwrap().len(), 2);
    for bad in ["status=Banned", "limit=0", "limit=1001", "cursor=xyz"] {
        service.get(&format!("/api/admin/ip-monitor?{bad}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_for_which_there_is_no_room_is_refused_and_one_by_sql_is_said() {
    let limit = AddressTable::most_bytes(3, 0);
    let service = TestService::start_bounded(Options::default(), &[], limit).await;
    for last in 1..=3 {
        service.post(BAN, format!(r#"{{"ip": "192.0.2.{last}"}}"#)).await.ok();
        until("the feed has it", async || {
            (status(&service, &format!("192.0.2.{last}")).await["status"] == "banned").then_some(())
        })
        .await;
    }
    let before = service.tables().await;
    service.post(BAN, r#"{"ip": "192.0.2.4"}"#).await.problem(409, "table_full");
    assert_eq!(service.tables().await, before, "nothing was committed");
    service.post(BAN, r#"{"ip": "192.0.2.3", "ttl": "1h"}"#).await.ok();
    assert_eq!(service.health_codes("reasons").await, Vec::<String>::new());

    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.5', 'banned')");
    has(&status(&service, "192.0.2.5").await, json!({"status": "none"}));
    assert_eq!(service.health_codes("reasons").await, ["table_full"]);
    let health = service.health().await;
    has(&health["quarantine"], json!({"count": 1, "left_out": {"bans": 1, "allow": 0, "shadow_bans": 0}}));
    assert_eq!(health["quarantine"]["rows"][0]["key"], "192.0.2.5");
    let metrics = String::from_utf8(service.get("/metrics").await.bytes).unwrap();
    assert!(metrics.contains("tidegate_admin_table_left_out{table=\"bans\"} 1\n"), "{metrics}");
    let listed = service.pages("/api/admin/ip-monitor", 10).await;
    assert_eq!(listed.iter().filter(|entry| entry["left_out"] == true).count(), 1, "{listed:?}");

    // It can be removed; and what leaves makes room.
    service.post(UNBAN, r#"{"ip": "192.0.2.1"}"#).await.ok();
    has(&status(&service, "192.0.2.5").await, json!({"status": "banned"}));
    assert_eq!(service.health_codes("reasons").await, Vec::<String>::new());
}
