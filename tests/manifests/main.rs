//! The manifests of `deploy/` and `envoy/`: what they say of each other is so, and the
//! filter takes the plugin's configuration of each as it would inside Envoy.
//!
//! What control planes make of them is not run here: `docs/DEPLOY.md` says what was.

mod envoy_gateway;
mod fields;
mod files;
mod istio;
mod kubernetes;
mod kustomize;
mod systemd;

use serde_json::Value;
use tidegate::config::Config;
use tidegate_policy::decide::Routing;

/// The variable that has the gateway's token, in every manifest.
const TOKEN_ENV: &str = "TIDEGATE_GATEWAY_TOKEN";

/// The configuration as the filter reads it in a VM that sees these variables.
fn plugin(config: &Value, variables: &[&str]) -> Config {
    let environment = |name: &str| variables.contains(&name).then(|| "t".repeat(32));
    let parsed = Config::parse(config.to_string().as_bytes(), environment).unwrap_or_else(|error| {
        panic!("{config}: {error}");
    });
    assert_eq!(parsed.settings.routing, Routing::Envoy, "{config}");
    // What a header, and HTTP/2's :authority, can carry: a cluster of Istio's is not.
    let authority = &parsed.admin.authority;
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
    assert!(authority.bytes().all(is_host), "{authority}");
    parsed
}

/// The variable of a container that comes from the gateway's half of the Secret.
fn assert_token_from_secret(variable: &Value) {
    assert_eq!(variable["name"], TOKEN_ENV);
    let secret = &variable["valueFrom"]["secretKeyRef"];
    assert_eq!(
        (&secret["name"], &secret["key"]),
        (&Value::from(kubernetes::SECRET), &"gateway-token".into())
    );
}
