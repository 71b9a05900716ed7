//! An Envoy as Istio has it: the filter by ECDS, in the same empty `vm_id` as other
//! plugins, without a recorder, and Envoy's own route table. What istiod and the agent
//! make of a WasmPlugin is made here of the same document, so that a manifest can be
//! run without a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::ports::Ports;
use tidegate_stack::render::{at, merge, named};
use tidegate_stack::{Control, Options, Stack, wait};

use crate::xds::{Kind, XdsFile};

const SOURCE: &str = include_str!("istio.yaml");
/// Where applications of the stack's routes are.
const NAMESPACE: &str = "shop.svc.cluster.local";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// How long Envoy may take to compile and configure what it was handed, on a busy machine.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

/// A plugin as Istio knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Plugin {
    /// The WasmPlugin, or a TrafficExtension with `spec.wasm`.
    pub manifest: Value,
    /// What its `url` is downloaded to.
    pub code: PathBuf,
    /// Envoy's `allow_on_headers_stop_iteration`, for which a WasmPlugin has no word, and
    /// an EnvoyFilter has: a plugin that stops stops the headers, and not the body.
    pub stops_headers_only: bool,
}

impl Plugin {
    /// One out of its manifest's text.
    ///
    /// # Errors
    /// It is not YAML.
    pub fn read(manifest: &str, code: PathBuf) -> Result<Self> {
        let manifest = yaml_serde::from_str(manifest).context("the plugin's manifest is not YAML")?;
        Ok(Self { manifest, code, stops_headers_only: false })
    }

    /// The same with its `pluginConfig` changed, RFC 7396.
    ///
    /// # Errors
    /// The manifest has none.
    pub fn told(&self, patch: &Value) -> Result<Self> {
        let mut plugin = self.clone();
        let spec = at(&mut plugin.manifest, "/spec")?;
        let wasm = if spec.get("wasm").is_some() { &mut spec["wasm"] } else { spec };
        merge(at(wasm, "/pluginConfig")?, patch);
        Ok(plugin)
    }

    /// The cluster of the admin service that it is told of.
    ///
    /// # Errors
    /// It is told of none.
    pub fn admin_cluster(&self) -> Result<String> {
        let cluster = self.wasm()["pluginConfig"]["admin"]["cluster"].as_str();
        Ok(cluster.context("the plugin's manifest has no pluginConfig.admin.cluster")?.to_owned())
    }

    /// A WasmPlugin of this name, with nothing but a phase.
    #[must_use]
    pub fn bare(name: &str, code: &Path) -> Self {
        let manifest = json!({
            "apiVersion": "extensions.istio.io/v1alpha1",
            "kind": "WasmPlugin",
            "metadata": { "name": name, "namespace": "ingress" },
            "spec": { "url": format!("oci://registry.example/{name}"), "phase": "AUTHN" },
        });
        Self { manifest, code: code.to_owned(), stops_headers_only: false }
    }

    fn wasm(&self) -> &Value {
        let spec = &self.manifest["spec"];
        spec.get("wasm").unwrap_or(spec)
    }

    /// `namespace.name`, as filters and their statistics are called.
    ///
    /// # Errors
    /// It has no name or namespace.
    pub fn name(&self) -> Result<String> {
        let of = |field: &str| {
            let value = self.manifest["metadata"][field].as_str();
            value.with_context(|| format!("the plugin's manifest has no metadata.{field}"))
        };
        Ok(format!("{}.{}", of("namespace")?, of("name")?))
    }

    /// What Envoy asks for by ECDS.
    ///
    /// # Errors
    /// It has no name or namespace.
    pub fn resource(&self) -> Result<String> {
        Ok(format!("extensions.istio.io/wasmplugin/{}", self.name()?))
    }

    /// The extension that Envoy gets: istiod's, the download replaced by the agent. Both
    /// leave `vm_id` empty, and no other setting of the VM can be made.
    ///
    /// # Errors
    /// The manifest says something that Istio does not know.
    pub fn extension(&self) -> Result<Value> {
        let wasm = self.wasm();
        let mut config = json!({
            "name": self.name()?,
            "root_id": wasm["pluginName"].as_str().unwrap_or_default(),
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": { "local": { "filename": self.code.to_str().context("a path that is not UTF-8")? } },
            },
        });
        if self.stops_headers_only {
            config["allow_on_headers_stop_iteration"] = json!(true);
        }
        if let Some(policy) = failure_policy(wasm)? {
            config["failure_policy"] = json!(policy);
        }
        if let Some(told) = wasm["pluginConfig"].as_object().filter(|told| !told.is_empty()) {
            config["configuration"] = json!({
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": Value::Object(told.clone()).to_string(),
            });
        }
        if let Some(variables) = environment(wasm)? {
            config["vm_config"]["environment_variables"] = variables;
        }
        Ok(json!({ "name": self.resource()?, "typed_config": { "@type": WASM, "config": config } }))
    }

    /// The file that it comes by.
    ///
    /// # Errors
    /// It has no name or namespace.
    pub fn file(&self, dir: &Path) -> Result<XdsFile> {
        Ok(XdsFile::new(dir.join(format!("{}.json", self.name()?)), Kind::Extension))
    }

    fn filter(&self, dir: &Path) -> Result<Value> {
        let source = self.file(dir)?.config_source()?;
        Ok(json!({
            "name": self.resource()?,
            "config_discovery": { "config_source": source, "type_urls": [WASM, RBAC] },
        }))
    }
}

