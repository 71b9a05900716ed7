//! Envoy restarts: until its tables are there it asks the admin service about every
//! request, so nobody passes who may not, and without the service nobody at all.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use tidegate_stack::http::{self, Request, Response};
use tidegate_stack::{Options, Stack, wait};

fn start(name: &str, recorder: bool) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    // A slow machine must not make a question fail.
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
    Stack::start_serving(options)
}

/// A gate whom nobody answers says so, and when to come back.
fn assert_unavailable(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["code"], "check_unavailable");
    assert!(answer.header("retry-after").is_some());
}

/// Asks as a banned client from the first moment that Envoy listens until it is
/// denied for the ban, which may be at once; before that the gate may have found
/// nobody to ask.
fn never_let_past(stack: &Stack) -> Result<Duration> {
    let mut listening = None;
    wait::until("the ban is enforced again", Duration::from_secs(60), || {
        let Ok(answer) = http::send(stack.gate(), &Request::get("/").from("192.0.2.13")) else {
            return Ok(None);
        };
        let since = *listening.get_or_insert_with(Instant::now);
        if answer.status == 403 {
            return Ok(Some(since.elapsed()));
        }
        assert_unavailable(&answer);
        Ok(None)
    })
}

fn restarted(name: &str, recorder: bool) -> Result<()> {
    let mut stack = start(name, recorder)?;
    for round in 1..=3 {
        stack.kill_envoy();
        stack.start_envoy()?;
        let took = never_let_past(&stack)?;
        // Nor is anybody turned away who may pass.
        let passes = http::send(stack.gate(), &Request::get("/").from("192.0.2.14"))?;
        assert_eq!(passes.status, 200, "{}", passes.text());
        println!(
            "{name}: restart {round}: the ban enforced {:.0} ms after listening",
            took.as_secs_f64() * 1_000.0
        );
        stack.wait_gate_ready()?;
        for worker in &mut stack.connection_per_worker()? {
            assert_eq!(worker.send(&Request::get("/").from("192.0.2.13"))?.status, 403);
            assert_eq!(worker.send(&Request::get("/").from("192.0.2.14"))?.status, 200);
        }
    }
    // The new process is a new gateway; the old one is lost, and holds nothing up.
    stack.ban("192.0.2.15")?;
    for worker in &mut stack.connection_per_worker()? {
        assert_eq!(worker.send(&Request::get("/").from("192.0.2.15"))?.status, 403);
    }
    Ok(())
}

#[test]
fn tables_are_back_after_a_restart() {
    restarted("restart", true).unwrap();
}

#[test]
fn tables_are_back_after_a_restart_without_the_recorder() {
    restarted("restart-bare", false).unwrap();
}

#[test]
fn without_the_admin_service_a_fresh_envoy_lets_nobody_pass() {
    let mut stack = start("restart-alone", true).unwrap();
    stack.kill_envoy();
    stack.stop_admin();
    stack.start_envoy().unwrap();
    wait::until("Envoy answers", Duration::from_secs(60), || {
        Ok(http::send(stack.gate(), &Request::get("/")).ok())
    })
    .unwrap();
    for client in ["192.0.2.13", "192.0.2.14"] {
        for _ in 0..20 {
            assert_unavailable(&http::send(stack.gate(), &Request::get("/").from(client)).unwrap());
        }
    }
    stack.start_admin().unwrap();
    never_let_past(&stack).unwrap();
    stack.wait_gate_ready().unwrap();
    let passed = http::send(stack.gate(), &Request::get("/").from("192.0.2.14")).unwrap();
    assert_eq!(passed.status, 200, "{}", passed.text());
}
