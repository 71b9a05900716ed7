//! Under Istio: the filter comes by ECDS as the shipped WasmPlugin says, shares the empty
//! `vm_id` with other plugins, has no recorder, asks the admin service over HTTP/1.1, and
//! Envoy's own routes choose the upstream. While requests come, configuration and code are
//! replaced, and nobody outside notices.

mod istio;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::module::{other, stamped};
use anyhow::{Context, Result};
use serde_json::json;
use tidegate_backend::InProcess;
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack, wait};

use istio::{Istio, Plugin};

use crate::guards::pause_the_headers_only;
use crate::rewritten_module::rewritten;
use crate::updates::{
    BANNED, LIMIT, WELCOME, assert_answered, assert_bans_hold, assert_performance_headers, assert_unnoticed,
    load, wait_for_more_requests,
};

/// As it ships.
const MANIFEST: &str = include_str!("../../envoy/istio/wasmplugin.yaml");

/// An Envoy of Istio's with the gate between two strangers, and one more service.
struct Mesh {
    stack: Stack,
    istio: Arc<Istio>,
    orders: InProcess,
    plugin: Plugin,
}

impl Mesh {
    fn start(name: &str) -> Result<Self> {
        let mut options = Options::for_test(name)?;
        let code = stamped(&options.programs.wasm, &options.dir, "first")?;
        let plugin = Plugin::read(MANIFEST, code)?;
        let admin_cluster = plugin.admin_cluster()?;
        let strangers = [Plugin::bare("chatty", &other("chatty")?), Plugin::bare("noop", &other("noop")?)];
        let [chatty, noop] = strangers;
        let istio = Arc::new(Istio { plugins: vec![chatty, plugin.clone(), noop], admin_cluster });
        options.control = Some(Arc::clone(&istio) as _);
        options.drain = Some(Duration::from_secs(45));
        let orders = InProcess::start("orders", local(0))?;
        options.backends = vec![NamedBackend::at("orders", orders.address())];
        let stack = Stack::start(options)?;
        stack.ban(BANNED)?;
        Ok(Self { stack, istio, orders, plugin })
    }

    fn dir(&self) -> &Path {
        &self.stack.options().dir
    }

    /// The filter as another release: other bytes.
    fn release(&self, name: &str) -> Result<std::path::PathBuf> {
        stamped(&self.stack.options().programs.wasm, self.dir(), name)
    }

    /// What the strangers say of themselves.
    fn chatty(&self, what: &str) -> Result<u64> {
        self.stack.stats()?.get(&format!("wasmcustom.chatty.{what}")).with_context(|| format!("no {what}"))
    }

    /// Nothing of the strangers' was touched, and they go on as before.
    fn assert_strangers_undisturbed(&self) -> Result<()> {
        let (ticks, sent) = (self.chatty("ticks")?, self.chatty("sent")?);
        wait::until("the stranger goes on", LIMIT, || {
            Ok((self.chatty("ticks")? > ticks + 10 && self.chatty("received")? >= sent).then_some(()))
        })?;
        // Nobody ever counted nothing.
        assert_eq!(self.stack.stats()?.get("wasmcustom.chatty.foreign").unwrap_or(0), 0);
        Ok(())
    }
}

