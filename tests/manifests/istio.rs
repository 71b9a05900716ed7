//! The gate in Istio's proxies.

use serde_json::Value;
use tidegate::config::Config;
use tidegate::root_context::RECORDER_ROOT_ID;

use crate::files::{at, documents, one, text};
use crate::kubernetes::Address;
use crate::{TOKEN_ENV, assert_token_from_secret, plugin};

const GATEWAY: &str = "envoy/istio/wasmplugin.yaml";
const SIDECAR: &str = "envoy/istio/sidecar/wasmplugin.yaml";

/// The same filter in the two kinds of resource that bring it.
const PAIRS: [(&str, &str); 2] = [
    (GATEWAY, "envoy/istio/traffic-extension/trafficextension.yaml"),
    (SIDECAR, "envoy/istio/sidecar-traffic-extension/trafficextension.yaml"),
];

/// The variables that the VM gets from the proxy's environment.
pub fn host_variables(wasm: &Value) -> Vec<&str> {
    let variables = at(wasm, "vmConfig.env").as_array().unwrap();
    variables.iter().filter(|v| v["valueFrom"] == "HOST").map(|v| v["name"].as_str().unwrap()).collect()
}

/// The filter's part of either kind.
pub fn wasm_of(resource: &Value) -> &Value {
    match resource["kind"].as_str() {
        Some("WasmPlugin") => &resource["spec"],
        Some("TrafficExtension") => at(resource, "spec.wasm"),
        kind => panic!("{kind:?} brings no filter"),
    }
}

fn filter(path: &str) -> Config {
    let resource = one(path);
    let wasm = wasm_of(&resource);
    plugin(at(wasm, "pluginConfig"), &host_variables(wasm))
}

#[test]
fn the_filter_calls_the_service_by_the_name_that_istio_gives_it() {
    let address = Address::of_service();
    for path in PAIRS.into_iter().flat_map(|(plugin, extension)| [plugin, extension]) {
        let config = filter(path);
        assert_eq!(config.admin.cluster, format!("outbound|{}||{}", address.port, address.host), "{path}");
        assert_eq!(config.admin.authority, address.authority(), "{path}");
    }
    let rule = one("envoy/istio/admin/destinationrule.yaml");
    assert_eq!(text(&rule, "spec.host"), address.host);
    assert_eq!(*at(&rule, "spec.trafficPolicy.portLevelSettings.0.port.number"), address.port);
}

#[test]
fn a_vm_that_trapped_comes_back_and_is_a_gate() {
    for path in PAIRS.into_iter().flat_map(|(plugin, extension)| [plugin, extension]) {
        let resource = one(path);
        let wasm = wasm_of(&resource);
        assert_eq!(wasm["failStrategy"], "FAIL_RELOAD", "{path}");
        assert_ne!(wasm["pluginName"], RECORDER_ROOT_ID, "{path}");
        assert_eq!(host_variables(wasm), [TOKEN_ENV], "{path}");
    }
}

#[test]
fn both_kinds_of_resource_say_the_same() {
    for (plugin, extension) in PAIRS {
        let (plugin, extension) = (one(plugin), one(extension));
        assert_eq!(plugin["metadata"], extension["metadata"]);
        // `wasm` aside, the fields of a TrafficExtension are beside it.
        let mut flat = extension["spec"].clone();
        let wasm = flat.as_object_mut().unwrap().remove("wasm").unwrap();
        for (field, value) in wasm.as_object().unwrap() {
            flat[field] = value.clone();
        }
        assert_eq!(plugin["spec"], flat);
    }
}

/// The Gateway, what Istio adds to its Deployment, and the gate in it.
#[test]
fn the_gateway_of_the_gateway_api_is_the_same_gate() {
    let extension = one("envoy/istio/gateway-api/trafficextension.yaml");
    assert_eq!(wasm_of(&extension), wasm_of(&one(PAIRS[0].1)));
    let gateway = one("envoy/istio/gateway-api/gateway.yaml");
    assert_eq!(at(&extension, "spec.targetRefs.0.name"), at(&gateway, "metadata.name"));
    assert_eq!(at(&extension, "metadata.namespace"), at(&gateway, "metadata.namespace"));
    let options = one("envoy/istio/gateway-api/options.yaml");
    assert_eq!(at(&gateway, "spec.infrastructure.parametersRef.name"), at(&options, "metadata.name"));
    let deployment = documents(text(&options, "data.deployment")).unwrap().remove(0);
    let container = at(&deployment, "spec.template.spec.containers.0");
    assert_eq!(container["name"], "istio-proxy");
    assert_token_from_secret(at(container, "env.0"));
}

#[test]
fn a_sidecar_gates_what_comes_in_only() {
    let resource = one(SIDECAR);
    let selectors = at(&resource, "spec.match").as_array().unwrap();
    assert!(selectors.iter().all(|selector| selector["mode"] == "SERVER") && !selectors.is_empty());
}

#[test]
fn the_proxies_get_the_token() {
    assert_token_from_secret(at(&one("envoy/istio/gateway-values.yaml"), "envVarFrom.0"));
    let patch = one("envoy/istio/sidecar/deployment-patch.yaml");
    let container = at(&patch, "spec.template.spec.containers.0");
    assert_eq!((&container["name"], &container["image"]), (&"istio-proxy".into(), &"auto".into()));
    assert_token_from_secret(at(container, "env.0"));
    // And the plugin selects what was patched.
    assert_eq!(at(&patch, "spec.template.metadata.labels"), at(&one(SIDECAR), "spec.selector.matchLabels"));
}

/// The recorder shares data and queues with filters of its vm_id, which in Istio is
/// always empty, and of the same admin service and the same bounds.
#[test]
fn the_recorder_is_the_filters() {
    let map = one("envoy/istio/recorder/bootstrap.yaml");
    let bootstrap: Value =
        serde_json::from_str(map["data"]["custom_bootstrap.json"].as_str().unwrap()).unwrap();
    let config = at(&bootstrap, "bootstrap_extensions.0.typed_config.config");
    assert_eq!(config["root_id"], RECORDER_ROOT_ID);
    assert_eq!(config["vm_config"].get("vm_id"), None);
    assert_eq!(at(config, "vm_config.environment_variables.host_env_keys.0"), TOKEN_ENV);
    let own: Value = serde_json::from_str(text(config, "configuration.value")).unwrap();
    assert_eq!(plugin(&own, &[TOKEN_ENV]), filter(GATEWAY));

    let values = one("envoy/istio/recorder/gateway-values.yaml");
    let annotations = at(&values, "podAnnotations");
    assert_eq!(annotations["sidecar.istio.io/bootstrapOverride"], *at(&map, "metadata.name"));
    assert_eq!(at(&map, "metadata.namespace"), at(&one(GATEWAY), "metadata.namespace"));
    let file = text(config, "vm_config.code.local.filename");
    assert_eq!(file, format!("{}/tidegate.wasm", text(&values, "volumeMounts.0.mountPath")));
}
