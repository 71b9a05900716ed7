//! Rate limits on a real Envoy: exact over its workers, told to clients and
//! recorded, and in bounded memory whoever comes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_stack::envoy::Memory;
use tidegate_stack::flood::flood;
use tidegate_stack::http::{PATIENCE, Request, send};
use tidegate_stack::load::{Load, Tally};
use tidegate_stack::{Options, Stack, Upstream};

const CLIENT: &str = "203.0.113.7";
const WORKERS: u32 = 4;
const CONNECTIONS: usize = 60;

fn start(name: &str, recorder: bool) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    options.workers = WORKERS;
    Stack::start_serving(options)
}

/// So many requests of one client, over 60 connections.
fn burst(stack: &Stack, requests: u64, client: &'static str) -> Tally {
    let request = move |_| Request::get("/limited").from(client);
    Load::start(stack.gate(), CONNECTIONS, Some(requests), request).finish()
}

fn exact_over_workers(name: &str, recorder: bool) -> Result<()> {
    let stack = start(name, recorder)?;
    let before = stack.recorded(PATIENCE)?;
    // Nothing comes back while this runs: to the request.
    stack.put_limit("per-client", &json!({ "key": "ip", "rate": 100, "per": "day" }))?;
    let day = burst(&stack, 300, CLIENT);
    assert_eq!((day.status(200), day.status(429), day.failed), (100, 200, 0), "{day:?}");
    assert_eq!(send(stack.gate(), &Request::get("/limited").from("203.0.113.8"))?.status, 200, "a stranger");

    // One comes back each 0.6 s.
    stack.put_limit("per-client", &json!({ "key": "ip", "rate": 100, "per": "minute" }))?;
    let began = Instant::now();
    let minute = burst(&stack, 300, CLIENT);
    let refilled = u64::try_from(began.elapsed().as_millis() / 600)? + 1;
    println!("{name}: 300 requests at once, {} passed, {refilled} at most came back", minute.status(200));
    assert_eq!(minute.status(200) + minute.status(429), 300, "{minute:?}");
    assert!((100..=100 + refilled).contains(&minute.status(200)), "{minute:?}, {refilled} came back");

    let denied = send(stack.gate(), &Request::get("/limited").from(CLIENT))?;
    if denied.status == 429 {
        assert_eq!(denied.json()?["code"], "rate_limited");
        assert_eq!(denied.header("retry-after"), Some("1"));
        assert_eq!(denied.header("ratelimit-policy"), Some(r#""per-client";q=100;w=60"#));
        assert_eq!(denied.header("ratelimit"), Some(r#""per-client";r=0;t=1"#));
    }

    let listener = format!("listener.127.0.0.1_{}.worker_", stack.gate().port());
    let stats = stack.stats()?;
    let is_worker = |name: &str| name.starts_with(&listener) && name.ends_with(".downstream_cx_total");
    let connections: Vec<u64> = stats.matching(is_worker).map(|(_, count)| count).collect();
    assert!(connections.len() == WORKERS as usize && connections.iter().all(|count| *count > 10));

    let whole = stack.recorded(PATIENCE)?;
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!(whole.stored - before.stored, 300 + 1 + 300 + 1);
    let limited = u64::from(denied.status == 429) + day.status(429) + minute.status(429);
    let rows = "SELECT count(*) FROM traffic_events WHERE status = 429 AND reason = 'rate_limited' \
                AND rule = 'per-client' AND route = 'all'";
    assert_eq!(stack.sql()?.number(rows)?, limited);
    assert_eq!(stack.counted("tidegate.requests.deny.rate_limited", limited)?, limited);
    let stats = stack.stats()?;
    let count = |name: &str| stats.get(&format!("wasmcustom.tidegate.{name}"));
    println!(
        "{name}: looked again {:?} times because another worker was quicker, gave up {:?} times",
        count("limits.retries"),
        count("limits.given_up")
    );
    assert_eq!(count("limits.given_up"), Some(0));
    Ok(())
}

#[test]
fn as_many_pass_as_the_limit_says_whichever_worker_they_meet() {
    exact_over_workers("limits", true).unwrap();
}

#[test]
fn as_many_pass_as_the_limit_says_without_the_recorder() {
    exact_over_workers("limits-bare", false).unwrap();
}

#[test]
fn shadow_headers_the_allow_list_and_ipv6_hold_on_a_real_envoy() {
    let stack = start("limits-kinds", true).unwrap();
    let get = |client: &str| send(stack.gate(), &Request::get("/limited").from(client)).unwrap();
    let limit = json!({ "key": "ip", "rate": 2, "per": "day", "shadow": true });
    stack.put_limit("shadow", &limit).unwrap();
    let told = json!({ "key": "header:x-api-key", "rate": 5, "per": "day", "headers": true });
    stack.put_limit("told", &told).unwrap();
    let statuses: Vec<u16> = (0..6).map(|_| get(CLIENT).status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    let first = get("2001:db8:1:2::1");
    assert_eq!(first.header("ratelimit"), Some(r#""told";r=4;t=17280"#));
    assert_eq!(first.header("ratelimit-policy"), Some(r#""told";q=5;w=86400"#));
    let second = get("2001:db8:1:2:ffff::1");
    assert_eq!(second.header("ratelimit"), Some(r#""told";r=3;t=17280"#), "the same /64");
    let keyed = Request::get("/limited").from(CLIENT).header("x-api-key", "k");
    assert_eq!(send(stack.gate(), &keyed).unwrap().status, 200, "a value of its own");
    stack.delete_limit("told").unwrap();
    assert_eq!(get(CLIENT).status, 200);

    stack.put_limit("shadow", &json!({ "key": "ip", "rate": 1, "per": "day" })).unwrap();
    assert_eq!((get(CLIENT).status, get(CLIENT).status), (200, 429));
    let allow = "INSERT INTO ip_monitor (ip, status, updated_at) \
                 VALUES ('203.0.113.7', 'allowed', datetime('now'))";
    stack.sql().unwrap().run(allow).unwrap();
    tidegate_stack::wait::until("the allow entry is enforced", PATIENCE, || {
        Ok((get(CLIENT).status == 200).then_some(()))
    })
    .unwrap();
    assert_eq!((get(CLIENT).status, get(CLIENT).status), (200, 200), "exempt");

    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let shadow =
        "SELECT count(*) FROM traffic_events WHERE shadow_limit = 'shadow' AND client_ip = '203.0.113.7'";
    assert_eq!(stack.sql().unwrap().number(shadow).unwrap(), 6, "four of six, one with a key, one after");
}

/// Clients, each with one request.
const CLIENTS: u32 = 1_000_000;
/// With so many all places are taken.
const ENOUGH: u32 = 200_000;
/// What Envoy may allocate, and the kernel hold for it, while the rest comes. At a
/// hundred bytes for each client it would be 80 MB.
const MOST_ALLOCATED: u64 = 4 << 20;
const MOST_RESIDENT: u64 = 40 << 20;
/// Places for clients.
const PLACES: u64 = 65_536;

fn memory(stack: &Stack, when: &str) -> Result<Memory> {
    // What is still to be recorded is not meant.
    let whole = stack.recorded(Duration::from_secs(300))?;
    ensure!(whole.pending == 0, "{whole:?}");
    let memory = Memory::of(stack.envoy_admin(), stack.envoy()?)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("{when}: {:.1} MiB allocated, {:.1} MiB resident", mib(memory.allocated), mib(memory.resident));
    Ok(memory)
}

#[test]
fn a_million_addresses_against_one_limit_take_no_more_memory_than_the_places_there_are() {
    let mut options = Options::for_test("limits-flood").unwrap();
    options.workers = WORKERS;
    options.upstream = Upstream::Nowhere;
    options.plugin = json!({ "performance_headers": null });
    let stack = Stack::start_serving(options).unwrap();
    // Nobody is replenished while this runs: every place is needed.
    stack.put_limit("per-client", &json!({ "key": "ip", "rate": 2, "per": "day" })).unwrap();
    let begin = 10 << 24;
    memory(&stack, "before").unwrap();
    let first = flood(stack.gate(), "/", begin..begin + ENOUGH, 16).unwrap();
    let filled = memory(&stack, "200,000 clients").unwrap();
    let rest = flood(stack.gate(), "/", begin + ENOUGH..begin + CLIENTS, 16).unwrap();
    let after = memory(&stack, "1,000,000 clients").unwrap();
    assert_eq!((first.get(&200), first.len()), (Some(&u64::from(ENOUGH)), 1), "no stranger is denied");
    assert_eq!(
        (rest.get(&200), rest.len()),
        (Some(&u64::from(CLIENTS - ENOUGH)), 1),
        "no stranger is denied"
    );
    let forgotten = stack.counted("tidegate.limits.forgotten", u64::from(CLIENTS) - PLACES).unwrap();
    println!("{forgotten} clients were forgotten");
    assert!(after.allocated < filled.allocated + MOST_ALLOCATED, "{filled:?} {after:?}");
    assert!(after.resident < filled.resident + MOST_RESIDENT, "{filled:?} {after:?}");
    // A row and a line of the access log for each are 600 MB.
    let dir = stack.options().dir.clone();
    drop(stack);
    std::fs::remove_dir_all(dir).unwrap();
}
