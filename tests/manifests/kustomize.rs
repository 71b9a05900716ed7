//! What kustomize makes of the folders, each alone and with the components that are
//! meant for it. Without `kubectl` on the `PATH` nothing is run, and that is said.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tidegate_stack::programs::repository;

use crate::files::{at, documents, on_path, text};
use crate::istio::{host_variables, wasm_of};
use crate::kubernetes::{Address, GATEWAY_SECRET};
use crate::{envoy_gateway, plugin};

/// What `kubectl kustomize` says of a folder with these components; `None` without
/// `kubectl`.
fn build(base: &str, components: &[&str]) -> Option<Vec<Value>> {
    if !on_path("kubectl") {
        println!("skipped: there is no kubectl");
        return None;
    }
    let named = format!("tidegate-{base}-{}-{}", components.join("-"), std::process::id());
    let dir = std::env::temp_dir().join(named.replace('/', "-"));
    std::fs::create_dir_all(&dir).unwrap();
    // Kustomize wants paths that begin at the file's folder.
    let up: PathBuf = dir.canonicalize().unwrap().components().skip(1).map(|_| "..").collect();
    let root = up.join(repository().strip_prefix("/").unwrap());
    let kustomization = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [root.join(base)],
        "components": components.iter().map(|component| root.join(base).join(component)).collect::<Vec<_>>(),
    });
    std::fs::write(dir.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let output = Command::new("kubectl").arg("kustomize").arg(&dir).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(
        output.status.success(),
        "{base} with {components:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(documents(&String::from_utf8(output.stdout).unwrap()).unwrap())
}

fn kinds(resources: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = resources.iter().map(|resource| text(resource, "kind")).collect();
    kinds.sort_unstable();
    kinds
}

fn of_kind<'v>(resources: &'v [Value], kind: &str) -> &'v Value {
    let mut found = resources.iter().filter(|resource| resource["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("no {kind} in {:?}", kinds(resources)));
    assert!(found.next().is_none(), "more than one {kind}");
    one
}

#[test]
fn the_admin_service_alone_and_with_all_options() {
    let Some(plain) = build("deploy/kubernetes", &[]) else { return };
    let wanted = [
        "Deployment",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds(&plain), wanted);
    let image = text(of_kind(&plain, "Deployment"), "spec.template.spec.containers.0.image");
    assert!(image.contains("/tidegate-admin:"), "{image}");

    let Some(all) = build("deploy/kubernetes", &["service-monitor", "mesh"]) else { return };
    assert_eq!(all.len(), plain.len() + 2);
    let labels = at(of_kind(&all, "Deployment"), "spec.template.metadata.labels");
    assert_eq!(labels["sidecar.istio.io/inject"], "true");
    assert_eq!(labels["app.kubernetes.io/name"], "tidegate-admin", "the patch adds");
    assert!(at(of_kind(&all, "NetworkPolicy"), "spec.egress.0").is_object());
}

#[test]
fn the_admin_service_and_gateways_with_tls() {
    let Some(all) = build("deploy/kubernetes", &["service-monitor", "tls", "cert-manager"]) else { return };
    let container = at(of_kind(&all, "Deployment"), "spec.template.spec.containers.0");
    let variables = container["env"].as_array().unwrap().iter().map(|variable| text(variable, "name"));
    let variables: Vec<&str> = variables.collect();
    assert!(!variables.contains(&"TIDEGATE_INSECURE_LISTEN"), "{variables:?}");
    assert!(variables.contains(&"TIDEGATE_GATEWAY_CLIENT_CA") && variables.contains(&"TIDEGATE_DB"));
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let asks = serde_json::json!({ "path": "/api/health", "port": "people", "scheme": "HTTPS" });
        assert_eq!(container[probe]["httpGet"], asks);
    }
    assert_eq!(at(of_kind(&all, "ServiceMonitor"), "spec.endpoints.0.scheme"), "https");

    let Address { host, port } = Address::of_service();
    for base in ["envoy/istio", "envoy/istio/traffic-extension", "envoy/istio/gateway-api"] {
        let component = if base == "envoy/istio" { "tls" } else { "../tls" };
        let Some(istio) = build(base, &[component]) else { return };
        let settings = at(of_kind(&istio, "DestinationRule"), "spec.trafficPolicy.portLevelSettings.0");
        assert_eq!(at(settings, "port.number"), port);
        let tls = &settings["tls"];
        assert_eq!((text(tls, "mode"), text(tls, "credentialName")), ("MUTUAL", GATEWAY_SECRET));
        assert_eq!((text(tls, "sni"), text(tls, "subjectAltNames.0")), (&*host, &*host));
    }
    let Some(gateway) = build("envoy/envoy-gateway", &["backend", "backend-tls"]) else { return };
    let policy = of_kind(&gateway, "BackendTLSPolicy");
    let backend = of_kind(&gateway, "Backend");
    assert_eq!(at(policy, "spec.targetRefs.0.name"), at(backend, "metadata.name"));
    assert_eq!(at(policy, "metadata.namespace"), at(backend, "metadata.namespace"));
    assert_eq!(text(policy, "spec.validation.hostname"), host);
    let certificate = at(of_kind(&gateway, "EnvoyProxy"), "spec.backendTLS.clientCertificateRef");
    assert_eq!(text(certificate, "name"), GATEWAY_SECRET);
}

