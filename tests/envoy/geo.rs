//! Geo rules on a real Envoy: countries from a table that is imported while
//! everything runs, or from a header; rules for all requests and for routes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack, wait};

/// Addresses and numbers, both families, in no order.
const TABLE: &str = "# a table of documentation addresses\n\
    \"203.0.113.0\",\"203.0.113.255\",\"KP\",\"Somewhere\"\n\
    192.0.2.0,192.0.2.127,de\n\
    3221226112,3221226239,FR\n\
    2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,DE\n\
    2001:db8:1::,2001:db8:1:ffff:ffff:ffff:ffff:ffff,US\n";
const GERMAN: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const FRENCH: &str = "192.0.2.129";
const AMERICAN: &str = "2001:db8:1::1";
const KOREAN: &str = "203.0.113.9";
const UNKNOWN: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];

fn start(name: &str, recorder: bool, plugin: Value) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    options.plugin = plugin;
    let stack = Stack::start(options)?;
    stack.put_route("all", "/", "demo")?;
    Ok(stack)
}

fn file(stack: &Stack, name: &str, text: &str) -> Result<PathBuf> {
    let path = stack.options().dir.join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// What a client gets: status, and the code of a problem.
fn get(stack: &Stack, client: &str, path: &str) -> Result<(u16, String)> {
    let answer = http::send(stack.gate(), &Request::get(path).from(client))?;
    let code = answer.json()?["code"].as_str().unwrap_or_default().to_owned();
    Ok((answer.status, code))
}

/// Every worker answers so, with the caches and directly.
fn assert_answers(stack: &Stack, path: &str, cases: &[(&str, u16, &str)]) -> Result<()> {
    for on in [true, false] {
        stack.all_flags(on)?;
        let mut workers = stack.connection_per_worker()?;
        for (client, status, code) in cases {
            for worker in &mut workers {
                let answer = worker.send(&Request::get(path).from(client))?;
                let body = answer.json()?;
                let seen = (answer.status, body["code"].as_str().unwrap_or_default());
                assert_eq!(seen, (*status, *code), "{client} {path}, caches {on}");
            }
        }
    }
    stack.all_flags(true)
}

/// A route whose requests must pass these geo rules.
fn put_guarded_route(stack: &Stack, name: &str, rules: &[&str]) -> Result<Value> {
    let filters: Vec<_> = rules
        .iter()
        .map(|rule| {
            let reference = json!({ "group": "tidegate.dev", "kind": "GeoRule", "name": rule });
            json!({ "type": "ExtensionRef", "extensionRef": reference })
        })
        .collect();
    let route = json!({ "metadata": { "name": name }, "spec": { "rules": [{
        "matches": [{ "path": { "type": "PathPrefix", "value": format!("/{name}") } }],
        "filters": filters,
        "backendRefs": [{ "name": "demo" }],
    }] } });
    stack.api_ok(Method::PUT, &format!("/api/admin/routes/{name}?wait_applied=30s"), Some(&route))
}

fn rules_hold(name: &str, recorder: bool) -> Result<()> {
    let stack = start(name, recorder, Value::Null)?;
    stack.put_geo_rule("global", &json!({ "mode": "deny", "countries": ["KP", "FR"] }))?;
    // Without a table nobody's country is known.
    assert_answers(&stack, "/", &[(KOREAN, 200, ""), (FRENCH, 200, "")])?;
    let said = stack.import_countries(&file(&stack, "countries.csv", TABLE)?)?;
    assert!(said.contains("3 IPv4 and 2 IPv6 ranges"), "{said}");
    assert_answers(
        &stack,
        "/",
        &[
            (KOREAN, 403, "geo_denied"),
            (FRENCH, 403, "geo_denied"),
            (GERMAN[0], 200, ""),
            (GERMAN[1], 200, ""),
            (AMERICAN, 200, ""),
            (UNKNOWN[0], 200, ""),
        ],
    )?;
    // The same name, now a list of who may: those whose country nobody knows may not.
    stack.put_geo_rule("global", &json!({ "mode": "allow", "countries": ["DE", "US"], "status": 451 }))?;
    assert_answers(
        &stack,
        "/",
        &[
            (KOREAN, 451, "geo_denied"),
            (GERMAN[0], 200, ""),
            (GERMAN[1], 200, ""),
            (AMERICAN, 200, ""),
            (UNKNOWN[0], 451, "geo_denied"),
            (UNKNOWN[1], 451, "geo_denied"),
        ],
    )?;
    stack
        .put_geo_rule("global", &json!({ "mode": "allow", "countries": ["DE", "US"], "unknown": "allow" }))?;
    assert_answers(&stack, "/", &[(KOREAN, 403, "geo_denied"), (UNKNOWN[0], 200, "")])?;
    // Whom the allow list names skips them all.
    stack.sql()?.run(&format!("INSERT INTO ip_monitor (ip, status) VALUES ('{KOREAN}', 'allowed')"))?;
    assert_answers(&stack, "/", &[(KOREAN, 200, ""), ("203.0.113.10", 403, "geo_denied")])?;
    stack.delete_geo_rule("global")?;
    assert_answers(&stack, "/", &[(FRENCH, 200, ""), ("203.0.113.10", 200, "")])?;
    let country = stack.api_ok(Method::GET, &format!("/api/admin/geo-countries/{FRENCH}"), None)?;
    assert_eq!(country["country"], "FR");
    stack.recorded(PATIENCE)?;
    let rows = stack.sql()?.run(&format!(
        "SELECT DISTINCT client_ip, country, reason, rule, status FROM traffic_events \
         WHERE client_ip IN ('{FRENCH}', '{}') AND status <> 200 ORDER BY 1, 2",
        UNKNOWN[0]
    ))?;
    assert_eq!(
        rows,
        [format!("{FRENCH}|FR|geo_denied|global|403"), format!("{}||geo_denied|global|451", UNKNOWN[0])]
    );
    Ok(())
}

#[test]
fn rules_for_all_requests() {
    rules_hold("geo", true).unwrap();
}

#[test]
fn rules_for_all_requests_without_the_recorder() {
    rules_hold("geo-bare", false).unwrap();
}

#[test]
fn rules_that_routes_name() {
    let stack = start("geo-routes", true, Value::Null).unwrap();
    stack.import_countries(&file(&stack, "countries.csv", TABLE).unwrap()).unwrap();
    let local =
        |mode: &str, countries: &[&str]| json!({ "mode": mode, "countries": countries, "global": false });
    stack.put_geo_rule("dach", &local("allow", &["DE", "AT", "CH"])).unwrap();
    let mut law = local("deny", &["FR"]);
    law["status"] = json!(451);
    stack.put_geo_rule("law", &law).unwrap();
    put_guarded_route(&stack, "german", &["dach"]).unwrap();
    put_guarded_route(&stack, "both", &["law", "dach"]).unwrap();
    let said = put_guarded_route(&stack, "lost", &["law", "no-such-rule"]).unwrap();
    assert!(said["warnings"].to_string().contains("no-such-rule"), "{said}");
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None).unwrap();
    assert!(health["reasons"].to_string().contains("geo_rule_missing"), "{health}");

    let german = [(GERMAN[0], 200, ""), (FRENCH, 403, "geo_denied"), (UNKNOWN[0], 403, "geo_denied")];
    assert_answers(&stack, "/german/x", &german).unwrap();
    let both = [(GERMAN[1], 200, ""), (FRENCH, 451, "geo_denied"), (AMERICAN, 403, "geo_denied")];
    assert_answers(&stack, "/both", &both).unwrap();
    assert_answers(&stack, "/elsewhere", &[(FRENCH, 200, ""), (UNKNOWN[0], 200, "")]).unwrap();
    assert_answers(&stack, "/lost", &[(FRENCH, 451, "geo_denied"), (GERMAN[0], 500, "no_geo_rule")]).unwrap();

    // Made and taken away while it is named.
    stack.put_geo_rule("no-such-rule", &local("deny", &["US"])).unwrap();
    assert_answers(&stack, "/lost", &[(GERMAN[0], 200, ""), (AMERICAN, 403, "geo_denied")]).unwrap();
    stack.delete_geo_rule("dach").unwrap();
    assert_answers(&stack, "/german", &[(GERMAN[0], 500, "no_geo_rule")]).unwrap();
}

