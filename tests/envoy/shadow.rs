//! Shadow on a real Envoy: the database decides, the cache is compared with it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::faults::Faults;
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::operator::Checked;
use tidegate_stack::{FlagsAtStart, Options, Stack, wait};

const CHECKS: [&str; 3] = ["ip", "geo", "route"];

fn start(name: &str) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    options.faults = Some(Faults::default());
    // A slow machine must not make the cache answer for the database.
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
    let stack = Stack::start(options)?;
    stack.put_route("all", "/", "demo")?;
    stack.ban("192.0.2.0/28")?;
    let file = stack.options().dir.join("countries.csv");
    std::fs::write(&file, "198.51.100.0,198.51.100.255,KP\n203.0.113.0,203.0.113.255,DE\n")?;
    stack.import_countries(&file)?;
    stack.put_geo_rule("embargo", &json!({ "mode": "deny", "countries": ["KP"] }))?;
    stack.flags(&json!({
        "enableRouteCache": "shadow",
        "enableIpBlacklistCache": "shadow",
        "enableGeoRulesCache": "shadow",
        "enableParallelExecution": true,
        "enableAsyncRecording": true,
    }))?;
    Ok(stack)
}

fn metric(stack: &Stack, name: &str) -> Result<u64> {
    Ok(stack.stats()?.sum(|stat| stat.ends_with(&format!("tidegate.shadow.{name}"))))
}

fn compared(status: &Value, check: &str) -> Result<(u64, u64)> {
    let counts = &status["status"]["checks"][check];
    let count = |name: &str| counts[name].as_u64().with_context(|| format!("no {name} in {counts}"));
    Ok((count("compared")?, count("mismatched")?))
}

#[test]
fn equal_tables_differ_in_nothing() {
    let stack = start("shadow").unwrap();
    let before = stack.recorded(PATIENCE).unwrap();
    let seen = CHECKS.map(|check| metric(&stack, &format!("{check}.compared")).unwrap());
    let tally = Load::start(stack.gate(), 12, Some(10_000), |number| {
        let host = number / 5 % 200;
        let client = match number % 5 {
            0 => format!("192.0.2.{host}"),
            1 => format!("198.51.100.{host}"),
            2 => format!("203.0.113.{host}"),
            3 => format!("2001:db8::{host:x}"),
            _ => format!("10.1.{host}.7"),
        };
        Request::get(&format!("/shadow/{}", number % 17)).from(&client)
    })
    .finish();
    // 16 of 200 of a fifth are banned, and another fifth comes from where nobody may.
    assert_eq!((tally.status(403), tally.status(200), tally.failed), (160 + 2_000, 7_840, 0), "{tally:?}");
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!(whole.stored, before.stored + 10_000);
    let counts =
        |now: Checked, before: Checked| (now.compared - before.compared, now.mismatched, now.fallback);
    assert_eq!(counts(whole.checks.ip, before.checks.ip), (10_000, 0, 0), "{whole:?}");
    assert_eq!(counts(whole.checks.geo, before.checks.geo), (9_840, 0, 0), "{whole:?}");
    assert_eq!(counts(whole.checks.route, before.checks.route), (7_840, 0, 0), "{whole:?}");
    let status = stack.flags_status().unwrap();
    for (check, seen) in CHECKS.into_iter().zip(seen) {
        assert_eq!(compared(&status, check).unwrap().1, 0, "{status}");
        // In parallel all three are asked, and may be answered before the decision.
        wait::until("Envoy has counted them", PATIENCE, || {
            Ok((metric(&stack, &format!("{check}.compared"))? >= seen + 7_840).then_some(()))
        })
        .unwrap();
        assert_eq!(metric(&stack, &format!("{check}.mismatched")).unwrap(), 0);
    }
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None).unwrap();
    assert_eq!((&health["status"], &health["notes"]), (&json!("ok"), &json!([])), "{health}");
}

