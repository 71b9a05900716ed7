//! An Envoy as Envoy Gateway has it: the filter in the listener, its code fetched from
//! the controller, a `vm_id` of its own, and Envoy's own route table. What the controller
//! makes of an EnvoyExtensionPolicy is made here of the same document.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::{Path as Target, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tidegate_backend::Served;
use tidegate_stack::ports::{Ports, local};
use tidegate_stack::render::{at, merge};
use tidegate_stack::{Control, Options, Stack, wait};

use crate::module::sha256;
use crate::xds::{Kind, XdsFile};

const SOURCE: &str = include_str!("proxy.yaml");
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";
/// The controller's code server, as proxies know it.
const CODE_CLUSTER: &str = "wasm_cluster";
/// How long Envoy may take to fetch, compile and configure, on a busy machine.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

/// The gate's place behind Envoy Gateway.
#[derive(Clone, PartialEq, Debug)]
pub struct EnvoyGateway {
    /// The EnvoyExtensionPolicy.
    pub policy: Value,
    /// The EnvoyProxy, whose clusters are added to the proxy's own.
    pub proxy: Value,
    /// What its `code` was downloaded to.
    pub code: PathBuf,
    /// Who serves that.
    pub code_server: SocketAddr,
    /// Set by an EnvoyPatchPolicy; a policy has nothing for it.
    pub failure_policy: Option<&'static str>,
}

impl EnvoyGateway {
    /// A place out of the manifests' texts.
    ///
    /// # Errors
    /// They are not YAML.
    pub fn read(policy: &str, proxy: &str, code: PathBuf, code_server: SocketAddr) -> Result<Self> {
        let policy = yaml_serde::from_str(policy).context("the policy is not YAML")?;
        let proxy = yaml_serde::from_str(proxy).context("the EnvoyProxy is not YAML")?;
        Ok(Self { policy, proxy, code, code_server, failure_policy: None })
    }

    /// The same with the filter's `config` changed, RFC 7396.
    ///
    /// # Errors
    /// The policy has none.
    pub fn told(&self, patch: &Value) -> Result<Self> {
        let mut told = self.clone();
        merge(at(&mut told.policy, "/spec/wasm/0/config")?, patch);
        Ok(told)
    }

    /// What the controller calls the filter, and its VM.
    fn name(&self) -> Result<String> {
        let of = |field: &str| {
            let value = self.policy["metadata"][field].as_str();
            value.with_context(|| format!("the policy has no metadata.{field}"))
        };
        Ok(format!("envoyextensionpolicy/{}/{}/wasm/0", of("namespace")?, of("name")?))
    }

    fn filter_name(&self) -> Result<String> {
        Ok(format!("envoy.filters.http.wasm/{}", self.name()?))
    }

