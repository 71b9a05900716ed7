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
kind: Ban
metadata: {name: 9.9.8.0/24}
spec: {reason: tried, mode: shadow}
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
    assert!(diff.err.contains("created: 0, configured: 0, unchanged: 13"), "{diff:?}");
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
    assert!(csv.starts_with("ip,reason,source,since,until,applies_to\n192.0.2.1,,mine,20"), "{csv}");
    assert!(csv.contains("\n203.0.113.0/24,it's a scraper,,20"), "{csv}");
    let refused = desk.tidegate("export", &["bans", "flags", "--format", "csv"]).await.failed();
    assert!(refused.contains("one kind only"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_against_a_guard_is_exported_with_force() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    for (what, prefix) in
        [("allow", "203.0.113.0/24"), ("allow", "64.0.0.0/2"), ("ban", "203.0.113.9"), ("ban", "127.0.0.1")]
    {
        desk.tidegate(what, &[prefix, "--force"]).await.done();
    }
    desk.tidegate("ban", &["192.0.2.1"]).await.done();
    // Another program's: `apply` takes one document of a prefix.
    desk.tidegate("allow", &["192.0.2.50"]).await.done();
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.50/32', 'banned')");
    let export = desk.tidegate("export", &["bans", "allow-list"]).await;
    assert!(export.err.contains("the allow list has the same: 1"), "{export:?}");
    let yaml = export.done();
    let forced: Vec<&str> = yaml.split("---\n").filter(|one| one.contains("force: true")).collect();
    let named = |name: &str| forced.iter().any(|one| one.contains(&format!("name: {name}\n")));
    assert!(forced.len() == 3 && ["203.0.113.9", "127.0.0.1", "64.0.0.0/2"].into_iter().all(named), "{yaml}");
    let here = run(desk.command("apply", &["-f", "-"]), &yaml).await.done();
    assert!(here.lines().all(|line| line.ends_with(" unchanged")), "{here}");
    let other = TestService::start().await;
    let there = run(Desk::new(&other).command("apply", &["-f", "-"]), &yaml).await.done();
    assert!(there.lines().all(|line| line.ends_with(" created")), "{there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_would_mean_nothing_is_refused() {
    let service = TestService::start().await;
    for (kind, metadata, pointer) in [
        ("Ban", json!({"name": "192.0.2.1", "namespace": "a"}), "/documents/0/metadata/namespace"),
        ("GeoRule", json!({"name": "eu", "nmae": "a"}), "/documents/0/metadata/nmae"),
        ("Flags", json!({"name": "a"}), "/documents/0/metadata/name"),
    ] {
        let document = json!({"kind": kind, "metadata": metadata, "spec": {}});
        let refused = service.post("/api/admin/apply", json!({"documents": [document]}).to_string()).await;
        refused.wrong_field(422, "invalid_field", pointer, "unknown_field");
    }
    let labelled = json!({"kind": "Flags", "metadata": {"labels": {"team": "a"}}, "spec": {}});
    service.post("/api/admin/apply", json!({"documents": [labelled]}).to_string()).await.ok();
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
    // What cannot be read is told with what the service says of the others, in the order of the files.
    desk.file("rules/03.yaml", "kind: GeoRule\nmetadata: {name: r3}\nspec:\n  mode: [deny\n  countries:\n");
    std::fs::write(desk.dir.path().join("rules/25.yaml"), b"kind: GeoRule\n# f\xfcr\n").unwrap();
    let refused = desk.tidegate("apply", &["-f", "rules", "-f", "gone.yaml"]).await;
    let told: Vec<&str> = refused.err.lines().skip(1).collect();
    for (line, beginning) in told.iter().zip([
        "rules/03.yaml:5: document 1: ",
        "rules/17.yaml:8: document 1: /spec/countries/1: ",
        "rules/25.yaml",
        "rules/a.yaml:4: document 1: /spec/parentRefs/0",
        "cannot read gone.yaml",
    ]) {
        assert!(line.contains(beginning), "{beginning}: {refused:?}");
    }
    assert_eq!((told.len(), refused.code), (5, Some(2)), "{refused:?}");
    assert_eq!(service.tables().await, before);
    for name in ["rules/03.yaml", "rules/25.yaml"] {
        std::fs::remove_file(desk.dir.path().join(name)).unwrap();
    }
    // What only the whole of them shows is said with the rest.
    desk.file("rules/17.yaml", "apiVersion: tidegate.dev/v1\nkind: Ban\nmetadata: {name: 127.0.0.1}\n");
    let refused = desk.tidegate("apply", &["-f", "rules"]).await.failed();
    assert!(refused.contains("rules/17.yaml:") && refused.contains("(protected_network)"), "{refused}");
    assert!(refused.contains("rules/a.yaml:4: document 1: /spec/parentRefs/0/sectionName: "), "{refused}");
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
    assert_eq!((removed, said.lines().count()), (10, 13), "{said}");
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
async fn a_ban_goes_into_shadow_and_back_by_its_document() {
    let service = TestService::start().await;
    let in_mode = |mode: &str| {
        let mut ban = entry("Ban", "203.0.113.0/24");
        ban["spec"] = json!({"reason": "r", "mode": mode});
        ban
    };
    let rows = || service.column::<String>("SELECT ip || ' ' || status FROM ip_monitor ORDER BY ip");
    for (mode, outcome, status) in [
        ("shadow", "created", "watched"),
        ("shadow", "unchanged", "watched"),
        ("enforce", "configured", "banned"),
        ("enforce", "unchanged", "banned"),
        ("shadow", "configured", "watched"),
    ] {
        let shown = apply(&service, "dry_run=true", &[in_mode(mode)]).await.ok();
        let done = apply(&service, "", &[in_mode(mode)]).await.ok();
        assert_eq!(
            (&done["results"][0]["outcome"], &shown["results"][0]["outcome"]),
            (&json!(outcome), &json!(outcome))
        );
        assert_eq!(rows(), [format!("203.0.113.0/24 {status}")]);
        let after = &shown["results"][0]["after"]["spec"];
        assert_eq!(after["mode"] == "shadow", outcome != "unchanged" && mode == "shadow", "{shown}");
    }
    // Another spelling that denies, as another program may write it, goes with it.
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('203.0.113.9/24', 'banned')");
    until("the feed has it", async || {
        let said = service.get("/api/admin/ip-monitor/203.0.113.7").await.ok();
        (said["status"] == "banned").then_some(())
    })
    .await;
    let done = apply(&service, "", &[in_mode("shadow")]).await.ok();
    assert_eq!(
        (&done["results"][0]["outcome"], rows()),
        (&json!("configured"), vec!["203.0.113.0/24 watched".to_owned()])
    );
    apply(&service, "prune=true", &[entry("Ban", "192.0.2.1")]).await.ok();
    assert_eq!(rows(), ["192.0.2.1 banned"]);
    let mut allowed = entry("AllowListEntry", "192.0.2.7");
    allowed["spec"] = json!({"mode": "shadow"});
    apply(&service, "", &[allowed]).await.wrong_field(
        422,
        "invalid_field",
        "/documents/0/spec/mode",
        "unknown_field",
    );
    let refused = apply(&service, "", &[in_mode("off")]).await;
    refused.wrong_field(422, "invalid_field", "/documents/0/spec/mode", "invalid");
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

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_never_pruned() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let rule = |name: &str| {
        format!(
            "apiVersion: tidegate.dev/v1\nkind: GeoRule\nmetadata: {{name: {name}}}\nspec: {{mode: deny, countries: [DE]}}\n"
        )
    };
    desk.file("rules/a.yaml", &rule("a"));
    desk.file("rules/b.yaml", &rule("b"));
    desk.tidegate("apply", &["-f", "rules"]).await.done();
    let before = service.tables().await;
    let utf_16: Vec<u8> =
        format!("\u{feff}{}", rule("b")).encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, why) in [
        (utf_16, "rules/b.yaml: this is UTF-16"),
        (
            rule("b").replace("GeoRule", "GeoRuel").into_bytes(),
            "rules/b.yaml:1: document 1: is of kind GeoRuel",
        ),
        (rule("b").replace("kind", "Kind").into_bytes(), "rules/b.yaml:1: document 1: has no kind (b)"),
        (b"{{ include rules }}: [".to_vec(), "rules/b.yaml:1: document 1: "),
    ] {
        std::fs::write(desk.dir.path().join("rules/b.yaml"), bytes).unwrap();
        for (command, dry_run) in [("apply", None), ("apply", Some("--dry-run")), ("geo-rules", None)] {
            let mut args = vec!["-f", "rules", "--prune"];
            args.extend(dry_run);
            if command == "geo-rules" {
                args.insert(0, "apply");
            }
            let refused = desk.tidegate(command, &args).await;
            assert!(refused.err.contains(why) && refused.code == Some(2), "{why}: {refused:?}");
        }
    }
    assert_eq!(service.tables().await, before);
    // Without pruning it is another program's, and named.
    let said = desk.tidegate("apply", &["-f", "rules"]).await;
    assert!(said.err.contains("passed over, for it cannot be read: rules/b.yaml:1"), "{said:?}");
    assert_eq!((said.out.as_str(), said.code), ("GeoRule/a unchanged\n", Some(0)), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_wrote_is_no_difference_to_its_export() {
    let service = TestService::start().await;
    let long = "x".repeat(1_001);
    service.sql(&format!(
        "INSERT INTO ip_monitor (ip, status, reason, expires_at) VALUES \
         ('198.51.100.0/24', 'banned', 'over', '2020-01-01 00:00:00'), \
         ('198.51.101.0/24', 'allowed', 'over', '2020-01-01 00:00:00'), \
         ('203.0.113.9/24', 'banned', 'r', NULL), ('192.0.2.3', 'allowed', 'a', NULL), ('192.0.2.1', 'banned', '{long}', NULL)"
    ));
    let of = |kind: &str, name: &str, reason: &str| {
        let mut entry = entry(kind, name);
        entry["spec"] = json!({ "reason": reason });
        entry
    };
    let export = [
        of("Ban", "203.0.113.0/24", "r"),
        of("Ban", "192.0.2.1", &long),
        of("AllowListEntry", "192.0.2.3", "a"),
    ];
    let shown = apply(&service, "prune=true&dry_run=true", &export).await.ok();
    let outcomes = each(&shown["results"], |one| one["outcome"].as_str().unwrap());
    assert_eq!(outcomes, ["unchanged"; 3], "{shown}");
    // Where it is not yet it is refused, with how long it is.
    let refused = apply(&service, "", &[of("Ban", "192.0.2.2", &long)]).await;
    let refused = refused.wrong_field(422, "invalid_field", "/documents/0/spec/reason", "too_long");
    assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("has 1001"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_said_at_once() {
    let service = TestService::start().await;
    let rule = |name: &str, spec: Value| json!({"kind": "GeoRule", "metadata": {"name": name}, "spec": spec});
    let right = json!({"mode": "deny", "countries": ["DE"]});
    let mut ban = entry("Ban", "1.2.3.4/33");
    ban["spec"] = json!({"reason": "x".repeat(1_001), "mode": "off"});
    let mut long = entry("Ban", "1.2.3.4/33");
    long["spec"] = json!({"reason": "x".repeat(1_001)});
    let mut version = rule("version", json!({"mode": "deny", "countries": ["Atlantis"]}));
    version["apiVersion"] = json!("tidegate.dev/v7");
    version["metadata"]["namespace"] = json!("a");
    let mut route = json!({"apiVersion": "tidegate.dev/v1", "kind": "HTTPRoute", "metadata": {"name": "r"}});
    route["spec"] = json!({"parentRefs": 5});
    let documents = [
        ban,
        version,
        entry("Ban", "203.0.113.0/24"),
        entry("Ban", "203.0.113.9/24"),
        json!({"kind": "GeoRuel"}),
        json!({"kind": "GeoRule", "spec": {"mode": "perhaps"}}),
        rule("late", json!({"mode": "deny", "countries": ["Atlantis"]})),
        route,
        long,
        rule("right", right),
    ];
    let before = service.tables().await;
    let refused = apply(&service, "prune=true&dry_run=true", &documents).await.problem(422, "invalid_field");
    let mut pointers = each(&refused["errors"], |error| error["pointer"].as_str().unwrap());
    pointers.sort_unstable();
    assert_eq!(
        pointers,
        [
            "/documents/0/metadata/name",
            "/documents/0/spec/mode",
            "/documents/1/apiVersion",
            "/documents/1/metadata/namespace",
            "/documents/1/spec/countries/0",
            "/documents/3/metadata/name",
            "/documents/4/kind",
            "/documents/5/metadata/name",
            "/documents/5/spec/countries",
            "/documents/5/spec/mode",
            "/documents/6/spec/countries/0",
            "/documents/7/apiVersion",
            "/documents/7/spec/parentRefs",
            "/documents/8/metadata/name",
            "/documents/8/spec/reason",
        ],
        "{refused}"
    );
    assert_eq!(service.tables().await, before);
}
