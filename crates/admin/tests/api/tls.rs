//! TLS of both listeners, and the command line over it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::{Identity, Method};
use serde_json::json;
use tidegate_backend::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::command_line::{Desk, program, run};
use crate::test_gateway::TestGateway;
use crate::test_service::{Answered, TestService, client, each, tls_files, trusting, until};

/// A connection of its own to the people's listener.
pub async fn connect(service: &TestService, authority: &Authority) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(service.running.people()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// The certificate that the listener shows on this connection.
fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Asks for health on this connection.
async fn ask(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"HEAD /api/health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_count_over_tls_as_without() {
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let get = service.as_nobody(Method::GET, service.people("/api/admin/gateways"));
    Answered::to(get.try_clone().unwrap()).await.problem(401, "unauthorized");
    Answered::to(get.bearer_auth(&service.gateway)).await.problem(403, "wrong_role");
    // As it was agreed in the handshake.
    let over = service.as_operator(Method::GET, "/api/health").send().await.unwrap();
    assert_eq!((over.status().as_u16(), over.version()), (200, reqwest::Version::HTTP_2));
    ask(&mut connect(&service, &authority).await).await;
    assert!(
        client().get(service.people("/api/health")).send().await.is_err(),
        "nobody signed it whom it trusts"
    );
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    assert_eq!(gateway.sync(&service, "20s").await.bans.unwrap().digest.count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_certificate_of_the_right_authority_gets_nothing() {
    let (service, authority) = TestService::start_with_tls(|tls, authority| {
        tls.gateways.client_ca = Some(authority.file().to_owned());
    })
    .await;
    let stranger = Authority::new(&service.dir.path().join("other/ca.pem")).unwrap();
    let identity = |of: &Authority| {
        let files = of.files("gateway-1").unwrap();
        let pem = [std::fs::read(files.key).unwrap(), std::fs::read(files.certificate).unwrap()].concat();
        trusting(&authority).identity(Identity::from_pem(&pem).unwrap()).build().unwrap()
    };
    let url = service.gateways("/api/health");
    for refused in [trusting(&authority).build().unwrap(), identity(&stranger)] {
        assert!(refused.get(&url).send().await.is_err());
    }
    let known = identity(&authority);
    Answered::to(known.get(&url)).await.ok();
    let sync = known.get(service.gateways("/api/data-plane/v1/sync"));
    Answered::to(sync.try_clone().unwrap()).await.problem(401, "unauthorized");
    Answered::to(sync.bearer_auth(&service.admin)).await.problem(403, "wrong_role");
    let page = String::from_utf8(service.get("/metrics").await.bytes).unwrap();
    assert!(page.contains("tidegate_admin_tls_handshakes_failed_total{listener=\"gateways\"} 2\n"), "{page}");
    let doctor = service.get("/api/admin/doctor").await.ok();
    let none = each(&doctor["findings"], |one| one["detail"].as_str().unwrap());
    assert!(
        none.iter().any(|detail| detail.contains("2 connections to its listener did not get")),
        "{doctor}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_and_a_bad_one_not_and_connections_stay() {
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let mut kept = connect(&service, &authority).await;
    ask(&mut kept).await;
    let first = shown(&kept);
    let files = authority.files("127.0.0.1").unwrap();
    let newer = until("the new certificate is shown", async || {
        let now = shown(&connect(&service, &authority).await);
        (now != first).then_some(now)
    })
    .await;
    let metric = async |name: &str| {
        let page = String::from_utf8(service.get("/metrics").await.bytes).unwrap();
        let line = format!("tidegate_admin_certificate_{name}{{listener=\"people\"}} ");
        let value =
            page.lines().find_map(|text| text.strip_prefix(&line)).unwrap_or_else(|| panic!("{page}"));
        value.parse::<f64>().unwrap()
    };
    assert!(metric("days_left").await > 700_000.0 && metric("refused").await == 0.0);

    std::fs::write(&files.certificate, "no certificate").unwrap();
    until("health says so", async || {
        service.health_codes("reasons").await.contains(&"certificate_refused".to_owned()).then_some(())
    })
    .await;
    until("the metric, too", async || (metric("refused").await == 1.0).then_some(())).await;
    let open = service.get("/api/health").await.ok();
    // One for each listener.
    assert_eq!(open["reasons"], json!(["certificate_refused", "certificate_refused"]));
    assert_eq!(shown(&connect(&service, &authority).await), newer);

    let now = SystemTime::now();
    authority
        .files_valid("127.0.0.1", now - Duration::from_secs(9_000_000)..now + Duration::from_secs(90_000))
        .unwrap();
    until("health says that it ends", async || {
        (service.health_codes("reasons").await == ["certificate_ends_soon"; 2]).then_some(())
    })
    .await;
    let detail = service.health().await["reasons"][0]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail, "the certificate of the listener for people ends in 1.0 days");
    ask(&mut kept).await;
    assert_eq!(shown(&kept), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_is_wrong_with_a_certificate() {
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let desk = Desk::new(&service);
    let ca = authority.file().to_str().unwrap().to_owned();
    let banned = desk.tidegate("ban", &["203.0.113.7", "--ca", &ca]).await.done();
    assert!(banned.starts_with("203.0.113.7 is banned"), "{banned}");
    assert!(desk.tidegate("bans", &["list", "--ca", &ca]).await.done().contains("203.0.113.7"));

    let unknown = desk.tidegate("bans", &["list"]).await.failed();
    assert!(unknown.contains("signed by nobody who is trusted") && unknown.contains("--ca"), "{unknown}");
    let empty = desk.file("empty.pem", "");
    let empty = desk.tidegate("bans", &["list", "--ca", empty.to_str().unwrap()]).await.failed();
    assert!(empty.contains("empty.pem has no certificate in PEM"), "{empty}");
    let at = |url: &str| {
        let mut command = program(desk.dir.path());
        command.args(["bans", "list", "--token-file", "token", "--ca", &ca, "--server", url]);
        run(command, "")
    };
    let port = service.running.people().port();
    let other = at(&format!("https://localhost:{port}")).await.failed();
    assert!(other.contains("its certificate is for another name") && other.contains("127.0.0.1"), "{other}");
    let clear = at(&format!("http://127.0.0.1:{port}")).await.failed();
    assert!(clear.contains("if it has TLS, write https://"), "{clear}");
    let without = TestService::start().await;
    let tls = at(&format!("https://{}", without.running.people())).await.failed();
    assert!(tls.contains("it does not speak TLS"), "{tls}");

    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    authority.files_valid("127.0.0.1", now - 9 * day..now - day).unwrap();
    let url = service.people("");
    let ended = until("the certificate that has ended is shown", async || {
        let said = at(&url).await;
        (said.code != Some(0)).then_some(said)
    });
    let ended = ended.await.failed();
    assert!(ended.contains("its certificate has ended, or this machine's clock is wrong"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_asked_over_tls() {
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let mut command = program(service.dir.path());
    let ca = authority.file().to_str().unwrap();
    command.args(["health", "--server", &service.people(""), "--ca", ca]);
    run(command, "").await.done();
    let mut command = program(service.dir.path());
    command.args(["health", "--server", &service.people("")]);
    let failed = run(command, "").await.failed();
    assert!(failed.contains("signed by nobody who is trusted"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_each_listener() {
    let (service, authority) = TestService::start_with_tls(|tls, authority| {
        tls.gateways = tls_files(authority.files("gateways.test").unwrap());
    })
    .await;
    service.get("/api/health").await.ok();
    let to_gateways =
        trusting(&authority).resolve("gateways.test", service.running.gateways()).build().unwrap();
    let port = service.running.gateways().port();
    Answered::to(to_gateways.get(format!("https://gateways.test:{port}/api/health"))).await.ok();
    let health = service.health().await;
    assert_eq!(each(&health["reasons"], |reason| reason["code"].clone()), Vec::<serde_json::Value>::new());
}