#[test]
fn envoy_routes_and_the_gate_guards() {
    let mesh = Mesh::start("istio").unwrap();
    let ask = |path: &str| {
        let answer = http::send(mesh.stack.gate(), &Request::get(path).from(WELCOME)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().unwrap()
    };
    assert_eq!(ask("/orders/1")["backend"], "orders");
    let seen = ask("/elsewhere");
    assert_eq!(seen["backend"], "demo");
    let headers = seen["headers"].as_object().unwrap();
    assert!(!headers.keys().any(|name| name.starts_with("x-tidegate-")), "{seen}");
    assert_bans_hold(&mesh.stack, "192.0.2.15").unwrap();
    assert!(mesh.orders.seen().iter().all(|seen| seen["path"] == "/orders/1"), "as many as were sent");

    // Flags: with all off the admin service is asked, over HTTP/1.1, and bans hold as well.
    let before = mesh.stack.recorded(LIMIT).unwrap();
    mesh.stack.all_flags(false).unwrap();
    assert_bans_hold(&mesh.stack, "192.0.2.16").unwrap();
    let after = mesh.stack.recorded(LIMIT).unwrap();
    assert!(after.checks.ip.direct > before.checks.ip.direct, "{after:?}");
    assert_eq!(after.checks.ip.fallback, before.checks.ip.fallback, "{after:?}");
    let stats = mesh.stack.stats().unwrap();
    let admin =
        |what: &str| stats.sum(|name| name.starts_with("cluster.outbound|9071|") && name.ends_with(what));
    assert!(admin(".upstream_cx_http1_total") > 0 && admin(".upstream_cx_http2_total") == 0);
    mesh.stack.all_flags(true).unwrap();

    let before = mesh.stack.recorded(LIMIT).unwrap();
    let load = load(&mesh.stack);
    wait_for_more_requests(&load).unwrap();
    assert_unnoticed(&mesh.stack, load, &before).unwrap();
    mesh.assert_strangers_undisturbed().unwrap();
}

#[test]
fn a_new_configuration_and_new_code_are_taken_under_load() {
    let mut mesh = Mesh::start("istio-updates").unwrap();
    let before = mesh.stack.recorded(LIMIT).unwrap();
    let load = load(&mesh.stack);
    wait_for_more_requests(&load).unwrap();
    for round in 0..2 {
        // The configuration only: other roots in the same VMs.
        let headers = if round % 2 == 0 { "always" } else { "never" };
        mesh.plugin = mesh.plugin.told(&json!({ "performance_headers": headers })).unwrap();
        mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
        wait_for_more_requests(&load).unwrap();
        assert_performance_headers(&mesh.stack, headers == "always").unwrap();
        // The code only: other VMs beside the old ones.
        mesh.plugin.code = mesh.release(&format!("code {round}")).unwrap();
        mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
        wait_for_more_requests(&load).unwrap();
        // Both, and what decides who shares tables and events within a VM.
        mesh.plugin = mesh.plugin.told(&json!({ "events": { "batch_events": 100 + round } })).unwrap();
        mesh.plugin.code = mesh.release(&format!("both {round}")).unwrap();
        mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
        wait_for_more_requests(&load).unwrap();
        mesh.stack.ban(&format!("192.0.2.{}", 30 + round)).unwrap();
    }
    // One after the other, each right after a ban, seen by connections that stay open.
    let mut workers = mesh.stack.connection_per_worker().unwrap();
    for round in 0..3 {
        let banned = format!("192.0.2.{}", 40 + round);
        mesh.stack.ban(&banned).unwrap();
        mesh.plugin = mesh.plugin.told(&json!({ "events": { "batch_events": 200 + round } })).unwrap();
        mesh.plugin.code = mesh.release(&format!("quick {round}")).unwrap();
        mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
        for worker in &mut workers {
            assert_eq!(worker.send(&Request::get("/").from(&banned)).unwrap().status, 403);
        }
    }
    wait_for_more_requests(&load).unwrap();
    assert_unnoticed(&mesh.stack, load, &before).unwrap();
    assert_bans_hold(&mesh.stack, "192.0.2.15").unwrap();
    mesh.assert_strangers_undisturbed().unwrap();
}

/// With all flags off a request waits for the admin service, and its answer for its event:
/// those that wait while their VM is replaced end in the one that they began in.
#[test]
fn requests_that_wait_meanwhile_are_answered() {
    let mut mesh = Mesh::start("istio-waiting").unwrap();
    mesh.stack.all_flags(false).unwrap();
    let before = mesh.stack.recorded(LIMIT).unwrap();
    let load = load(&mesh.stack);
    wait_for_more_requests(&load).unwrap();
    for round in 0..2 {
        mesh.plugin = mesh.plugin.told(&json!({ "events": { "batch_events": 300 + round } })).unwrap();
        mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
        wait_for_more_requests(&load).unwrap();
        mesh.plugin.code = mesh.release(&format!("waiting {round}")).unwrap();
        mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
        wait_for_more_requests(&load).unwrap();
    }
    let after = assert_answered(&mesh.stack, load).unwrap();
    assert!(after.checks.ip.direct > before.checks.ip.direct, "{after:?}");
    assert_eq!(after.checks.ip.unavailable, before.checks.ip.unavailable, "{after:?}");
}

#[test]
fn a_new_token_is_taken_under_load() {
    let mut mesh = Mesh::start("istio-token").unwrap();
    let before = mesh.stack.recorded(LIMIT).unwrap();
    let load = load(&mesh.stack);
    wait_for_more_requests(&load).unwrap();
    let token = mesh.stack.create_gateway_token("second").unwrap();
    let admin = json!({ "token": token, "token_env": null });
    mesh.plugin = mesh.plugin.told(&json!({ "admin": admin })).unwrap();
    mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
    wait_for_more_requests(&load).unwrap();
    mesh.stack.revoke_first_gateway_token().unwrap();
    wait_for_more_requests(&load).unwrap();
    assert_unnoticed(&mesh.stack, load, &before).unwrap();
    assert_bans_hold(&mesh.stack, "192.0.2.15").unwrap();
}

#[test]
fn a_token_in_the_manifests_environment_is_taken() {
    let mesh = Mesh::start("istio-variable").unwrap();
    let second = mesh.stack.create_gateway_token("second").unwrap();
    let mut moved = mesh.plugin.told(&json!({ "admin": { "token_env": "ANOTHER" } })).unwrap();
    let variable = |token: &str| json!([{ "name": "ANOTHER", "valueFrom": "INLINE", "value": token }]);
    moved.manifest["spec"]["vmConfig"]["env"] = variable(&second);
    mesh.istio.deliver(&mesh.stack, &moved).unwrap();
    mesh.stack.revoke_first_gateway_token().unwrap();
    assert_bans_hold(&mesh.stack, "192.0.2.15").unwrap();
    // The value alone.
    let third = mesh.stack.create_gateway_token("third").unwrap();
    moved.manifest["spec"]["vmConfig"]["env"] = variable(&third);
    mesh.istio.deliver(&mesh.stack, &moved).unwrap();
    mesh.stack.revoke_gateway_token("second", &second).unwrap();
    assert_bans_hold(&mesh.stack, "192.0.2.16").unwrap();
    let whole = mesh.stack.recorded(LIMIT).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut mesh = Mesh::start("istio-refused").unwrap();
    let before = mesh.stack.recorded(LIMIT).unwrap();
    let load = load(&mesh.stack);
    wait_for_more_requests(&load).unwrap();
    // Misspelt; and misspelt in new code, whose VMs are made and thrown away again.
    let misspelt = mesh.plugin.told(&json!({ "performance_header": "always" })).unwrap();
    mesh.istio.deliver_refused(&mesh.stack, &misspelt).unwrap();
    wait_for_more_requests(&load).unwrap();
    let code = mesh.release("refused").unwrap();
    mesh.istio.deliver_refused(&mesh.stack, &Plugin { code: code.clone(), ..misspelt }).unwrap();
    wait_for_more_requests(&load).unwrap();
    let log = String::from_utf8_lossy(&std::fs::read(mesh.stack.log("envoy")).unwrap()).into_owned();
    assert!(log.contains("/performance_header"), "the log names the field");
    // The next right one is taken.
    let right = mesh.plugin.told(&json!({ "performance_headers": "always" })).unwrap();
    mesh.plugin = Plugin { code, ..right };
    mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
    wait_for_more_requests(&load).unwrap();
    assert_performance_headers(&mesh.stack, true).unwrap();
    assert_unnoticed(&mesh.stack, load, &before).unwrap();
    assert_bans_hold(&mesh.stack, "192.0.2.15").unwrap();
}

/// A request that waits for the admin service waits with its body: where Envoy stops the
/// headers only, a body that came would send them on, past every check.
#[test]
fn a_body_does_not_get_past_a_check_that_is_asked() {
    let mut mesh = Mesh::start("istio-body").unwrap();
    mesh.plugin.stops_headers_only = true;
    mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
    mesh.stack.all_flags(false).unwrap();
    let ask = |client: &str| {
        let request = Request::new(Method::POST, "/orders/body").from(client).body("text/plain", "a body");
        http::send(mesh.stack.gate(), &request).unwrap().status
    };
    for _ in 0..20 {
        assert_eq!([ask(BANNED), ask(WELCOME)], [403, 200]);
    }
    assert_eq!(mesh.orders.seen().len(), 20, "those of the banned client reached nobody");
    let checks = mesh.stack.recorded(LIMIT).unwrap().checks;
    assert!(checks.ip.direct >= 40, "{checks:?}");

    // It is the guard that holds it.
    let shipped = &mesh.stack.options().programs.wasm;
    mesh.plugin.code = rewritten(shipped, mesh.dir(), pause_the_headers_only).unwrap();
    mesh.istio.deliver(&mesh.stack, &mesh.plugin).unwrap();
    wait::until("a body gets past the check", LIMIT, || {
        let _ = ask(BANNED);
        Ok((mesh.orders.seen().len() > 20).then_some(()))
    })
    .unwrap();
}
