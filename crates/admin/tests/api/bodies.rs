//! How bodies are read, how large they may be, and what happens if they end early.

use std::io::Read as _;

use reqwest::Method;
use serde_json::json;
use tidegate_admin::api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::test_service::{Answered, DEADLINE, TestService};

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_compressed_where_the_client_takes_it() {
    let service = TestService::start().await;
    let get = async |path: &str, accepted: &str| {
        let answer =
            service.as_operator(Method::GET, path).header("accept-encoding", accepted).send().await.unwrap();
        let encoding = answer.headers().get("content-encoding").map(|it| it.to_str().unwrap().to_owned());
        (encoding, answer.bytes().await.unwrap())
    };
    let document = "/api/openapi.json";
    let (_, plain) = get(document, "identity").await;
    let (gzip, packed) = get(document, "gzip").await;
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
    assert!(gzip.as_deref() == Some("gzip") && unpacked == plain && packed.len() * 4 < plain.len());
    let (zstd, packed) = get(document, "zstd, gzip").await;
    assert!(zstd.as_deref() == Some("zstd") && packed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    // Small ones, and what has an `ETag`, are not.
    assert_eq!(get("/api/health", "gzip").await.0, None);
    let html = json!({"html": "x".repeat(9_000)});
    service.put_json("/api/admin/pages/no_route", &html).await.ok();
    assert_eq!(get("/api/admin/pages/no_route", "gzip").await.0, None);
    assert_eq!(get("/api/admin/pages", "gzip").await.0.as_deref(), Some("gzip"));
}

const BAN: &str = "/api/admin/ip/ban";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_json_whatever_it_is_called() {
    let service = TestService::start().await;
    for kind in ["application/x-www-form-urlencoded", "text/plain", "application/json", "rubbish"] {
        service.send(Method::POST, BAN, kind, r#"{"ip": "1.2.3.4"}"#).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_object_is_refused_by_every_endpoint() {
    let service = TestService::start().await;
    let mut endpoints = api::declared();
    endpoints.retain(|one| {
        let body = one.about.body.as_ref();
        body.is_some_and(|body| body.media.contains(&"application/json"))
    });
    assert!(endpoints.iter().any(|one| one.path == "/api/admin/apply"));
    for endpoint in endpoints {
        let path = endpoint.path.replace("{*prefix}", "192.0.2.1").replace("pages/{name}", "pages/no_route");
        let path = path.replace(['{', '}'], "");
        let (status, code) = match path.ends_with("/flags") {
            true => (400, "invalid_flag"),
            false => (422, "invalid_field"),
        };
        // Where none is needed, `null` is none.
        let takes_null = endpoint.about.body.as_ref().is_some_and(|body| body.is_optional);
        for body in ["[]", "[{}]", r#""text""#, "5", "true", "null"] {
            if body == "null" && takes_null {
                continue;
            }
            service.ask(endpoint.method.clone(), &path, body).await.wrong_field(
                status,
                code,
                "",
                "wrong_type",
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_passed_over() {
    let service = TestService::start().await;
    service.post(BAN, "\u{feff}{\"ip\": \"1.2.3.4\"}").await.ok();
    for (kind, text) in
        [("application/json", "\u{feff}{\"spec\": {}}"), ("application/yaml", "\u{feff}spec: {}\n")]
    {
        service.send(Method::PUT, "/api/admin/routes/r", kind, text).await.ok();
    }
    service.post(BAN, "\u{feff}").await.problem(400, "empty_body");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_and_compressed_bodies_are_refused() {
    let service = TestService::start().await;
    let before = service.tables().await;
    let large = format!(r#"{{"ip": "1.2.3.4", "reason": "{}"}}"#, "x".repeat(1 << 20));
    let problem = service.post(BAN, large).await.problem(413, "body_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("1048576"), "{problem}");
    let zipped = service.as_operator(Method::POST, BAN).header("content-encoding", "gzip");
    Answered::to(zipped.body(r#"{"ip": "1.2.3.4"}"#)).await.problem(415, "unsupported_media_type");
    assert_eq!(service.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_changes_nothing() {
    let service = TestService::start().await;
    let before = service.tables().await;
    let mut stream = TcpStream::connect(service.running.people()).await.unwrap();
    let head = format!(
        "POST {BAN} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{\"ip\": \"1.2.3.4\"}}",
        service.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(read.is_ok() && !answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(service.tables().await, before);
    assert_eq!(service.get("/api/admin/ip-monitor").await.ok()["items"], json!([]));
}
