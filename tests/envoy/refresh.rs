//! `cache/refresh` under load, and `warmup` after a restart of Envoy and after one
//! of the admin service.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack, wait};

const REFRESHES: u64 = 5;

fn start(name: &str, recorder: bool) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    Stack::start_serving(options)
}

fn ask(stack: &Stack, what: &str) -> Result<Value> {
    stack.api_ok(Method::POST, &format!("/api/admin/optimization/{what}?wait=30s"), None)
}

/// All of the one gateway that lives.
fn ensure_applied(answer: &Value) -> Result<()> {
    let applied = &answer["applied"];
    let behind = answer["behind"].as_array().map(Vec::len);
    ensure!(applied["gateways"] == 1 && applied["of"] == 1 && behind == Some(0), "not applied: {answer}");
    Ok(())
}

/// Orders refreshes while requests come in; nothing has changed, nobody notices,
/// and every VM has loaded anew each time.
fn refreshed_under_load(name: &str, recorder: bool) -> Result<()> {
    let stack = start(name, recorder)?;
    let loads = |stack: &Stack| -> Result<u64> {
        Ok(stack.stats()?.sum(|stat| stat.ends_with("tidegate.sync.full_loads")))
    };
    let before = loads(&stack)?;
    let load = Load::start(stack.gate(), 8, None, |number| {
        std::thread::sleep(Duration::from_millis(2));
        Request::get("/").from(if number % 5 == 0 { "192.0.2.13" } else { "192.0.2.14" })
    });
    let reached = |count: u64| {
        wait::until("the load is under way", Duration::from_secs(60), || {
            Ok((load.sent() >= count).then_some(()))
        })
    };
    let (mut last, mut version, mut times) = (0, Value::Null, Vec::new());
    for round in 1..=REFRESHES {
        reached(round * 300)?;
        let answer =
            ask(&stack, ["cache/refresh", "cache/routes/refresh", "cache/ip/refresh"][round as usize % 3])?;
        ensure_applied(&answer)?;
        let refresh = answer["refresh"].as_u64().unwrap_or_default();
        ensure!(refresh > last, "refresh {refresh} after {last}");
        ensure!(round == 1 || answer["version"] == version, "nothing had changed: {answer}");
        ensure!(
            answer["tables"]["bans"]["count"] == 1 && answer["tables"]["routes"]["count"] == 1,
            "{answer}"
        );
        (last, version) = (refresh, answer["version"].clone());
        times.push(answer["elapsed_ms"].as_u64().unwrap_or_default());
    }
    let seen = load.sent();
    reached(seen + 300)?;
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(tally.status(200) + tally.status(403), tally.total(), "{tally:?}");
    // The numbers of the load are dealt out in order, a fifth of them to the banned.
    assert_eq!(tally.status(403), tally.total().div_ceil(5), "{tally:?}");
    wait::until("every refresh has loaded everything", Duration::from_secs(20), || {
        Ok((loads(&stack)? >= before + REFRESHES).then_some(()))
    })?;
    println!("{name}: {REFRESHES} refreshes under load in {times:?} ms, {} requests", tally.total());
    Ok(())
}

/// Whoever is told that all is warm finds it so.
fn warm_after_restarts(name: &str, recorder: bool) -> Result<()> {
    let mut stack = start(name, recorder)?;
    let assert_warm = |stack: &Stack| -> Result<()> {
        let warm = ask(stack, "warmup")?;
        ensure_applied(&warm)?;
        let live = warm["gateways"].as_array().into_iter().flatten().filter(|one| one["lost"] == false);
        let holds = live.filter(|one| one["enforces"] == warm["version"]).count();
        ensure!(holds == 1, "one gateway lives and enforces the version: {warm}");
        for worker in &mut stack.connection_per_worker()? {
            assert_eq!(worker.send(&Request::get("/").from("192.0.2.13"))?.status, 403);
            assert_eq!(worker.send(&Request::get("/").from("192.0.2.14"))?.status, 200);
        }
        println!("{name}: warm in {} ms", warm["elapsed_ms"]);
        Ok(())
    };
    let process = |stack: &Stack| -> Result<Option<Value>> {
        let said = stack.api_ok(Method::GET, "/api/admin/gateways", None)?;
        let mut live = said["items"].as_array().into_iter().flatten().filter(|one| one["silent_for_ms"] == 0);
        Ok(live.next().map(|one| one["process"].clone()))
    };
    assert_warm(&stack)?;
    let former = wait::until("the gateway polls", Duration::from_secs(20), || process(&stack))?;
    stack.kill_envoy();
    stack.start_envoy()?;
    wait::until("the new process polls", Duration::from_secs(60), || {
        Ok(process(&stack)?.filter(|process| *process != former))
    })?;
    ensure_applied(&ask(&stack, "warmup")?)?;
    let first = wait::until("Envoy answers", Duration::from_secs(60), || {
        Ok(http::send(stack.gate(), &Request::get("/").from("192.0.2.13")).ok())
    })?;
    assert_eq!(first.status, 403, "{}", first.text());
    assert_warm(&stack)?;

    stack.kill_admin();
    stack.start_admin()?;
    // Its first event or poll, whichever is first, and it counts.
    stack.wait_gateway(Duration::from_secs(30))?;
    assert_warm(&stack)?;
    let refreshed = ask(&stack, "cache/refresh")?;
    ensure_applied(&refreshed)
}

#[test]
fn a_refresh_is_carried_out_and_nobody_notices() {
    refreshed_under_load("refresh", true).unwrap();
}

#[test]
fn a_refresh_is_carried_out_without_the_recorder() {
    refreshed_under_load("refresh-bare", false).unwrap();
}

#[test]
fn warmup_tells_when_a_restarted_envoy_has_everything() {
    warm_after_restarts("warmup", true).unwrap();
}
