//! Health.

use std::time::Duration;

use serde_json::json;
use tidegate_admin::store::sqlite::Options;

use crate::test_service::{TestService, db, each, has, until};

async fn is_well_again(service: &TestService) {
    until("all is well again", async || (service.health().await["status"] == "ok").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_names_the_rows_that_nobody_understands() {
    let service = TestService::start().await;
    has(&service.health().await, json!({"status": "ok", "reasons": []}));
    service.sql(
        "INSERT INTO ip_monitor (ip, status) VALUES ('1.2.3.4', 'banned'), ('nonsense', 'banned');
         INSERT INTO routes (name, document) VALUES ('broken', '{');",
    );
    assert_eq!(service.health_codes("reasons").await, ["rows_quarantined"]);
    let health = service.health().await;
    has(
        &health,
        json!({"status": "degraded", "tables": {"bans": {"entries": 1}}, "quarantine": {"count": 2}}),
    );
    let mut rows = each(&health["quarantine"]["rows"], |row| format!("{} {}", row["table"], row["key"]));
    rows.sort();
    assert_eq!(rows, [r#""ip_monitor" "nonsense""#, r#""routes" "broken""#]);
    let missing = service.get("/api/admin/routes/broken").await.problem(404, "route_not_found");
    assert!(missing["detail"].as_str().unwrap().contains("quarantine"), "{missing}");
    service.sql("DELETE FROM ip_monitor WHERE ip = 'nonsense'; DELETE FROM routes");
    assert_eq!(service.health_codes("reasons").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_is_said_and_nothing_is_half_done() {
    let impatient = Options { busy_for: Duration::from_millis(300), ..Options::default() };
    let service = TestService::start_with(impatient, &[]).await;
    let before = service.tables().await;
    let other = service.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.problem(503, "store_busy");
    until("health names the lock", async || {
        let reasons = &service.health().await["reasons"];
        each(reasons, |reason| reason["code"] == "store_locked").contains(&true).then_some(())
    })
    .await;
    // Reading goes on meanwhile.
    assert_eq!(service.get("/api/admin/ip-monitor/1.2.3.4").await.ok()["status"], "none");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(service.tables().await, before);
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    is_well_again(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_or_spoilt_is_said_until_it_is_back() {
    let service = TestService::start().await;
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    let (path, away) = (db(&service.dir), service.dir.path().join("away.db"));
    let said = async |wanted: &str| {
        until(wanted, async || {
            let reason = service.health().await["reasons"][0].clone();
            let detail = reason["detail"].as_str().unwrap_or_default();
            (reason["code"] == "store_unusable" && detail.contains(wanted)).then_some(())
        })
        .await;
    };
    std::fs::rename(&path, &away).unwrap();
    said("No such file").await;
    std::fs::write(&path, "this is not a database, however long it may be".repeat(100)).unwrap();
    said("another file").await;
    std::fs::rename(&away, &path).unwrap();
    is_well_again(&service).await;
    assert_eq!(service.get("/api/admin/ip-monitor/1.2.3.4").await.ok()["status"], "banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_recorded_is_complete() {
    let stats = TestService::start().await.recording_stats().await;
    let queue = json!({"waiting_bytes": 0, "oldest_ms": 0, "retries": 0});
    has(&stats, json!({"numbered": 0, "stored": 0, "completeness": 1.0, "exact": true, "queue": queue}));
}