#[test]
fn a_file_that_is_wrong_changes_nothing() {
    let stack = start("geo-wrong", true, Value::Null).unwrap();
    stack.put_geo_rule("global", &json!({ "mode": "deny", "countries": ["FR"] })).unwrap();
    stack.import_countries(&file(&stack, "countries.csv", TABLE).unwrap()).unwrap();
    let before = stack.api_ok(Method::GET, "/api/admin/geo-countries", None).unwrap();
    for (text, line) in [
        ("192.0.2.0,192.0.2.127,DE\n192.0.2.100,192.0.2.200,FR\n", "wrong.csv:2 "),
        ("192.0.2.0,192.0.2.127,DE\n\n192.0.2.9,192.0.2.8,FR\n", "line 3"),
        ("192.0.2.0,192.0.2.127,DE\n192.0.2.200,192.0.2.300,FR\n", "line 2"),
        ("192.0.2.0,192.0.2.127,Germany\n", "line 1"),
        ("\u{0}\u{1}\u{2}", "not a whole MaxMind database"),
    ] {
        let wrong = file(&stack, "wrong.csv", text).unwrap();
        let said = format!("{:#}", stack.import_countries(&wrong).unwrap_err());
        assert!(said.contains(line), "{text:?}: {said}");
        assert_eq!(stack.api_ok(Method::GET, "/api/admin/geo-countries", None).unwrap(), before);
    }
    assert_eq!(get(&stack, FRENCH, "/").unwrap(), (403, "geo_denied".into()));
}

