//! The gate in a Gateway of Envoy Gateway.

use serde_json::Value;
use tidegate::config::Config;
use tidegate::root_context::RECORDER_ROOT_ID;

use crate::files::{at, documents, one, text};
use crate::kubernetes::Address;
use crate::{TOKEN_ENV, assert_token_from_secret, plugin};

const POLICY: &str = "envoy/envoy-gateway/extension-policy.yaml";
const PROXY: &str = "envoy/envoy-gateway/envoyproxy.yaml";
const WITH_RECORDER: &str = "envoy/envoy-gateway/recorder/envoyproxy.yaml";

/// The filter's configuration in a policy.
pub fn filter(policy: &Value) -> Config {
    let wasm = at(policy, "spec.wasm.0");
    let keys = at(wasm, "env.hostKeys").as_array().unwrap();
    let variables: Vec<&str> = keys.iter().map(|key| key.as_str().unwrap()).collect();
    plugin(at(wasm, "config"), &variables)
}

/// What a policy calls its filter's VM: `irConfigNameForWasm` in Envoy Gateway's
/// `internal/gatewayapi/envoyextensionpolicy.go`, v1.9.0.
fn vm_id(policy: &Value) -> String {
    let name = (text(policy, "metadata.namespace"), text(policy, "metadata.name"));
    format!("envoyextensionpolicy/{}/{}/wasm/0", name.0, name.1)
}

/// The text that is merged into the proxies' bootstrap.
fn bootstrap(proxy: &Value) -> Value {
    assert_eq!(text(proxy, "spec.bootstrap.type"), "Merge");
    documents(text(proxy, "spec.bootstrap.value")).unwrap().remove(0)
}

#[test]
fn the_filter_calls_a_cluster_of_the_bootstrap_which_is_the_service() {
    let address = Address::of_service();
    let config = filter(&one(POLICY));
    for proxy in [PROXY, WITH_RECORDER] {
        let bootstrap = bootstrap(&one(proxy));
        let cluster = at(&bootstrap, "static_resources.clusters.0");
        assert_eq!(cluster["name"], config.admin.cluster, "{proxy}");
        let endpoint =
            at(cluster, "load_assignment.endpoints.0.lb_endpoints.0.endpoint.address.socket_address");
        assert_eq!(
            (&endpoint["address"], &endpoint["port_value"]),
            (&address.host.clone().into(), &address.port.into())
        );
    }
    assert_eq!(config.admin.authority, address.authority());
    let backend = one("envoy/envoy-gateway/backend/backend.yaml");
    assert_eq!(text(&backend, "spec.endpoints.0.fqdn.hostname"), address.host);
    assert_eq!(*at(&backend, "spec.endpoints.0.fqdn.port"), address.port);
    assert_eq!(at(&backend, "spec.appProtocols.0"), "gateway.envoyproxy.io/h2c");
}

#[test]
fn the_policy_the_gateway_and_the_proxy_name_each_other() {
    let (policy, gateway, proxy) = (one(POLICY), one("envoy/envoy-gateway/gateway.yaml"), one(PROXY));
    assert_eq!(at(&policy, "spec.targetRefs.0.name"), at(&gateway, "metadata.name"));
    assert_eq!(at(&gateway, "spec.infrastructure.parametersRef.name"), at(&proxy, "metadata.name"));
    for resource in [&gateway, &proxy] {
        assert_eq!(at(&policy, "metadata.namespace"), at(resource, "metadata.namespace"));
    }
    assert_eq!(at(&policy, "spec.wasm.0.failOpen"), false);
    assert_ne!(at(&policy, "spec.wasm.0.rootID"), RECORDER_ROOT_ID);
    assert_eq!(at(&policy, "spec.wasm.0.env.hostKeys.0"), TOKEN_ENV);
    let deployment = at(&proxy, "spec.provider.kubernetes.envoyDeployment");
    assert_token_from_secret(at(deployment, "container.env.0"));
}

/// The recorder shares data and queues with the filter of its vm_id, of the same admin
/// service and the same bounds.
#[test]
fn the_recorder_is_the_filters() {
    let (policy, proxy) = (one(POLICY), one(WITH_RECORDER));
    let bootstrap = bootstrap(&proxy);
    let config = at(&bootstrap, "bootstrap_extensions.0.typed_config.config");
    assert_eq!(config["root_id"], RECORDER_ROOT_ID);
    assert_eq!(text(config, "vm_config.vm_id"), vm_id(&policy));
    assert_eq!(at(config, "vm_config.environment_variables.host_env_keys.0"), TOKEN_ENV);
    let own: Value = serde_json::from_str(text(config, "configuration.value")).unwrap();
    assert_eq!(plugin(&own, &[TOKEN_ENV]), filter(&policy));
    let mount = text(&proxy, "spec.provider.kubernetes.envoyDeployment.container.volumeMounts.0.mountPath");
    assert_eq!(text(config, "vm_config.code.local.filename"), format!("{mount}/tidegate.wasm"));
}

/// The patch finds the filter by the name that Envoy Gateway gives it:
/// `wasmFilterName` in its `internal/xds/translator/wasm.go`, v1.9.0.
#[test]
fn the_patch_of_the_failure_policy_finds_the_filter() {
    let (policy, gateway) = (one(POLICY), one("envoy/envoy-gateway/gateway.yaml"));
    let patch = one("envoy/envoy-gateway/reload/envoypatchpolicy.yaml");
    let patch = at(&patch, "spec.jsonPatches.0");
    let filter = format!("@.name=='envoy.filters.http.wasm/{}'", vm_id(&policy));
    assert!(text(patch, "operation.jsonPath").contains(&filter), "{patch}");
    assert_eq!(
        (text(patch, "operation.path"), text(patch, "operation.value")),
        ("failure_policy", "FAIL_RELOAD")
    );
    let listener = format!(
        "{}/{}/{}",
        text(&gateway, "metadata.namespace"),
        text(&gateway, "metadata.name"),
        text(&gateway, "spec.listeners.0.name")
    );
    assert_eq!(text(patch, "name"), listener);
}
