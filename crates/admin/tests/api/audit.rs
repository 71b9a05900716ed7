//! The audit.

use serde_json::{Value, json};

use crate::test_service::{TestService, each, has};

const AUDIT: &str = "/api/admin/audit";

/// All entries but those of the service's first tokens, the oldest first.
async fn entries(service: &TestService) -> Vec<Value> {
    let mut all = service.get(AUDIT).await.ok()["items"].as_array().unwrap().clone();
    all.retain(|entry| entry["by"] != "test");
    all.reverse();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_there_with_who_made_it_and_what_was_before() {
    let service = TestService::start().await;
    assert_eq!(entries(&service).await, [] as [Value; 0]);
    let flags = "/api/admin/optimization/flags";
    service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9", "reason": "scraper"}"#).await.ok();
    service.post("/api/admin/ip/unban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    service.put("/api/admin/geo-rules/eu", r#"{"mode": "deny", "countries": ["DE"]}"#).await.ok();
    service.delete("/api/admin/geo-rules/eu").await.ok();
    service.put(flags, r#"{"enableRouteCache": "shadow"}"#).await.ok();
    // Setting what is set already is not a change, and neither is a refused write.
    service.put(flags, r#"{"enableRouteCache": "shadow"}"#).await.ok();
    service.put(flags, r#"{"enableRouteCache": 1}"#).await.problem(400, "invalid_flag");
    let all = entries(&service).await;
    let told: Vec<_> =
        all.iter().map(|entry| format!("{} {}", entry["what"], entry["target"]).replace('"', "")).collect();
    let wanted = ["ban 9.9.9.9", "unban 9.9.9.9", "geo-rule eu", "geo-rule eu", "flag enableRouteCache"];
    assert_eq!(told, wanted, "{all:#?}");
    assert!(all.iter().all(|entry| entry["by"] == "admin"), "{all:#?}");
    assert!(all.iter().all(|entry| entry["at"].as_str().unwrap().ends_with('Z')), "{all:#?}");
    has(&all[0], json!({"from": null, "to": {"reason": "scraper"}}));
    has(&all[3], json!({"from": {"countries": ["DE"]}, "to": null}));
    has(&all[4], json!({"from": null, "to": "shadow"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_in_pages_newest_first() {
    let service = TestService::start().await;
    for i in 0..7 {
        service.post("/api/admin/ip/ban", format!(r#"{{"ip": "9.9.9.{i}"}}"#)).await.ok();
    }
    let whole = service.get(AUDIT).await.ok()["items"].clone();
    let ids = each(&whole, |entry| entry["id"].as_u64().unwrap());
    assert!(ids.len() == 9 && ids.is_sorted_by(|one, next| one > next), "{ids:?}");
    for limit in [1, 2, 8, 9, 10] {
        assert_eq!(json!(service.pages(AUDIT, limit).await), whole, "{limit}");
    }
    for bad in ["?limit=0", "?limit=1001", "?cursor=zz", "?cursor=61", "?since=yesterday"] {
        service.get(&format!("{AUDIT}{bad}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_replaces_other_spellings_says_what_they_said() {
    let service = TestService::start().await;
    let ban = async || service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9", "force": true}"#).await.ok();
    ban().await;
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('::ffff:9.9.9.9', 'allowed')");
    ban().await;
    let all = entries(&service).await;
    assert_eq!(all.len(), 2, "{all:#?}");
    has(&all[1], json!({"target": "::ffff:9.9.9.9", "from": {"status": "allowed"}, "to": null}));
}
