//! Behind Envoy Gateway: the filter stands in the listener as the shipped
//! EnvoyExtensionPolicy says, in a `vm_id` of its own, and Envoy fetches its code from the
//! controller. A change replaces the listener's filters; connections of the ones before
//! are drained.

mod proxy;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::module::stamped;
use anyhow::Result;
use serde_json::json;
use tidegate_stack::http::{self, Request};
use tidegate_stack::{Options, Stack, wait};

use proxy::{CodeServer, EnvoyGateway};

use crate::rewritten_module::{rewritten, trap, trap_on_headers};
use crate::updates::{
    BANNED, LIMIT, WELCOME, assert_bans_hold, assert_performance_headers, assert_unnoticed, load,
    wait_for_more_requests,
};

/// As they ship.
const POLICY: &str = include_str!("../../envoy/envoy-gateway/extension-policy.yaml");
const PROXY: &str = include_str!("../../envoy/envoy-gateway/envoyproxy.yaml");
/// `shutdown.drainTimeout` of the EnvoyProxy, a minute by default; a test waits for its end.
/// Seen with 4 s on a machine that took 6 s to compile new code: no connection was told to
/// end, all were closed.
const DRAIN: Duration = Duration::from_secs(20);

struct Proxy {
    stack: Stack,
    gateway: EnvoyGateway,
    wasm: PathBuf,
    _code: CodeServer,
}

impl Proxy {
    /// `failure_policy`: what an EnvoyPatchPolicy sets.
    fn start(name: &str, traps: bool, failure_policy: Option<&'static str>) -> Result<Self> {
        let mut options = Options::for_test(name)?;
        std::fs::create_dir_all(&options.dir)?;
        let mut wasm = options.programs.wasm.clone();
        if traps {
            wasm = rewritten(&wasm, &options.dir, trap_on_headers)?;
        }
        let first = stamped(&wasm, &options.dir, "first")?;
        let code = CodeServer::start(options.dir.clone())?;
        let mut gateway = EnvoyGateway::read(POLICY, PROXY, first, code.address())?;
        gateway.failure_policy = failure_policy;
        options.control = Some(Arc::new(gateway.clone()));
        options.drain = Some(DRAIN);
        let stack = Stack::start(options)?;
        stack.ban(BANNED)?;
        Ok(Self { stack, gateway, wasm, _code: code })
    }

    /// The filter as another release: other bytes.
    fn release(&self, name: &str) -> Result<PathBuf> {
        stamped(&self.wasm, &self.stack.options().dir, name)
    }

    fn vms(&self) -> Result<u64> {
        Ok(self.stack.stats()?.get("wasm.envoy.wasm.runtime.v8.active").unwrap_or(0))
    }
}

