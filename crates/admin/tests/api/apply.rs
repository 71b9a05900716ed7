//! Documents of all kinds: from files to the service and back, all of them or none.

use serde_json::{Value, json};

use crate::command_line::{Desk, run};
use crate::test_service::{Answered, TestService, each, has, until};

const ALL: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: team-a}
spec:
  parentRefs: [{name: g, sectionName: shop}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /shop}}]
    backendRefs: [{group: tidegate.dev, kind: Backend, name: shop}]
---
apiVersion: tidegate.dev/v1
kind: Backend
metadata: {name: shop}
spec: {address: 'shop.example.com:443', tls: {}}
---
apiVersion: tidegate.dev/v1
kind: Listener
metadata: {name: shop}
spec: {scheme: https, port: 8443}
---
apiVersion: tidegate.dev/v1
kind: GeoRule
metadata: {name: eu}
spec: {mode: deny, countries: [DE, FR]}
---
apiVersion: tidegate.dev/v1
kind: Limit
metadata: {name: all}
spec: {key: ip, rate: 100, per: 1m}
---
apiVersion: tidegate.dev/v1
kind: Page
metadata: {name: ip_banned}
spec: {html: \"<p>{{request_id}}\"}
---
apiVersion: tidegate.dev/v1
kind: Ban
metadata: {name: 203.0.113.0/24}
spec: {reason: it's a scraper, expires_at: 2100-01-01}
---
apiVersion: tidegate.dev/v1
kind: Ban
metadata: {name: 2001:db8::/32}
---
apiVersion: tidegate.dev/v1
kind: AllowListEntry
metadata: {name: 203.0.113.7}
spec: {reason: ours}
---
apiVersion: tidegate.dev/v1
kind: Flags
spec: {enableRouteCache: true, enableGeoRulesCache: {percent: 25}}
";

/// Counts and digests of all tables, once the service has followed.
async fn tables(service: &TestService) -> Value {
    service.get("/api/admin/ip-monitor").await.ok();
    let mut tables = service.health().await["tables"].clone();
    // How the bans are divided depends on their history.
    for part in ["base", "base_bytes", "overlay"] {
        tables["bans"][part] = Value::Null;
    }
    tables
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_makes_an_empty_service_equal() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("all.yaml", ALL);
    let said = desk.tidegate("apply", &["-f", "all.yaml"]).await.done();
    assert!(said.starts_with("HTTPRoute/team-a/shop created\nBackend/shop created\n"), "{said}");
    assert!(said.ends_with("AllowListEntry/203.0.113.7 created\nFlags configured\n"), "{said}");
    let wanted = tables(&service).await;
    let again = desk.tidegate("apply", &["-f", "all.yaml"]).await.done();
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");

    let yaml = desk.tidegate("export", &["all"]).await.done();
    let other = TestService::start().await;
    let there = Desk::new(&other);
    run(there.command("apply", &["-f", "-"]), &yaml).await.done();
    assert_eq!(tables(&other).await, wanted, "{yaml}");
    desk.tidegate("export", &["all", "--dir", "out"]).await.done();
    let diff = desk.tidegate("diff", &["-R", "-f", "out", "--prune"]).await;
    assert!(diff.err.contains("created: 0, configured: 0, unchanged: 12"), "{diff:?}");
    assert_eq!(diff.done(), "");

    desk.file("list.txt", "192.0.2.1\n");
    desk.tidegate("bans", &["import", "list.txt", "--source", "mine"]).await.done();
    let yaml = desk.tidegate("export", &["bans"]).await;
    assert!(yaml.err.contains("left out: 1") && !yaml.out.contains("192.0.2.1"), "{yaml:?}");
    let wanted = tables(&service).await;
    let sql = desk.tidegate("export", &["all", "--format", "sql"]).await.done();
    let other = TestService::start().await;
    other.sql(&sql);
    assert_eq!(tables(&other).await, wanted, "{sql}");
    let sources = "SELECT ip FROM ip_monitor WHERE source = 'mine'";
    assert_eq!(other.column::<String>(sources), ["192.0.2.1"]);
    other.sql("DELETE FROM ip_monitor");
    let empty = Desk::new(&other).tidegate("export", &["bans", "--format", "sql"]).await.done();
    other.sql(&empty);
    let csv = desk.tidegate("export", &["bans", "--format", "csv"]).await.done();
    assert!(csv.starts_with("ip,reason,source,since,until\n192.0.2.1,,mine,20"), "{csv}");
    assert!(csv.contains("\n203.0.113.0/24,it's a scraper,,20"), "{csv}");
    let refused = desk.tidegate("export", &["bans", "flags", "--format", "csv"]).await.failed();
    assert!(refused.contains("one kind only"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_thirty_files_one_is_wrong_and_nothing_is_applied() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let before = service.tables().await;
    for number in 0..30 {
        let country = if number == 17 { "Atlantis" } else { "DE" };
        let rule = format!(
            "apiVersion: tidegate.dev/v1\nkind: GeoRule\nmetadata: {{name: r{number}}}\nspec:\n  mode: deny\n  countries:\n  - FR\n  - {country}\n"
        );
        desk.file(&format!("rules/{number:02}.yaml"), &rule);
    }
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{name: g, sectionName: gone}]}\n";
    desk.file("rules/a.yaml", route);
    let refused = desk.tidegate("apply", &["-f", "rules"]).await;
    assert!(refused.err.contains("rules/17.yaml:8: document 1: /spec/countries/1: "), "{refused:?}");
    assert_eq!((refused.out.as_str(), refused.code), ("", Some(2)), "{refused:?}");
    assert_eq!(service.tables().await, before);
    // What only the whole of them shows is said when each by itself is right.
    desk.file("rules/17.yaml", "apiVersion: tidegate.dev/v1\nkind: Ban\nmetadata: {name: 127.0.0.1}\n");
    let refused = desk.tidegate("apply", &["-f", "rules"]).await.failed();
    assert!(refused.contains("rules/17.yaml:") && refused.contains("(protected_network)"), "{refused}");
    let refused = desk.tidegate("apply", &["-f", "rules", "--force"]).await.failed();
    assert!(refused.contains("rules/a.yaml:4: document 1: /spec/parentRefs/0/sectionName: "), "{refused}");
    assert_eq!(service.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_files_do_not_have_is_pruned_unless_it_is_needed() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("all.yaml", ALL);
    desk.tidegate("apply", &["-f", "all.yaml"]).await.done();
    desk.tidegate("ban", &["198.51.100.77"]).await.done();
    let some = |document: &str| {
        ALL.split("---\n").filter(|one| !one.contains(document)).collect::<Vec<_>>().join("---\n")
    };
    desk.file("b.yaml", "apiVersion: tidegate.dev/v1\nkind: Backend\nmetadata: {name: new}\nspec: {address: 'new.example.com:80'}\n");
    let refused = desk.tidegate("backends", &["apply", "-f", "b.yaml", "--prune"]).await.failed();
    assert!(refused.contains("backend `shop` would be removed: these routes need it"), "{refused}");
    let diff = desk.tidegate("backends", &["diff", "-f", "b.yaml"]).await;
    assert_eq!(diff.code, Some(1), "{diff:?}");
    assert!(diff.out.contains("+  address: new.example.com:80"), "{diff:?}");
    // Routes and the backend that they need go together.
    desk.file(
        "all.yaml",
        &some("HTTPRoute").replace("name: shop}\nspec: {address", "name: new}\nspec: {address"),
    );
    let said = desk.tidegate("apply", &["-f", "all.yaml", "--prune"]).await.failed();
    assert!(said.contains("backend `shop` would be removed"), "a kind without a file is not pruned: {said}");
    desk.tidegate("routes", &["delete", "team-a/shop"]).await.done();
    let said = desk.tidegate("apply", &["-f", "all.yaml", "--prune"]).await.done();
    let removed: Vec<&str> = said.lines().filter(|line| line.ends_with("removed")).collect();
    assert_eq!(
        removed,
        [
            "Listener/http removed",
            "Listener/https removed",
            "Backend/shop removed",
            "Ban/198.51.100.77 removed"
        ]
    );
    let audit = service.get("/api/admin/audit?kind=unban").await.ok();
    assert_eq!(each(&audit["items"], |entry| entry["name"].as_str().unwrap()), ["198.51.100.77"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_to_a_kind_that_was_empty_is_pruned_by_its_export() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.tidegate("export", &["all", "--dir", "out"]).await.done();
    let stream = desk.tidegate("export", &["limits", "bans"]).await.done();
    assert_eq!(
        stream,
        "apiVersion: tidegate.dev/v1\nitems: []\nkind: LimitList\n---\napiVersion: tidegate.dev/v1\nitems: []\nkind: BanList\n"
    );
    desk.file("all.yaml", ALL);
    desk.tidegate("apply", &["-f", "all.yaml"]).await.done();
    desk.file("list.txt", "192.0.2.1\n");
    desk.tidegate("bans", &["import", "list.txt", "--source", "mine"]).await.done();
    let one =
        desk.fed("limits", &["diff", "-f", "-", "--prune"], &stream.replace("BanList", "LimitList")).await;
    assert!(one.err.contains("removed: 1") && one.code == Some(1), "{one:?}");
    let said = desk.tidegate("apply", &["-R", "-f", "out", "--prune"]).await.done();
    let removed = said.lines().filter(|line| line.ends_with(" removed")).count();
    assert_eq!((removed, said.lines().count()), (9, 12), "{said}");
    let left = service.get("/api/admin/ip-monitor").await.ok();
    assert_eq!(each(&left["items"], |entry| entry["ip"].as_str().unwrap()), ["192.0.2.1"], "a list's");
    let wrong = json!({"documents": [], "kinds": ["Flags"]});
    service.post("/api/admin/apply", wrong.to_string()).await.problem(422, "invalid_field");
    service.post("/api/admin/apply", r#"{"documents": []}"#).await.problem(422, "invalid_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_goes_back_unless_it_was_changed_meanwhile() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("all.yaml", ALL);
    desk.tidegate("apply", &["-f", "all.yaml"]).await.done();
    let edit = async |noun: &str, name: &str, editor: &str| {
        let mut command = desk.command(noun, &["edit", name]);
        command.env("EDITOR", editor).env_remove("VISUAL").env("TMPDIR", desk.dir.path());
        run(command, "").await
    };
    let drafts = || {
        let names = std::fs::read_dir(desk.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("tidegate-")).count()
    };
    assert_eq!(edit("geo-rules", "eu", "true").await.done(), "not changed\n");
    let said = edit("geo-rules", "eu", "sed -i s/deny/allow/").await.done();
    assert!(said.starts_with("eu changed; "), "{said}");
    assert_eq!(service.get("/api/admin/geo-rules/eu").await.ok()["mode"], "allow");
    let said = edit(
        "routes",
        "team-a/shop",
        "sed -i 's/name: shop$/name: shop # mine/;s/rules:/hostnames: [a.example]\\n  rules:/'",
    )
    .await
    .done();
    assert!(said.starts_with("team-a/shop changed; "), "{said}");
    assert_eq!(
        service.get("/api/admin/routes/team-a/shop").await.ok()["spec"]["hostnames"],
        json!(["a.example"])
    );
    let failed = edit("geo-rules", "eu", "false").await.failed();
    assert!(failed.contains("the editor `false` failed"), "{failed}");
    assert!(edit("geo-rules", "no", "true").await.failed().contains("there is no GeoRule `no`"));
    assert_eq!(drafts(), 0);
    let wrong = edit("geo-rules", "eu", "sed -i s/allow/maybe/").await.failed();
    assert!(
        wrong.contains("must be one of allow, deny") && wrong.contains("what you wrote is in"),
        "{wrong}"
    );
    let renamed = edit("geo-rules", "eu", "sed -i 's/name: eu/name: us/'").await.failed();
    assert!(renamed.contains("the name must stay `eu`"), "{renamed}");
    assert_eq!(drafts(), 2);
    // Another one is quicker.
    let other = json!({"mode": "allow", "countries": ["AQ"]});
    desk.file("editor", "until test -e quicker; do sleep 0.01; done; sed -i s/allow/deny/ \"$1\"\n");
    let editing = edit("geo-rules", "eu", "touch editing; sh editor");
    let quicker = async {
        until("the editor runs", async || desk.dir.path().join("editing").exists().then_some(())).await;
        service.put_json("/api/admin/geo-rules/eu", &other).await.ok();
        desk.file("quicker", "");
    };
    let (late, ()) = tokio::join!(editing, quicker);
    assert!(late.failed().contains("somebody else has changed the document"));
    has(&service.get("/api/admin/geo-rules/eu").await.ok(), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_each_kind_are_printed_and_deleted() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("all.yaml", ALL);
    desk.tidegate("apply", &["-f", "all.yaml"]).await.done();
    for (noun, name) in
        [("geo-rules", "eu"), ("limits", "all"), ("backends", "shop"), ("routes", "team-a/shop")]
    {
        let said = desk.tidegate(noun, &["get", "-o", "name"]).await.done();
        assert_eq!(said, format!("{name}\n"), "{noun}");
    }
    let one = desk.tidegate("geo-rules", &["get", "eu", "-o", "json"]).await.done();
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["spec"], json!({"mode": "deny", "countries": ["DE", "FR"]}), "{one}");
    let refused = desk.tidegate("backends", &["delete", "shop"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("(409 backend_in_use)"), "{refused:?}");
    let said = desk.tidegate("geo-rules", &["delete", "eu", "gone"]).await;
    assert!(said.out.starts_with("eu deleted; ") && said.err.contains("gone: "), "{said:?}");
    assert_eq!(said.code, Some(2));
    let said = desk.tidegate("pages", &["documents", "get", "-o", "name"]).await.done();
    assert_eq!(said, "ip_banned\n");
}

/// A ban, or an entry of the allow list.
fn entry(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "tidegate.dev/v1", "kind": kind, "metadata": {"name": name}})
}

/// Applies these documents; `query` may ask for more.
async fn apply(service: &TestService, query: &str, documents: &[Value]) -> Answered {
    service.post(&format!("/api/admin/apply?{query}"), json!({ "documents": documents }).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_be_allowed_is_banned_with_force_only() {
    let service = TestService::start().await;
    let [ban, other] = ["203.0.113.7", "198.51.100.77"].map(|name| entry("Ban", name));
    let allow = |name| entry("AllowListEntry", name);
    let whole = allow("203.0.113.0/24");
    let refused = apply(&service, "", &[ban.clone(), whole.clone()]).await;
    let refused = refused.wrong_field(422, "invalid_field", "/documents/0/spec", "address_allowed");
    assert!(
        refused["errors"][0]["detail"].as_str().unwrap().starts_with("203.0.113.0/24 is on"),
        "{refused}"
    );
    let wide = apply(&service, "", &[other.clone(), allow("0.0.0.0/0")]).await;
    wide.wrong_field(422, "invalid_field", "/documents/1/spec", "block_too_wide");
    apply(&service, "force=true", &[ban.clone(), whole.clone()]).await.ok();
    // What is there already is nobody's mistake.
    let again = apply(&service, "", &[ban.clone(), whole, other]).await.ok();
    assert_eq!(
        each(&again["results"], |one| one["outcome"].as_str().unwrap()),
        ["unchanged", "unchanged", "created"]
    );
    // An address that goes from one list to the other, and back.
    let refused = apply(&service, "", &[entry("Ban", "203.0.113.0/24")]).await;
    refused.wrong_field(422, "invalid_field", "/documents/0/spec", "address_allowed");
    let status =
        async |ip: &str| service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()["status"].clone();
    for (banned, allowed) in [("203.0.113.0/24", "192.0.2.1"), ("192.0.2.1", "203.0.113.0/24")] {
        apply(&service, "prune=true", &[entry("Ban", banned), allow(allowed)]).await.ok();
        assert_eq!((status(banned).await, status(allowed).await), (json!("banned"), json!("allowed")));
    }
    assert_eq!(service.get("/api/admin/ip-monitor").await.ok()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lists_have_is_not_pruned_and_no_more_than_a_call_may_remove() {
    let service = TestService::start().await;
    let list = |from: u32, count: u32| -> String {
        (from..from + count).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n))).collect()
    };
    service.post("/api/admin/bans/import?source=drop", list(0x0900_0000, 3)).await.ok();
    service.post("/api/admin/bans/import", list(0x0800_0000, 20_001)).await.ok();
    let refused = apply(&service, "prune=true", &[entry("Ban", "203.0.113.7")]).await;
    let refused = refused.wrong_field(422, "invalid_field", "/documents", "out_of_range");
    assert!(refused["errors"][0]["detail"].as_str().unwrap().starts_with("20001 of kind Ban"), "{refused}");
    service.post("/api/admin/ip/unban", r#"{"ip": "8.0.0.0"}"#).await.ok();
    apply(&service, "prune=true", &[entry("Ban", "203.0.113.7")]).await.ok();
    let left = service.get("/api/admin/ip-monitor").await.ok();
    let left = each(&left["items"], |one| one["ip"].as_str().unwrap());
    assert_eq!(left, ["9.0.0.0", "9.0.0.1", "9.0.0.2", "203.0.113.7"]);
}
