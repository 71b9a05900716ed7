//! Envoy's configuration for one stack: `envoy/envoy.yaml`, parsed, with ports and
//! paths changed at named places and nothing else. A place that is not there any
//! more is an error, so that the file and this list cannot drift apart unseen.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::faults::{BEHIND, Faults};
use crate::ports::Ports;

/// The cluster of the API's backends with TLS.
const DYNAMIC_TLS: &str = "tidegate-dynamic-tls";
/// Where a cluster says whose certificates it takes.
const TRUSTED: &str =
    "/transport_socket/typed_config/common_tls_context/validation_context/trusted_ca/filename";

/// The access log that tells the filter of requests which reach no filter.
const WASM_LOG: &str = "envoy.access_loggers.wasm";
/// Where a connection manager has the filter: the list, and the name there.
const PLUGINS: [(&str, &str); 2] = [("/http_filters", "tidegate"), ("/access_log", WASM_LOG)];

/// A backend: an Envoy cluster of this name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// What a route's backendRef says.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Cluster {
    /// One that goes to this address.
    #[must_use]
    pub fn at(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), host: address.ip().to_string(), port: address.port() }
    }
}

/// A private authority: the cluster `tidegate-dynamic-tls-<name>`, for backends of
/// the API that say `trust: <name>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust {
    /// What a backend says.
    pub name: String,
    /// The authority's certificates, PEM.
    pub authorities: PathBuf,
}

/// Where the gate sends what it lets pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Upstream {
    /// To the cluster that the filter names, as in the file.
    #[default]
    Chosen,
    /// To `demo`, whatever a filter says.
    Demo,
    /// Nowhere: Envoy answers 200 itself. What a filter costs shows best there.
    Nowhere,
}

/// What differs from the file in the repository.
#[derive(Clone, PartialEq, Debug)]
pub struct Edits<'a> {
    /// Ports of listeners and of the admin service's clusters.
    pub ports: Ports,
    /// The filter.
    pub wasm: &'a Path,
    /// The access log.
    pub access_log: &'a Path,
    /// Clusters to add, or to point elsewhere.
    pub clusters: &'a [Cluster],
    /// The certificates of the public authorities on this machine, PEM; `None`: it
    /// has none, so the cluster that trusts them goes, for Envoy does not start
    /// without the file.
    pub roots: Option<&'a Path>,
    /// Private authorities.
    pub trusts: &'a [Trust],
    /// Whether the singleton recorder stays.
    pub recorder: bool,
    /// Whether the filter stays. Without it there is no recorder either: an Envoy
    /// to compare with.
    pub filter: bool,
    /// Where requests go. Without the filter nobody names a cluster.
    pub upstream: Upstream,
    /// Merged into the plugin's configuration (RFC 7396: `null` removes a field).
    pub plugin: &'a Value,
    /// What stands between the gate and the admin service.
    pub faults: Option<&'a Faults>,
    /// Spread connections over workers one by one, so that a test with few
    /// connections reaches each.
    pub exact_balance: bool,
}

/// Reads the YAML in `source` and changes it; the result is JSON, which Envoy
/// reads as well.
///
/// # Errors
/// It is not YAML, or a place that is to be changed is missing.
pub fn render(source: &str, edits: &Edits<'_>) -> Result<Value> {
    let mut config: Value = yaml_serde::from_str(source).context("Envoy's configuration is not YAML")?;
    let ports = &edits.ports;
    set_port(at(&mut config, "/admin/address")?, ports.envoy_admin)?;
    let listeners = at(&mut config, "/static_resources/listeners")?;
    set_port(at(named(listeners, "gate")?, "/address")?, ports.gate)?;
    set_port(at(named(listeners, "admin-api")?, "/address")?, ports.admin_api)?;
    let gate = named(listeners, "gate")?;
    if edits.exact_balance {
        gate["connection_balance_config"] = json!({ "exact_balance": {} });
    }
    let manager = at(gate, "/filter_chains/0/filters/0/typed_config")?;
    let access_log = named(at(manager, "/access_log")?, "envoy.access_loggers.file")?;
    *at(access_log, "/typed_config/path")? = path(edits.access_log)?;
    if edits.filter {
        for (list, name) in PLUGINS {
            edit_plugin(at(named(at(manager, list)?, name)?, "/typed_config/config")?, edits)?;
        }
    } else {
        remove_filter(manager)?;
    }
    send_to(manager, edits.upstream)?;
    recorder(&mut config, edits)?;
    let clusters = at(&mut config, "/static_resources/clusters")?;
    for (name, port) in
        [("demo", ports.demo), ("tidegate-admin", ports.gateways), ("tidegate-people", ports.people)]
    {
        point(named(clusters, name)?, "127.0.0.1", port)?;
    }
    for cluster in edits.clusters {
        put_cluster(clusters, cluster)?;
    }
    put_trusts(clusters, edits)?;
    if let Some(faults) = edits.faults {
        put_faults(&mut config, faults, ports)?;
    }
    Ok(config)
}