fn failure_policy(wasm: &Value) -> Result<Option<&'static str>> {
    Ok(match wasm["failStrategy"].as_str() {
        // Envoy's own default is to fail closed, and so is Istio's.
        None | Some("FAIL_CLOSE") => Some("FAIL_CLOSED"),
        Some("FAIL_OPEN") => Some("FAIL_OPEN"),
        Some("FAIL_RELOAD") => Some("FAIL_RELOAD"),
        Some(other) => anyhow::bail!("failStrategy: {other}"),
    })
}

/// `vmConfig.env`: out of the manifest, or of the environment of Envoy's process.
fn environment(wasm: &Value) -> Result<Option<Value>> {
    let (mut own, mut hosts) = (serde_json::Map::new(), Vec::new());
    for variable in wasm["vmConfig"]["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable without a name")?;
        match variable["valueFrom"].as_str().unwrap_or("INLINE") {
            "INLINE" => {
                own.insert(name.to_owned(), variable["value"].clone());
            }
            "HOST" => hosts.push(name),
            other => anyhow::bail!("valueFrom: {other}"),
        }
    }
    Ok(match (own.is_empty(), hosts.is_empty()) {
        (true, true) => None,
        (true, false) => Some(json!({ "host_env_keys": hosts })),
        (false, true) => Some(json!({ "key_values": own })),
        (false, false) => Some(json!({ "key_values": own, "host_env_keys": hosts })),
    })
}

/// The gate's place in a mesh.
#[derive(Clone, PartialEq, Debug)]
pub struct Istio {
    /// All plugins, in the order in which requests meet them.
    pub plugins: Vec<Plugin>,
    /// The cluster of the admin service.
    pub admin_cluster: String,
}

impl Istio {
    /// Envoy's whole configuration, with files for what comes by xDS in `dir`. Requests
    /// for `/<service>/...` go to that one of `services`, all others to `demo`.
    ///
    /// # Errors
    /// A manifest is none, or a file cannot be written.
    fn bootstrap(&self, dir: &Path, ports: &Ports, services: &[(&str, u16)]) -> Result<Value> {
        let mut config: Value = yaml_serde::from_str(SOURCE).context("istio.yaml is not YAML")?;
        *at(&mut config, "/admin/address/socket_address/port_value")? = json!(ports.envoy_admin);
        let clusters = std::iter::once(("demo", ports.demo)).chain(services.iter().copied());
        let mut clusters = clusters
            .map(|(name, port)| cluster(dir, &service_cluster(name), port))
            .collect::<Result<Vec<_>>>()?;
        clusters.push(cluster(dir, &self.admin_cluster, ports.gateways)?);
        *at(&mut config, "/static_resources/clusters")? = Value::Array(clusters);
        let gate = named(at(&mut config, "/static_resources/listeners")?, "gate")?;
        *at(gate, "/address/socket_address/port_value")? = json!(ports.gate);
        let manager = at(gate, "/filter_chains/0/filters/0/typed_config")?;
        *at(manager, "/route_config/virtual_hosts/0/routes")? = routes(services);
        let filters = at(manager, "/http_filters")?.as_array_mut().context("no list of filters")?;
        for (place, plugin) in self.plugins.iter().enumerate() {
            filters.insert(place, plugin.filter(dir)?);
            self.write(dir, plugin)?;
        }
        Ok(config)
    }

    /// Writes a plugin for Envoy to read, for the first time or anew.
    ///
    /// # Errors
    /// It is none of this Envoy's, the manifest is none, or the file cannot be written.
    fn write(&self, dir: &Path, plugin: &Plugin) -> Result<()> {
        let name = plugin.name()?;
        let known = self.plugins.iter().any(|known| known.name().is_ok_and(|known| known == name));
        ensure!(known, "{name} is none of this Envoy's plugins");
        plugin.file(dir)?.write(&[plugin.extension()?])
    }

    /// Hands a plugin over anew, and waits until Envoy has taken it.
    ///
    /// # Errors
    /// Envoy refuses it.
    pub fn deliver(&self, stack: &Stack, plugin: &Plugin) -> Result<()> {
        self.hand_over(stack, plugin, "update_success", "update_rejected")
    }

    /// Hands a plugin over that Envoy must refuse, and waits until it has.
    ///
    /// # Errors
    /// Envoy takes it.
    pub fn deliver_refused(&self, stack: &Stack, plugin: &Plugin) -> Result<()> {
        self.hand_over(stack, plugin, "update_rejected", "update_success")
    }

