//! A stack with something on every page: made data, and some hundred requests.

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::faults::Faults;
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::list_server::ListServer;
use tidegate_stack::{Options, Stack, wait};

use crate::browser::LIMIT;

/// A country file: start, end, country.
const COUNTRIES: &str = "11.0.0.0,11.63.255.255,DE\n11.64.0.0,11.127.255.255,US\n11.128.0.0,11.159.255.255,FR\n\
    11.160.0.0,11.191.255.255,BR\n11.192.0.0,11.207.255.255,IN\n11.208.0.0,11.223.255.255,JP\n\
    11.224.0.0,11.255.255.255,KP\n12.0.0.0,12.127.255.255,GB\n12.128.0.0,12.255.255.255,ZA\n";
/// Clients, and a ban of one, a block, and one in shadow.
const CLIENTS: [&str; 16] = [
    "11.1.2.3",
    "11.1.2.4",
    "11.1.2.5",
    "11.70.0.1",
    "11.70.0.2",
    "11.130.0.7",
    "11.161.0.1",
    "11.193.0.1",
    "11.209.4.4",
    "11.230.0.1",
    "12.1.1.1",
    "12.200.0.1",
    "2001:db8::7",
    "203.0.113.77",
    "198.51.100.7",
    "192.0.2.4",
];
const PATHS: [&str; 9] = [
    "/shop/basket",
    "/shop/item/17",
    "/api/orders?page=2",
    "/shop/item/18",
    "/",
    "/api/orders",
    "/old/start",
    "/login",
    "/img/logo.png",
];
const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "curl/8.14.1",
    "<script>alert(1)</script>",
];
/// Requests of one round.
const ROUND: usize = 480;

/// What a stack was filled with, as long as it is needed.
pub struct Filled {
    _lists: [ListServer; 2],
}

/// Options of a stack that can be filled.
pub fn options(options: &mut Options) {
    // Tables that stand still make differences between database and cache.
    options.faults = Some(Faults::default());
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
}

/// Fills a stack.
///
/// # Errors
/// The service or the gate does not do as it is asked.
pub fn fill(stack: &Stack) -> Result<Filled> {
    documents(stack)?;
    bans(stack)?;
    let lists = sources(stack)?;
    stack.api(
        Method::POST,
        "/api/admin/tokens",
        Some(&json!({ "name": "on-call", "role": "operate", "ttl": "90d" })),
    )?;
    traffic(stack)?;
    mismatches(stack)?;
    stack.recorded(LIMIT)?;
    Ok(Filled { _lists: lists })
}

