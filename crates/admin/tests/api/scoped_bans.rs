//! Bans that apply at some hostnames or routes only: by API, SQL, lists, sources, rules and manifests.

use serde_json::{Value, json};
use tidegate_policy::check::Check;
use tidegate_policy::decide::IpFinding;
use tidegate_policy::wire::check::{Answer, Found, Question, path};
use tidegate_policy::wire::event::TrafficEvent;

use crate::command_line::Desk;
use crate::test_gateway::{event, record};
use crate::test_service::{TestService, each, has, until};

const BAN: &str = "/api/admin/ip/ban";
const MONITOR: &str = "/api/admin/ip-monitor";

async fn ban(service: &TestService, body: Value) -> Value {
    service.post(BAN, body.to_string()).await.ok()
}

async fn status(service: &TestService, ip: &str) -> Value {
    service.get(&format!("{MONITOR}/{ip}")).await.ok()
}

/// What explain says of a request, with the entries that cover it elsewhere.
async fn explained(service: &TestService, ip: &str, host: &str, path: &str) -> (String, String, Vec<String>) {
    let answer = service.get(&format!("/api/admin/explain?ip={ip}&host={host}&path={path}")).await.ok();
    let check = &answer["checks"]["ip"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let elsewhere = check["elsewhere"].as_array().into_iter().flatten();
    (text(&check["says"]), text(&check["entry"]), elsewhere.map(|one| text(&one["entry"])).collect())
}

/// What the check of a gateway in direct mode says.
async fn direct(service: &TestService, ip: &str, host: &str, to: &str) -> IpFinding {
    let question = Question {
        id: 7,
        client: ip.parse().ok(),
        method: b"GET",
        host: host.as_bytes(),
        path: to.as_bytes(),
        ..Question::default()
    };
    let answer = service.post_as_gateway(path(Check::Ip), question.to_bytes().unwrap()).await;
    match Answer::from_bytes(answer.binary()).unwrap().found {
        Found::Ip(found) => found,
        other => panic!("{other:?}"),
    }
}

async fn route(service: &TestService, name: &str, host: &str, path: &str) {
    let document = json!({"metadata": {"name": name}, "spec": {"hostnames": [host],
        "rules": [{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "demo", "port": 80}]}]}});
    service.put_json(&format!("/api/admin/routes/{name}"), &document).await.ok();
}

/// Address, scope and source of all rows.
fn rows(service: &TestService) -> Vec<String> {
    service.column(
        "SELECT ip || ' -' || coalesce(' ' || source, '') FROM ip_monitor UNION ALL
         SELECT ip || ' ' || applies_to || rtrim(' ' || source) FROM scoped_bans ORDER BY 1",
    )
}

const A: &str = r#"{"hostnames":["a.example"]}"#;
const B: &str = r#"{"hostnames":["b.example"]}"#;