    /// Of internal/xds/translator/wasm.go: `wasmConfig` and `buildHCMWasmFilter`.
    fn filter(&self) -> Result<Value> {
        let wasm = &self.policy["spec"]["wasm"][0];
        let hash = sha256(&std::fs::read(&self.code)?);
        let fetched = json!({
            "http_uri": {
                "uri": format!("http://{}/{hash}.wasm", self.code_server),
                "cluster": CODE_CLUSTER,
                "timeout": "10s",
            },
            "sha256": hash,
            "retry_policy": { "num_retries": 10, "retry_back_off": { "base_interval": "1s", "max_interval": "30s" } },
        });
        let mut config = json!({
            "name": wasm["name"].as_str().map_or_else(|| self.name(), |name| Ok(name.to_owned()))?,
            "root_id": wasm["rootID"].as_str().unwrap_or_default(),
            "vm_config": {
                "vm_id": self.name()?,
                "runtime": "envoy.wasm.runtime.v8",
                "code": { "remote": fetched },
                "environment_variables": { "host_env_keys": wasm["env"]["hostKeys"] },
            },
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": wasm["config"].to_string(),
            },
            "fail_open": wasm["failOpen"].as_bool().unwrap_or(false),
        });
        if let Some(policy) = self.failure_policy {
            // One of the two only.
            config.as_object_mut().context("no object")?.remove("fail_open");
            config["failure_policy"] = json!(policy);
        }
        let typed = json!({ "@type": WASM, "config": config });
        Ok(json!({ "name": self.filter_name()?, "disabled": true, "typed_config": typed }))
    }

    fn listener(&self, ports: &Ports) -> Result<Value> {
        let mut source: Value = yaml_serde::from_str(SOURCE).context("proxy.yaml is not YAML")?;
        let mut listener = at(&mut source, "/listener")?.take();
        *at(&mut listener, "/address/socket_address/port_value")? = json!(ports.gate);
        let manager = at(&mut listener, "/default_filter_chain/filters/0/typed_config")?;
        let filters = at(manager, "/http_filters")?.as_array_mut().context("no list of filters")?;
        filters.insert(0, self.filter()?);
        let name = "httproute/default/demo/rule/0";
        *at(manager, "/route_config/virtual_hosts/0/routes")? = json!([{
            "name": format!("{name}/match/0/*"),
            "match": { "prefix": "/" },
            "route": { "cluster": name, "upgrade_configs": [{ "upgrade_type": "websocket" }] },
            "typed_per_filter_config": { self.filter_name()?: { "@type": ROUTE, "config": {} } },
        }]);
        Ok(listener)
    }

    fn file(dir: &Path) -> XdsFile {
        XdsFile::new(dir.join("listeners.json"), Kind::Listener)
    }

    /// The proxy's bootstrap, with its listener in a file in `dir`.
    ///
    /// # Errors
    /// A manifest is none, or a file cannot be written.
    fn bootstrap(&self, dir: &Path, ports: &Ports) -> Result<Value> {
        let mut source: Value = yaml_serde::from_str(SOURCE).context("proxy.yaml is not YAML")?;
        let mut config = at(&mut source, "/bootstrap")?.take();
        *at(&mut config, "/admin/address/socket_address/port_value")? = json!(ports.envoy_admin);
        *at(&mut config, "/dynamic_resources/lds_config")? = Self::file(dir).config_source()?;
        let merged = self.proxy["spec"]["bootstrap"]["value"].as_str().context("no bootstrap.value")?;
        let mut merged: Value = yaml_serde::from_str(merged).context("bootstrap.value is not YAML")?;
        let mut clusters = vec![
            cluster("httproute/default/demo/rule/0", local(ports.demo)),
            cluster(CODE_CLUSTER, self.code_server),
        ];
        for added in at(&mut merged, "/static_resources/clusters")?.as_array_mut().into_iter().flatten() {
            // Nobody knows the service's name here.
            added["type"] = json!("STATIC");
            *at(added, "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address")? =
                json!({ "address": "127.0.0.1", "port_value": ports.gateways });
            clusters.push(added.take());
        }
        *at(&mut config, "/static_resources/clusters")? = Value::Array(clusters);
        self.write(dir, ports)?;
        Ok(config)
    }

    fn write(&self, dir: &Path, ports: &Ports) -> Result<()> {
        Self::file(dir).write(&[self.listener(ports)?])
    }

    /// Hands the listener over with the filter as this says, and waits until Envoy
    /// serves by it.
    ///
    /// # Errors
    /// Envoy refuses it.
    pub fn deliver(&self, stack: &Stack) -> Result<()> {
        self.hand_over(stack, "update_success", "update_rejected")?;
        wait::until("the listener is warm", DELIVERY_LIMIT, || {
            let warming = stack.stats()?.get("listener_manager.total_listeners_warming");
            Ok((warming == Some(0)).then_some(()))
        })
    }

    /// Hands a listener over that Envoy must refuse, and waits until it has.
    ///
    /// # Errors
    /// Envoy takes it.
    pub fn deliver_refused(&self, stack: &Stack) -> Result<()> {
        self.hand_over(stack, "update_rejected", "update_success")
    }

    fn hand_over(&self, stack: &Stack, wanted: &str, otherwise: &str) -> Result<()> {
        let count = |what: &str| -> Result<u64> {
            Ok(stack.stats()?.get(&format!("listener_manager.lds.{what}")).unwrap_or(0))
        };
        let (before, other) = (count(wanted)?, count(otherwise)?);
        self.write(&stack.options().dir, &stack.ports())?;
        wait::until(&format!("Envoy counts {wanted} of listeners"), DELIVERY_LIMIT, || {
            ensure!(count(otherwise)? == other, "Envoy counts {otherwise} instead");
            Ok((count(wanted)? > before).then_some(()))
        })
    }
}

impl Control for EnvoyGateway {
    /// Of the options only workers and `drain` hold.
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        self.bootstrap(&options.dir, ports)
    }
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    let address =
        json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": [{ "max_retries": 1024 }] },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

/// Serves the modules of a folder, as the controller does.
#[derive(Debug)]
pub struct CodeServer(Served);

impl CodeServer {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// The system has none left.
    pub fn start(dir: PathBuf) -> Result<Self> {
        let app = Router::new().route("/{file}", get(module)).with_state(dir);
        let served = Served::start(local(0), |listener| async { axum::serve(listener, app).await })?;
        Ok(Self(served))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

async fn module(State(dir): State<PathBuf>, Target(file): Target<String>) -> Result<Vec<u8>, StatusCode> {
    // A name, and no path.
    if file.contains('/') || file.contains("..") {
        return Err(StatusCode::NOT_FOUND);
    }
    std::fs::read(dir.join(file)).map_err(|_| StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_becomes_what_envoy_would_get() {
        let code = std::env::temp_dir().join(format!("tidegate-eg-{}.wasm", std::process::id()));
        std::fs::write(&code, b"code").unwrap();
        let policy = "metadata: {name: gate, namespace: shop}\nspec: {wasm: [{name: tidegate, rootID: tidegate, \
                      env: {hostKeys: [A]}, config: {routing: envoy}}]}";
        let gateway = EnvoyGateway::read(policy, "{}", code.clone(), local(1)).unwrap();
        let filter = gateway.told(&json!({ "a": 1 })).unwrap().filter().unwrap();
        let name = "envoyextensionpolicy/shop/gate/wasm/0";
        assert_eq!(filter["name"], format!("envoy.filters.http.wasm/{name}"));
        assert_eq!(filter["disabled"], true);
        let config = &filter["typed_config"]["config"];
        assert_eq!((&config["name"], &config["root_id"]), (&json!("tidegate"), &json!("tidegate")));
        assert_eq!(config["vm_config"]["vm_id"], name, "no other filter shares it");
        assert_eq!(config["vm_config"]["code"]["remote"]["sha256"], sha256(b"code"));
        assert_eq!(config["configuration"]["value"], "{\"a\":1,\"routing\":\"envoy\"}");
        assert_eq!(config["fail_open"], false);
        let patched = EnvoyGateway { failure_policy: Some("FAIL_RELOAD"), ..gateway }.filter().unwrap();
        let config = &patched["typed_config"]["config"];
        assert_eq!(config["failure_policy"], "FAIL_RELOAD");
        assert!(config.get("fail_open").is_none());
        std::fs::remove_file(code).unwrap();
    }
}
