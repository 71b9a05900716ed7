//! Health and statistics.

use std::time::Duration;

use serde_json::json;
use tidegate_admin::store::sqlite::Options;

use crate::running::{Running, db, until};

const HEALTH: &str = "/api/admin/optimization/health";
const STATS: &str = "/api/admin/optimization/recording/stats";

#[tokio::test(flavor = "multi_thread")]
async fn health_names_the_rows_that_nobody_understands() {
    let running = Running::start().await;
    let health = running.get(HEALTH).await.ok();
    assert_eq!((&health["status"], &health["reasons"]), (&json!("ok"), &json!([])), "{health}");
    running.sql(
        "INSERT INTO ip_monitor (ip, status) VALUES ('1.2.3.4', 'banned'), ('nonsense', 'banned');
         INSERT INTO routes (name, document) VALUES ('broken', '{');",
    );
    // A list waits until the feed has caught up.
    running.get("/api/admin/routes").await.ok();
    let health = running.get(HEALTH).await.ok();
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["reasons"][0]["code"], "rows_quarantined");
    assert_eq!(health["tables"]["bans"]["entries"], 1);
    let rows = health["quarantine"]["rows"].as_array().unwrap();
    let keys: Vec<_> = rows.iter().map(|row| (row["table"].clone(), row["key"].clone())).collect();
    assert_eq!(health["quarantine"]["count"], 2, "{health}");
    assert!(keys.contains(&(json!("ip_monitor"), json!("nonsense"))), "{keys:?}");
    assert!(keys.contains(&(json!("routes"), json!("broken"))), "{keys:?}");
    let missing = running.get("/api/admin/routes/broken").await.problem(404, "route_not_found");
    assert!(missing["detail"].as_str().unwrap().contains("quarantine"), "{missing}");
    running.sql("DELETE FROM ip_monitor WHERE ip = 'nonsense'; DELETE FROM routes");
    running.get("/api/admin/routes").await.ok();
    assert_eq!(running.get(HEALTH).await.ok()["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_is_said_and_nothing_is_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options { busy_for: Duration::from_millis(300), ..Options::default() };
    let running = Running::start_in(dir, store).await;
    let before = running.tables().await;
    let other = rusqlite::Connection::open(db(&running.dir)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = running.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await;
    refused.problem(503, "store_busy");
    assert_eq!(refused.headers["retry-after"], "1");
    until("health names the lock", async || {
        let health = running.get(HEALTH).await.ok();
        let reasons = health["reasons"].as_array().unwrap();
        reasons.iter().any(|reason| reason["code"] == "store_locked").then_some(())
    })
    .await;
    // Reading goes on meanwhile.
    assert_eq!(running.get("/api/admin/ip-monitor/1.2.3.4").await.ok()["status"], "none");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(running.tables().await, before);
    running.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    until("all is well again", async || (running.get(HEALTH).await.ok()["status"] == "ok").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_or_spoilt_is_said_until_it_is_back() {
    let running = Running::start().await;
    running.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    let (path, away) = (db(&running.dir), running.dir.path().join("away.db"));
    let said = async |wanted: &str| {
        until(wanted, async || {
            let health = running.get(HEALTH).await.ok();
            let reason = &health["reasons"][0];
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
    until("all is well again", async || (running.get(HEALTH).await.ok()["status"] == "ok").then_some(()))
        .await;
    assert_eq!(running.get("/api/admin/ip-monitor/1.2.3.4").await.ok()["status"], "banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_recorded_is_complete() {
    let running = Running::start().await;
    let stats = running.get(STATS).await.ok();
    assert_eq!((&stats["numbered"], &stats["stored"]), (&json!(0), &json!(0)));
    assert_eq!((&stats["completeness"], &stats["exact"]), (&json!(1.0), &json!(true)));
    assert_eq!(stats["queue"], json!({"waiting_bytes": 0, "oldest_ms": 0, "retries": 0}));
}