#[test]
fn a_new_configuration_and_new_code_are_taken_under_load() {
    let mut proxy = Proxy::start("eg-updates", false, None).unwrap();
    let vms = proxy.vms().unwrap();
    let before = proxy.stack.recorded(LIMIT).unwrap();
    let load = load(&proxy.stack);
    wait_for_more_requests(&load).unwrap();
    for round in 0..2 {
        let headers = if round % 2 == 0 { "always" } else { "never" };
        proxy.gateway = proxy.gateway.told(&json!({ "performance_headers": headers })).unwrap();
        proxy.gateway.deliver(&proxy.stack).unwrap();
        wait_for_more_requests(&load).unwrap();
        assert_performance_headers(&proxy.stack, headers == "always").unwrap();
        proxy.gateway.code = proxy.release(&format!("code {round}")).unwrap();
        proxy.gateway.deliver(&proxy.stack).unwrap();
        wait_for_more_requests(&load).unwrap();
        let banned = format!("192.0.2.{}", 40 + round);
        proxy.stack.ban(&banned).unwrap();
        let events = json!({ "events": { "batch_events": 100 + round } });
        proxy.gateway = proxy.gateway.told(&events).unwrap();
        proxy.gateway.code = proxy.release(&format!("both {round}")).unwrap();
        proxy.gateway.deliver(&proxy.stack).unwrap();
        for worker in &mut proxy.stack.connection_per_worker().unwrap() {
            assert_eq!(worker.send(&Request::get("/").from(&banned)).unwrap().status, 403);
        }
    }
    wait_for_more_requests(&load).unwrap();
    assert_unnoticed(&proxy.stack, load, &before).unwrap();
    assert_bans_hold(&proxy.stack, "192.0.2.15").unwrap();
    wait::until("the VMs before are gone", LIMIT, || Ok((proxy.vms()? == vms).then_some(()))).unwrap();
    let whole = proxy.stack.recorded(LIMIT).unwrap();
    assert!(whole.is_whole() && whole.untold, "and closed: {whole:?}");
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut proxy = Proxy::start("eg-refused", false, None).unwrap();
    let before = proxy.stack.recorded(LIMIT).unwrap();
    let load = load(&proxy.stack);
    wait_for_more_requests(&load).unwrap();
    let misspelt = proxy.gateway.told(&json!({ "performance_header": "always" })).unwrap();
    misspelt.deliver_refused(&proxy.stack).unwrap();
    wait_for_more_requests(&load).unwrap();
    proxy.gateway = proxy.gateway.told(&json!({ "performance_headers": "always" })).unwrap();
    proxy.gateway.deliver(&proxy.stack).unwrap();
    wait_for_more_requests(&load).unwrap();
    assert_performance_headers(&proxy.stack, true).unwrap();
    assert_unnoticed(&proxy.stack, load, &before).unwrap();
    assert_bans_hold(&proxy.stack, "192.0.2.15").unwrap();
}

/// A request as a banned and as another client, on each worker.
fn assert_serves(proxy: &Proxy) {
    for worker in &mut proxy.stack.connection_per_worker().unwrap() {
        assert_eq!(worker.send(&Request::get("/").from(BANNED)).unwrap().status, 403);
        assert_eq!(worker.send(&Request::get("/").from(WELCOME)).unwrap().status, 200);
    }
}

#[test]
fn a_trapped_vm_stays_closed_until_the_listener_changes() {
    let mut proxy = Proxy::start("eg-trap", true, None).unwrap();
    for worker in &mut proxy.stack.connection_per_worker().unwrap() {
        trap(worker).unwrap();
        // Longer than any back-off of Envoy's: nobody makes a new one.
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            assert_eq!(worker.send(&Request::get("/").from(WELCOME)).unwrap().status, 503);
        }
    }
    proxy.gateway = proxy.gateway.told(&json!({ "performance_headers": "always" })).unwrap();
    proxy.gateway.deliver(&proxy.stack).unwrap();
    assert_serves(&proxy);
}

#[test]
fn a_trapped_vm_is_replaced_where_a_patch_says_so() {
    let proxy = Proxy::start("eg-trap-reload", true, Some("FAIL_RELOAD")).unwrap();
    for worker in &mut proxy.stack.connection_per_worker().unwrap() {
        trap(worker).unwrap();
        let first = wait::until("the worker has a VM again", LIMIT, || {
            let answer = worker.send(&Request::get("/").from(BANNED))?;
            Ok((answer.status != 503).then_some(answer))
        });
        assert_eq!(first.unwrap().status, 403, "warm at once");
    }
    assert_serves(&proxy);
}

/// Envoy has taken the listener before it has fetched the code, so there is nobody to
/// refuse any more: nothing passes until the mistake is put right.
#[test]
fn a_mistake_that_comes_with_new_code_closes_the_gate() {
    let proxy = Proxy::start("eg-mistake", false, None).unwrap();
    let code = proxy.release("second").unwrap();
    let right = EnvoyGateway { code, ..proxy.gateway.clone() };
    let misspelt = right.told(&json!({ "performance_header": "always" })).unwrap();
    misspelt.deliver(&proxy.stack).unwrap();
    let ask = |client: &str| http::send(proxy.stack.gate(), &Request::get("/").from(client)).unwrap().status;
    assert_eq!([ask(BANNED), ask(WELCOME)], [503, 503]);
    right.deliver(&proxy.stack).unwrap();
    assert_serves(&proxy);
}
