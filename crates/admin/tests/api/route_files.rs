//! `tidegate routes` and `tidegate pages`: files to the service and back, by the program itself.

use serde_json::{Value, json};

use crate::command_line::{Desk, program, run};
use crate::test_service::TestService;

fn route(name: &str, path: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
spec:
  rules:
  - backendRefs:
    - name: demo
    matches:
    - path:
        type: PathPrefix
        value: {path}
"
    )
}

/// The route `name` as the service has it.
async fn held(service: &TestService, name: &str) -> Value {
    service.get(&format!("/api/admin/routes/{name}")).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_file_are_created_then_unchanged_then_configured() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("r.yaml", &format!("{}---\n{}", route("a", "/a"), route("b", "/b")));
    let apply = ["apply", "-f", "r.yaml"];
    let said = desk.routes(&apply).await;
    assert!(said.err.contains("no gateway has reported"), "{said:?}");
    assert_eq!(said.done(), "a created\nb created\n");
    assert_eq!(held(&service, "b").await["spec"]["rules"][0]["matches"][0]["path"]["value"], "/b");
    let before = service.tables().await;
    assert_eq!(desk.routes(&apply).await.done(), "a unchanged\nb unchanged\n");
    assert_eq!(service.tables().await, before, "what is unchanged is not written");
    desk.file("r.yaml", &format!("{}---\n{}", route("a", "/a"), route("b", "/other")));
    assert_eq!(desk.routes(&apply).await.done(), "a unchanged\nb configured\n");
    assert_eq!(held(&service, "b").await["spec"]["rules"][0]["matches"][0]["path"]["value"], "/other");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_one_name_in_several_namespaces_stand_beside_each_other() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let of = |namespace: &str, path: &str| {
        route("http", path).replace("  name: http\n", &format!("  name: http\n  namespace: {namespace}\n"))
    };
    desk.file("a.yaml", &format!("{}---\n{}", of("team-a", "/a"), of("default", "/d")));
    let said = desk.routes(&["apply", "-f", "a.yaml"]).await;
    assert_eq!(said.done(), "team-a/http created\nhttp created\n");
    desk.file("b.yaml", &of("team-b", "/b"));
    assert_eq!(desk.routes(&["apply", "-f", "b.yaml"]).await.done(), "team-b/http created\n");
    assert_eq!(held(&service, "team-a/http").await["spec"]["rules"][0]["matches"][0]["path"]["value"], "/a");
    assert_eq!(desk.routes(&["get", "-o", "name"]).await.done(), "http\nteam-a/http\nteam-b/http\n");
    assert_eq!(desk.routes(&["get", "team-b/http"]).await.done(), of("team-b", "/b"));
    assert_eq!(desk.routes(&["get", "default/http", "http"]).await.done().matches("/d").count(), 2);
    let printed = desk.routes(&["get"]).await.done();
    let back = desk.routes_fed(&["apply", "-f", "-"], &printed).await.done();
    assert_eq!(back, "http unchanged\nteam-a/http unchanged\nteam-b/http unchanged\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_a_cluster_comes_through_standard_input() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let rules = json!([{"backendRefs": [{"name": "demo"}]}]);
    let item = |name: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "uid": "7", "resourceVersion": "9", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"rules": rules}, "status": {"parents": []},
        })
    };
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [item("a"), item("b")]});
    let said = desk.routes_fed(&["apply", "-f", "-"], &list.to_string()).await;
    assert_eq!(said.done(), "a created\nb created\n");
    let wanted = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "a"}, "spec": {"rules": rules},
    });
    assert_eq!(held(&service, "a").await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_not_right_keeps_all_of_them_from_being_applied() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let before = service.tables().await;
    let bad = route("b", "/b").replace("type: PathPrefix", "type: Teleport");
    desk.file("dir/1.yaml", &route("a", "/a"));
    desk.file("dir/2.yaml", &format!("{}---\n{bad}", route("c", "/c")));
    for more in [&[][..], &["--dry-run"]] {
        let said = desk.routes(&[&["apply", "-f", "dir"], more].concat()).await;
        assert_eq!(said.out, "");
        let err = said.failed();
        assert!(err.contains("nothing was changed"), "{err}");
        assert!(err.contains("dir/2.yaml:24: document 2: /spec/rules/0/matches/0/path/type: "), "{err}");
    }
    desk.file("dir/2.yaml", "kind: Secret\nmetadata: {name: s}\n");
    let err = desk.routes(&["apply", "-f", "dir", "--other-kinds", "error"]).await.failed();
    assert!(err.contains("dir/2.yaml:1: document 1: is of kind Secret (s): "), "{err}");
    assert_eq!(service.tables().await, before);
    let said = desk.routes(&["apply", "-f", "dir"]).await;
    assert!(said.err.contains("passed over, for they are no HTTPRoutes: Secret 1\n"), "{said:?}");
    assert_eq!(said.done(), "a created\n");
    let err = desk.routes(&["apply", "-f", "gone.yaml"]).await.failed();
    assert!(err.contains("gone.yaml"), "{err}");
    assert_eq!(desk.routes(&["apply"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_get_prints_is_taken_back_unchanged() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    // As other programs write them: without kind, with nulls, with texts that look like other
    // types.
    for (name, spec) in [
        ("plain", json!({"rules": [{"backendRefs": [{"name": "demo", "port": null}]}]})),
        ("empty", json!({})),
        (
            "odd",
            json!({"rules": [{"matches": [{"headers": [
                {"name": "a", "value": "on"}, {"name": "b", "value": "012"}, {"name": "c", "value": "# x: 'y'"},
            ]}]}]}),
        ),
    ] {
        service.put_json(&format!("/api/admin/routes/{name}"), &json!({"spec": spec})).await.ok();
    }
    let before = service.tables().await;
    for form in ["yaml", "json"] {
        let printed = desk.routes(&["get", "-o", form]).await.done();
        let back = desk.routes_fed(&["apply", "-f", "-"], &printed).await;
        assert_eq!(back.done(), "empty unchanged\nodd unchanged\nplain unchanged\n", "{printed}");
        let diff = desk.routes_fed(&["apply", "--dry-run", "-f", "-"], &printed).await;
        assert_eq!(diff.done(), "", "{printed}");
    }
    assert_eq!(service.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_all_routes_or_those_of_some_names() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let said = desk.routes(&["get"]).await;
    assert!(said.err.contains("no routes"), "{said:?}");
    assert_eq!(said.done(), "");
    desk.file("r.yaml", &format!("{}---\n{}", route("a", "/a"), route("b", "/b")));
    desk.routes(&["apply", "-f", "r.yaml"]).await.done();
    assert_eq!(desk.routes(&["get"]).await.done(), format!("{}---\n{}", route("a", "/a"), route("b", "/b")));
    assert_eq!(desk.routes(&["get", "b", "-o", "yaml"]).await.done(), route("b", "/b"));
    assert_eq!(desk.routes(&["get", "-o", "name"]).await.done(), "a\nb\n");
    let one: Value = serde_json::from_str(&desk.routes(&["get", "a", "-o", "json"]).await.done()).unwrap();
    assert_eq!(one, held(&service, "a").await);
    let said = desk.routes(&["get", "a", "gone", "b", "-o", "name"]).await;
    assert_eq!(said.out, "a\nb\n");
    assert!(said.failed().contains("none of this name: gone"));
    assert_eq!(desk.routes(&["get", "../flags"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_goes_through_all_pages() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    // Pages have 100 routes.
    let names: Vec<String> = (0..201).map(|i| format!("r{i:03}")).collect();
    let row = |name: &String| {
        let document = json!({"metadata": {"name": name}, "spec": {}});
        format!("INSERT INTO routes (name, document) VALUES ('{name}', '{document}');")
    };
    service.sql(&format!("BEGIN; {} COMMIT;", names.iter().map(row).collect::<String>()));
    let printed = desk.routes(&["get", "-o", "name"]).await.done();
    assert_eq!(printed.lines().collect::<Vec<_>>(), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("r.yaml", &format!("{}---\n{}", route("a", "/a"), route("b", "/b")));
    desk.routes(&["apply", "-f", "r.yaml"]).await.done();
    let before = service.tables().await;
    let dry_run = ["apply", "--dry-run", "-f", "r.yaml"];
    assert_eq!(desk.routes(&dry_run).await.done(), "");
    desk.file("r.yaml", &format!("{}---\n{}---\n{}", route("a", "/a"), route("b", "/x"), route("c", "/c")));
    let said = desk.routes(&dry_run).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let changed = "--- b (the service)
+++ b (r.yaml: document 2)
@@ -9,4 +9,4 @@
     matches:
     - path:
         type: PathPrefix
-        value: /b
+        value: /x
--- /dev/null
+++ c (r.yaml: document 3)
@@ -0,0 +1,12 @@
+apiVersion: gateway.networking.k8s.io/v1
";
    assert!(said.out.starts_with(changed), "{}", said.out);
    assert!(said.err.contains("would be created: 1, configured: 1, unchanged: 1"), "{}", said.err);
    let held = route("d", "/d").replace("spec:", "spec:\n  parentRefs: [{name: g, sectionName: web}]");
    desk.file("r.yaml", &held);
    let refused = desk.routes(&dry_run).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("r.yaml:6: document 1: /spec/parentRefs/0/sectionName: "), "{refused:?}");
    assert_eq!(service.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_probably_not_meant_is_said_and_what_is_too_large_refused() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let with_rule = route("c", "/c").replace(
        "    matches:",
        "    filters:\n    - type: ExtensionRef\n      extensionRef: {group: tidegate.dev, kind: GeoRule, name: gone}\n    matches:",
    );
    desk.file("r.yaml", &format!("{}---\n{with_rule}", route("a", "/a")));
    let said = desk.routes(&["apply", "-f", "r.yaml"]).await;
    assert!(said.err.contains("r.yaml: document 2: warning: there is no geo rule `gone`"), "{said:?}");
    assert_eq!(said.done(), "a created\nc created\n");
    // As large as a body of the API for one document may not be.
    let large = route("b", "/b")
        .replace("metadata:\n", &format!("metadata:\n  annotations: {{x: {}}}\n", "y".repeat(1 << 20)));
    desk.file("r.yaml", &format!("{}---\n{large}", route("d", "/d")));
    let err = desk.routes(&["apply", "-f", "r.yaml"]).await.failed();
    assert!(err.contains("r.yaml:14: document 2: ") && err.contains("(too_long)"), "{err}");
    assert_eq!(desk.routes(&["get", "-o", "name"]).await.done(), "a\nc\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_answer_or_does_not_know_the_token_is_named() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("r.yaml", &format!("{}---\n{}", route("a", "/a"), route("b", "/b")));
    let apply = ["apply", "-f", "r.yaml"];
    desk.file("token", "nobody's\n");
    let said = desk.routes(&apply).await;
    assert!(!said.err.contains("nobody's"), "the token was printed: {said:?}");
    let err = said.failed();
    assert!(err.contains("401 unauthorized"), "{err}");
    desk.file("token", "\n");
    assert!(desk.routes(&apply).await.failed().contains("the token is empty"));

    let mut nowhere = program(desk.dir.path());
    nowhere.args(["routes", "get"]);
    assert!(run(nowhere, "").await.failed().contains("--token-file"));

    let (dir, people) = (desk.dir, service.people(""));
    std::fs::write(dir.path().join("token"), &service.admin).unwrap();
    service.running.stop().await.unwrap();
    let mut command = program(dir.path());
    command.args(["routes", "apply", "-f", "r.yaml", "--server", &people, "--token-file", "token"]);
    let err = run(command, "").await.failed();
    assert!(err.contains("nobody answers at") && err.contains("cargo xtask up"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn address_and_token_may_come_from_the_environment() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let ask = |name: &str, value: &str| {
        let mut command = program(desk.dir.path());
        command.args(["routes", "get"]).env("TIDEGATE_SERVER", service.people("/")).env(name, value);
        command
    };
    run(ask("TIDEGATE_TOKEN", &service.admin), "").await.done();
    run(ask("TIDEGATE_TOKEN_FILE", "token"), "").await.done();
    // The gateways' token is valid on the other listener only.
    let err = run(ask("TIDEGATE_TOKEN", &service.gateway), "").await.failed();
    assert!(err.contains("403 wrong_role"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_goes_there_and_comes_back_until_it_is_deleted() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let pages = async |args: &[&str], input: &str| run(desk.command("pages", args), input).await;
    let built_in = pages(&["get", "ip_banned"], "").await.done();
    desk.file("page.html", &built_in);
    assert_eq!(pages(&["set", "ip_banned", "page.html"], "").await.done(), "");
    assert_eq!(service.get("/api/admin/pages/ip_banned").await.ok()["html"], built_in);
    let warned = pages(&["set", "ip_banned", "-"], "<p>No.\n").await;
    assert!(warned.err.contains("has no {{request_id}}"), "{warned:?}");
    assert_eq!(pages(&["get", "ip_banned"], "").await.done(), "<p>No.\n");
    let refused = pages(&["set", "ip_banned", "-"], "{{id}}").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("nothing was changed"), "{refused:?}");
    assert_eq!(refused.err.matches("{{request_id}}").count(), 1, "said once: {refused:?}");
    assert!(pages(&["get", "ip_baned"], "").await.failed().contains("geo_denied"), "the reasons are listed");
    assert_eq!(pages(&["delete", "ip_banned"], "").await.done(), "");
    assert_eq!(pages(&["get", "ip_banned"], "").await.done(), built_in);
    assert!(pages(&["delete", "ip_banned"], "").await.err.contains("page_not_found"));
}