#[test]
fn the_gate_of_istio_calls_a_service_outside_by_its_name_there() {
    let variants = [
        ("envoy/istio", "outside", "WasmPlugin", 2),
        ("envoy/istio/sidecar", "../outside", "WasmPlugin", 2),
        ("envoy/istio/traffic-extension", "../outside", "TrafficExtension", 2),
        ("envoy/istio/sidecar-traffic-extension", "../outside", "TrafficExtension", 2),
        ("envoy/istio/gateway-api", "../outside", "TrafficExtension", 4),
    ];
    for (base, component, kind, resources) in variants {
        let Some(inside) = build(base, &[]) else { return };
        assert_eq!(inside.len(), resources, "{base}: {:?}", kinds(&inside));
        let Some(outside) = build(base, &[component]) else { return };
        let entry = of_kind(&outside, "ServiceEntry");
        let (host, port) = (text(entry, "spec.hosts.0"), at(entry, "spec.ports.0.number"));
        assert_eq!(text(entry, "spec.resolution"), "DNS", "with another it has no cluster to call");
        let wasm = wasm_of(of_kind(&outside, kind));
        let config = plugin(at(wasm, "pluginConfig"), &host_variables(wasm));
        assert_eq!(config.admin.cluster, format!("outbound|{port}||{host}"), "{base}");
        assert_eq!(config.admin.authority, host, "{base}");
        // The one of the Service in the cluster is gone.
        let rule = of_kind(&outside, "DestinationRule");
        assert_eq!(text(rule, "spec.host"), host, "{base}");
        assert_eq!(text(rule, "spec.trafficPolicy.tls.mode"), "SIMPLE", "{base}");
    }
}

#[test]
fn the_gate_of_istio_with_a_recorder() {
    let Some(resources) = build("envoy/istio", &["recorder"]) else { return };
    assert_eq!(kinds(&resources), ["ConfigMap", "DestinationRule", "WasmPlugin"]);
}

#[test]
fn the_gate_of_envoy_gateway_with_each_option() {
    let Some(plain) = build("envoy/envoy-gateway", &[]) else { return };
    assert_eq!(kinds(&plain), ["EnvoyExtensionPolicy", "EnvoyProxy", "Gateway", "Namespace"]);

    let Some(http) = build("envoy/envoy-gateway", &["http", "reload"]) else { return };
    let code = at(of_kind(&http, "EnvoyExtensionPolicy"), "spec.wasm.0.code");
    assert_eq!((&code["type"], code.get("image")), (&"HTTP".into(), None));
    assert!(code["http"]["sha256"].is_string());

    let Some(recorder) = build("envoy/envoy-gateway", &["recorder"]) else { return };
    let deployment = at(of_kind(&recorder, "EnvoyProxy"), "spec.provider.kubernetes.envoyDeployment");
    assert!(at(deployment, "container.env.0").is_object(), "the patch adds");
    assert!(at(deployment, "container.volumeMounts.0").is_object());
}

/// A Backend has a cluster for as long as a route names it, and that one's name.
#[test]
fn the_gate_of_envoy_gateway_with_a_backend() {
    let Some(resources) = build("envoy/envoy-gateway", &["backend"]) else { return };
    let config = envoy_gateway::filter(of_kind(&resources, "EnvoyExtensionPolicy"));
    let route = of_kind(&resources, "HTTPRoute");
    let name = (text(route, "metadata.namespace"), text(route, "metadata.name"));
    assert_eq!(config.admin.cluster, format!("httproute/{}/{}/rule/0", name.0, name.1));
    let backend = of_kind(&resources, "Backend");
    assert_eq!(at(route, "spec.rules.0.backendRefs.0.name"), at(backend, "metadata.name"));
    for policy in ["SecurityPolicy", "BackendTrafficPolicy"] {
        let policy = of_kind(&resources, policy);
        assert_eq!(at(policy, "spec.targetRefs.0.name"), at(route, "metadata.name"));
    }
    assert_eq!(text(of_kind(&resources, "SecurityPolicy"), "spec.authorization.defaultAction"), "Deny");
    let proxy = of_kind(&resources, "EnvoyProxy");
    assert_eq!(at(proxy, "spec").get("bootstrap"), None);
}
