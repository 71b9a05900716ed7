//! Many connections to the program itself.

use reqwest::Method;
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use tidegate_admin::serve::connections::CloseReason;
use tidegate_admin::serve::limits;
use tidegate_backend::Authority;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::test_gateway::TestGateway;
use crate::test_process::Process;
use crate::test_service::{Answered, TestService, client, each, trusting, until};
use crate::tls;

/// Connections that send nothing.
async fn silent(url: &str, count: usize) -> Vec<TcpStream> {
    let (_, address) = url.split_once("://").unwrap();
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.ban("1.2.3.4").await;
    let _held = silent(&process.people, 1_100).await;
    // All of these connect anew.
    assert_eq!(process.get("/api/health").await.status, 200);
    process.ban("1.2.3.5").await;
    let health = until("the listener has been full", async || {
        let health = process.get("/api/admin/optimization/health").await.ok();
        each(&health["reasons"], |reason| reason["code"].clone())
            .contains(&json!("connections_full"))
            .then_some(health)
    })
    .await;
    assert_eq!(health["status"], "degraded");
    let page = String::from_utf8(process.get("/metrics").await.bytes).unwrap();
    let displaced = r#"tidegate_admin_connections_closed_total{listener="people",reason="displaced"} "#;
    assert!(page.contains(displaced) && !page.contains(&format!("{displaced}0\n")), "{page}");
    // The gateways' listener has places of its own.
    assert!(
        page.contains(r#"tidegate_admin_connections_closed_total{listener="gateways",reason="displaced"} 0"#),
        "{page}"
    );
    let gateways = client().request(Method::GET, format!("{}/api/health", process.gateways));
    assert_eq!(Answered::to(gateways).await.status, 200);
}

/// Ten thousand connections come to the people's listener: most stay in their handshake, others send a body of which
/// no more comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_handshakes_and_slow_bodies_keeps_neither_bans_nor_gateways_out() {
    limits::raise_descriptors();
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    let slow = slow_bodies(&service, &authority, 64).await;
    // Both ends are this process's.
    let room =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
    let flood = 10_000.min(room / 2);
    let (people, rounds) = (service.people(""), 10);
    let mut held = Vec::new();
    for round in 1..=rounds {
        held.extend(silent(&people, flood / rounds).await);
        let ban = json!({ "ip": format!("192.0.2.{round}") }).to_string();
        let client = trusting(&authority).build().unwrap();
        let ban = client.post(service.people("/api/admin/ip/ban")).bearer_auth(&service.admin).body(ban);
        Answered::to(ban).await.ok();
        let bans = gateway.sync(&service, "20s").await.bans.unwrap();
        assert_eq!(bans.digest.count, round as u64);
    }
    assert!(service.running.app_state().connections.people.closed(CloseReason::Displaced) > 0);
    assert_eq!(service.running.app_state().connections.gateways.closed(CloseReason::Displaced), 0);
    drop(slow);
}

/// Requests, with a token, of whose bodies the first byte has come.
async fn slow_bodies(
    service: &TestService,
    authority: &Authority,
    count: usize,
) -> Vec<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = tls::connect(service, authority).await;
        let head = format!(
            "POST /api/admin/ip/ban HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: 99\r\n\r\n{{",
            service.admin
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    streams
}
