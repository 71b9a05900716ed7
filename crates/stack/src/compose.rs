//! Envoy's configuration for the containers of `docker-compose.yml`:
//! `envoy/envoy.yaml` with its comments, changed at the places below and nowhere
//! else. A place that is not there any more is an error, so that the two files
//! cannot drift apart unseen.

use anyhow::{Result, ensure};

/// Where the result is, in the repository.
pub const FILE: &str = "envoy/compose.yaml";

const HEADER: &str = "\
# Envoy with Tidegate in a container of docker-compose.yml. Made by `cargo xtask compose-config` from
# envoy/envoy.yaml: change that file, or crates/stack/src/compose.rs, and run it again.
#
# In the container it listens on all addresses; docker-compose.yml publishes them on the host's loopback only.
";

/// A piece of the file, how often it is there, and what stands there instead.
type Edit = (&'static str, usize, &'static str);

const EDITS: [Edit; 11] = [
    ("  id: tidegate-local\n", 1, "  id: tidegate-compose\n"),
    // Other containers may read Envoy's statistics, and not stop it.
    (
        "address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }",
        1,
        "address: { socket_address: { address: 127.0.0.1, port_value: 9900 } }",
    ),
    ("filename: target/dist/tidegate.wasm", 3, "filename: /etc/tidegate/tidegate.wasm"),
    (
        "              \"performance_headers\": \"always\"\n",
        1,
        "              \"performance_headers\": \"always\",\n              \"listener_port\": 10000\n",
    ),
    (
        "address: { socket_address: { address: 127.0.0.1, port_value: 10000 } }",
        1,
        "address: { socket_address: { address: 0.0.0.0, port_value: 10000 } }",
    ),
    (
        "address: { socket_address: { address: 127.0.0.1, port_value: 10001 } }",
        1,
        "address: { socket_address: { address: 0.0.0.0, port_value: 10001 } }",
    ),
    (ACCESS_LOG, 1, ACCESS_LOG_THERE),
    (
        "                # X-Forwarded-For counts from loopback only. With use_remote_address, or with\n\
         \x20               # neither, a stranger's header would be believed.\n",
        1,
        "                # X-Forwarded-For counts from the network's gateway only, where requests come from that\n\
         \x20               # docker-compose.yml takes on the host's loopback. If you publish the port on other\n\
         \x20               # addresses, name your proxy's here: else clients might choose who they are.\n",
    ),
    (
        "                          - { address_prefix: 127.0.0.0, prefix_len: 8 }\n\
         \x20                         - { address_prefix: \"::1\", prefix_len: 128 }\n",
        1,
        "                          - { address_prefix: 10.90.70.1, prefix_len: 32 }\n",
    ),
    ("  clusters:\n    # The first backend.", 1, STATISTICS),
    ("\nlayered_runtime:\n", 1, STATISTICS_CLUSTER),
];

const ACCESS_LOG: &str = r#"                  - name: envoy.access_loggers.file
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
                      # A file of its own: lines to /dev/stderr are lost when that is redirected.
                      path: target/up/access.log
"#;

/// `/dev/stdout` would have to be opened anew, which another user's pipe refuses.
const ACCESS_LOG_THERE: &str = r#"                  - name: envoy.access_loggers.stdout
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
"#;

const STATISTICS: &str = r#"    # What may be read of Envoy's admin interface, which itself is on this container's loopback: for
    # Prometheus, and for you. Nothing here can change or stop Envoy.
    - name: statistics
      address: { socket_address: { address: 0.0.0.0, port_value: 9901 } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: statistics
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: REJECT_REQUEST
                common_http_protocol_options: { idle_timeout: 600s }
                request_headers_timeout: 10s
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  name: statistics
                  virtual_hosts:
                    - name: any
                      domains: ["*"]
                      routes:
                        - name: readable
                          match:
                            safe_regex: { regex: "/(ready|server_info|memory|clusters|listeners|stats|stats/prometheus)" }
                            headers: [{ name: ":method", string_match: { exact: GET } }]
                          route: { cluster: envoy-admin }

  clusters:
    # The first backend."#;

const STATISTICS_CLUSTER: &str = "
    # Envoy's own admin interface, behind the listener statistics.
    - name: envoy-admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: envoy-admin
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9900 } } }

layered_runtime:
";