    fn hand_over(&self, stack: &Stack, plugin: &Plugin, wanted: &str, otherwise: &str) -> Result<()> {
        let prefix = format!("extension_config_discovery.http_filter.{}.", plugin.resource()?);
        let count =
            |what: &str| -> Result<u64> { Ok(stack.stats()?.get(&format!("{prefix}{what}")).unwrap_or(0)) };
        let (before, other) = (count(wanted)?, count(otherwise)?);
        self.write(&stack.options().dir, plugin)?;
        wait::until(&format!("Envoy counts {wanted} of {prefix}"), DELIVERY_LIMIT, || {
            ensure!(count(otherwise)? == other, "Envoy counts {otherwise} instead");
            Ok((count(wanted)? > before).then_some(()))
        })
        .with_context(|| {
            let stats = stack.stats().unwrap_or_default();
            format!("{:?}", stats.matching(|name| name.starts_with(&prefix)).collect::<Vec<_>>())
        })
    }
}

impl Control for Istio {
    /// Of the options only workers, `drain` and `backends` hold.
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let services: Vec<_> =
            options.backends.iter().map(|backend| (backend.name.as_str(), backend.port)).collect();
        self.bootstrap(&options.dir, ports, &services)
    }
}

fn service_cluster(name: &str) -> String {
    format!("outbound|80||{name}.{NAMESPACE}")
}

/// A service as Istio's clusters are: endpoints by EDS, no bounds, and HTTP/1.1, as long
/// as no port says otherwise.
fn cluster(dir: &Path, name: &str, port: u16) -> Result<Value> {
    let file = dir.join(format!("{}.json", name.replace('|', "_")));
    let endpoints = XdsFile::new(file, Kind::Endpoints);
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    endpoints.write(&[json!({
        "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    })])?;
    let unbounded = u32::MAX;
    Ok(json!({
        "name": name,
        "type": "EDS",
        "eds_cluster_config": { "eds_config": endpoints.config_source()?, "service_name": name },
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": { "thresholds": [{
            "max_connections": unbounded,
            "max_pending_requests": unbounded,
            "max_requests": unbounded,
            "max_retries": unbounded,
            "track_remaining": true,
        }] },
    }))
}

fn routes(services: &[(&str, u16)]) -> Value {
    let retry = json!({
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "num_retries": 2,
        "retriable_status_codes": [503],
    });
    let route = |prefix: String, name: &str| {
        json!({
            "name": name,
            "match": { "prefix": prefix, "case_sensitive": true },
            "route": { "cluster": service_cluster(name), "timeout": "0s", "retry_policy": retry },
        })
    };
    let services = services.iter().map(|(name, _)| route(format!("/{name}/"), name));
    services.chain([route("/".to_owned(), "demo")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(spec: &Value) -> Plugin {
        let manifest = json!({ "metadata": { "name": "gate", "namespace": "tidegate" }, "spec": spec });
        Plugin { manifest, code: "/x/gate.wasm".into(), stops_headers_only: false }
    }

    #[test]
    fn a_manifest_becomes_what_envoy_would_get() {
        let spec = json!({
            "pluginName": "tidegate",
            "failStrategy": "FAIL_RELOAD",
            "pluginConfig": { "routing": "envoy" },
            "vmConfig": { "env": [{ "name": "A", "valueFrom": "HOST" }, { "name": "B", "value": "b" }] },
        });
        let wanted = json!({
            "name": "extensions.istio.io/wasmplugin/tidegate.gate",
            "typed_config": { "@type": WASM, "config": {
                "name": "tidegate.gate",
                "root_id": "tidegate",
                "failure_policy": "FAIL_RELOAD",
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": "{\"routing\":\"envoy\"}",
                },
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": "/x/gate.wasm" } },
                    "environment_variables": { "key_values": { "B": "b" }, "host_env_keys": ["A"] },
                },
            } },
        });
        assert_eq!(plugin(&spec).extension().unwrap(), wanted);
        assert_eq!(plugin(&json!({ "wasm": spec })).extension().unwrap(), wanted, "a TrafficExtension");
    }

    #[test]
    fn the_shipped_manifests_say_the_same() {
        let old = include_str!("../../../envoy/istio/wasmplugin.yaml");
        let new = include_str!("../../../envoy/istio/traffic-extension/trafficextension.yaml");
        let extension = |text: &str| Plugin::read(text, "/x/gate.wasm".into()).unwrap().extension().unwrap();
        assert_eq!(extension(old), extension(new));
    }

    #[test]
    fn what_is_not_said_is_istios_default() {
        let extension = plugin(&json!({ "url": "oci://x" })).extension().unwrap();
        let config = &extension["typed_config"]["config"];
        assert_eq!(config["root_id"], "");
        assert_eq!(config["failure_policy"], "FAIL_CLOSED");
        assert!(config.get("configuration").is_none());
        assert!(config["vm_config"].get("environment_variables").is_none());
        assert!(plugin(&json!({ "failStrategy": "FAIL_ODDLY" })).extension().is_err());
    }
}
