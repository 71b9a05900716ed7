//! What a response of direct mode says, on a real Envoy: who answered each check,
//! what that cost, and that its event is stored; the cache where nobody answers.

use std::time::Duration;

use crate::asked_again::asked_again;
use anyhow::{Context, Result};
use serde_json::json;
use tidegate_stack::faults::{Call, Faults};
use tidegate_stack::http::{self, Method, Request, Response};
use tidegate_stack::{FlagsAtStart, Options, Stack};

const LIMIT: Duration = Duration::from_secs(30);

fn start(name: &str, plugin: serde_json::Value) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    options.faults = Some(Faults::default());
    options.plugin = plugin;
    let stack = Stack::start(options)?;
    stack.put_route("all", "/", "demo")?;
    Ok(stack)
}

fn cache(response: &Response) -> &str {
    response.header("x-performance-cache").unwrap_or("none")
}

fn milliseconds(response: &Response, name: &str) -> Result<f64> {
    let value = response.header(&format!("x-performance-{name}")).with_context(|| format!("no {name}"))?;
    Ok(value.parse()?)
}

/// The row is there when the response is, without waiting for anything.
fn rows(stack: &Stack, path: &str) -> Result<u64> {
    stack.sql()?.number(&format!("SELECT count(*) FROM traffic_events WHERE path = '{path}'"))
}

fn all_off() -> Result<()> {
    let stack = start("direct-responses", json!({ "performance_headers": "always" }))?;
    for parallel in [false, true] {
        stack.flags(&json!({ "enableParallelExecution": parallel }))?;
        let path = format!("/direct/{parallel}");
        let response = http::send(stack.gate(), &Request::get(&path).from("192.0.2.20"))?;
        assert_eq!((response.status, cache(&response)), (200, "route=direct,ip=direct,geo=direct"));
        assert_eq!(rows(&stack, &path)?, 1, "stored before it was answered");
        for part in ["route", "ip", "geo", "recording"] {
            assert!(milliseconds(&response, part)? > 0.0, "{part} took time");
        }
        assert!(milliseconds(&response, "total")? >= milliseconds(&response, "recording")?);
        assert!(response.header("server-timing").is_some_and(|line| line.contains("geo;dur=")));

        // A body on its way while the questions are open, and a response without one.
        let body = vec![b'x'; 1 << 20];
        let post = Request::new(Method::POST, &format!("{path}/post")).body("text/plain", body);
        assert_eq!(http::send(stack.gate(), &post)?.json()?["body_bytes"], 1 << 20);
        let head = Request::new(Method::HEAD, &format!("{path}/head"));
        assert_eq!(http::send(stack.gate(), &head)?.status, 200);

        // Banned at once: the database is asked, not a table.
        stack.sql()?.run("INSERT INTO ip_monitor (ip, status, updated_at) VALUES ('192.0.2.21', 'banned', datetime('now'))")?;
        let denied = http::send(stack.gate(), &Request::get(&format!("{path}/denied")).from("192.0.2.21"))?;
        assert_eq!((denied.status, cache(&denied)), (403, "route=unneeded,ip=direct,geo=unneeded"));
        assert_eq!(rows(&stack, &format!("{path}/denied"))?, 1);
        stack.sql()?.run("DELETE FROM ip_monitor WHERE ip = '192.0.2.21'")?;
        let free = http::send(stack.gate(), &Request::get(&format!("{path}/free")).from("192.0.2.21"))?;
        assert_eq!(free.status, 200);
    }
    let recording = stack.recorded(LIMIT)?;
    assert!(recording.is_whole(), "{recording:?}");
    let double = "SELECT count(*) FROM traffic_events WHERE path LIKE '/direct/%'";
    assert_eq!(stack.sql()?.number(double)?, 10);
    Ok(())
}

#[test]
fn with_all_flags_off_every_check_is_asked_and_every_event_stored_first() {
    all_off().unwrap();
}

fn unanswered() -> Result<()> {
    let plugin = json!({
        "performance_headers": "always",
        "direct": { "timeout": "200ms", "budget": "400ms" },
        "events": { "sync_timeout": "200ms" },
    });
    let mut stack = start("asked-unanswered", plugin)?;
    let get = |stack: &Stack| http::send(stack.gate(), &Request::get("/").from("192.0.2.30"));
    for (call, cached) in [
        (Call::Ip, "route=direct,ip=fallback,geo=direct"),
        (Call::Geo, "route=direct,ip=direct,geo=fallback"),
        (Call::Route, "route=fallback,ip=direct,geo=direct"),
    ] {
        for parallel in [false, true] {
            stack.flags(&json!({ "enableParallelExecution": parallel }))?;
            stack.abort_calls(call, 100, 500)?;
            let response = get(&stack)?;
            assert_eq!((response.status, cache(&response)), (200, cached), "a wrong status");
            stack.abort_calls(call, 0, 500)?;
            stack.delay_calls(call, Duration::from_secs(5))?;
            let response = get(&stack)?;
            assert_eq!((response.status, cache(&response)), (200, cached), "too late");
            stack.delay_calls(call, Duration::ZERO)?;
            asked_again(&stack, &["ip=direct", "geo=direct", "route=direct"])?;
        }
    }
    stack.abort_calls(Call::OpenEvent, 100, 500)?;
    assert_eq!(get(&stack)?.status, 200, "not stored yet, and not held up");
    stack.abort_calls(Call::OpenEvent, 0, 500)?;

    // Clients that leave while their questions are open.
    stack.delay_calls(Call::Geo, Duration::from_millis(150))?;
    for _ in 0..50 {
        let asked = b"GET /gone HTTP/1.1\r\nhost: gone\r\n\r\n";
        http::raw(stack.gate(), asked, Duration::from_millis(10), 1)?;
    }
    stack.delay_calls(Call::Geo, Duration::ZERO)?;
    assert_eq!(cache(&get(&stack)?), "route=direct,ip=direct,geo=direct");

    stack.kill_admin();
    let response = get(&stack)?;
    assert_eq!((response.status, cache(&response)), (200, "route=fallback,ip=fallback,geo=fallback"));
    stack.start_admin()?;
    stack.wait_gateway(LIMIT)?;
    let recording = stack.recorded(LIMIT)?;
    assert!(recording.is_whole(), "{recording:?}");
    Ok(())
}

#[test]
fn what_the_admin_service_does_not_answer_the_cache_does() {
    unanswered().unwrap();
}