/// The filter's file and configuration, in one plugin.
fn edit_plugin(plugin: &mut Value, edits: &Edits<'_>) -> Result<()> {
    *at(plugin, "/vm_config/code/local/filename")? = path(edits.wasm)?;
    if edits.plugin.is_null() {
        return Ok(());
    }
    patch_plugin(plugin, edits.plugin)
}

/// Merges into what filter, access log and recorder are told, of a whole configuration.
///
/// # Errors
/// A place is missing, or holds something else.
pub fn merge_plugin(config: &mut Value, patch: &Value) -> Result<()> {
    let gate = named(at(config, "/static_resources/listeners")?, "gate")?;
    let manager = at(gate, "/filter_chains/0/filters/0/typed_config")?;
    for (list, name) in PLUGINS {
        patch_plugin(at(named(at(manager, list)?, name)?, "/typed_config/config")?, patch)?;
    }
    match named(at(config, "/bootstrap_extensions")?, "envoy.bootstrap.wasm") {
        Ok(recorder) => patch_plugin(at(recorder, "/typed_config/config")?, patch),
        // A stack without one.
        Err(_) => Ok(()),
    }
}

/// Merges into what one plugin is told.
///
/// # Errors
/// It is told nothing, or no JSON.
pub fn patch_plugin(plugin: &mut Value, patch: &Value) -> Result<()> {
    let text = at(plugin, "/configuration/value")?;
    let configured = text.as_str().context("the plugin's configuration is not a text")?;
    let mut configured =
        serde_json::from_str(configured).context("the plugin's configuration is not JSON")?;
    merge(&mut configured, patch);
    *text = json!(configured.to_string());
    Ok(())
}

/// RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Value::Object(fields) = target {
                fields.remove(name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// The gate's calls go through a listener with the faults, and from there on.
fn put_faults(config: &mut Value, faults: &Faults, ports: &Ports) -> Result<()> {
    // Abstract: no file, and no port that somebody else might take.
    let address = json!({ "pipe": { "path": format!("@tidegate-admin-faults-{}", ports.gate) } });
    let clusters = at(config, "/static_resources/clusters")?;
    let admin = named(clusters, "tidegate-admin")?;
    let mut behind = admin.clone();
    behind["name"] = json!(BEHIND);
    *at(&mut behind, "/load_assignment/cluster_name")? = json!(BEHIND);
    *at(admin, "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address")? = address.clone();
    push(clusters, behind)?;
    push(at(config, "/static_resources/listeners")?, faults.listener(&address))?;
    // What tests switch while it runs.
    config["layered_runtime"] = json!({ "layers": [{ "name": "switches", "admin_layer": {} }] });
    Ok(())
}

/// Puts these HTTP filters before all others of the gate's listener.
///
/// # Errors
/// A place is missing, or holds something else.
pub fn put_filters(config: &mut Value, new: &[Value]) -> Result<()> {
    let gate = named(at(config, "/static_resources/listeners")?, "gate")?;
    let filters = at(gate, "/filter_chains/0/filters/0/typed_config/http_filters")?;
    let filters = filters.as_array_mut().context("http_filters is not a list")?;
    filters.splice(0..0, new.iter().cloned());
    Ok(())
}

/// Adds to a list.
///
/// # Errors
/// It is none.
pub fn push(list: &mut Value, item: Value) -> Result<()> {
    list.as_array_mut().context("not a list where Envoy's configuration should have one")?.push(item);
    Ok(())
}

/// With it go the filters that carry out what it says, and the access log that tells it of requests.
fn remove_filter(manager: &mut Value) -> Result<()> {
    let logs = at(manager, "/access_log")?;
    named(logs, WASM_LOG)?;
    if let Value::Array(list) = logs {
        list.retain(|log| log["name"] != WASM_LOG);
    }
    let filters = at(manager, "/http_filters")?;
    for name in ["tidegate", "mirror-targets", "envoy.filters.http.dynamic_forward_proxy"] {
        named(filters, name)?;
        if let Value::Array(list) = filters {
            list.retain(|filter| filter["name"] != name);
        }
    }
    Ok(())
}

fn send_to(manager: &mut Value, upstream: Upstream) -> Result<()> {
    let routes = at(manager, "/route_config/virtual_hosts/0/routes")?;
    at(named(routes, "tidegate")?, "/route/cluster_header")?;
    if upstream == Upstream::Chosen {
        return Ok(());
    }
    // No filter is followed, in its mirrors neither.
    if let Value::Array(list) = routes {
        list.retain(|route| route["name"] == "tidegate");
    }
    let route = named(routes, "tidegate")?;
    if let Value::Object(fields) = route {
        fields.remove("request_headers_to_remove");
    }
    match upstream {
        Upstream::Chosen => {}
        Upstream::Demo => route["route"] = json!({ "cluster": "demo", "timeout": "0s" }),
        Upstream::Nowhere => {
            if let Value::Object(fields) = route {
                fields.remove("route");
            }
            route["direct_response"] = json!({ "status": 200 });
        }
    }
    Ok(())
}

fn recorder(config: &mut Value, edits: &Edits<'_>) -> Result<()> {
    let extensions = at(config, "/bootstrap_extensions")?;
    if edits.recorder && edits.filter {
        let service = named(extensions, "envoy.bootstrap.wasm")?;
        edit_plugin(at(service, "/typed_config/config")?, edits)?;
    } else {
        named(extensions, "envoy.bootstrap.wasm")?;
        if let Value::Array(list) = extensions {
            list.retain(|extension| extension["name"] != "envoy.bootstrap.wasm");
        }
    }
    Ok(())
}

/// Points the cluster elsewhere; one that is not there is made like `demo`.
fn put_cluster(clusters: &mut Value, cluster: &Cluster) -> Result<()> {
    if named(clusters, &cluster.name).is_err() {
        let mut new = named(clusters, "demo")?.clone();
        new["name"] = json!(cluster.name);
        *at(&mut new, "/load_assignment/cluster_name")? = json!(cluster.name);
        push(clusters, new)?;
    }
    let target = named(clusters, &cluster.name)?;
    let is_address = cluster.host.parse::<std::net::IpAddr>().is_ok();
    target["type"] = json!(if is_address { "STATIC" } else { "STRICT_DNS" });
    point(target, &cluster.host, cluster.port)
}

/// One cluster like [`DYNAMIC_TLS`] for each private authority, and that one itself
/// with this machine's public ones.
fn put_trusts(clusters: &mut Value, edits: &Edits<'_>) -> Result<()> {
    let public = named(clusters, DYNAMIC_TLS)?.clone();
    for trust in edits.trusts {
        let mut private = public.clone();
        private["name"] = json!(format!("{DYNAMIC_TLS}-{}", trust.name));
        *at(&mut private, TRUSTED)? = path(&trust.authorities)?;
        push(clusters, private)?;
    }
    if let Some(roots) = edits.roots {
        *at(named(clusters, DYNAMIC_TLS)?, TRUSTED)? = path(roots)?;
    } else if let Value::Array(list) = clusters {
        list.retain(|cluster| cluster["name"] != DYNAMIC_TLS);
    }
    Ok(())
}

fn point(cluster: &mut Value, host: &str, port: u16) -> Result<()> {
    let address = at(cluster, "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address")?;
    *at(address, "/socket_address/address")? = json!(host);
    set_port(address, port)
}

fn set_port(address: &mut Value, port: u16) -> Result<()> {
    *at(address, "/socket_address/port_value")? = json!(port);
    Ok(())
}

fn path(path: &Path) -> Result<Value> {
    Ok(json!(path.to_str().with_context(|| format!("a path that is not UTF-8: {}", path.display()))?))
}

///
/// # Errors
/// It is missing.
pub fn at<'v>(value: &'v mut Value, pointer: &str) -> Result<&'v mut Value> {
    value.pointer_mut(pointer).with_context(|| format!("Envoy's configuration has no {pointer}"))
}

