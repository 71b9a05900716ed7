//! Bodies: what they may be called, how large they may be, how slow.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::running::{DEADLINE, Running};

const BAN: &str = "/api/admin/ip/ban";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_json_whatever_it_is_called() {
    let running = Running::start().await;
    for (i, kind) in ["application/x-www-form-urlencoded", "text/plain", "application/json", "rubbish"]
        .into_iter()
        .enumerate()
    {
        let request = Request::builder()
            .method(Method::POST)
            .uri(running.people(BAN))
            .header(AUTHORIZATION, format!("Bearer {}", running.admin))
            .header(CONTENT_TYPE, kind)
            .body(Body::from(format!(r#"{{"ip": "1.2.3.{i}"}}"#)))
            .unwrap();
        running.send(request).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_passed_over() {
    let running = Running::start().await;
    running.post(BAN, "\u{feff}{\"ip\": \"1.2.3.4\"}").await.ok();
    let bodies = [("application/json", "{\"spec\": {}}"), ("application/yaml", "spec: {}\n")];
    for (kind, text) in bodies {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(running.people("/api/admin/routes/r"))
            .header(AUTHORIZATION, format!("Bearer {}", running.admin))
            .header(CONTENT_TYPE, kind)
            .body(Body::from(format!("\u{feff}{text}")))
            .unwrap();
        running.send(request).await.ok();
    }
    running.post(BAN, "\u{feff}").await.problem(400, "empty_body");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_and_compressed_bodies_are_refused() {
    let running = Running::start().await;
    let before = running.tables().await;
    let large = format!(r#"{{"ip": "1.2.3.4", "reason": "{}"}}"#, "x".repeat(1 << 20));
    let problem = running.post(BAN, large).await.problem(413, "body_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("1048576"), "{problem}");
    let request = Request::builder()
        .method(Method::POST)
        .uri(running.people(BAN))
        .header(AUTHORIZATION, format!("Bearer {}", running.admin))
        .header(CONTENT_ENCODING, "gzip")
        .body(Body::from(r#"{"ip": "1.2.3.4"}"#))
        .unwrap();
    running.send(request).await.problem(415, "unsupported_media_type");
    assert_eq!(running.tables().await, before);
}

/// What `curl -d` sends, byte by byte, and what an early end does.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_changes_nothing() {
    let running = Running::start().await;
    let before = running.tables().await;
    let mut stream = TcpStream::connect(running.service.people()).await.unwrap();
    let head = format!(
        "POST {BAN} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{\"ip\": \"1.2.3.4\"}}",
        running.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(read.is_ok() && !answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(running.tables().await, before);
    assert_eq!(running.get("/api/admin/ip-monitor").await.ok()["items"], json!([]));
}
