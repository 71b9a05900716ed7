//! Who changed what.

use serde_json::{Value, json};

use crate::running::Running;

const AUDIT: &str = "/api/admin/audit";

async fn entries(running: &Running, query: &str) -> Vec<Value> {
    running.get(&format!("{AUDIT}{query}")).await.ok()["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_there_with_who_made_it_and_what_was_before() {
    let running = Running::start().await;
    assert_eq!(running.get(AUDIT).await.ok(), json!({"items": []}));
    running.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9", "reason": "scraper"}"#).await.ok();
    running.post("/api/admin/ip/unban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    let rule = r#"{"mode": "deny", "countries": ["DE"]}"#;
    running.put("/api/admin/geo-rules/eu", rule).await.ok();
    running.delete("/api/admin/geo-rules/eu").await.ok();
    running.put("/api/admin/routes/r", r#"{"spec": {}}"#).await.ok();
    running.delete("/api/admin/routes/r").await.ok();
    running.put("/api/admin/optimization/flags", r#"{"enableRouteCache": "shadow"}"#).await.ok();
    // What was set already is no change.
    running.put("/api/admin/optimization/flags", r#"{"enableRouteCache": "shadow"}"#).await.ok();
    // What is refused is none either.
    running
        .put("/api/admin/optimization/flags", r#"{"enableRouteCache": 1}"#)
        .await
        .problem(400, "invalid_flag");
    let mut all = entries(&running, "").await;
    all.reverse();
    let told: Vec<_> = all
        .iter()
        .map(|entry| (entry["what"].as_str().unwrap(), entry["target"].as_str().unwrap()))
        .collect();
    let wanted = [
        ("ban", "9.9.9.9"),
        ("unban", "9.9.9.9"),
        ("geo-rule", "eu"),
        ("geo-rule", "eu"),
        ("route", "r"),
        ("route", "r"),
        ("flag", "enableRouteCache"),
    ];
    assert_eq!(told, wanted, "{all:#?}");
    assert!(all.iter().all(|entry| entry["by"] == "admin"), "{all:#?}");
    assert!(all.iter().all(|entry| entry["at"].as_str().unwrap().ends_with('Z')), "{all:#?}");
    assert_eq!((&all[0]["from"], &all[0]["to"]["reason"]), (&Value::Null, &json!("scraper")));
    assert_eq!((&all[3]["from"]["countries"], &all[3]["to"]), (&json!(["DE"]), &Value::Null));
    assert_eq!((&all[6]["from"], &all[6]["to"]), (&Value::Null, &json!("shadow")));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_in_pages_newest_first() {
    let running = Running::start().await;
    for i in 0..7 {
        running.post("/api/admin/ip/ban", format!(r#"{{"ip": "9.9.9.{i}"}}"#)).await.ok();
    }
    let whole = entries(&running, "").await;
    let ids: Vec<_> = whole.iter().map(|entry| entry["id"].as_u64().unwrap()).collect();
    assert!(ids.len() == 7 && ids.is_sorted_by(|one, next| one > next), "{ids:?}");
    for limit in [1, 2, 6, 7, 8] {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = running.get(&format!("{AUDIT}?limit={limit}{cursor}")).await.ok();
            items.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(items, whole, "{limit}");
    }
    for bad in ["?limit=0", "?limit=1001", "?cursor=zz", "?cursor=61", "?since=yesterday"] {
        running.get(&format!("{AUDIT}{bad}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_replaces_other_spellings_says_what_they_said() {
    let running = Running::start().await;
    let ban = async || running.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    ban().await;
    running.sql("INSERT INTO ip_monitor (ip, status) VALUES ('::ffff:9.9.9.9', 'allowed')");
    ban().await;
    let all = entries(&running, "").await;
    assert_eq!(all.len(), 2, "{all:#?}");
    assert_eq!(
        (&all[0]["target"], &all[0]["from"]["status"], &all[0]["to"]),
        (&json!("::ffff:9.9.9.9"), &json!("allowed"), &Value::Null)
    );
}