///
/// # Errors
/// There is none.
pub fn named<'v>(list: &'v mut Value, name: &str) -> Result<&'v mut Value> {
    list.as_array_mut()
        .and_then(|list| list.iter_mut().find(|item| item["name"] == name))
        .with_context(|| format!("Envoy's configuration has nothing named {name} where it should be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = include_str!("../../../envoy/envoy.yaml");

    fn edits(clusters: &[Cluster]) -> Edits<'_> {
        Edits {
            ports: Ports { gate: 1, envoy_admin: 2, admin_api: 3, people: 4, gateways: 5, demo: 6 },
            wasm: Path::new("/x/filter.wasm"),
            access_log: Path::new("/x/access.log"),
            clusters,
            roots: Some(Path::new("/x/roots.pem")),
            trusts: &[],
            recorder: true,
            filter: true,
            upstream: Upstream::Chosen,
            plugin: &Value::Null,
            faults: None,
            exact_balance: false,
        }
    }

    fn text(value: &Value, pointer: &str) -> String {
        value.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).to_string()
    }

    #[test]
    fn default_ports_are_those_of_the_file() {
        let mut same = edits(&[]);
        same.ports = Ports::DEFAULT;
        same.wasm = Path::new("target/dist/tidegate.wasm");
        same.access_log = Path::new("target/up/access.log");
        same.roots = Some(Path::new("/etc/ssl/certs/ca-certificates.crt"));
        let original: Value = yaml_serde::from_str(SOURCE).unwrap();
        assert_eq!(render(SOURCE, &same).unwrap(), original);
    }

    #[test]
    fn every_port_and_path_is_changed() {
        let rendered = render(SOURCE, &edits(&[])).unwrap();
        let flat = rendered.to_string();
        for port in ["10000", "10001", "9901", "9070", "9071", "10080"] {
            assert!(!flat.contains(&format!("\"port_value\":{port}")), "{port} is still there");
        }
        assert!(!flat.contains("target/"), "a path of the repository is still there");
        assert_eq!(flat.matches("/x/filter.wasm").count(), 3);
    }

    #[test]
    fn without_recorder_only_the_filter_and_its_log_are_left() {
        let rendered = render(SOURCE, &Edits { recorder: false, ..edits(&[]) }).unwrap();
        assert!(!text(&rendered, "/bootstrap_extensions").contains("envoy.bootstrap.wasm"));
        assert_eq!(rendered.to_string().matches("/x/filter.wasm").count(), 2);
    }

    #[test]
    fn without_filter_nothing_of_ours_is_left() {
        let without = Edits { filter: false, upstream: Upstream::Demo, ..edits(&[]) };
        let mut rendered = render(SOURCE, &without).unwrap();
        assert!(!rendered.to_string().contains(".wasm"), "{rendered}");
        let gate = named(rendered.pointer_mut("/static_resources/listeners").unwrap(), "gate").unwrap();
        let filters = gate.pointer("/filter_chains/0/filters/0/typed_config/http_filters").unwrap();
        assert_eq!(filters.as_array().unwrap().len(), 1, "the router: {filters}");
        assert!(!gate.to_string().contains("x-tidegate-cluster"), "{gate}");
        put_filters(&mut rendered, &[json!({ "name": "envoy.filters.http.lua" })]).unwrap();
        let gate = named(rendered.pointer_mut("/static_resources/listeners").unwrap(), "gate").unwrap();
        let filters = gate.pointer("/filter_chains/0/filters/0/typed_config/http_filters").unwrap();
        assert_eq!(filters[0]["name"], "envoy.filters.http.lua", "before the router: {filters}");
    }

    #[test]
    fn the_plugin_is_told_what_is_merged_in() {
        let plugin = json!({ "on_no_route": "pass", "admin": { "authority": null, "timeout": "250ms" } });
        let mut rendered = render(SOURCE, &Edits { plugin: &plugin, ..edits(&[]) }).unwrap();
        let extensions = rendered.pointer_mut("/bootstrap_extensions").unwrap();
        let recorder = named(extensions, "envoy.bootstrap.wasm").unwrap();
        let told = recorder.pointer("/typed_config/config/configuration/value").and_then(Value::as_str);
        let told = told.unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!(told["on_no_route"], "pass");
        assert_eq!(told["admin"]["timeout"], "250ms");
        assert_eq!(told["admin"]["cluster"], "tidegate-admin", "what is not named stays");
        assert!(told["admin"].get("authority").is_none());
        assert_eq!(
            rendered.to_string().matches("250ms").count(),
            3,
            "filter, log and recorder are told the same"
        );
    }

    #[test]
    fn faults_stand_between_the_gate_and_the_admin_service() {
        let faults = Faults::default();
        let mut rendered = render(SOURCE, &Edits { faults: Some(&faults), ..edits(&[]) }).unwrap();
        let listeners = rendered.pointer_mut("/static_resources/listeners").unwrap();
        let pipe = named(listeners, "admin-faults").unwrap()["address"].clone();
        let clusters = rendered.pointer_mut("/static_resources/clusters").unwrap();
        let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
        assert_eq!(named(clusters, "tidegate-admin").unwrap().pointer(address), Some(&pipe));
        let behind = named(clusters, BEHIND).unwrap();
        assert_eq!(behind.pointer(address).unwrap()["socket_address"]["port_value"], 5);
        assert!(behind.get("circuit_breakers").is_some());
    }

    #[test]
    fn without_upstream_envoy_answers() {
        let mut rendered = render(SOURCE, &Edits { upstream: Upstream::Nowhere, ..edits(&[]) }).unwrap();
        let gate = named(rendered.pointer_mut("/static_resources/listeners").unwrap(), "gate").unwrap();
        let flat = gate.to_string();
        assert!(flat.contains("direct_response") && !flat.contains("cluster_header"), "{flat}");
    }

    #[test]
    fn clusters_are_added_or_pointed_elsewhere() {
        let clusters = [
            Cluster { name: "demo".into(), host: "10.0.0.1".into(), port: 81 },
            Cluster { name: "other".into(), host: "localhost".into(), port: 82 },
        ];
        let mut rendered = render(SOURCE, &edits(&clusters)).unwrap();
        let list = rendered.pointer_mut("/static_resources/clusters").unwrap();
        let socket = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        let demo = named(list, "demo").unwrap();
        assert_eq!(demo["type"], "STATIC");
        assert_eq!(demo.pointer(socket).unwrap(), &json!({ "address": "10.0.0.1", "port_value": 81 }));
        let other = named(list, "other").unwrap();
        assert_eq!(other["type"], "STRICT_DNS");
        assert_eq!(other["load_assignment"]["cluster_name"], "other");
        assert_eq!(other.pointer(socket).unwrap(), &json!({ "address": "localhost", "port_value": 82 }));
    }

    #[test]
    fn each_private_authority_is_a_cluster_that_trusts_nobody_else() {
        let trusts = [Trust { name: "corp".into(), authorities: "/x/corp.pem".into() }];
        let mut rendered = render(SOURCE, &Edits { trusts: &trusts, ..edits(&[]) }).unwrap();
        let list = rendered.pointer_mut("/static_resources/clusters").unwrap();
        let private = named(list, "tidegate-dynamic-tls-corp").unwrap().clone();
        assert_eq!(private.pointer(TRUSTED).unwrap(), "/x/corp.pem");
        assert_eq!(named(list, "tidegate-dynamic-tls").unwrap().pointer(TRUSTED).unwrap(), "/x/roots.pem");
    }

    #[test]
    fn a_machine_without_public_authorities_has_no_cluster_that_trusts_them() {
        let mut rendered = render(SOURCE, &Edits { roots: None, ..edits(&[]) }).unwrap();
        let list = rendered.pointer_mut("/static_resources/clusters").unwrap();
        assert!(named(list, "tidegate-dynamic-tls").is_err());
        assert!(named(list, "tidegate-dynamic").is_ok());
    }

    #[test]
    fn a_place_that_is_gone_is_named() {
        let broken = SOURCE.replace("name: admin-api\n", "name: adminapi\n");
        let said = format!("{:#}", render(&broken, &edits(&[])).unwrap_err());
        assert!(said.contains("nothing named admin-api"), "{said}");
    }
}
