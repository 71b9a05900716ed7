//! Bans that apply at some hostnames or routes only, on a real Envoy: two hosts, two routes, a ban and a source.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{Connection, Method, PATIENCE, Request};
use tidegate_stack::{Options, Stack, wait};

use crate::ban_latency;

/// Banned by hand on the route `api` of the first site, and by the source everywhere on the second.
const CLIENT: &str = "11.0.0.7";
/// In a block that is banned at all names of the second site.
const NEIGHBOUR: &str = "11.0.1.7";

fn start() -> Result<Stack> {
    let mut options = Options::for_test("scoped-bans")?;
    let files = options.dir.with_extension("files");
    std::fs::create_dir_all(&files)?;
    std::fs::write(files.join("list.txt"), format!("{CLIENT}\n"))?;
    options.admin_args.extend(["--source-files".into(), files.into()]);
    let stack = Stack::start(options)?;
    for (name, path) in [("shop", "/"), ("api", "/api")] {
        let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": [{"name": "demo", "port": 80}]});
        let hostnames = json!(["a.example", "b.example", "*.b.example"]);
        stack.put_spec(name, &json!({"hostnames": hostnames, "rules": [rule]}))?;
    }
    stack.all_flags(true)?;
    Ok(stack)
}

fn request(client: &str, host: &str, path: &str) -> Request {
    Request::get(path).header("host", host).from(client)
}

/// The cases of a request and whether it is banned, on a connection to a worker.
fn check(connection: &mut Connection, at: &str, cases: &[(&str, &str, &str, bool)]) -> Result<()> {
    for (client, host, path, is_banned) in cases {
        let answer = connection.send(&request(client, host, path))?;
        let code = if answer.status == 403 { answer.json()?["code"].clone() } else { Value::Null };
        let wanted = if *is_banned { (403, json!("ip_banned")) } else { (200, Value::Null) };
        ensure!((answer.status, code) == wanted, "{at}: {client} {host}{path}: {}", answer.status);
    }
    Ok(())
}

#[test]
fn each_denies_where_it_applies_on_every_worker_and_nowhere_else() {
    let stack = start().unwrap();
    let document = json!({"path": "list.txt", "interval": "30d", "applies_to": {"hostnames": ["b.example"]}});
    stack.api_ok(Method::PUT, "/api/admin/sources/list", Some(&document)).unwrap();
    let fetched = || {
        let answer = stack.api_ok(Method::GET, &format!("/api/admin/ip-monitor/{CLIENT}"), None)?;
        Ok((answer["source"] == "list").then_some(()))
    };
    wait::until("the source is fetched", PATIENCE, fetched).unwrap();
    let by_hand = json!({"ip": CLIENT, "applies_to": {"hostnames": ["a.example"], "routes": ["api"]}});
    stack.ban_with(&by_hand).unwrap();
    let block = json!({"ip": "11.0.1.0/24", "applies_to": {"hostnames": ["*.b.example"]}});
    stack.ban_with(&block).unwrap();

    let cases = [
        (CLIENT, "a.example", "/api/x", true),
        (CLIENT, "A.example.:80", "/api", true),
        (CLIENT, "a.example", "/x", false),
        (CLIENT, "b.example", "/x", true),
        (CLIENT, "b.example", "/api/x", true),
        (CLIENT, "c.b.example", "/api/x", false),
        (NEIGHBOUR, "c.b.example", "/x", true),
        (NEIGHBOUR, "b.example", "/x", false),
        (NEIGHBOUR, "a.example", "/api/x", false),
        ("11.0.2.7", "b.example", "/api", false),
    ];
    stack.everywhere(|connection, at| check(connection, at, &cases)).unwrap();
    // In shadow, database and cache agree.
    stack.flags(&json!({"enableIpBlacklistCache": "shadow", "enableRouteCache": "shadow"})).unwrap();
    for connection in &mut stack.connection_per_worker().unwrap() {
        check(connection, "in shadow", &cases).unwrap();
    }
    stack.all_flags(true).unwrap();
    stack.counted("tidegate.shadow.ip.compared", 20).unwrap();

    let explain = |host: &str, path: &str| {
        let target = format!("/api/admin/explain?ip={CLIENT}&host={host}&path={path}");
        stack.api_ok(Method::GET, &target, None).unwrap()["checks"]["ip"].clone()
    };
    let found = explain("a.example", "/api");
    assert_eq!((&found["says"], &found["applies_to"]), (&json!("banned"), &by_hand["applies_to"]), "{found}");
    assert_eq!(explain("b.example", "/")["source"], "list");
    assert_eq!(explain("a.example", "/")["elsewhere"].as_array().map(Vec::len), Some(2));

    // Everywhere, by hand: the scope is gone.
    stack.ban_with(&json!({ "ip": CLIENT })).unwrap();
    let everywhere = [(CLIENT, "a.example", "/x", true), (CLIENT, "c.b.example", "/", true)];
    stack.everywhere(|connection, at| check(connection, at, &everywhere)).unwrap();
    stack.unban(CLIENT).unwrap();
    stack.api_ok(Method::DELETE, "/api/admin/sources/list?wait_applied=30s", None).unwrap();
    let nowhere = [(CLIENT, "a.example", "/api", false), (CLIENT, "b.example", "/", false)];
    stack.everywhere(|connection, at| check(connection, at, &nowhere)).unwrap();
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole() && whole.checks.ip.mismatched == 0, "{whole:?}");
    let denied = "SELECT count(*) FROM traffic_events WHERE verdict = 'deny' AND rule = '11.0.1.0/24'";
    assert!(stack.sql().unwrap().number(denied).unwrap() >= 6, "events name the entry");
}

/// Printed: how long until every worker denies, as for a ban that applies everywhere.
#[test]
fn a_ban_of_one_host_holds_as_soon_as_any_other() {
    let stack = Stack::start(Options::for_test("scoped-ban-latency").unwrap()).unwrap();
    stack.put_route("all", "/", "demo").unwrap();
    stack.all_flags(true).unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    // The host that the probes ask for: the gate's address has no name, and is no hostname. So the route is named.
    let mut took = [Vec::new(), Vec::new()];
    for number in 0..40 {
        let scope = if number % 2 == 0 { json!({"routes": ["all"]}) } else { Value::Null };
        let client = format!("11.1.0.{}", number + 1);
        let body = json!({"ip": client, "applies_to": scope});
        let ban = || {
            stack.api_ok(Method::POST, "/api/admin/ip/ban", Some(&body))?;
            Ok(std::time::Instant::now())
        };
        took[number % 2].push(ban_latency::measure(&mut workers, &client, ban).unwrap());
    }
    for (of, took) in ["at one route", "everywhere"].iter().zip(&mut took) {
        took.sort_unstable();
        println!("bans {of}: median {:?}, longest {:?}", took[took.len() / 2], took[took.len() - 1]);
    }
}
