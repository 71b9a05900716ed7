//! Whose token is revoked while the body of a request is on its way changes nothing.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate_admin::api;
use tidegate_admin::api::endpoints::Endpoint;
use tidegate_policy::wire::event::EventPost;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::test_service::{DEADLINE, TestService, has};

/// A request that would change something.
struct Change {
    method: Method,
    path: String,
    body: Vec<u8>,
}

impl Change {
    /// What `endpoint` takes; `backup`: a copy of the service's database.
    fn of(endpoint: &Endpoint, backup: &[u8]) -> Self {
        let path =
            endpoint.path.replace("{*prefix}", "203.0.113.1").replace("pages/{name}", "pages/no_route");
        let path = path.replace("{namespace}", "n").replace("{name}", "x");
        let example = &endpoint.about.body.as_ref().unwrap().example;
        let body = match path.as_str() {
            "/api/admin/restore" => backup.to_vec(),
            "/api/admin/geo" => b"203.0.113.0,203.0.113.255,DE\n".to_vec(),
            "/api/admin/bans/import" => b"203.0.113.2\n".to_vec(),
            "/api/data-plane/v1/events" => EventPost::default().to_bytes().unwrap(),
            _ => example.to_string().into_bytes(),
        };
        Self { method: endpoint.method.clone(), path, body }
    }

    /// Sends it with `token`, which is revoked once its head was let in; returns the answer.
    async fn send(&self, service: &TestService, name: &str, token: &str, query: &str) -> String {
        let of_gateways = self.path.starts_with("/api/data-plane/");
        let listener = if of_gateways { service.running.gateways() } else { service.running.people() };
        let mut stream = TcpStream::connect(listener).await.unwrap();
        let head = format!(
            "{} {}{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nx-tidegate-gateway: \
             node-1;00000000000000aa\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            self.method,
            self.path,
            self.body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // It is asked for the body, so it was let in.
        let mut asked = [0; 25];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut asked)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&asked), "HTTP/1.1 100 Continue\r\n\r\n", "{}", self.path);
        let (some, rest) = self.body.split_at(1);
        stream.write_all(some).await.unwrap();
        service.delete(&format!("/api/admin/tokens/{name}")).await.ok();
        stream.write_all(rest).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Whether it is asked only, and changes nothing.
fn is_question(endpoint: &Endpoint) -> bool {
    endpoint.path.starts_with("/api/data-plane/v1/check/") || endpoint.path == "/api/admin/explain"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_token_is_revoked_while_its_body_comes_is_refused_by_every_endpoint() {
    let service = TestService::start().await;
    let backup = service.post("/api/admin/backup", "").await.bytes;
    let mut endpoints = api::declared();
    endpoints.retain(|one| one.about.body.is_some() && !is_question(one));
    for path in ["/api/admin/restore", "/api/admin/apply", "/api/admin/geo", "/api/data-plane/v1/events"] {
        assert!(endpoints.iter().any(|one| one.path == path), "{path}");
    }
    // What the examples end and enforce is there.
    service.post("/api/admin/ip/ban", r#"{"ip": "203.0.113.0/24", "mode": "shadow"}"#).await.ok();
    // Tokens take numbers of the change log, too.
    let rows = async || service.tables().await.split_once(", ips: ").unwrap().1.to_owned();
    let before = rows().await;
    for endpoint in endpoints {
        let change = Change::of(&endpoint, &backup);
        let can_be_tried = endpoint.about.query.iter().any(|parameter| parameter.name == "dry_run");
        for query in ["", "?dry_run=true"].into_iter().take(1 + usize::from(can_be_tried)) {
            let body = json!({"name": "late", "role": endpoint.role.unwrap().name()});
            let token: Value = service.post("/api/admin/tokens", body.to_string()).await.ok();
            let answer = change.send(&service, "late", token["token"].as_str().unwrap(), query).await;
            let told =
                answer.starts_with("HTTP/1.1 401 ") && answer.contains("while the request was under way");
            assert!(told, "{} {}{query}: {answer}", change.method, change.path);
        }
    }
    // What nobody may send is not counted either.
    let path = "/api/data-plane/v1/events".to_owned();
    let junk = Change { method: Method::POST, path, body: b"junk".to_vec() };
    for query in ["", "?sync=1"] {
        let token: Value =
            service.post("/api/admin/tokens", r#"{"name": "late", "role": "gateway"}"#).await.ok();
        let answer = junk.send(&service, "late", token["token"].as_str().unwrap(), query).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{query}: {answer}");
    }
    assert_eq!(rows().await, before);
    has(&service.recording_stats().await, json!({"stored": 0, "malformed": 0}));
}
