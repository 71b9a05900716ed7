//! Entries in shadow on a real Envoy: a ban and a geo rule that deny nobody, say whom they would deny, and deny once
//! they are enforced.

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::http::{Method, PATIENCE, Request, send};
use tidegate_stack::list_server::ListServer;
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack, wait};

const BAN: &str = "203.0.113.0/24";

fn start() -> Result<Stack> {
    let stack = Stack::start(Options::for_test("shadow-entries")?)?;
    stack.put_route("all", "/", "demo")?;
    let countries = stack.options().dir.join("countries.csv");
    std::fs::write(&countries, "192.0.2.0,192.0.2.255,DE\n")?;
    stack.import_countries(&countries)?;
    stack.ban_with(&json!({ "ip": BAN, "reason": "tried", "mode": "shadow" }))?;
    stack.put_geo_rule("law", &json!({ "mode": "deny", "countries": ["DE"], "shadow": true }))?;
    Ok(stack)
}

/// Half of the requests come from the ban's block, half from the country.
fn request(number: u64) -> Request {
    let host = number / 2 % 250;
    let client = match number % 2 {
        0 => format!("203.0.113.{host}"),
        _ => format!("192.0.2.{host}"),
    };
    Request::get("/in-shadow").from(&client)
}

/// How many requests a counter of the gate has counted.
fn counted(stack: &Stack, reason: &str) -> Result<u64> {
    Ok(stack.stats()?.get(&format!("wasmcustom.tidegate.would_deny.{reason}")).unwrap_or_default())
}

/// The items of a list by a field, and of each the requests.
fn requests(list: &Value, name: &str, hits: fn(&Value) -> &Value) -> Vec<(String, u64)> {
    let items = list["items"].as_array().into_iter().flatten();
    let mut items: Vec<_> = items
        .map(|item| (item[name].as_str().unwrap_or_default().to_owned(), hits(item)["requests"].as_u64()))
        .map(|(name, count)| (name, count.unwrap_or_default()))
        .collect();
    items.sort();
    items
}

#[test]
fn a_thousand_requests_are_let_through_and_said_and_then_denied() {
    let stack = start().unwrap();
    for on in [true, false] {
        stack.all_flags(on).unwrap();
        let tally = Load::start(stack.gate(), 4, Some(500), request).finish();
        assert_eq!((tally.status(200), tally.failed), (500, 0), "caches {on}: {tally:?}");
    }
    stack.all_flags(true).unwrap();
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let number = |filter: &str| {
        let query = format!("SELECT count(*) FROM traffic_events WHERE path = '/in-shadow' AND {filter}");
        stack.sql().unwrap().number(&query).unwrap()
    };
    assert_eq!(number("verdict = 'allow'"), 1_000);
    assert_eq!(number(&format!("would_deny = 'ip_banned' AND would_deny_rule = '{BAN}'")), 500);
    assert_eq!(number("would_deny = 'geo_denied' AND would_deny_rule = 'law'"), 500);

    let get = |target: &str| stack.api_ok(Method::GET, target, None).unwrap();
    let top = get("/api/admin/stats/top?by=would_deny");
    let wanted = [("geo_denied law".to_owned(), 500), (format!("ip_banned {BAN}"), 500)];
    assert_eq!(requests(&top, "value", |item| item), wanted);
    let bans = get("/api/admin/ip-monitor?status=watched");
    assert_eq!(requests(&bans, "ip", |item| &item["would_deny"]), [(BAN.to_owned(), 500)]);
    for reason in ["ip_banned", "geo_denied"] {
        wait::until("Envoy has counted them", PATIENCE, || {
            Ok((counted(&stack, reason)? == 500).then_some(()))
        })
        .unwrap();
    }

    let enforce = json!({ "ip": BAN });
    let enforced =
        stack.api_ok(Method::POST, "/api/admin/bans/enforce?wait_applied=30s", Some(&enforce)).unwrap();
    assert_eq!(enforced["rows"], 1, "{enforced}");
    stack.put_geo_rule("law", &json!({ "mode": "deny", "countries": ["DE"] })).unwrap();
    for (number, code) in [(0, "ip_banned"), (1, "geo_denied")] {
        let answer = send(stack.gate(), &request(number)).unwrap();
        assert_eq!((answer.status, &answer.json().unwrap()["code"]), (403, &json!(code)));
    }
}

const LISTED: &str = "11.0.0.0/24";

fn source_in_shadow() -> Result<()> {
    let (stack, server) = (Stack::start(Options::for_test("shadow-source")?)?, ListServer::start()?);
    stack.put_route("all", "/", "demo")?;
    server.serve(format!("{LISTED}\n"));
    let document = json!({ "url": server.url(), "allow_private": true, "interval": "30d", "mode": "shadow", "reason": "tried" });
    stack.api_ok(Method::PUT, "/api/admin/sources/drop?wait_applied=5s", Some(&document))?;
    let refresh = "/api/admin/sources/drop/refresh?wait_applied=30s";
    assert_eq!(stack.api_ok(Method::POST, refresh, None)?["entries"], 1);
    let request = |number: u64| Request::get("/in-shadow").from(&format!("11.0.0.{}", number % 250));
    for on in [true, false] {
        stack.all_flags(on)?;
        let tally = Load::start(stack.gate(), 4, Some(500), request).finish();
        assert_eq!((tally.status(200), tally.failed), (500, 0), "caches {on}: {tally:?}");
    }
    stack.all_flags(true)?;
    assert!(stack.recorded(PATIENCE)?.is_whole());
    let number =
        |filter: &str| stack.sql()?.number(&format!("SELECT count(*) FROM traffic_events WHERE {filter}"));
    assert_eq!(number("path = '/in-shadow' AND verdict = 'allow'")?, 1_000);
    let of_source =
        format!("would_deny = 'ip_banned' AND would_deny_rule = '{LISTED}' AND ban_source = 'drop'");
    assert_eq!(number(&of_source)?, 1_000);
    let top = stack.api_ok(Method::GET, "/api/admin/stats/top?by=shadow_source", None)?;
    assert_eq!(requests(&top, "value", |item| item), [("drop".to_owned(), 1_000)]);

    let enforce = "/api/admin/sources/drop/enforce?wait_applied=30s";
    assert_eq!(stack.api_ok(Method::POST, enforce, None)?["applied"]["gateways"], 1);
    for number in [0, 1, 2] {
        let answer = send(stack.gate(), &request(number))?;
        assert_eq!((answer.status, &answer.json()?["code"]), (403, &json!("ip_banned")));
    }
    assert!(stack.recorded(PATIENCE)?.is_whole());
    assert_eq!(number(&format!("reason = 'ip_banned' AND rule = '{LISTED}' AND ban_source = 'drop'"))?, 3);
    Ok(())
}

#[test]
fn a_source_in_shadow_is_tried_and_then_denies() {
    source_in_shadow().unwrap();
}