/// Clusters that go to another container: by name, so that its address may change.
const SERVICES: [(&str, u16, &str); 3] =
    [("demo", 10080, "backend"), ("tidegate-admin", 9071, "admin"), ("tidegate-people", 9070, "admin")];

/// The configuration, of the text of `envoy/envoy.yaml`.
///
/// # Errors
/// A place that is to be changed is not there, or more often than is known.
pub fn render(source: &str) -> Result<String> {
    let body = source.find("\nnode:\n").map(|at| &source[at..]);
    let mut text = format!("{HEADER}{}", body.unwrap_or_default());
    ensure!(body.is_some(), "envoy.yaml has no `node:`");
    for (from, times, to) in EDITS {
        text = replace(&text, from, times, to)?;
    }
    for (cluster, port, host) in SERVICES {
        let head = format!("    - name: {cluster}\n      type: STATIC\n");
        let by_name = format!(
            "    - name: {cluster}\n      type: STRICT_DNS\n      dns_lookup_family: V4_ONLY\n      \
             # A container may come back with another address.\n      dns_refresh_rate: 1s\n"
        );
        text = replace(&text, &head, 1, &by_name)?;
        let address = format!("address: 127.0.0.1, port_value: {port} ");
        text = replace(&text, &address, 1, &format!("address: {host}, port_value: {port} "))?;
    }
    Ok(text)
}

fn replace(text: &str, from: &str, times: usize, to: &str) -> Result<String> {
    let found = text.matches(from).count();
    ensure!(
        found == times,
        "envoy.yaml has {found} times what crates/stack/src/compose.rs changes {times} times: {from}"
    );
    Ok(text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SOURCE: &str = include_str!("../../../envoy/envoy.yaml");

    #[test]
    fn the_committed_file_is_what_comes_out() {
        let committed = std::fs::read_to_string(crate::programs::repository().join(FILE)).unwrap();
        assert!(
            committed == render(SOURCE).unwrap(),
            "{FILE} is not what envoy/envoy.yaml makes: run `cargo xtask compose-config`"
        );
    }

    #[test]
    fn nothing_of_one_machine_is_left_and_nothing_is_public() {
        let parsed: Value = yaml_serde::from_str(&render(SOURCE).unwrap()).unwrap();
        let flat = parsed.to_string();
        assert!(!flat.contains("target/"), "a path of the repository is still there");
        let loopback = flat.matches("127.0.0.1").count();
        assert_eq!(loopback, 2, "Envoy's admin interface and its cluster");
        // What it says of X-Forwarded-For must be what docker-compose.yml gives the network.
        let compose =
            std::fs::read_to_string(crate::programs::repository().join("docker-compose.yml")).unwrap();
        let compose: Value = yaml_serde::from_str(&compose).unwrap();
        let network = &compose["networks"]["default"]["ipam"]["config"][0];
        let trusted = format!("\"address_prefix\":{},\"prefix_len\":32", network["gateway"]);
        assert_eq!(flat.matches(&trusted).count(), 1, "{network}");
        assert_eq!(flat.matches("address_prefix").count(), 1);
        let services = compose["services"].as_object().unwrap().values();
        let ports: Vec<_> = services.filter_map(|service| service["ports"].as_array()).flatten().collect();
        let on_loopback = |port: &&Value| port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:"));
        assert!(ports.len() >= 4 && ports.iter().all(on_loopback), "{ports:?}");
    }

    #[test]
    fn what_is_added_stands_where_envoy_looks_for_it() {
        let [source, made] = [SOURCE.to_owned(), render(SOURCE).unwrap()]
            .map(|text| yaml_serde::from_str::<Value>(&text).unwrap());
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&made), names(&source));
        let clusters = |of: &Value| of["static_resources"]["clusters"].as_array().unwrap().clone();
        let added: Vec<_> = clusters(&made).into_iter().skip(clusters(&source).len()).collect();
        assert!(matches!(&added[..], [one] if one["name"] == "envoy-admin"), "{added:?}");
    }

    #[test]
    fn a_place_that_is_gone_is_named() {
        let broken = SOURCE.replace("target/up/access.log", "access.log");
        let said = render(&broken).unwrap_err().to_string();
        assert!(said.contains("0 times") && said.contains("access_loggers.file"), "{said}");
    }
}