/// Two tables take turns under load: in each everybody is in another country, and
/// nobody is ever seen to be in both.
#[test]
fn a_table_is_replaced_whole() {
    let stack = start("geo-replaced", true, Value::Null).unwrap();
    stack.put_geo_rule("global", &json!({ "mode": "deny", "countries": ["FR"], "unknown": "deny" })).unwrap();
    // Many pieces of shared data: what could be mixed.
    let table = |country: &str| {
        let other = if country == "DE" { "FR" } else { "DE" };
        let mut lines = format!("192.0.2.0,192.0.2.255,{country}\n2001:db8::,2001:db8::ffff,{country}\n");
        for at in 0..100_000_u32 {
            let first = (10 << 24) + at * 64;
            lines.push_str(&format!("{first},{},{other}\n", first + 31));
        }
        lines
    };
    let files = ["DE", "FR"].map(|country| file(&stack, &format!("{country}.csv"), &table(country)).unwrap());
    stack.import_countries(&files[0]).unwrap();
    let load = Load::start(stack.gate(), 8, None, |number| {
        std::thread::sleep(Duration::from_millis(4));
        let client = if number % 2 == 0 { "192.0.2.77" } else { "2001:db8::77" };
        Request::get("/replaced").from(client)
    });
    for round in 1..=6 {
        let until = load.sent() + 200;
        wait::until("the load is under way", PATIENCE, || Ok((load.sent() >= until).then_some(()))).unwrap();
        stack.import_countries(&files[round % 2]).unwrap();
        let expected = if round % 2 == 0 { 200 } else { 403 };
        for client in ["192.0.2.78", "2001:db8::78"] {
            assert_eq!(get(&stack, client, "/new").unwrap().0, expected, "import {round}, {client}");
        }
    }
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(tally.status(200) + tally.status(403), tally.total(), "{tally:?}");
    assert!(tally.status(200) > 300 && tally.status(403) > 300, "{tally:?}");
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let rows = stack.sql().unwrap().run(
        "SELECT tables_seq, count(DISTINCT country), count(DISTINCT status), sum(country IS NULL), \
         sum((country = 'FR') <> (status = 403)) FROM traffic_events WHERE path = '/replaced' GROUP BY 1",
    );
    let rows = rows.unwrap();
    assert!(rows.len() >= 5 && rows.iter().all(|row| row.ends_with("|1|1|0|0")), "{rows:?}");
}

