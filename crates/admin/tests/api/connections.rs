//! Many connections to the program itself.

use reqwest::Method;
use serde_json::json;
use tokio::net::TcpStream;

use crate::test_process::Process;
use crate::test_service::{Answered, client, each, until};

/// Connections that send nothing.
async fn silent(url: &str, count: usize) -> Vec<TcpStream> {
    let address = url.trim_start_matches("http://");
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
