//! The admin service in Kubernetes.

use serde_json::{Value, json};
use tidegate_stack::programs::repository;

use crate::files::{at, documents, one, text};

/// The Secret of the tokens.
pub const SECRET: &str = "tidegate-tokens";
/// The Secret of a gateway's certificate.
pub const GATEWAY_SECRET: &str = "tidegate-gateway-tls";
/// What the component tls changes of the Deployment.
const WITH_TLS: &str = "deploy/kubernetes/tls/deployment.yaml";

/// How gateways reach the service, as its Service says.
pub struct Address {
    /// Of the port `gateways`.
    pub port: u64,
    /// The Service's full name.
    pub host: String,
}

impl Address {
    /// From the manifest of the Service.
    pub fn of_service() -> Self {
        let service = one("deploy/kubernetes/service.yaml");
        let host = format!(
            "{}.{}.svc.cluster.local",
            text(&service, "metadata.name"),
            text(&service, "metadata.namespace")
        );
        Self { port: port(&service, "gateways")["port"].as_u64().unwrap(), host }
    }

    /// As an authority.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn port<'v>(service: &'v Value, name: &str) -> &'v Value {
    let ports = at(service, "spec.ports").as_array().unwrap();
    ports.iter().find(|port| port["name"] == name).unwrap()
}

fn container(deployment: &Value) -> &Value {
    let containers = at(deployment, "spec.template.spec.containers").as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// A variable's value.
fn variable<'v>(deployment: &'v Value, name: &str) -> &'v str {
    let variables = container(deployment)["env"].as_array().unwrap();
    let variable = variables.iter().find(|variable| variable["name"] == name);
    variable.unwrap_or_else(|| panic!("no {name}"))["value"].as_str().unwrap()
}

#[test]
fn the_service_is_one_and_is_never_two() {
    let deployment = one("deploy/kubernetes/deployment.yaml");
    assert_eq!(at(&deployment, "spec.replicas"), 1);
    assert_eq!(at(&deployment, "spec.strategy.type"), "Recreate");
    let budget = one("deploy/kubernetes/poddisruptionbudget.yaml");
    assert_eq!(at(&budget, "spec.maxUnavailable"), 1, "or its node could never be drained");
}

#[test]
fn all_that_selects_the_pod_selects_it() {
    let deployment = one("deploy/kubernetes/deployment.yaml");
    let labels = at(&deployment, "spec.template.metadata.labels");
    assert_eq!(at(&deployment, "spec.selector.matchLabels"), labels);
    assert_eq!(at(&one("deploy/kubernetes/service.yaml"), "spec.selector"), labels);
    let others = [
        ("deploy/kubernetes/poddisruptionbudget.yaml", "spec.selector.matchLabels"),
        ("deploy/kubernetes/networkpolicy.yaml", "spec.podSelector.matchLabels"),
        ("deploy/kubernetes/mesh/peerauthentication.yaml", "spec.selector.matchLabels"),
    ];
    for (path, selector) in others {
        assert_eq!(at(&one(path), selector), labels, "{path}");
    }
    // This one selects the Service.
    let monitor = one("deploy/kubernetes/service-monitor/servicemonitor.yaml");
    let service = one("deploy/kubernetes/service.yaml");
    assert_eq!(at(&monitor, "spec.selector.matchLabels"), at(&service, "metadata.labels"));
    assert_eq!(at(&monitor, "spec.endpoints.0.port"), "people");
    assert_eq!(at(&monitor, "spec.endpoints.0.path"), "/metrics");
}

#[test]
fn ports_agree_from_the_listener_to_the_service() {
    let deployment = one("deploy/kubernetes/deployment.yaml");
    let service = one("deploy/kubernetes/service.yaml");
    for (name, listener) in [("people", "TIDEGATE_LISTEN"), ("gateways", "TIDEGATE_GATEWAY_LISTEN")] {
        let ports = container(&deployment)["ports"].as_array().unwrap();
        let of_container = &ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"];
        assert_eq!(variable(&deployment, listener), format!("0.0.0.0:{of_container}"));
        assert_eq!(port(&service, name)["targetPort"], name);
        assert_eq!(&port(&service, name)["port"], of_container);
    }
    assert_eq!(port(&service, "gateways")["appProtocol"], "kubernetes.io/h2c");
    let policy = one("deploy/kubernetes/networkpolicy.yaml");
    assert_eq!(at(&policy, "spec.ingress.0.ports.0.port"), "gateways");
    assert_eq!(at(&policy, "spec.ingress.1.ports.0.port"), "people");
    let strict = one("deploy/kubernetes/mesh/peerauthentication.yaml");
    let port = port(&service, "gateways")["port"].to_string();
    assert_eq!(at(&strict, &format!("spec.portLevelMtls.{port}.mode")), "STRICT");
}

#[test]
fn volumes_are_where_the_service_looks() {
    let deployment = one("deploy/kubernetes/deployment.yaml");
    let mounts = container(&deployment)["volumeMounts"].as_array().unwrap();
    let volumes = at(&deployment, "spec.template.spec.volumes").as_array().unwrap();
    let mounted = |path: &str| {
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
        let name = &mount.unwrap_or_else(|| panic!("nothing at {path}"))["name"];
        volumes.iter().find(|volume| &volume["name"] == name).unwrap()
    };
    let (data, _) = variable(&deployment, "TIDEGATE_DB").rsplit_once('/').unwrap();
    let claim = one("deploy/kubernetes/persistentvolumeclaim.yaml");
    assert_eq!(mounted(data)["persistentVolumeClaim"]["claimName"], *at(&claim, "metadata.name"));
    assert_eq!(mounted(variable(&deployment, "TIDEGATE_TOKENS"))["secret"]["secretName"], SECRET);
}