#[test]
fn a_country_may_come_from_a_header() {
    // A filter before the gate sets it; here the client plays its part.
    let plugin = json!({ "geo": { "country_header": "x-country" } });
    let stack = start("geo-header", true, plugin).unwrap();
    stack.import_countries(&file(&stack, "countries.csv", TABLE).unwrap()).unwrap();
    stack.put_geo_rule("global", &json!({ "mode": "allow", "countries": ["DE"], "status": 451 })).unwrap();
    for on in [true, false] {
        stack.all_flags(on).unwrap();
        let mut workers = stack.connection_per_worker().unwrap();
        for (client, header, status) in [
            (FRENCH, Some("DE"), 200),
            (FRENCH, Some("de"), 200),
            (GERMAN[0], Some("FR"), 451),
            (GERMAN[0], Some("-"), 451),
            (GERMAN[0], None, 451),
        ] {
            for worker in &mut workers {
                let request = Request::get("/header").from(client);
                let request =
                    header.into_iter().fold(request, |request, code| request.header("x-country", code));
                let answer = worker.send(&request).unwrap();
                assert_eq!(answer.status, status, "{client} with {header:?}, caches {on}: {}", answer.text());
            }
        }
    }
    stack.recorded(PATIENCE).unwrap();
    let rows = stack.sql().unwrap().run(
        "SELECT coalesce(country, '-'), status, count(*) FROM traffic_events WHERE path = '/header' GROUP BY 1, 2 ORDER BY 1",
    );
    assert_eq!(rows.unwrap(), ["-|451|8", "DE|200|8", "FR|451|4"]);
}

/// `tidegate geo import` with several files.
fn import(stack: &Stack, files: &[&Path]) -> Result<String> {
    let output = Command::new(&stack.options().programs.admin)
        .args(["geo", "import", "--db"])
        .arg(stack.db())
        .args(files)
        .output()
        .context("cannot run the admin service's program")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let warm = stack.api_ok(Method::POST, "/api/admin/optimization/warmup?wait=30s", None)?;
    ensure!(warm["applied"]["gateways"] == 1, "{warm}");
    Ok(said)
}

#[test]
fn the_worlds_table_is_taken_as_it_is() {
    let files = ["/usr/share/tor/geoip", "/usr/share/tor/geoip6"].map(Path::new);
    if !files.iter().all(|file| file.exists()) {
        println!("not run: there is no {}; Debian's package tor-geoipdb has it", files[0].display());
        return;
    }
    let stack = start("geo-world", true, Value::Null).unwrap();
    println!("{}", import(&stack, &files).unwrap());
    let table = stack.api_ok(Method::GET, "/api/admin/geo-countries", None).unwrap();
    assert!(
        table["ranges"]["v4"].as_u64() > Some(100_000) && table["ranges"]["v6"].as_u64() > Some(50_000),
        "{table}"
    );
    assert!(table["bytes"].as_u64() < Some(10_000_000), "{table}");
    // Addresses that have been where they are for decades.
    for (client, country) in [
        ("8.8.8.8", "US"),
        ("17.1.2.3", "US"),
        ("133.11.0.1", "JP"),
        ("130.133.1.1", "DE"),
        ("2001:4860:4860::8888", "US"),
        ("2001:638::1", "DE"),
    ] {
        stack.put_geo_rule("only", &json!({ "mode": "deny", "countries": [country] })).unwrap();
        assert_eq!(
            get(&stack, client, "/").unwrap(),
            (403, "geo_denied".into()),
            "{client} is not in {country}"
        );
        stack.put_geo_rule("only", &json!({ "mode": "allow", "countries": [country] })).unwrap();
        assert_eq!(get(&stack, client, "/").unwrap().0, 200, "{client} is not in {country}");
    }
}
