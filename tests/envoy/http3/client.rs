//! A client of HTTP/3: an Envoy that sends on what it is asked over HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::ports::local;
use tidegate_stack::process::Process;
use tidegate_stack::{Stack, envoy, http, wait};

/// The name that the gate shows a certificate of.
pub const NAME: &str = "gate.test";
const START_LIMIT: Duration = Duration::from_secs(60);

/// Each connection to it is one to the gate, with as many streams; a client that leaves
/// resets its stream there.
pub struct Client {
    process: Process,
    address: SocketAddr,
}

impl Client {
    /// Starts one that trusts `authority` (PEM) and waits until it is ready.
    pub fn start(stack: &Stack, authority: &Path) -> Result<Self> {
        let options = stack.options();
        let path = options.dir.join("client.json");
        let listens = options.dir.join("client-address");
        std::fs::write(&path, config(stack.gate(), authority).to_string())?;
        let mut command = envoy::command(&options.programs.envoy, &path, 1, None);
        command.arg("--admin-address-path").arg(&listens);
        let mut process = Process::start("client", command, &stack.log("client"))?;
        let address = wait::until("the client is ready", START_LIMIT, || {
            process.check_running()?;
            Ok(listener(&listens).ok())
        })
        .with_context(|| process.tail(15))?;
        Ok(Self { process, address })
    }

    /// Where to ask it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and its connections.
    pub fn stop(self) {
        self.process.terminate();
    }
}

/// Where it listens: on a port that the system chose.
fn listener(admin_address: &Path) -> Result<SocketAddr> {
    let admin = std::fs::read_to_string(admin_address)?.trim().parse()?;
    let said = http::send(admin, &http::Request::get("/listeners?format=json"))?.json()?;
    let socket = &said["listener_statuses"][0]["local_address"]["socket_address"];
    let port = socket["port_value"].as_u64().with_context(|| format!("no listener in {said}"))?;
    Ok(local(u16::try_from(port)?))
}

fn config(gate: SocketAddr, authority: &Path) -> Value {
    const TYPES: &str = "type.googleapis.com/envoy.extensions";
    let socket = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let manager = json!({
        "@type": format!(
            "{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "client",
        "generate_request_id": false,
        // It refuses nothing that the gate takes.
        "max_request_headers_kb": 96,
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": format!("{TYPES}.filters.http.router.v3.Router"),
                "suppress_envoy_headers": true
            }
        }],
        "route_config": { "virtual_hosts": [{
            "name": "any",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "gate", "timeout": "0s" } }]
        }] }
    });
    let tls = json!({
        "@type": format!("{TYPES}.transport_sockets.quic.v3.QuicUpstreamTransport"),
        "upstream_tls_context": {
            "sni": NAME,
            "common_tls_context": { "validation_context": {
                "trusted_ca": { "filename": authority },
                "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": NAME } }]
            } }
        }
    });
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "admin": { "address": socket(0) },
        "static_resources": {
            "listeners": [{
                "name": "client",
                "address": socket(0),
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": manager
                }] }]
            }],
            "clusters": [{
                "name": "gate",
                "type": "STATIC",
                "connection_pool_per_downstream_connection": true,
                "typed_extension_protocol_options": { options: {
                    "@type": format!("type.googleapis.com/{options}"),
                    "explicit_http_config": { "http3_protocol_options": {} }
                } },
                "transport_socket": { "name": "envoy.transport_sockets.quic", "typed_config": tls },
                "load_assignment": {
                    "cluster_name": "gate",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(gate.port()) } }] }]
                }
            }]
        }
    })
}
