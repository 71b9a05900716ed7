//! What the manifests add to a proxy's bootstrap, added as the control planes do it: a
//! real Envoy takes it, and the recorder in it starts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_stack::http::{self, Request};
use tidegate_stack::ports::local;
use tidegate_stack::process::Process;
use tidegate_stack::programs::repository;
use tidegate_stack::{Programs, ReservedPorts, wait};

/// Where the manifests mount the module.
const MOUNTED: &str = "/etc/tidegate/tidegate.wasm";

/// A text inside of a manifest.
fn text(path: &str, pointer: &str) -> String {
    let text = std::fs::read_to_string(repository().join(path)).unwrap();
    let document = Value::deserialize(yaml_serde::Deserializer::from_str(&text)).unwrap();
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} {pointer}")).to_owned()
}

/// An Envoy whose bootstrap has only this and its own admin listener.
fn start(name: &str, added: &str) -> Result<(Process, ReservedPorts)> {
    let programs = Programs::find()?;
    let added = added.replace(MOUNTED, &programs.wasm.display().to_string());
    let reserved = ReservedPorts::take()?;
    let port = reserved.ports().envoy_admin;
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let base = json!({ "admin": { "address": address } }).to_string();
    let dir = repository().join("target/scenarios").join(name);
    std::fs::create_dir_all(&dir)?;
    let config = dir.join("envoy.json");
    std::fs::write(&config, base)?;
    let mut command = Command::new(&programs.envoy);
    // Istio's agent gives what a pod's annotation adds as --config-yaml, and Envoy merges
    // it; Envoy Gateway merges itself, by the same rules.
    command.args(["--use-dynamic-base-id", "--concurrency", "1", "--config-yaml", &added, "-c"]).arg(&config);
    command.env("TIDEGATE_GATEWAY_TOKEN", "t".repeat(32));
    let process = Process::start(name, command, Path::new(&dir.join("envoy.log")))?;
    Ok((process, reserved))
}

/// Waits until it is ready, and counts its VMs.
fn active_vms(name: &str, added: &str) -> Result<u64> {
    let (mut process, reserved) = start(name, added)?;
    let address = local(reserved.ports().envoy_admin);
    wait::until("Envoy is ready", Duration::from_secs(30), || {
        process.check_running()?;
        let answer = http::send(address, &Request::get("/ready"));
        Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
    })?;
    let stats = http::send(address, &Request::get("/stats?filter=v8.active"))?.text();
    Ok(stats.lines().find_map(|line| line.rsplit_once(": ")?.1.trim().parse().ok()).unwrap_or(0))
}

#[test]
fn envoy_gateways_with_the_admin_service_as_a_cluster() -> Result<()> {
    let added = text("envoy/envoy-gateway/envoyproxy.yaml", "/spec/bootstrap/value");
    assert_eq!(active_vms("bootstrap-cluster", &added)?, 0);
    Ok(())
}

#[test]
fn envoy_gateways_with_a_recorder() -> Result<()> {
    let added = text("envoy/envoy-gateway/recorder/envoyproxy.yaml", "/spec/bootstrap/value");
    assert!(active_vms("bootstrap-recorder", &added)? > 0);
    Ok(())
}

#[test]
fn istios_with_a_recorder_and_not_with_one_that_refuses_its_configuration() -> Result<()> {
    let added = text("envoy/istio/recorder/bootstrap.yaml", "/data/custom_bootstrap.json");
    assert!(active_vms("bootstrap-istio", &added)? > 0);

    let wrong = added.replace(r#"\"routing\""#, r#"\"rooting\""#);
    assert_ne!(wrong, added);
    let (mut process, _) = start("bootstrap-wrong", &wrong)?;
    wait::until("Envoy ends", Duration::from_secs(30), || Ok(process.check_running().err().map(drop)))?;
    assert!(process.tail(50).contains("rooting"), "{}", process.tail(50));
    Ok(())
}
