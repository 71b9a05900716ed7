//! The commands that use the API, by the program itself.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::command_line::{Desk, program, run};
use crate::test_gateway::TestGateway;
use crate::test_process::{printed, tidegate};
use crate::test_service::{TestService, has, until};

fn json_of(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_banned_allowed_and_listed() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let banned =
        desk.tidegate("ban", &["203.0.113.7", "2001:db8::/32", "--reason", "scraper", "--ttl", "4h"]).await;
    let said = banned.done();
    assert!(said.starts_with("203.0.113.7 is banned until 20"), "{said}");
    assert!(
        said.contains("\n2001:db8::/32 is banned until 20") && said.contains("no gateway is connected"),
        "{said}"
    );
    let list = desk.tidegate("bans", &["list"]).await.done();
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ADDRESS", "SINCE", "UNTIL", "REQUESTS", "APPLIES", "TO", "SOURCE", "REASON"]);
    assert_eq!(
        (rows[1][0], rows[1][4], rows[1][6], rows.len()),
        ("203.0.113.7", "everywhere", "scraper", 3),
        "{list}"
    );
    let list = json_of(&desk.tidegate("bans", &["list", "-o", "json"]).await.done());
    has(&list["items"][1], json!({"ip": "2001:db8::/32", "reason": "scraper"}));

    let partly = desk.tidegate("ban", &["127.0.0.1", "9.9.9.9", "--wait", "0s"]).await;
    assert_eq!(partly.code, Some(1));
    assert!(partly.out.starts_with("9.9.9.9 is banned;"), "{partly:?}");
    assert!(
        partly.err.contains("127.0.0.1: ") && partly.err.contains("(409 protected_network)"),
        "{partly:?}"
    );
    desk.tidegate("ban", &["127.0.0.1", "--force"]).await.done();

    let allowed = json_of(&desk.tidegate("allow", &["9.9.9.0/24", "-o", "json"]).await.done());
    has(&allowed, json!({"ip": "9.9.9.0/24", "status": "allowed"}));
    let said = desk.tidegate("unban", &["9.9.9.9", "127.0.0.1"]).await.done();
    assert!(said.starts_with("9.9.9.9 is allowed by 9.9.9.0/24; "), "{said}");
    assert!(desk.tidegate("allow-list", &["list"]).await.done().contains("9.9.9.0/24"));
    let said = desk.tidegate("disallow", &["9.9.9.0/24"]).await.done();
    assert!(said.starts_with("9.9.9.0/24 is neither banned nor allowed; "), "{said}");
    let refused = desk.tidegate("disallow", &["9.9.9.0/24"]).await.failed();
    assert!(refused.contains("not_on_allow_list"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_cannot_command_the_terminal() {
    let service = TestService::start().await;
    service.sql(
        "INSERT INTO ip_monitor (ip, reason) VALUES ('9.9.9.9', 'a' || char(27) || '[2J' || char(10) || 'b')",
    );
    let list = Desk::new(&service).tidegate("bans", &["list"]).await.done();
    assert!(list.contains(r"a\u{1b}[2J\nb"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_forge_a_line_of_the_audit() {
    let service = TestService::start().await;
    service.sql("INSERT INTO ip_monitor (ip) VALUES ('9.9.9.9' || char(10) || 'yesterday  alice')");
    let listed = until("the change is in the audit", async || {
        let listed = Desk::new(&service).tidegate("audit", &["--actor", "sql"]).await.done();
        (listed.lines().count() > 1).then_some(listed)
    })
    .await;
    let forged = listed.lines().filter(|line| line.contains(r"9.9.9.9\nyesterday  alice"));
    assert!(forged.count() == 1 && listed.lines().count() == 2, "{listed}");
}

/// Commands that print what they got from a service.
const PRINTING: [(&str, &[&str]); 16] = [
    ("flags", &["get"]),
    ("status", &[]),
    ("recording", &[]),
    ("gateways", &[]),
    ("audit", &[]),
    ("audit", &["verify"]),
    ("token", &["list"]),
    ("bans", &["list"]),
    ("bans", &["export"]),
    ("events", &[]),
    ("events", &["--format", "csv"]),
    ("stats", &["paths"]),
    ("top", &[]),
    ("explain", &["http://shop.example.com/"]),
    ("export", &["all"]),
    ("listeners", &["get"]),
];

/// Whether the command prints what the service says as it comes: a format of its own, and nothing by which the
/// service would be known.
fn is_passed_on(args: &[&str]) -> bool {
    matches!(args, ["export"] | ["--format", ..])
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_cannot_be_written_is_a_failure_and_a_closed_pipe_is_none() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    for (noun, args) in PRINTING.into_iter().chain([("ban", &["9.9.9.8"][..])]) {
        let mut command = desk.command(noun, args);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let done = ended.await.unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            !done.status.success() && said.contains("cannot write the output"),
            "{noun} {args:?}: {said}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = desk.command(noun, args);
        let ended = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let done = ended.await.unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{noun} {args:?}: {done:?}");
    }
    assert_eq!(service.get("/api/admin/ip-monitor/9.9.9.8").await.ok()["status"], "banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_scripts_can_be_read_by_them() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    service.sql("INSERT INTO ip_monitor (ip, reason) VALUES ('9.9.9.9', 'a' || char(27) || ': \"b\" # c')");
    desk.file("list.txt", "9.9.9.8\n");
    desk.file("list.csv", "10.0.0.0,10.255.255.255,DE\n");
    let others: [(&str, &[&str]); 8] = [
        ("ban", &["9.9.9.7", "9.9.9.6"]),
        ("unban", &["9.9.9.7"]),
        ("allow", &["9.9.9.7"]),
        ("allow-list", &["list"]),
        ("bans", &["import", "list.txt"]),
        ("geo", &["import", "list.csv"]),
        ("token", &["create", "--name", "x", "--role", "read"]),
        ("stats", &["timeline"]),
    ];
    let answering = PRINTING.into_iter().filter(|(noun, args)| *noun != "export" && !is_passed_on(args));
    for (noun, args) in answering.chain(others) {
        let said = desk.tidegate(noun, &[args, &["-o", "json"]].concat()).await;
        json_of(&said.out);
    }
    let list = json_of(&desk.tidegate("bans", &["list", "-o", "json"]).await.done());
    assert_eq!(list["items"][2]["reason"], "a\u{1b}: \"b\" # c", "{list}");
    let list = desk.tidegate("bans", &["list", "-o", "yaml"]).await.done();
    assert_eq!(
        yaml_serde::from_str::<Value>(&list).unwrap()["items"][2]["reason"],
        "a\u{1b}: \"b\" # c",
        "{list}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_another_program_is_a_failure_of_every_command() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("page.yaml", "{apiVersion: tidegate.dev/v1, kind: Flags, spec: {enableRouteCache: true}}");
    desk.file("list.txt", "9.9.9.9\n");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(async || axum::Json(json!({ "ok": true })));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let changing: [(&str, &[&str]); 11] = [
        ("ban", &["9.9.9.9"]),
        ("unban", &["9.9.9.9"]),
        ("allow", &["9.9.9.9"]),
        ("flags", &["off"]),
        ("refresh", &[]),
        ("bans", &["import", "list.txt"]),
        ("apply", &["-f", "page.yaml"]),
        ("limits", &["delete", "x"]),
        ("restore", &["list.txt"]),
        ("geo", &["import", "list.txt"]),
        ("token", &["create", "--name", "x", "--role", "read"]),
    ];
    for (noun, args) in PRINTING.into_iter().filter(|(_, args)| !is_passed_on(args)).chain(changing) {
        let mut command = program(desk.dir.path());
        command.arg(noun).args(args).args(["--server", &other, "--token-file", "token"]);
        let said = run(command, "").await.failed();
        assert!(said.contains("which is not the admin service's word"), "{noun} {args:?}: {said}");
    }
}

#[test]
fn what_only_looks_at_a_database_does_not_make_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["token", "list"][..], &["token", "revoke", "--name", "x"], &["audit", "verify"]] {
        let said = printed(&tidegate(dir.path(), args).output().unwrap());
        assert!(said.contains("there is no database"), "{said}");
    }
    let countries = tempfile::tempdir().unwrap();
    let list = countries.path().join("list.csv");
    std::fs::write(&list, "10.0.0.0,10.255.255.255,DE\n").unwrap();
    let import = ["geo", "import", list.to_str().unwrap()];
    let said = printed(&tidegate(dir.path(), &import).output().unwrap());
    assert!(said.contains("there is no database"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_is_shown_with_its_field() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let err = desk.tidegate("ban", &["9.9.9.9", "--ttl", "0s"]).await.failed();
    assert!(err.contains("would be over already") && err.contains("(422 invalid_field)"), "{err}");
    let err = desk.tidegate("ban", &["9.9.9.9", "--ttl", "a while"]).await.failed();
    assert!(err.contains("write numbers with units"), "{err}");
    let err = desk.tidegate("ban", &["999.9.9.9"]).await.failed();
    assert!(err.contains("999.9.9.9"), "{err}");
    assert_eq!(service.get("/api/admin/ip-monitor").await.ok()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_are_set_and_shown() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let set = ["set", "enableRouteCache=on", "enableGeoRulesCache=25%", "enableIpBlacklistCache=shadow"];
    desk.tidegate("flags", &set).await.done();
    let flags = service.get("/api/admin/optimization/flags").await.ok();
    has(&flags, json!({"enableRouteCache": true, "enableGeoRulesCache": {"percent": 25}}));
    let shown = desk.tidegate("flags", &["get"]).await.done();
    let line = shown.lines().find(|line| line.starts_with("enableGeoRulesCache")).unwrap();
    assert!(line.contains("25%") && line.contains("admin"), "{shown}");
    let off = desk.tidegate("flags", &["off", "-o", "yaml"]).await.done();
    assert!(off.contains("enableIpBlacklistCache: false"), "{off}");
    let wrong = desk.tidegate("flags", &["set", "enableRouteCache=on", "enableX=on"]).await.failed();
    assert!(wrong.contains("there is no flag `enableX`"), "{wrong}");
    assert_eq!(service.get("/api/admin/optimization/flags").await.ok()["enableRouteCache"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_service_gateways_and_requests_is_shown() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let status = desk.tidegate("status", &[]).await;
    assert!(status.out.contains("geo") && status.out.contains("bans"), "{status:?}");
    service.sql("INSERT INTO ip_monitor (ip) VALUES ('1.2.3.4/99')");
    assert_eq!(service.health_codes("reasons").await, ["rows_quarantined"]);
    let status = desk.tidegate("status", &[]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.out.contains("wrong: rows_quarantined: "), "{status:?}");
    TestGateway::default().sync(&service, "0s").await;
    let gateways = desk.tidegate("gateways", &[]).await.done();
    assert!(gateways.contains("node-1") && gateways.contains("127.0.0.1"), "{gateways}");
    let stats = desk.tidegate("recording", &[]).await.done();
    assert!(stats.starts_with("exactly 100.0000 % complete\n"), "{stats}");
    service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    let args = ["https://shop.example.com:8443/cart?id=7", "--ip", "9.9.9.9", "-H", "Accept: text/html"];
    let explained = desk.tidegate("explain", &args).await.done();
    assert!(
        explained.contains("verdict: deny\n")
            && explained.contains("reason: ip_banned\n")
            && explained.contains("entry: 9.9.9.9 is banned everywhere\n"),
        "{explained}"
    );
    let behind = desk.tidegate("refresh", &["--wait", "0s"]).await.failed();
    assert!(behind.contains("not there yet: node-1"), "{behind}");
}