/// A variable that the service does not know would be ignored without a word.
#[test]
fn every_variable_is_an_option_of_serve() {
    let options = ["serve", "tls_args"].map(|file| {
        std::fs::read_to_string(repository().join(format!("crates/admin/src/cli/{file}.rs"))).unwrap()
    });
    for path in ["deploy/kubernetes/deployment.yaml", WITH_TLS] {
        for variable in container(&one(path))["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            assert!(options.concat().contains(&format!("env = \"{name}\"")), "{name}");
        }
    }
}

#[test]
fn certificates_are_where_the_service_looks_and_are_those_that_are_made() {
    let patch = one(WITH_TLS);
    let volume = at(&patch, "spec.template.spec.volumes.0");
    let mount = at(container(&patch), "volumeMounts.0");
    assert_eq!(mount["name"], volume["name"]);
    let mounted = mount["mountPath"].as_str().unwrap();
    let files = container(&patch)["env"].as_array().unwrap().iter().filter_map(|variable| {
        let (dir, file) = variable["value"].as_str()?.rsplit_once('/')?;
        assert_eq!(dir, mounted);
        Some(file)
    });
    assert_eq!(files.collect::<Vec<_>>(), ["tls.crt", "tls.key", "tls.crt", "tls.key", "ca.crt"]);
    let certificate = one("deploy/kubernetes/cert-manager/certificate.yaml");
    assert_eq!(at(&certificate, "spec.secretName"), at(volume, "secret.secretName"));
    let names = at(&certificate, "spec.dnsNames").as_array().unwrap();
    assert!(names.contains(&Address::of_service().host.into()), "{names:?}");
    let authority =
        std::fs::read_to_string(repository().join("deploy/kubernetes/cert-manager/authority.yaml"));
    let authority = documents(&authority.unwrap()).unwrap();
    let gateway = one("deploy/kubernetes/cert-manager/gateway-certificate.yaml");
    for issued in [&certificate, &gateway] {
        assert_eq!(at(issued, "spec.issuerRef.name"), at(&authority[2], "metadata.name"));
    }
    assert_eq!(at(&authority[1], "spec.secretName"), at(&authority[2], "spec.ca.secretName"));
    assert_eq!(at(&authority[1], "spec.issuerRef.name"), at(&authority[0], "metadata.name"));
    assert_eq!(text(&gateway, "spec.secretName"), GATEWAY_SECRET);
}

#[test]
fn the_pod_may_do_nothing_that_it_need_not() {
    let deployment = one("deploy/kubernetes/deployment.yaml");
    assert_eq!(at(&deployment, "spec.template.spec.automountServiceAccountToken"), false);
    assert_eq!(at(&deployment, "spec.template.spec.securityContext.runAsNonRoot"), true);
    let expected = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    assert_eq!(container(&deployment)["securityContext"], expected);
}

/// Names of labels, which mean nothing anywhere else: the guide has to say the same.
#[test]
fn only_namespaces_that_are_labelled_reach_the_pod_and_it_calls_nobody() {
    let policy = one("deploy/kubernetes/networkpolicy.yaml");
    assert_eq!(*at(&policy, "spec.policyTypes"), json!(["Ingress", "Egress"]));
    assert_eq!(*at(&policy, "spec.egress"), json!([]));
    let guide = std::fs::read_to_string(repository().join("docs/DEPLOY.md")).unwrap();
    let admitted = at(&policy, "spec.ingress").as_array().unwrap();
    assert_eq!(admitted.len(), 2);
    for (rule, label) in admitted.iter().zip(["tidegate/gateways", "tidegate/people"]) {
        assert_eq!(rule["from"], json!([{ "namespaceSelector": { "matchLabels": { label: "true" } } }]));
        assert_eq!(rule["ports"].as_array().unwrap().len(), 1, "{label}");
        assert!(guide.contains(&format!("{label}=true")), "{label}");
    }
}

/// The image's user, who owns the volume and may read the Secret's files.
#[test]
fn the_pod_runs_as_the_user_of_the_image() {
    let dockerfile = std::fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let deployment = one("deploy/kubernetes/deployment.yaml");
    let context = at(&deployment, "spec.template.spec.securityContext");
    let (_, admin) = dockerfile.split_once(" AS admin\n").unwrap();
    let user = admin.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert_eq!(user, format!("{}:{}", context["runAsUser"], context["runAsGroup"]));
    assert_eq!(context["fsGroup"], context["runAsGroup"]);
    let volumes = at(&deployment, "spec.template.spec.volumes").as_array().unwrap();
    let secret = volumes.iter().find_map(|volume| volume.get("secret")).unwrap();
    assert_eq!(secret["defaultMode"], 0o440);
    let namespace = one("deploy/kubernetes/namespace.yaml");
    assert_eq!(at(&namespace, "metadata.labels")["pod-security.kubernetes.io/enforce"], "restricted");
}

#[test]
fn every_probe_asks_for_health() {
    let deployment = one("deploy/kubernetes/deployment.yaml");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let asks = json!({ "path": "/api/health", "port": "people" });
        assert_eq!(container(&deployment)[probe]["httpGet"], asks, "{probe}");
    }
}

/// The guide makes the Secret by a command, so that no manifest holds a token.
#[test]
fn the_guide_makes_the_secret_with_both_keys() {
    let guide = std::fs::read_to_string(repository().join("docs/DEPLOY.md")).unwrap();
    assert!(guide.contains(&format!("create secret generic {SECRET}")));
    for key in ["admin-token", "gateway-token"] {
        assert!(guide.contains(&format!("--from-literal={key}=")), "{key}");
    }
}
