//! The audit.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate_admin::store::DocumentKind;

use crate::command_line::Desk;
use crate::test_process::{printed, tidegate};
use crate::test_service::{Answered, TestService, each, has, until};

const AUDIT: &str = "/api/admin/audit";

/// All entries but those of the service's first tokens, the oldest first.
async fn entries(service: &TestService) -> Vec<Value> {
    let mut all = service.get(AUDIT).await.ok()["items"].as_array().unwrap().clone();
    all.retain(|entry| entry["actor"] != "test");
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
        all.iter().map(|entry| format!("{} {}", entry["kind"], entry["name"]).replace('"', "")).collect();
    let wanted = ["ban 9.9.9.9", "unban 9.9.9.9", "geo-rule eu", "geo-rule eu", "flag enableRouteCache"];
    assert_eq!(told, wanted, "{all:#?}");
    assert!(all.iter().all(|entry| entry["actor"] == "admin" && entry["address"] == "127.0.0.1"), "{all:#?}");
    assert!(all.iter().all(|entry| entry["at"].as_str().unwrap().ends_with('Z')), "{all:#?}");
    has(&all[0], json!({"before": null, "after": {"reason": "scraper"}}));
    has(&all[3], json!({"before": {"countries": ["DE"]}, "after": null}));
    has(&all[4], json!({"before": null, "after": "shadow"}));
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
    for bad in [
        "?limit=0",
        "?limit=1001",
        "?cursor=zz",
        "?cursor=61",
        "?since=yesterday",
        "?what=ban",
        "/verify?anchor=1:2",
    ] {
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
    assert_eq!(all.len(), 3, "{all:#?}");
    has(&all[1], json!({"actor": "sql", "address": null, "kind": "ip-monitor", "name": "::ffff:9.9.9.9"}));
    has(&all[2], json!({"name": "::ffff:9.9.9.9", "before": {"status": "allowed"}, "after": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_filtered_and_says_which_request_it_was() {
    let service = TestService::start().await;
    let ban = service.as_operator(Method::POST, "/api/admin/ip/ban").header("x-request-id", "mine");
    Answered::to(ban.body(r#"{"ip": "9.9.9.9"}"#)).await.ok();
    service.post("/api/admin/ip/unban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    let found = async |query: &str| service.get(&format!("{AUDIT}?{query}")).await.ok()["items"].clone();
    let bans = found("kind=ban&actor=admin&name=9.9.9.9&since=1h").await;
    assert_eq!(bans.as_array().unwrap().len(), 1, "{bans:#}");
    has(&bans[0], json!({"request_id": "mine", "after": {"status": "banned"}}));
    let names = |found: Value| each(&found, |entry| entry["kind"].as_str().unwrap().to_owned());
    for several in ["kind=ban,unban", "kind=unban&kind=ban&since=1h", "kind=ban,unban,flag&until=0s"] {
        assert_eq!(names(found(several).await), ["unban", "ban"], "{several}");
    }
    for bad in ["kind=", "kind=ban,,flag", "kind=ban&kind=bann"] {
        service.get(&format!("{AUDIT}?{bad}")).await.problem(400, "invalid_parameter");
    }
    for none in ["until=1h", "since=2100-01-01", "actor=sql", "kind=flag", "name=9.9.9.8"] {
        assert_eq!(found(none).await, json!([]), "{none}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_removed_is_found_through_the_service_and_in_the_database() {
    let service = TestService::start().await;
    service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    let verify = |args: &[&str]| {
        let output = tidegate(service.dir.path(), &[&["audit", "verify"], args].concat()).output().unwrap();
        (output.status.success(), printed(&output))
    };
    let (whole, said) = verify(&[]);
    let anchor = said.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(whole && said.starts_with("3 entries, the newest 3:"), "{said}");
    assert!(verify(&["--anchor", &anchor]).0);
    let answer = service.get(&format!("{AUDIT}/verify?anchor={anchor}")).await.ok();
    has(&answer, json!({"entries": 3, "faults": [], "last": {"id": 3}}));
    service.sql("DROP TRIGGER audit_removed; DELETE FROM audit WHERE id = 2");
    let (whole, said) = verify(&[]);
    assert!(!whole && said.contains("entry 2 is missing"), "{said}");
    assert_eq!(service.get(&format!("{AUDIT}/verify")).await.ok()["faults"], json!(["entry 2 is missing"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_it() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    let said = desk.tidegate("audit", &["--kind", "ban"]).await.done();
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["AT", "ACTOR", "ADDRESS", "KIND", "NAME", "BEFORE", "AFTER"]);
    assert_eq!(lines[1][1..6], ["admin", "127.0.0.1", "ban", "1.2.3.4", "-"], "{said}");
    assert_eq!(lines.len(), 2, "{said}");
    // More than the service gives at a time.
    for first in [0, 600] {
        let flag = |i| format!("INSERT INTO flags (name, value) VALUES ('f{i}', '1');");
        service.sql(&format!("BEGIN; {} COMMIT;", (first..first + 600).map(flag).collect::<String>()));
        until("the changes are audited", async || {
            let told: Vec<i64> = service.column("SELECT count(*) FROM audit WHERE who = 'sql'");
            (told == [first + 600]).then_some(())
        })
        .await;
    }
    let said = desk.tidegate("audit", &["--actor", "sql", "--limit", "1050", "-o", "json"]).await.done();
    let answer: Value = serde_json::from_str(&said).unwrap();
    let names = each(&answer["items"], |entry| entry["name"].as_str().unwrap());
    assert_eq!(names.len(), 1_050);
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 1_050);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_there_is_not_is_refused_with_those_that_there_are() {
    let service = TestService::start().await;
    let refused = service.get("/api/admin/audit?kind=bann").await.problem(400, "invalid_parameter");
    let detail = refused["errors"][0]["detail"].as_str().unwrap();
    let known = DocumentKind::ALL.map(DocumentKind::name);
    assert!(["ban", "unban", "token"].iter().chain(&known).all(|kind| detail.contains(kind)), "{detail}");
    for kind in known {
        service.get(&format!("/api/admin/audit?kind={kind}")).await.ok();
    }
}