/// The one mismatch of a row, in which the cache was behind.
fn mismatch(stack: &Stack, client: &str, path: &str) -> Result<Value> {
    let mut sql = stack.sql()?;
    let query = format!(
        "SELECT mismatches FROM traffic_events WHERE client_ip = '{client}' AND path = '{path}' AND complete"
    );
    let rows = wait::until("the event is stored", PATIENCE, || {
        let rows = sql.run(&query)?;
        Ok((!rows.is_empty()).then_some(rows))
    })?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let found: Value =
        serde_json::from_str(&rows[0]).with_context(|| format!("{client} {path}: {rows:?}"))?;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert!(found[0]["cached_seq"].as_u64() < found[0]["direct_seq"].as_u64(), "{found}");
    Ok(found[0].clone())
}

/// The check, what the database said of it, and what the cache said.
fn said(mismatch: &Value) -> [&str; 3] {
    ["check", "direct", "cached"].map(|name| mismatch[name].as_str().unwrap_or_default())
}

#[test]
fn a_cache_that_stands_still_is_found_out() {
    let stack = start("shadow-frozen").unwrap();
    stack.flags(&json!({ "enableParallelExecution": false })).unwrap();
    let ask =
        |client: &str, path: &str| http::send(stack.gate(), &Request::get(path).from(client)).unwrap().status;
    assert_eq!(ask("10.0.0.1", "/moved"), 200);
    stack.freeze_tables().unwrap();
    let change = |method, target: &str, body: Option<&Value>| stack.api_ok(method, target, body).unwrap();
    change(Method::POST, "/api/admin/optimization/ip/ban", Some(&json!({ "ip": "10.0.0.2" })));
    change(
        Method::PUT,
        "/api/admin/geo-rules/embargo",
        Some(&json!({ "mode": "deny", "countries": ["DE"] })),
    );
    let spec = json!({ "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": "/moved" } }],
                                   "backendRefs": [{ "name": "nowhere" }] }] });
    let route = json!({ "metadata": { "name": "moved" }, "spec": spec });
    change(Method::PUT, "/api/admin/routes/moved", Some(&route));

    // The database decides.
    assert_eq!(ask("10.0.0.2", "/banned"), 403);
    assert_eq!(ask("203.0.113.1", "/from-de"), 403);
    assert_eq!(ask("10.0.0.3", "/moved"), 500);
    // One after the other, so a denial leaves one difference.
    let ban = mismatch(&stack, "10.0.0.2", "/banned").unwrap();
    assert_eq!(said(&ban), ["ip", "banned by 10.0.0.2", "clear"]);
    let geo = mismatch(&stack, "203.0.113.1", "/from-de").unwrap();
    assert_eq!(said(&geo), ["geo", "DE: embargo 403 globally", "DE: embargo allows globally"]);

    stack.recorded(PATIENCE).unwrap();
    let status = stack.flags_status().unwrap();
    for check in CHECKS {
        let (compared, mismatched) = compared(&status, check).unwrap();
        assert!(compared >= mismatched && mismatched >= 1, "{check}: {status}");
        assert_eq!(status["status"]["checks"][check]["lagging"], mismatched, "all of them: {status}");
        assert!(metric(&stack, &format!("{check}.mismatched")).unwrap() >= 1, "{check}");
    }
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None).unwrap();
    let notes = health["notes"].to_string();
    for flag in ["enableRouteCache", "enableIpBlacklistCache", "enableGeoRulesCache"] {
        assert!(notes.contains("shadow_lagging") && notes.contains(flag), "{health}");
    }

    // What is behind catches up, and then nothing differs.
    stack.thaw_tables().unwrap();
    let warm = stack.api_ok(Method::POST, "/api/admin/optimization/warmup?wait=30s", None).unwrap();
    assert_eq!(warm["applied"]["gateways"], 1, "{warm}");
    assert_eq!(ask("10.0.0.2", "/after"), 403);
    let before = stack.recorded(Duration::from_secs(30)).unwrap();
    assert_eq!(ask("10.0.0.2", "/after"), 403);
    assert_eq!(ask("203.0.113.1", "/after"), 403);
    assert_eq!(ask("10.0.0.3", "/moved/after"), 500);
    let after = stack.recorded(Duration::from_secs(30)).unwrap();
    for (before, after) in [
        (before.checks.ip, after.checks.ip),
        (before.checks.geo, after.checks.geo),
        (before.checks.route, after.checks.route),
    ] {
        assert_eq!(after.mismatched, before.mismatched);
        assert!(after.compared > before.compared);
    }
}
