//! Who the client is, by `X-Forwarded-For`: what trusted hops wrote counts, also with ports and brackets
//! that Envoy passes over, and what others wrote does not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::http::{PATIENCE, raw_status};
use tidegate_stack::ports::Ports;
use tidegate_stack::render::{at, named, patch_plugin, push};
use tidegate_stack::{Control, Options, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// Whom Envoy believes; everybody else on loopback is a stranger.
const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const BANNED: &str = "198.51.100.9";
const BANNED_V6: &str = "2001:db8::9";

/// The gate, which believes one address only; and in the place of the listener of the admin service's API
/// a gate that counts hops.
#[derive(Debug)]
struct Hops;

const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";

impl Control for Hops {
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let mut config = options.envoy_config(ports)?;
        let listeners = at(&mut config, "/static_resources/listeners")?;
        let mut counting = named(listeners, "gate")?.clone();
        let detection = "/original_ip_detection_extensions/0/typed_config/xff_trusted_cidrs/cidrs";
        *at(at(named(listeners, "gate")?, MANAGER)?, detection)? =
            json!([{ "address_prefix": PROXY, "prefix_len": 32 }]);
        counting["name"] = json!("gate-counting");
        *at(&mut counting, "/address/socket_address/port_value")? = json!(ports.admin_api);
        let manager = at(&mut counting, MANAGER)?;
        if let Value::Object(fields) = &mut *manager {
            fields.remove("original_ip_detection_extensions");
        }
        manager["use_remote_address"] = json!(true);
        manager["xff_num_trusted_hops"] = json!(1);
        let plugin = at(named(at(manager, "/http_filters")?, "tidegate")?, "/typed_config/config")?;
        patch_plugin(plugin, &json!({ "forwarded_for": { "trusted_cidrs": null, "num_trusted_hops": 1 } }))?;
        named(listeners, "admin-api")?;
        if let Value::Array(list) = &mut *listeners {
            list.retain(|listener| listener["name"] != "admin-api");
        }
        push(listeners, counting)?;
        Ok(config)
    }
}

/// The status of a request from this peer.
fn status(gate: SocketAddr, peer: Ipv4Addr, forwarded_for: &str) -> Result<u16> {
    let exchange = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((peer, 0).into())?;
        let mut stream = socket.connect(gate).await?;
        let request = format!(
            "GET /from HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-forwarded-for: {forwarded_for}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        raw_status(&answer)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, exchange).await })
        .with_context(|| format!("no answer within {PATIENCE:?}"))?
        .with_context(|| format!("{peer} with {forwarded_for}"))
}

#[test]
fn what_trusted_hops_wrote_counts_and_what_others_wrote_does_not() {
    let mut options = Options::for_test("forwarded-for").unwrap();
    options.plugin = json!({ "forwarded_for": { "parse": true, "trusted_cidrs": [PROXY] } });
    options.control = Some(std::sync::Arc::new(Hops));
    let stack = Stack::start(options).unwrap();
    stack.put_route("all", "/", "demo").unwrap();
    for banned in [BANNED, BANNED_V6] {
        stack.ban(banned).unwrap();
    }
    let unread = || stack.stats().unwrap().sum(|name| name.ends_with("requests.unreadable_forwarded_for"));
    let [gate, counting] = [stack.gate(), stack.admin_api()];
    for on in [true, false] {
        stack.all_flags(on).unwrap();
        for (gate, peer, line, wanted) in [
            (gate, PROXY, "192.0.2.1, 198.51.100.9", 403),
            (gate, PROXY, "198.51.100.9, 192.0.2.1", 200),
            (gate, PROXY, "198.51.100.9:4711", 403),
            (gate, PROXY, "192.0.2.1, 198.51.100.9:4711", 403),
            (gate, PROXY, "[2001:db8::9]:4711", 403),
            (gate, PROXY, "[2001:db8::9]", 403),
            (gate, PROXY, "198.51.100.9:4711, 127.0.0.1", 403),
            (gate, PROXY, "198.51.100.9:4711, 127.0.0.1:4711", 403),
            // What the client wrote itself, before the proxy added its address.
            (gate, PROXY, "198.51.100.9:4711, 192.0.2.1", 200),
            (gate, PROXY, "198.51.100.9:4711, 192.0.2.1:4711", 200),
            (gate, PROXY, "192.0.2.1:1, 127.0.0.1, 198.51.100.9:4711", 403),
            (gate, STRANGER, "198.51.100.9", 200),
            (gate, STRANGER, "198.51.100.9:4711", 200),
            (gate, STRANGER, "198.51.100.9:4711, 127.0.0.1", 200),
            // With use_remote_address Envoy appends its peer; one hop is trusted, whoever it is.
            (counting, PROXY, "198.51.100.9:4711", 403),
            (counting, PROXY, "192.0.2.1:4711, 198.51.100.9:4711", 403),
            (counting, PROXY, "198.51.100.9:4711, 192.0.2.1:4711", 200),
            (counting, PROXY, "198.51.100.9:4711, 192.0.2.1", 200),
            (counting, STRANGER, "[2001:db8::9]:4711", 403),
        ] {
            let got = status(gate, peer, line).unwrap();
            assert_eq!(got, wanted, "{peer} at {gate} with {line}, caches {on}");
        }
    }
    // A stranger's ban holds, whatever it says of itself.
    // It is at a loopback address, which is banned by intention only.
    stack.ban_with(&json!({ "ip": STRANGER.to_string(), "force": true })).unwrap();
    for line in ["192.0.2.1:4711", "192.0.2.1:4711, 127.0.0.1", "192.0.2.1:4711, 127.0.0.9:1"] {
        assert_eq!(status(gate, STRANGER, line).unwrap(), 403, "{line}");
    }
    assert_eq!(unread(), 0, "what is read is not counted, nor what a stranger wrote");
    assert!(stack.recorded(PATIENCE).unwrap().is_whole());
    let clients = "SELECT DISTINCT client_ip FROM traffic_events WHERE path = '/from' ORDER BY client_ip";
    let seen: Vec<IpAddr> =
        stack.sql().unwrap().run(clients).unwrap().iter().map(|client| client.parse().unwrap()).collect();
    let wanted =
        ["127.0.0.9", "192.0.2.1", BANNED, BANNED_V6].map(|client| client.parse::<IpAddr>().unwrap());
    assert_eq!(seen, wanted);
}