fn documents(stack: &Stack) -> Result<()> {
    for (name, prefix) in [("shop", "/shop"), ("api", "/api"), ("login", "/login")] {
        stack.put_route(name, prefix, "demo")?;
    }
    stack.put_spec(
        "moved",
        &json!({ "hostnames": ["shop.example.com"], "rules": [{
            "matches": [{ "path": { "type": "PathPrefix", "value": "/old" } }],
            "filters": [{ "type": "RequestRedirect", "requestRedirect":
                { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/shop" }, "statusCode": 301 } }],
        }] }),
    )?;
    stack.put_backend("orders", &json!({ "address": stack.demo().to_string(), "allow_private": true }))?;
    let file = stack.options().dir.join("countries.csv");
    std::fs::write(&file, COUNTRIES)?;
    stack.import_countries(&file)?;
    stack.put_geo_rule("embargo", &json!({ "mode": "deny", "countries": ["KP"] }))?;
    stack.put_geo_rule(
        "where-we-sell",
        &json!({ "mode": "allow", "countries": ["DE", "FR", "GB", "US", "JP"], "global": false }),
    )?;
    stack.put_limit(
        "per-client",
        &json!({ "key": "ip", "rate": 60, "per": "minute", "burst": 20, "shadow": true }),
    )?;
    stack.put_limit(
        "login",
        &json!({ "key": "ip", "rate": 2, "per": "minute", "match": { "route": "login" } }),
    )
}

fn bans(stack: &Stack) -> Result<()> {
    stack.ban_with(&json!({ "ip": "203.0.113.0/24", "reason": "scrapers", "ttl": "4h" }))?;
    let shop = json!({ "hostnames": ["shop.example.com", "*.shop.example.com"] });
    stack.ban_with(&json!({ "ip": "203.0.113.77", "reason": "tries coupons", "applies_to": shop }))?;
    stack.ban_with(&json!({ "ip": "198.51.100.7", "reason": "password guessing on /login" }))?;
    stack.ban_with(
        &json!({ "ip": "192.0.2.0/24", "reason": "to be watched", "mode": "shadow", "ttl": "1d" }),
    )?;
    let office = json!({ "reason": "our office" });
    stack.api_ok(Method::PUT, "/api/admin/allow-list/11.1.2.0%2F28", Some(&office))?;
    let rule = json!({ "match": { "reason": "no_route" }, "threshold": 20, "window": "1m",
                       "ban": { "ttl": "1h", "factor": 2, "max_ttl": "7d" }, "mode": "shadow" });
    stack.api(Method::PUT, "/api/admin/auto-bans/scanners", Some(&rule))?;
    Ok(())
}

/// One that is well, and one that lost most of its list, and is held back.
fn sources(stack: &Stack) -> Result<[ListServer; 2]> {
    let lists = [ListServer::start()?, ListServer::start()?];
    let list = |count: u8| (0..count).map(|last| format!("13.0.0.{last}\n")).collect::<String>();
    lists[0].serve(list(120));
    lists[1].serve(list(200));
    for (name, server) in ["drop", "scanners"].into_iter().zip(&lists) {
        let source = json!({ "url": server.url(), "allow_private": true, "interval": "12h", "reason": "on a public list" });
        stack.api(Method::PUT, &format!("/api/admin/sources/{name}"), Some(&source))?;
        stack.api(Method::POST, &format!("/api/admin/sources/{name}/refresh"), None)?;
    }
    lists[1].serve(list(10));
    stack.api(Method::POST, "/api/admin/sources/scanners/refresh", None)?;
    Ok(lists)
}

/// One rollout that was taken back, one that goes on, and one that was not started. Flags that are set by hand
/// afterwards pause the one that goes on.
///
/// # Errors
/// The service does not do as it is asked.
pub fn rollouts(stack: &Stack) -> Result<()> {
    let plans = [
        (
            "bans",
            json!({ "description": "Its gate cannot hold.", "stages": [{
            "name": "in shadow", "flags": { "enableIpBlacklistCache": "shadow" }, "hold": "1s", "min_requests": 50,
            "gates": [{ "latency": { "of": "total", "percentile": 50, "at_most": "1us" } }],
        }] }),
        ),
        (
            "recording",
            json!({ "description": "Recording afterwards, for half of the clients and for all.", "stages": [
            { "name": "before", "flags": { "enableAsyncRecording": false }, "hold": "1s", "min_requests": 50,
              "gates": [{ "success": { "at_least": 0.5 } }] },
            { "name": "half", "flags": { "enableAsyncRecording": { "percent": 50 } }, "hold": "1h", "min_requests": 100_000,
              "gates": [
                { "latency": { "of": "total", "percentile": 95, "at_most_times_control": 1.2 } },
                { "latency": { "of": "gate", "percentile": 50, "at_most": "1s" } },
                { "success": { "at_least": 0.5 } },
                { "denials": { "over_control_at_most": 0.9 } },
                { "completeness": { "at_least": 0.5 } },
                { "health": { "gateways": true } },
              ] },
            { "name": "all", "flags": { "enableAsyncRecording": true }, "hold": "1h", "min_requests": 1_000, "approve": true },
        ] }),
        ),
        (
            "routes",
            json!({ "stages": [
            { "name": "in shadow", "flags": { "enableRouteCache": "shadow" }, "hold": "24h", "min_requests": 1_000 },
            { "name": "all", "flags": { "enableRouteCache": true }, "hold": "24h", "min_requests": 1_000 },
        ] }),
        ),
    ];
    for (name, plan) in &plans {
        stack.api_ok(Method::PUT, &format!("/api/admin/rollouts/{name}"), Some(plan))?;
    }
    run_until(stack, "bans", |status| status["phase"] == "rolled_back")?;
    run_until(stack, "recording", |status| status["stage_number"] == 2 && status["requests"] != 0)
}

/// Starts a rollout, and sends requests until its run is as it is to be.
fn run_until(stack: &Stack, name: &str, is_there: impl Fn(&Value) -> bool) -> Result<()> {
    stack.api_ok(Method::POST, &format!("/api/admin/rollouts/{name}/start"), None)?;
    wait::until(&format!("the rollout {name} is there"), LIMIT, || {
        traffic(stack)?;
        let rollout = stack.api_ok(Method::GET, &format!("/api/admin/rollouts/{name}"), None)?;
        Ok(is_there(&rollout["status"]).then_some(()))
    })
}

/// A round of requests of good and bad clients.
///
/// # Errors
/// The gate does not answer.
pub fn traffic(stack: &Stack) -> Result<()> {
    let mut connection = http::Connection::open(stack.gate())?;
    for number in 0..ROUND {
        let request = Request::get(PATHS[number % PATHS.len()])
            .from(CLIENTS[(number * 7 + number / 5) % CLIENTS.len()])
            .header("user-agent", AGENTS[number % AGENTS.len()])
            .header("host", "shop.example.com");
        let answer = connection.send(&request)?;
        if answer.closes() {
            connection = http::Connection::open(stack.gate())?;
        }
    }
    Ok(())
}

/// Requests that the database answers otherwise than the tables, which stand still.
fn mismatches(stack: &Stack) -> Result<()> {
    stack.flags(&json!({ "enableGeoRulesCache": { "percent": 50 }, "enableIpBlacklistCache": "shadow" }))?;
    if stack.options().faults.is_none() {
        return Ok(());
    }
    stack.freeze_tables()?;
    let ban = json!({ "ip": "11.193.0.0/16", "reason": "only the database knows yet" });
    stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban", Some(&ban))?;
    for number in 0..6 {
        http::send(stack.gate(), &Request::get(&format!("/shop/item/{number}")).from("11.193.0.1"))?;
    }
    stack.thaw_tables()?;
    stack.wait_enforced()
}
