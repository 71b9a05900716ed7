//! Envoy is replaced under load, as people do it: a new one is started beside the old one
//! and warms up, new connections go there, the old one says good-bye on those that it has,
//! and ends when the last one is gone. No request fails, no banned client passes, and
//! every request of both is a row.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::load::Load;
use tidegate_stack::rolling::OneEnvoy;
use tidegate_stack::{Options, Stack, wait};

const BANNED: &str = "192.0.2.13";
const WELCOME: &str = "192.0.2.14";
const LIMIT: Duration = Duration::from_secs(60);

/// Whom new connections go to.
#[derive(Clone)]
struct Balancer(Arc<Mutex<SocketAddr>>);

impl Balancer {
    fn new(address: SocketAddr) -> Self {
        Self(Arc::new(Mutex::new(address)))
    }

    fn choose(&self) -> SocketAddr {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn_to(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// Kept connections, and for every fifth request one of its own.
fn load(balancer: &Balancer) -> Load {
    let balancer = balancer.clone();
    Load::balanced(
        move || balancer.choose(),
        12,
        None,
        |number| {
            std::thread::sleep(Duration::from_millis(6));
            let client = if number % 4 == 0 { BANNED } else { WELCOME };
            let request = Request::get(&format!("/rolling/{client}")).from(client);
            if number % 5 == 0 { request.header("connection", "close") } else { request }
        },
    )
}

fn wait_for_more_requests(load: &Load) -> Result<()> {
    let target = load.sent() + 400;
    wait::until("the load goes on", LIMIT, || Ok((load.sent() >= target).then_some(())))
}

/// Waits until the old one has no connection left, and has brought away every event.
fn wait_drained(old: &OneEnvoy) -> Result<()> {
    wait::until("its connections are gone", LIMIT, || {
        Ok((old.stats()?.get("http.gate.downstream_cx_active") == Some(0)).then_some(()))
    })?;
    wait::until("its events are stored", LIMIT, || Ok(old.has_sent_all()?.then_some(())))
}

fn replaced_under_load(name: &str, recorder: bool, restart_admin: bool) -> Result<()> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    let mut stack = Stack::start_serving(options)?;
    let balancer = Balancer::new(stack.gate());
    let load = load(&balancer);
    wait_for_more_requests(&load)?;

    let old = stack.start_successor()?;
    stack.wait_gate_ready()?;
    // Both serve, and a ban holds on both once it is applied.
    let late = "192.0.2.15";
    let ban = json!({ "ip": late, "reason": "test" });
    let said = stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban?wait_applied=30s", Some(&ban))?;
    assert_eq!((&said["applied"]["gateways"], &said["applied"]["of"]), (&json!(2), &json!(2)), "{said}");
    for gate in [old.gate(), stack.gate()] {
        assert_eq!(http::send(gate, &Request::get("/").from(late))?.status, 403);
    }

    balancer.turn_to(stack.gate());
    old.fail_health_checks()?;
    if restart_admin {
        stack.stop_admin();
        wait_for_more_requests(&load)?;
        stack.start_admin()?;
    }
    wait_drained(&old)?;
    let seen_by_old = old.stats()?.get("wasmcustom.tidegate.events.numbered").unwrap_or(0);
    old.terminate();
    wait_for_more_requests(&load)?;

    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(tally.status(200) + tally.status(403), tally.total(), "{tally:?}");
    let mut sql = stack.sql()?;
    let all = "SELECT count(*) FROM traffic_events WHERE path LIKE '/rolling/%'";
    wait::until("each request is a row", LIMIT, || Ok((sql.number(all)? >= tally.total()).then_some(())))?;
    assert_eq!(sql.number(all)?, tally.total());
    let mut said = stack.recorded(LIMIT)?;
    let mut rows = |client: &str, status: u16| {
        sql.number(&format!(
            "SELECT count(*) FROM traffic_events WHERE path = '/rolling/{client}' AND status = {status}"
        ))
    };
    assert_eq!(rows(BANNED, 403)?, tally.status(403), "a banned client passes nowhere");
    assert_eq!(rows(WELCOME, 200)?, tally.status(200));
    assert_eq!(rows(BANNED, 200)? + rows(WELCOME, 403)?, 0);
    // All is stored, and nobody can prove it: a VM of a process that ends says no last word.
    assert_eq!((said.lost, said.dropped, said.completeness), (0, 0, 1.0), "{said:?}");
    wait::until("the old process is missed", LIMIT, || {
        said = stack.recording()?;
        Ok((!said.exact).then_some(()))
    })?;
    println!("{name}: {} requests, {seen_by_old} of all by the old one; {said:?}", tally.total());

    stack.ban("192.0.2.16")?;
    for worker in &mut stack.connection_per_worker()? {
        assert_eq!(worker.send(&Request::get("/").from("192.0.2.16"))?.status, 403);
    }
    Ok(())
}

#[test]
fn envoy_is_replaced_under_load() {
    replaced_under_load("rolling", true, false).unwrap();
}

#[test]
fn envoy_is_replaced_under_load_without_the_recorder() {
    replaced_under_load("rolling-bare", false, false).unwrap();
}

#[test]
fn the_admin_service_may_restart_meanwhile() {
    replaced_under_load("rolling-admin", true, true).unwrap();
}
