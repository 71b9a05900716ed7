//! Sources of bans: what is fetched, and what becomes of it. Their server is a few lines that answer as they
//! are told, so that it can break off, hang and lie.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tidegate_backend::Authority;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::command_line::Desk;
use crate::test_service::{Answered, TestService, client, each, has, until};

const SOURCES: &str = "/api/admin/sources";

/// What a server answers: `None`, nothing at all.
#[derive(Clone, Default)]
struct Reply(Option<Vec<u8>>);

impl Reply {
    fn with(head: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        Self(Some([head.as_bytes(), body].concat()))
    }

    fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::with("200 OK", body)
    }
}

/// A server that answers everything with the reply that it is given, and remembers what it was asked.
struct ListServer {
    url: String,
    reply: Arc<Mutex<Reply>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Answers a request with the reply that is set.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: &Mutex<Reply>,
    asked: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    asked.lock().unwrap().push(String::from_utf8_lossy(&head).to_ascii_lowercase());
    let reply = reply.lock().unwrap().clone();
    let Reply(Some(bytes)) = reply else { return std::future::pending().await };
    // Whoever asked may be gone.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

impl ListServer {
    async fn start() -> Self {
        Self::start_as("http", None).await
    }

    /// With a certificate of `127.0.0.1` by this authority.
    async fn start_tls(authority: &Authority) -> Self {
        let files = authority.files("127.0.0.1").unwrap();
        let certificate = CertificateDer::from_pem_file(files.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(files.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        Self::start_as("https", Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_as(scheme: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/list", listener.local_addr().unwrap());
        let (reply, asked): (Arc<Mutex<Reply>>, Arc<Mutex<Vec<String>>>) = Default::default();
        let server = Self { url, reply: Arc::clone(&reply), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (reply, asked, tls) = (Arc::clone(&reply), Arc::clone(&asked), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &reply, &asked).await,
                        Some(tls) => {
                            // One that does not trust the certificate goes away.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &reply, &asked).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    fn answer(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    fn last_asked(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

/// Makes the source `name` of this document, and waits until it was fetched once, with success or without.
async fn source(service: &TestService, name: &str, document: Value) {
    service.put_json(&format!("{SOURCES}/{name}"), &document).await.ok();
    until("the source was tried", async || {
        let shown = service.get(&format!("{SOURCES}/{name}")).await.ok();
        shown["status"]["tried"].is_string().then_some(())
    })
    .await;
}

fn at(server: &ListServer) -> Value {
    json!({"url": server.url, "allow_private": true, "interval": "30d", "reason": "listed"})
}

async fn refresh(service: &TestService, name: &str, query: &str) -> Answered {
    service.post(&format!("{SOURCES}/{name}/refresh?{query}"), "").await
}

async fn status(service: &TestService, ip: &str) -> Value {
    service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok()
}

/// `count` addresses of 11.0.0.0/8.
fn list(from: u32, count: u32) -> String {
    (from..from + count).fold(String::new(), |mut list, n| {
        let _ = writeln!(list, "{}", std::net::Ipv4Addr::from_bits(0x0b00_0000 + n));
        list
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_fetched_and_its_addresses_are_banned_until_it_lets_go() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    let body = "# list\n11.0.0.1\n11.0.0.0/24\n11.0.0.1\n10.0.0.1\n198.51.100.3\n0.0.0.0/0\nnonsense\n";
    server.answer(Reply::with("200 OK\r\netag: \"1\"\r\nlast-modified: Mon, 30 Nov 2026 10:00:00 GMT", body));
    source(&service, "drop", at(&server)).await;
    let shown = service.get(&format!("{SOURCES}/drop")).await.ok();
    has(
        &shown,
        json!({"name": "drop", "url": server.url, "status": {"state": "ok", "entries": 2, "failures": 0}}),
    );
    has(
        &shown["status"]["counts"],
        json!({"format": "plain", "taken": 2, "duplicates": 1,
            "refused": {"protected_network": 2, "too_wide": 1, "not_an_address": 1}}),
    );
    assert!(shown["status"]["next_try"].as_str() > shown["status"]["fetched"].as_str(), "{shown}");
    has(
        &status(&service, "11.0.0.9").await,
        json!({"status": "banned", "entry": "11.0.0.0/24", "reason": "listed", "source": "drop"}),
    );
    let explained = service.get("/api/admin/explain?path=/&ip=11.0.0.1").await.ok();
    has(&explained["checks"]["ip"], json!({"says": "banned", "entry": "11.0.0.1", "source": "drop"}));
    // Only a source bans it, so there is no ban that could be removed; an allowed address is let in.
    let unban = service.post("/api/admin/ip/unban", r#"{"ip": "11.0.0.1"}"#).await;
    let said = unban.problem(409, "banned_by_source");
    assert!(said["detail"].as_str().unwrap().contains("drop"), "{said}");
    service.put("/api/admin/allow-list/11.0.0.1", "{}").await.ok();
    has(&status(&service, "11.0.0.1").await, json!({"status": "allowed"}));
    service.delete("/api/admin/allow-list/11.0.0.1").await.ok();

    // The server has nothing new, and nothing is written that gateways would follow.
    let before = service.tables().await;
    server.answer(Reply::with("304 Not Modified", ""));
    has(&refresh(&service, "drop", "").await.ok(), json!({"outcome": "unchanged", "entries": 2}));
    let asked = server.last_asked();
    assert!(
        asked.contains("if-none-match: \"1\"") && asked.contains("if-modified-since: mon, 30 nov"),
        "{asked}"
    );
    server.answer(Reply::ok(body));
    has(&refresh(&service, "drop", "").await.ok(), json!({"outcome": "unchanged", "added": 0, "removed": 0}));
    assert_eq!(service.tables().await, before);

    // A ban by hand stays when the source lets go of the address.
    service.post("/api/admin/ip/ban", r#"{"ip": "11.0.0.1", "reason": "by hand"}"#).await.ok();
    has(
        &status(&service, "11.0.0.1").await,
        json!({"source": null, "sources": ["drop"], "reason": "by hand"}),
    );
    server.answer(Reply::ok("11.0.0.0/24\n11.0.0.2\n"));
    let done = refresh(&service, "drop", "wait_applied=1s").await.ok();
    has(&done, json!({"outcome": "replaced", "entries": 2, "added": 1, "removed": 1, "applied": {"of": 0}}));
    has(&status(&service, "11.0.0.1").await, json!({"entry": "11.0.0.1", "source": null}));
    service.post("/api/admin/ip/unban", r#"{"ip": "11.0.0.1"}"#).await.ok();
    has(&status(&service, "11.0.0.1").await, json!({"entry": "11.0.0.0/24", "source": "drop"}));

    let audit = service.get("/api/admin/audit?kind=source-set").await.ok();
    let actors = each(&audit["items"], |entry| entry["actor"].as_str().unwrap());
    assert_eq!(actors, ["admin", "sources"], "{audit}");
    service.delete(&format!("{SOURCES}/drop")).await.ok();
    has(&status(&service, "11.0.0.9").await, json!({"status": "none"}));
    assert_eq!(service.column::<i64>("SELECT count(*) FROM ban_source_sets"), [0]);
    refresh(&service, "drop", "").await.problem(404, "source_not_found");
    service.get("/api/admin/audit/verify").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_list_leaves_the_one_before_it() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    server.answer(Reply::ok(list(0, 100)));
    source(&service, "s", at(&server)).await;
    let before = service.tables().await;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    let line = vec![b'1'; 1 << 20];
    (0..300).for_each(|_| packed.write_all(&line).unwrap());
    let bomb = packed.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let half = Reply(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n11.0.0.1\n".to_vec()));
    let redirect = |to: &str| Reply::with(&format!("302 Found\r\nlocation: {to}"), "");
    for (reply, why) in [
        (Reply::ok("<!doctype html><title>Sign in"), "HTML"),
        (Reply::with("503 Service Unavailable", "later"), "503"),
        (Reply::with("304 Not Modified", ""), "304"),
        (half, "broke off"),
        (Reply::with("200 OK\r\ncontent-encoding: gzip", bomb), "bytes"),
        (Reply::with("200 OK\r\ncontent-encoding: gzip", "11.0.0.1"), "gzip"),
        (Reply::with("200 OK\r\ncontent-encoding: br", "11.0.0.1"), "gzip"),
        (Reply(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 900000000\r\n\r\n1".to_vec())), "over"),
        (redirect("http://192.0.2.1/"), "allow_insecure"),
        (redirect("ftp://192.0.2.1/"), "ftp://"),
        (redirect("https://169.254.169.254/latest/meta-data/"), "169.254.169.254"),
        (redirect("https://localhost:1/"), "allow_private"),
        (redirect("/list"), "redirects more than 5"),
        (Reply(Some(b"no HTTP at all\r\n\r\n".to_vec())), "no answer"),
    ] {
        server.answer(reply);
        let refused = refresh(&service, "s", "force=true").await.problem(502, "source_failed");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(why) && detail.contains("stays in force"), "{why}: {detail}");
    }
    assert_eq!(service.tables().await, before);
    let shown = service.get(&format!("{SOURCES}/s")).await.ok();
    has(&shown["status"], json!({"state": "failing", "entries": 100, "failures": 14}));
    assert!(shown["status"]["error"].as_str().unwrap().contains("no answer"), "{shown}");

    // That is said at once, not only when its bans are old.
    assert!(service.health_codes("reasons").await.contains(&"source_failing".to_owned()));

    // A list that became empty, or lost too much, is held back until somebody says that it is right.
    for (list, code) in
        [(String::new(), "empty"), (list(0, 49), "shrank"), ("nonsense\n".to_owned(), "empty")]
    {
        server.answer(Reply::ok(list));
        let held = refresh(&service, "s", "").await.ok();
        has(&held, json!({"outcome": "held_back", "entries": 100, "held_back": {"code": code, "had": 100}}));
    }
    assert_eq!(service.tables().await, before);
    assert!(service.health_codes("reasons").await.contains(&"source_held_back".to_owned()));
    let metrics = client().get(service.people("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tidegate_admin_ban_sources{state=\"held_back\"} 1"), "{metrics}");
    assert!(metrics.contains("\ntidegate_admin_ban_source_age_seconds "), "{metrics}");
    server.answer(Reply::ok(list(0, 49)));
    has(
        &refresh(&service, "s", "force=true").await.ok(),
        json!({"outcome": "replaced", "entries": 49, "removed": 51}),
    );
    assert_eq!(service.health_codes("reasons").await, [""; 0]);
}

/// What it has in shadow denies nobody; one command makes it deny, and what is held stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_in_shadow_is_tried_and_then_enforced() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    server.answer(Reply::ok(list(0, 100)));
    source(&service, "s", with(at(&server), "mode", "shadow")).await;
    let watched = json!({"status": "watched", "entry": "11.0.0.7", "source": "s", "sources": ["s"], "reason": "listed"});
    has(&status(&service, "11.0.0.7").await, watched.clone());
    let explained = service.get("/api/admin/explain?path=/&ip=11.0.0.7").await.ok();
    has(&explained["decision"], json!({"would_deny": "ip_banned", "would_deny_rule": "11.0.0.7"}));
    has(&explained["checks"]["ip"], json!({"says": "watched", "sources": ["s"]}));
    let items = service.get("/api/admin/ip-monitor?status=watched&limit=2").await.ok();
    assert_eq!(each(&items["items"], |item| item["ip"].as_str().unwrap()), ["11.0.0.0", "11.0.0.1"]);
    assert_eq!(service.health().await["tables"]["watched"], 100);
    // What is held back in force is held back in shadow, too.
    server.answer(Reply::ok(""));
    has(&refresh(&service, "s", "").await.ok(), json!({"outcome": "held_back"}));
    // It is not a row that could be enforced, or unbanned.
    for (path, body) in [("bans/enforce", r#"{"ip": "11.0.0.7"}"#), ("ip/unban", r#"{"ip": "11.0.0.7"}"#)] {
        let refused =
            service.post(&format!("/api/admin/{path}"), body).await.problem(409, "banned_by_source");
        assert!(refused["detail"].as_str().unwrap().contains(" s "), "{refused}");
    }
    let none =
        service.post("/api/admin/bans/enforce", r#"{"source": "s"}"#).await.problem(404, "not_in_shadow");
    assert!(none["detail"].as_str().unwrap().contains("sources enforce s"), "{none}");

    let desk = Desk::new(&service);
    let listed = desk.tidegate("sources", &["list"]).await.done();
    assert!(listed.contains("shadow"), "{listed}");
    let said = desk.tidegate("sources", &["enforce", "s"]).await.done();
    assert!(said.starts_with("s is enforced; "), "{said}");
    has(&status(&service, "11.0.0.7").await, json!({"status": "banned", "source": "s"}));
    let document = service.get(&format!("{SOURCES}/s")).await.ok();
    has(&document, json!({"mode": "enforce", "url": server.url, "reason": "listed"}));
    let again = desk.tidegate("sources", &["enforce", "s", "gone"]).await;
    assert!(again.err.contains("not_in_shadow") && again.err.contains("source_not_found"), "{again:?}");
    assert_eq!(service.health().await["tables"]["watched"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_fetched_for_its_ttl_ends() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    server.answer(Reply::ok(list(0, 10)));
    source(&service, "s", with(at(&server), "ttl", "1h")).await;
    // That long ago, or so says a clock that jumped.
    service.sql("UPDATE ban_source_status SET checked_at = '2020-01-01 00:00:00.000'");
    server.answer(Reply::with("503 Service Unavailable", ""));
    has(&status(&service, "11.0.0.1").await, json!({"status": "banned"}));
    refresh(&service, "s", "").await.problem(502, "source_failed");
    until("its bans have ended", async || {
        (status(&service, "11.0.0.1").await["status"] == "none").then_some(())
    })
    .await;
    let shown = service.get(&format!("{SOURCES}/s")).await.ok();
    has(&shown["status"], json!({"entries": 0, "counts": {"outlived": true}}));
    server.answer(Reply::ok(list(0, 10)));
    has(&refresh(&service, "s", "").await.ok(), json!({"outcome": "replaced", "entries": 10}));
}

/// Another program removes it: a source that is made by its name begins without what it had.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_had_goes_with_it_when_sql_removes_it() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    for name in ["gone", "wrong"] {
        server.answer(Reply::ok(format!("11.0.0.{}\n", name.len())));
        source(&service, name, at(&server)).await;
    }
    // One that cannot be read any more stays as it was.
    service.sql("UPDATE ban_sources SET document = '{}' WHERE name = 'wrong'");
    service.sql("DELETE FROM ban_sources WHERE name = 'gone'");
    let names = |table: &str| service.column::<String>(&format!("SELECT name FROM {table}"));
    until("nothing of it is left", async || {
        let left = [names("ban_source_sets"), names("ban_source_status")].concat();
        (left == ["wrong", "wrong"]).then_some(())
    })
    .await;
    has(&status(&service, "11.0.0.5").await, json!({"status": "banned", "source": "wrong"}));
    let audit = service.get("/api/admin/audit?kind=source-set&name=gone").await.ok();
    has(&audit["items"][0], json!({"actor": "sources", "after": null}));
    server.answer(Reply::with("503 Service Unavailable", ""));
    source(&service, "gone", at(&server)).await;
    has(&status(&service, "11.0.0.4").await, json!({"status": "none"}));
    let shown = service.get(&format!("{SOURCES}/gone")).await.ok();
    has(&shown["status"], json!({"state": "failing", "entries": 0, "fetched": null, "failures": 1}));
    service.get("/api/admin/audit/verify").await.ok();
}

/// A server that says nothing does not keep others from being fetched, nor the service from stopping.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_waited_for_alone() {
    let (service, server, other) =
        (TestService::start().await, ListServer::start().await, ListServer::start().await);
    service.put_json(&format!("{SOURCES}/slow"), &at(&server)).await.ok();
    until("it is asked", async || (!server.last_asked().is_empty()).then_some(())).await;
    other.answer(Reply::ok("11.0.0.1\n"));
    source(&service, "quick", at(&other)).await;
    has(&status(&service, "11.0.0.1").await, json!({"source": "quick"}));
    service.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_wrong_or_may_not_reach_its_server_is_refused() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    for (document, pointer, code) in [
        (json!({}), "/url", "required"),
        (json!({"url": server.url}), "/url", "private_address"),
        (json!({"url": "https://169.254.169.254/"}), "/url", "private_address"),
        (json!({"url": "http://lists.example.com/"}), "/url", "invalid"),
        (with(at(&server), "mode", "off"), "/mode", "invalid"),
        (with(at(&server), "interval", "1s"), "/interval", "out_of_range"),
        (with(at(&server), "token", "secret"), "/token", "unknown_field"),
    ] {
        let answer = service.put_json(&format!("{SOURCES}/s"), &document).await;
        answer.wrong_field(422, "invalid_field", pointer, code);
    }
    service.get(&format!("{SOURCES}/s")).await.problem(404, "source_not_found");
    // Without a directory for files none is read.
    let written = service.put_json(&format!("{SOURCES}/s"), &json!({"path": "mine.txt"})).await.ok();
    assert!(written["warnings"][0].as_str().unwrap().contains("--source-files"), "{written}");
    let refused = refresh(&service, "s", "").await.problem(502, "source_failed");
    assert!(refused["detail"].as_str().unwrap().contains("--source-files"), "{refused}");
    // What is written by SQL is read alike.
    let document = json!({"url": "https://10.0.0.1/"}).to_string();
    service.sql(&format!("INSERT INTO ban_sources (name, document) VALUES ('sql', '{document}')"));
    let reasons = until("it is in quarantine", async || {
        let health = service.health().await;
        (health["quarantine"]["count"] == 1).then_some(health["quarantine"]["rows"].clone())
    });
    has(&reasons.await[0], json!({"table": "ban_sources", "key": "sql"}));
}

fn with(mut document: Value, field: &str, value: &str) -> Value {
    document[field] = value.into();
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_keys_come_from_the_directory_for_them() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("mine.txt"), "11.0.0.7\n11.0.0.8\n").unwrap();
    std::fs::write(files.path().join("abuse.key"), "s3cret\n").unwrap();
    let service = TestService::start_with_files(files.path()).await;
    let (server, other) = (ListServer::start().await, ListServer::start().await);
    source(&service, "mine", json!({"path": "mine.txt", "interval": "30d"})).await;
    has(&status(&service, "11.0.0.7").await, json!({"source": "mine"}));
    has(&refresh(&service, "mine", "").await.ok(), json!({"outcome": "unchanged"}));
    std::fs::write(files.path().join("mine.txt"), "11.0.0.7\n11.0.0.8\n11.0.0.9\n").unwrap();
    has(&refresh(&service, "mine", "").await.ok(), json!({"outcome": "replaced", "added": 1}));

    // The key goes to the URL's own server only.
    let redirect = format!("302 Found\r\nlocation: {}", other.url);
    server.answer(Reply::with(&redirect, ""));
    other.answer(Reply::ok("11.0.0.1\n"));
    let mut document = at(&server);
    document["credentials"] = json!({"header": "Key", "file": "abuse.key"});
    source(&service, "abuse", document).await;
    has(&status(&service, "11.0.0.1").await, json!({"source": "abuse"}));
    assert!(server.last_asked().contains("key: s3cret"), "{}", server.last_asked());
    assert!(!other.last_asked().contains("s3cret"), "{}", other.last_asked());
    let shown = service.get(SOURCES).await.ok().to_string();
    assert!(!shown.contains("s3cret") && shown.contains("abuse.key"), "{shown}");
}

/// A real TLS server, whose certificate an authority of its own signs.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_tls_is_believed_if_the_right_authority_signs_its_certificate() {
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new(&files.path().join("ours.pem")).unwrap();
    Authority::new(&files.path().join("others.pem")).unwrap();
    std::fs::write(files.path().join("none.pem"), "no certificate").unwrap();
    let service = TestService::start_with_files(files.path()).await;
    let server = ListServer::start_tls(&authority).await;
    server.answer(Reply::ok("11.0.0.1\n"));
    source(&service, "s", at(&server)).await;
    for (file, why) in [
        (None, "ca_file"),
        (Some("others.pem"), "signed by nobody who is trusted"),
        (Some("none.pem"), "has no certificate in PEM"),
        (Some("gone.pem"), "cannot be read"),
    ] {
        let document = file.map_or(at(&server), |file| with(at(&server), "ca_file", file));
        service.put_json(&format!("{SOURCES}/s"), &document).await.ok();
        let refused = refresh(&service, "s", "").await.problem(502, "source_failed");
        assert!(refused["detail"].as_str().unwrap().contains(why), "{why}: {refused}");
    }
    service.put_json(&format!("{SOURCES}/s"), &with(at(&server), "ca_file", "ours.pem")).await.ok();
    has(&refresh(&service, "s", "").await.ok(), json!({"entries": 1}));
    has(&status(&service, "11.0.0.1").await, json!({"status": "banned", "source": "s"}));
    // It is not believed under another name, nor is what it redirects to on another host.
    let renamed = server.url.replace("127.0.0.1", "localhost");
    service
        .put_json(&format!("{SOURCES}/s"), &with(with(at(&server), "ca_file", "ours.pem"), "url", &renamed))
        .await
        .ok();
    let refused = refresh(&service, "s", "").await.problem(502, "source_failed");
    assert!(refused["detail"].as_str().unwrap().contains("cannot be connected to"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_and_manifests_have_sources() {
    let (service, server) = (TestService::start().await, ListServer::start().await);
    let desk = Desk::new(&service);
    server.answer(Reply::ok(list(0, 10)));
    let manifest = format!(
        "apiVersion: tidegate.dev/v1\nkind: Source\nmetadata: {{name: drop}}\nspec: {{url: \"{}\", allow_private: true}}\n",
        server.url
    );
    desk.file("drop.yaml", &manifest);
    assert!(desk.tidegate("sources", &["apply", "-f", "drop.yaml"]).await.code == Some(0));
    let done = desk.tidegate("sources", &["refresh", "drop"]).await;
    assert!(done.code == Some(0) && done.out.contains("10 entries"), "{done:?}");
    let listed = desk.tidegate("sources", &["list"]).await;
    assert!(listed.out.contains("drop") && listed.out.contains("ok"), "{listed:?}");
    server.answer(Reply::ok(list(0, 1)));
    let held = desk.tidegate("sources", &["refresh", "drop"]).await;
    assert!(held.code == Some(3) && held.err.contains("--force"), "{held:?}");
    assert_eq!(desk.tidegate("sources", &["diff", "-f", "drop.yaml"]).await.code, Some(0));
    let got = desk.tidegate("sources", &["get", "drop"]).await;
    assert!(got.out.contains("kind: Source") && !got.out.contains("status"), "{got:?}");
    // What only sources ban is exported with them.
    desk.tidegate("ban", &["192.0.2.1"]).await;
    let bans = desk.tidegate("export", &["bans"]).await;
    assert!(bans.out.contains("192.0.2.1") && !bans.out.contains("11.0.0"), "{bans:?}");
    let all = desk.tidegate("export", &["all"]).await;
    assert!(all.out.contains("kind: Source"), "{all:?}");
    assert_eq!(desk.tidegate("sources", &["delete", "drop"]).await.code, Some(0));
    let gone = desk.tidegate("sources", &["refresh", "drop"]).await;
    assert!(gone.code == Some(1) && gone.err.contains("source_not_found"), "{gone:?}");
    tokio::time::timeout(Duration::from_secs(20), service.running.stop()).await.unwrap().unwrap();
}