fn at(scope: &str) -> Value {
    serde_json::from_str(scope).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_applies_where_it_says() {
    let service = TestService::start().await;
    let ip = "11.0.0.7";
    let scope = json!({"hostnames": ["*.b.example", "a.example"]});
    let banned = ban(&service, json!({"ip": "11.0.0.0/24", "applies_to": scope})).await;
    has(&banned, json!({"status": "banned", "applies_to": scope}));
    has(&status(&service, ip).await, json!({"status": "banned", "applies_to": scope}));
    let block: tidegate_policy::address::Prefix = "11.0.0.0/24".parse().unwrap();
    for (host, is_banned) in [("a.example", true), ("x.B.example.:80", true), ("b.example", false)] {
        let found = direct(&service, ip, host, "/").await;
        assert_eq!(found, if is_banned { IpFinding::Banned(block) } else { IpFinding::Clear }, "{host}");
        let (says, entry, elsewhere) = explained(&service, ip, host, "/").await;
        let wanted = if is_banned { ("banned", "11.0.0.0/24", 0) } else { ("clear", "-", 1) };
        assert_eq!((says.as_str(), entry.as_str(), elsewhere.len()), wanted, "{host}");
    }

    // A route need not exist, which is said; then it is the longer prefix that decides.
    let asked = json!({"ip": ip, "applies_to": {"routes": ["default/orders"]}, "mode": "enforce"});
    let banned = ban(&service, asked).await;
    assert!(banned["warnings"][0].as_str().unwrap().contains("`orders`"), "{banned}");
    assert_eq!(explained(&service, ip, "c.example", "/o").await.0, "clear");
    assert!(service.health_codes("reasons").await.contains(&"ban_route_missing".to_owned()));
    route(&service, "orders", "c.example", "/o").await;
    assert_eq!(explained(&service, ip, "c.example", "/o/1").await.1, ip);
    assert_eq!(explained(&service, ip, "c.example", "/p").await.0, "clear");
    assert_eq!(direct(&service, ip, "c.example", "/o/1").await, IpFinding::Banned(ip.parse().unwrap()));
    assert!(!service.health_codes("reasons").await.contains(&"ban_route_missing".to_owned()));
    let now = status(&service, ip).await;
    has(&now, json!({"entry": ip, "applies_to": {"routes": ["orders"]}}));
    assert_eq!(now["limited"][0]["applies_to"], scope, "{now}");

    // What holds everywhere comes first; the others stay beside it.
    ban(&service, json!({"ip": ip})).await;
    assert_eq!(
        explained(&service, ip, "d.example", "/").await,
        ("banned".into(), ip.into(), vec![ip.into(), "11.0.0.0/24".into()])
    );
    // What was said last of a place counts.
    ban(&service, json!({"ip": ip, "applies_to": {"routes": ["orders"]}, "reason": "again"})).await;
    let audit = service.get("/api/admin/audit?kind=ban").await.ok();
    let orders = json!({"routes": ["orders"]});
    has(&audit["items"][0], json!({"before": {"applies_to": orders, "reason": null}}));
    has(&audit["items"][0], json!({"after": {"applies_to": orders, "reason": "again"}}));
    service.post("/api/admin/ip/unban", json!({"ip": ip}).to_string()).await.ok();
    service.post("/api/admin/ip/unban", json!({"ip": "11.0.0.0/24"}).to_string()).await.ok();
    assert_eq!(explained(&service, ip, "a.example", "/").await, ("clear".into(), "-".into(), vec![]));

    for (scope, pointer, code) in [
        (json!({}), "/applies_to", "required"),
        (json!({"hostnames": ["a.example:80"]}), "/applies_to/hostnames/0", "invalid"),
        (json!({"routes": []}), "/applies_to/routes", "invalid"),
        (json!({"host": "a.example", "routes": ["r"]}), "/applies_to/host", "unknown_field"),
    ] {
        let body = json!({"ip": ip, "applies_to": scope}).to_string();
        service.post(BAN, body).await.wrong_field(422, "invalid_field", pointer, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_sql_have_scopes_and_one_that_cannot_be_read_bans_nobody() {
    let service = TestService::start().await;
    service.sql(
        r#"INSERT INTO scoped_bans (ip, status, applies_to) VALUES
           ('11.0.0.1', 'banned', '{"hostnames": ["a.example"]}'), ('11.0.0.1/32', 'banned', '{"hostnames": ["b.example"]}'),
           ('11.0.0.2', 'watched', '{"hostnames": ["a.example"]}'),
           ('11.0.0.4', 'banned', 'a.example'), ('11.0.0.5', 'allowed', '{"hostnames": ["a.example"]}')"#,
    );
    let says = async |ip: &str, host: &str| explained(&service, ip, host, "/").await.0;
    for (ip, host, found) in [
        ("11.0.0.1", "a.example", "banned"),
        ("11.0.0.1", "b.example", "banned"),
        ("11.0.0.1", "c.example", "clear"),
        ("11.0.0.2", "a.example", "watched"),
        ("11.0.0.4", "a.example", "clear"),
        ("11.0.0.5", "a.example", "clear"),
    ] {
        assert_eq!(says(ip, host).await, found, "{ip} at {host}");
    }
    let quarantine = service.health().await["quarantine"].clone();
    let bad = each(&quarantine["rows"], |row| format!("{}: {}", row["table"], row["key"]));
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert!(bad.iter().all(|row| row.contains("scoped_bans")), "{bad:?}");
    let why = quarantine["rows"][0]["detail"].as_str().unwrap();
    assert!(why.contains("applies_to") && why.contains("it has no effect"), "{why}");
    // One that could be read before stays in force as it was.
    service.sql("UPDATE scoped_bans SET applies_to = 'x' WHERE ip = '11.0.0.1'");
    assert_eq!(says("11.0.0.1", "a.example").await, "banned");
    assert_eq!(says("11.0.0.1", "c.example").await, "clear");
    // By hand it is replaced however its scope is written.
    ban(&service, json!({"ip": "11.0.0.2", "applies_to": at(A), "mode": "shadow"})).await;
    assert_eq!(rows(&service).iter().filter(|row| row.starts_with("11.0.0.2 ")).count(), 1);
    let enforced = service.post("/api/admin/bans/enforce", r#"{"ip": "11.0.0.2"}"#).await.ok();
    has(&enforced, json!({"rows": 1}));
    has(&enforced["bans"][0], json!({"status": "banned", "applies_to": at(A)}));
    assert_eq!(
        (says("11.0.0.2", "a.example").await, says("11.0.0.2", "b.example").await),
        ("banned".into(), "clear".into())
    );
    let audit = service.get("/api/admin/audit?name=11.0.0.2").await.ok();
    has(&audit["items"][0], json!({"before": {"status": "watched", "applies_to": at(A)}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_carry_scopes_and_never_widen_or_narrow_what_others_have() {
    let service = TestService::start().await;
    for scope in [at(A), at(B)] {
        ban(&service, json!({"ip": "11.0.0.1", "reason": "x", "applies_to": scope})).await;
    }
    ban(&service, json!({"ip": "11.0.0.2"})).await;
    let other = TestService::start().await;
    let of_one = [format!("11.0.0.1 {A}"), format!("11.0.0.1 {B}"), "11.0.0.2 -".to_owned()];
    for format in ["json", "jsonl", "csv"] {
        let list = service.get(&format!("/api/admin/bans/export?format={format}")).await;
        let list = String::from_utf8(list.bytes).unwrap();
        let path = format!("/api/admin/bans/import?format={format}&strict=true");
        // Where it comes from it changes nothing.
        has(&service.post(&path, list.clone()).await.ok(), json!({"added": 0, "kept": 3, "refused": {}}));
        assert_eq!(rows(&service), of_one, "{format}");
        has(&other.post(&path, list).await.ok(), json!({"added": 3, "refused": {}}));
        assert_eq!(rows(&other), of_one, "{format}");
        other.sql("DELETE FROM ip_monitor; DELETE FROM scoped_bans");
    }
    let sql = service.get("/api/admin/bans/export?format=sql").await;
    other.sql(&String::from_utf8(sql.bytes).unwrap());
    assert_eq!(rows(&other), rows(&service));
    // Addresses alone would be banned everywhere.
    let plain = service.get("/api/admin/bans/export").await;
    let plain = String::from_utf8(plain.bytes).unwrap();
    assert!(plain.starts_with("11.0.0.2\n# left out") && plain.contains(": 2;"), "{plain}");
    has(
        &service.post("/api/admin/bans/import", plain).await.ok(),
        json!({"added": 0, "kept": 1, "refused": {}}),
    );
    assert_eq!(rows(&service), of_one);

    // What others have stays, and the list has what it says beside it.
    let r = r#"{"routes":["r"]}"#;
    let list = r#"[{"ip": "11.0.0.1"}, {"ip": "11.0.0.2", "applies_to": {"routes": ["r"]}},
        {"ip": "11.0.0.3", "applies_to": {"routes": ["r"]}}, {"ip": "11.0.0.4", "applies_to": {"route": "r"}}]"#;
    let done = service.post("/api/admin/bans/import?source=s", list).await.ok();
    has(&done, json!({"added": 3, "kept": 0, "refused": {"bad_applies_to": 1}}));
    let wanted = [
        "11.0.0.1 - s".to_owned(),
        format!("11.0.0.1 {A}"),
        format!("11.0.0.1 {B}"),
        "11.0.0.2 -".to_owned(),
        format!("11.0.0.2 {r} s"),
        format!("11.0.0.3 {r} s"),
    ];
    assert_eq!(rows(&service), wanted);
    has(&service.post("/api/admin/bans/import?source=s", list).await.ok(), json!({"added": 0, "kept": 3}));
    // Its own takes the new scope.
    let own = r#"[{"ip": "11.0.0.3"}]"#;
    let done = service.post("/api/admin/bans/import?source=s&mode=replace", own).await.ok();
    has(&done, json!({"added": 1, "removed": 3}));
    let wanted = [&of_one[..], &["11.0.0.3 - s".to_owned()]].concat();
    assert_eq!(rows(&service), wanted);
    let twice = r#"[{"ip": "11.0.0.9", "applies_to": {"routes": ["r"]}}, {"ip": "11.0.0.9"}]"#;
    has(&service.post("/api/admin/bans/import", twice).await.ok(), json!({"added": 2, "refused": {}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_of_several_places_and_origins_never_replace_each_other() {
    let service = TestService::start().await;
    let says = async |host: &str| explained(&service, "11.0.0.1", host, "/").await.0;
    service.post("/api/admin/bans/import?source=lst&mode=replace", "11.0.0.1\n").await.ok();
    for scope in [at(A), at(B)] {
        ban(&service, json!({"ip": "11.0.0.1", "applies_to": scope})).await;
    }
    assert_eq!(
        rows(&service),
        ["11.0.0.1 - lst".to_owned(), format!("11.0.0.1 {A}"), format!("11.0.0.1 {B}")]
    );
    assert_eq!((says("a.example").await, says("c.example").await), ("banned".into(), "banned".into()));
    // The list goes; each place stays.
    service.post("/api/admin/bans/import?source=lst&mode=replace&force=true", "").await.ok();
    assert_eq!((says("a.example").await, says("c.example").await), ("banned".into(), "clear".into()));
    // One place is taken back, and no other.
    let unban = |scope: Value| json!({"ip": "11.0.0.1", "applies_to": scope}).to_string();
    let now = service.post("/api/admin/ip/unban", unban(at(A))).await.ok();
    has(&now, json!({"rows": 1, "status": "banned", "applies_to": at(B)}));
    assert_eq!((says("a.example").await, says("b.example").await), ("clear".into(), "banned".into()));
    let missing = service.post("/api/admin/ip/unban", unban(at(A))).await.problem(404, "not_banned");
    assert!(missing["detail"].as_str().unwrap().contains("b.example"), "{missing}");
    let body = unban(json!({}));
    service.post("/api/admin/ip/unban", body).await.wrong_field(
        422,
        "invalid_field",
        "/applies_to",
        "required",
    );
    // An entry of the allow list takes nothing away, and says so.
    let allowed = service.put("/api/admin/allow-list/11.0.0.1", "{}").await.ok();
    assert!(allowed["warnings"][0].as_str().unwrap().contains("stay"), "{allowed}");
    assert_eq!(says("b.example").await, "allowed");
    let body = json!({"ip": "11.0.0.1", "applies_to": at(A)});
    service.post(BAN, body.to_string()).await.problem(409, "address_allowed");
    let forced = ban(&service, json!({"ip": "11.0.0.1", "applies_to": at(A), "force": true})).await;
    assert!(forced["warnings"][0].as_str().unwrap().contains("allow list"), "{forced}");
    assert_eq!(says("a.example").await, "allowed");
    service.delete("/api/admin/allow-list/11.0.0.1").await.ok();
    assert_eq!((says("a.example").await, says("b.example").await), ("banned".into(), "banned".into()));
    service.post("/api/admin/ip/unban", r#"{"ip": "11.0.0.1"}"#).await.ok();
    assert!(rows(&service).is_empty());
    // One place is enforced, and no other.
    for scope in [at(A), at(B)] {
        ban(&service, json!({"ip": "11.0.0.1", "applies_to": scope, "mode": "shadow"})).await;
    }
    let body = json!({"ip": "11.0.0.1", "applies_to": at(A)}).to_string();
    has(&service.post("/api/admin/bans/enforce", body.clone()).await.ok(), json!({"rows": 1}));
    assert_eq!((says("a.example").await, says("b.example").await), ("banned".into(), "watched".into()));
    service.post("/api/admin/bans/enforce", body).await.problem(404, "not_in_shadow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_and_a_ban_by_hand_hold_beside_each_other() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("list.txt"), "11.0.0.1\n11.0.0.2\n").unwrap();
    let service = TestService::start_with_files(files.path()).await;
    let document = json!({"path": "list.txt", "interval": "30d", "applies_to": {"hostnames": ["b.example"]}});
    service.put_json("/api/admin/sources/s", &document).await.ok();
    until("it is fetched", async || (status(&service, "11.0.0.1").await["source"] == "s").then_some(()))
        .await;
    ban(&service, json!({"ip": "11.0.0.1", "applies_to": {"hostnames": ["a.example"]}})).await;
    let says = async |ip: &str| {
        let mut all = Vec::new();
        for host in ["a.example", "b.example", "c.example"] {
            all.push(explained(&service, ip, host, "/").await.0 == "banned");
        }
        all
    };
    assert_eq!(says("11.0.0.1").await, [true, true, false]);
    assert_eq!(says("11.0.0.2").await, [false, true, false]);
    let listed = service.get(&format!("{MONITOR}?status=banned")).await.ok();
    let listed = each(&listed["items"], |one| {
        format!("{} {} {}", one["ip"], one["source"], one["applies_to"]["hostnames"][0])
    });
    assert_eq!(listed.len(), 3, "{listed:?}");
    // Its list is not what bans alone: the row goes, and the source's entry stays.
    service.post("/api/admin/ip/unban", r#"{"ip": "11.0.0.1"}"#).await.ok();
    assert_eq!(says("11.0.0.1").await, [false, true, false]);
    service.post("/api/admin/ip/unban", r#"{"ip": "11.0.0.1"}"#).await.problem(409, "banned_by_source");
    // Everywhere, and gone.
    let document = json!({"path": "list.txt", "interval": "30d"});
    service.put_json("/api/admin/sources/s", &document).await.ok();
    until("it holds everywhere", async || (says("11.0.0.1").await == [true; 3]).then_some(())).await;
    service.delete("/api/admin/sources/s").await.ok();
    assert_eq!(says("11.0.0.1").await, [false; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_names_the_sources_of_what_applied_to_its_request() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("list.txt"), "11.0.0.1\n").unwrap();
    let service = TestService::start_with_files(files.path()).await;
    route(&service, "orders", "b.example", "/o").await;
    for (name, scope, mode) in [
        ("at_a", json!({"hostnames": ["a.example"]}), "enforce"),
        ("at_b", json!({"hostnames": ["b.example"]}), "enforce"),
        ("on_orders", json!({"routes": ["orders"]}), "enforce"),
        ("shadow", json!({"hostnames": ["a.example", "b.example"]}), "shadow"),
    ] {
        let document = json!({"path": "list.txt", "interval": "30d", "applies_to": scope, "mode": mode});
        service.put_json(&format!("/api/admin/sources/{name}"), &document).await.ok();
    }
    until("all are fetched", async || {
        let entries = service.get(&format!("{MONITOR}/11.0.0.1")).await.ok()["entries"].clone();
        (entries.as_array()?.len() == 4).then_some(())
    })
    .await;
    let asked = |number, host: &str, path: &str| TrafficEvent {
        client: "11.0.0.1".parse().ok(),
        method: Some(b"GET".to_vec()),
        host: Some(host.into()),
        path: Some(path.into()),
        ..event(number)
    };
    let rule = || Some("11.0.0.1".to_owned());
    let banned = || Some("ip_banned".to_owned());
    let denied = |number, host: &str, path: &str| TrafficEvent {
        reason: banned(),
        rule: rule(),
        ..asked(number, host, path)
    };
    let events = [
        denied(1, "A.example:80", "/o"),
        denied(2, "b.example", "/o/1"),
        denied(3, "b.example", "/p"),
        TrafficEvent { route: Some("orders".to_owned()), ..denied(4, "b.example", "/by-a-header") },
        TrafficEvent { would_deny: banned(), would_deny_rule: rule(), ..asked(5, "a.example", "/") },
        asked(6, "a.example", "/"),
    ];
    record(&service, 1, events.into()).await;
    let named: Vec<String> =
        service.column("SELECT coalesce(ban_source, '-') FROM traffic_events ORDER BY number");
    assert_eq!(named, ["at_a", "at_b,on_orders", "at_b", "at_b,on_orders", "shadow", "-"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_ban_where_they_say_beside_what_others_have() {
    let service = TestService::start().await;
    let scopes = [
        Some(json!({"hostnames": ["one.example"]})),
        Some(json!({"hostnames": ["two.example"]})),
        Some(json!({"hostnames": ["three.example"]})),
        None,
    ];
    for (n, scope) in scopes.iter().enumerate() {
        let rule = json!({"match": {"status": 401}, "threshold": 2, "window": "1m", "ban": {"ttl": "1h"},
            "applies_to": scope});
        service.put_json(&format!("/api/admin/auto-bans/r{n}"), &rule).await.ok();
    }
    until("the rules count", async || {
        let report = service.get("/api/admin/stats/auto-bans").await.ok();
        (report["items"].as_array()?.len() == scopes.len()).then_some(())
    })
    .await;
    let one = at(r#"{"hostnames":["one.example"]}"#);
    ban(&service, json!({"ip": "11.0.0.1", "applies_to": one, "mode": "shadow"})).await;
    let time_ms = jiff::Timestamp::now().as_millisecond() as u64;
    let of = |client: &str, number| TrafficEvent {
        time_ms,
        client: client.parse().ok(),
        status: Some(401),
        ..event(number)
    };
    record(&service, 1, vec![of("11.0.0.1", 1), of("11.0.0.1", 2)]).await;
    let wanted = [
        "11.0.0.1 - auto.r3",
        r#"11.0.0.1 {"hostnames":["one.example"]}"#,
        r#"11.0.0.1 {"hostnames":["one.example"]} auto.r0"#,
        r#"11.0.0.1 {"hostnames":["three.example"]} auto.r2"#,
        r#"11.0.0.1 {"hostnames":["two.example"]} auto.r1"#,
    ];
    until("all have banned", async || (rows(&service) == wanted).then_some(())).await;
    service.sql("DELETE FROM ip_monitor");
    let says = async |host: &str| explained(&service, "11.0.0.1", host, "/").await.0;
    for (host, found) in [
        ("one.example", "banned"),
        ("two.example", "banned"),
        ("three.example", "banned"),
        ("x.example", "clear"),
    ] {
        assert_eq!(says(host).await, found, "{host}");
    }
    // What a rule bans is taken back like other bans.
    service.post("/api/admin/ip/unban", r#"{"ip": "11.0.0.1"}"#).await.ok();
    assert!(rows(&service).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_and_manifests_have_scopes() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    let args = ["11.0.0.1", "--host", "a.example", "--host", "*.b.example", "--route", "team/r"];
    let said = desk.tidegate("ban", &args).await.done();
    assert!(
        said.contains("applies to *.b.example, a.example; route team/r") && said.contains("warning"),
        "{said}"
    );
    let listed = desk.tidegate("bans", &["list"]).await.done();
    assert!(listed.contains("*.b.example, a.example; route team/r"), "{listed}");
    let explained = desk.tidegate("explain", &["http://c.example/", "--ip", "11.0.0.1"]).await.done();
    let elsewhere = "elsewhere: 11.0.0.1 is banned for *.b.example, a.example; route team/r\n";
    assert!(explained.ends_with(elsewhere), "{explained}");
    let status = desk.tidegate("status", &[]).await.out;
    assert!(status.lines().any(|line| line.split_whitespace().eq(["scoped_bans", "1"])), "{status}");
    let exported = desk.tidegate("export", &["bans"]).await.done();
    assert!(exported.contains("*.b.example") && exported.contains("team/r"), "{exported}");
    let other = TestService::start().await;
    let other_desk = Desk::new(&other);
    other_desk.fed("apply", &["-f", "-"], &exported).await.done();
    assert_eq!(rows(&other), rows(&service));
    let again = other_desk.fed("apply", &["-f", "-"], &exported).await.done();
    assert!(again.contains("unchanged") && !again.contains("configured"), "{again}");
    // Of one address there may be a document for each place; what rules and lists have is not touched.
    let sql = r#"INSERT INTO scoped_bans (ip, applies_to, source) VALUES ('11.0.0.1', '{"hostnames":["c.example"]}', 'auto.r'),
        ('11.0.0.1', '{"hostnames":["a.example"]}', ''), ('11.0.0.1', '{"hostnames":["a.example"]}', 'lst')"#;
    other.sql(sql);
    let several = other_desk.tidegate("export", &["bans"]).await.done();
    assert_eq!(several.matches("kind: Ban\n").count(), 2, "{several}");
    other_desk.fed("diff", &["-f", "-", "--prune"], &several).await.done();
    other_desk.fed("apply", &["-f", "-", "--prune"], &several).await.done();
    assert_eq!(rows(&other).len(), 4);
    let said = other_desk.tidegate("unban", &["11.0.0.1", "--host", "a.example"]).await.done();
    assert!(said.contains("11.0.0.1 is banned"), "{said}");
    assert_eq!(rows(&other).len(), 2);
    let said = other_desk.tidegate("bans", &["export"]).await;
    assert!(said.err.contains("left out") && said.out.contains("# left out"), "{said:?}");
    let allowed = "apiVersion: tidegate.dev/v1\nkind: AllowListEntry\nmetadata: {name: 11.0.0.9}\nspec: {applies_to: {routes: [r]}}\n";
    let refused = other_desk.fed("apply", &["-f", "-"], allowed).await.failed();
    assert!(refused.contains("applies_to"), "{refused}");
    let pruned = "apiVersion: tidegate.dev/v1\nkind: BanList\nitems: []\n";
    other_desk.fed("apply", &["-f", "-", "--prune"], pruned).await.done();
    assert_eq!(rows(&other), [r#"11.0.0.1 {"hostnames":["c.example"]} auto.r"#]);
}

/// For each combination of what one address may have by hand, of lists and of rules, everywhere and at some hostnames,
/// in shadow and not, an address that has it: SQL for its rows.
fn all_mixes() -> (usize, String) {
    let later = "2099-01-01 00:00:00.000";
    let everywhere = [
        "",
        "('{}', 'banned', 'by hand', NULL, NULL)",
        "('{}', 'watched', NULL, '@later', NULL)",
        "('{}', 'banned', 'r', '@later', 'auto.r')",
        "('{}', 'banned', NULL, NULL, 'lst,other')",
        "('{}', 'watched', NULL, NULL, 'lst')",
        // Written twice by another program.
        "('{}', 'banned', 'r', '@later', 'auto.r'), ('{}/32', 'watched', 'by hand', NULL, NULL)",
        "('{}', 'watched', 'one', NULL, NULL), ('{}/32', 'banned', 'other', NULL, NULL)",
    ];
    let by_hand =
        ["", "('{}', '@a', '', 'banned', 'x', NULL)", "('{}', '@a', '', 'watched', NULL, '@later')"];
    let twice = "('{}', '@b', '', 'banned', 'one', NULL), ('{}', '@ b', '', 'watched', 'other', NULL)";
    let other_place = ["", "('{}', '@b', '', 'banned', NULL, '@later')", twice];
    let of_rule = ["", "('{}', '@a', 'auto.r', 'banned', 'r', '@later')"];
    let of_list =
        ["", "('{}', '@a', 'lst', 'watched', 'x', NULL), ('{}', '@b', 'lst', 'banned', NULL, NULL)"];
    let (mut count, mut rows) = (0, [Vec::new(), Vec::new()]);
    for (a, b, c, d, e) in iproduct(&everywhere, &by_hand, &other_place, &of_rule, &of_list) {
        let ip = format!("11.1.{}.{}", count / 250, count % 250);
        count += 1;
        let of = |text: &&str| {
            let spaced = B.replace(':', ": ");
            let text = text.replace("@ b", &spaced).replace("@a", A).replace("@b", B);
            (!text.is_empty()).then(|| text.replace("{}", &ip).replace("@later", later))
        };
        rows[0].extend(of(a));
        rows[1].extend([b, c, d, e].into_iter().filter_map(of));
    }
    let [everywhere, scoped] = rows.map(|rows| rows.join(", "));
    let sql = format!(
        "INSERT INTO ip_monitor (ip, status, reason, expires_at, source) VALUES {everywhere};
         INSERT INTO scoped_bans (ip, applies_to, source, status, reason, expires_at) VALUES {scoped}"
    );
    (count, sql)
}

/// All combinations of one of each.
fn iproduct<'s>(
    a: &'s [&'s str],
    b: &'s [&'s str],
    c: &'s [&'s str],
    d: &'s [&'s str],
    e: &'s [&'s str],
) -> impl Iterator<Item = (&'s &'s str, &'s &'s str, &'s &'s str, &'s &'s str, &'s &'s str)> {
    a.iter().flat_map(move |a| {
        b.iter().flat_map(move |b| {
            c.iter().flat_map(move |c| d.iter().flat_map(move |d| e.iter().map(move |e| (a, b, c, d, e))))
        })
    })
}

/// All that the rows of bans say, with their times.
fn all_rows(service: &TestService, of: &str) -> Vec<String> {
    service.column(&format!(
        "SELECT json_array(ip, source, NULL, status, reason, expires_at, updated_at) FROM ip_monitor WHERE {of} UNION ALL
         SELECT json_array(ip, source, applies_to, status, reason, expires_at, updated_at) FROM scoped_bans WHERE {of}
         ORDER BY 1"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_changes_nothing_where_it_comes_from_whatever_an_address_has() {
    let service = TestService::start().await;
    let (count, sql) = all_mixes();
    service.sql(&sql);
    let before = all_rows(&service, "true");
    assert!(count > 200 && before.len() > count, "{count} {}", before.len());
    let desk = Desk::new(&service);
    let exported = desk.tidegate("export", &["bans"]).await.done();
    for prune in [&["-f", "-"][..], &["-f", "-", "--prune"]] {
        let said = desk.fed("apply", prune, &exported).await.done();
        assert!(said.contains("unchanged"), "{said}");
        for word in ["created", "configured", "removed"] {
            assert!(!said.contains(word), "{said}");
        }
        assert_eq!(all_rows(&service, "true"), before);
    }
    // Elsewhere it makes the bans by hand, once each, and is complete: exported again it is the same.
    let other = TestService::start().await;
    let other_desk = Desk::new(&other);
    other_desk.fed("apply", &["-f", "-"], &exported).await.done();
    assert_eq!(other_desk.tidegate("export", &["bans"]).await.done(), exported);
    assert_eq!(all_rows(&other, "coalesce(source, '') <> ''"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_may_be_255_scopes() {
    let service = TestService::start().await;
    let rows = (1..=254).map(|n| format!(r#"('11.0.1.{n}', 'banned', '{{"hostnames": ["h{n}.example"]}}')"#));
    let rows: Vec<String> = rows.collect();
    service.sql(&format!("INSERT INTO scoped_bans (ip, status, applies_to) VALUES {}", rows.join(", ")));
    service.get("/api/admin/explain?ip=11.0.1.1&path=/").await.ok();
    let of = |ip: &str, n: u32| json!({"ip": ip, "applies_to": {"hostnames": [format!("h{n}.example")]}});
    ban(&service, of("11.0.2.1", 300)).await;
    let refused = service.post(BAN, of("11.0.2.2", 301).to_string()).await.problem(409, "table_full");
    assert!(refused["detail"].as_str().unwrap().contains("255"), "{refused}");
    ban(&service, of("11.0.2.2", 7)).await;
    // By SQL one more has no effect, which is said, until there is room.
    service.sql(
        r#"INSERT INTO scoped_bans (ip, applies_to) VALUES ('11.0.3.1', '{"hostnames": ["a.example"]}')"#,
    );
    assert_eq!(explained(&service, "11.0.3.1", "a.example", "/").await.0, "clear");
    assert_eq!(explained(&service, "11.0.2.1", "h300.example", "/").await.0, "banned");
    let health = service.health().await;
    assert_eq!(health["quarantine"]["left_out"]["scoped_bans"], 1, "{}", health["quarantine"]);
    assert!(service.health_codes("reasons").await.contains(&"scopes_full".to_owned()));
    // Nor does a source find room.
    let scope = json!({"hostnames": ["s.example"]});
    let source = json!({"url": "https://lists.example.com/list", "interval": "30d", "applies_to": scope});
    service.put("/api/admin/sources/s", source.to_string()).await.problem(409, "table_full");
    let document =
        json!({"apiVersion": "tidegate.dev/v1", "kind": "Source", "metadata": {"name": "s"}, "spec": source});
    let documents = json!({"documents": [document]}).to_string();
    service.post("/api/admin/apply", documents).await.problem(422, "invalid_field");
    service.sql(&format!(
        "INSERT INTO ban_sources (name, document) VALUES ('s', '{source}'); DELETE FROM scoped_bans WHERE ip = '11.0.3.1'"
    ));
    explained(&service, "11.0.2.1", "h300.example", "/").await;
    service.post("/api/admin/sources/s/refresh", "").await.problem(409, "table_full");
    service.sql(
        r#"DELETE FROM ban_sources; INSERT INTO scoped_bans (ip, applies_to) VALUES ('11.0.3.1', '{"hostnames": ["x.example"]}');
           DELETE FROM scoped_bans WHERE ip = '11.0.1.9'"#,
    );
    assert_eq!(explained(&service, "11.0.3.1", "x.example", "/").await.0, "banned");
    assert_eq!(service.health().await["quarantine"]["left_out"]["scoped_bans"], 0);
}
