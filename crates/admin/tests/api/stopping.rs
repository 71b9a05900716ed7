//! Ends: asked for, and not.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use tidegate_admin::store::sqlite::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::running::{DEADLINE, Running, db, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_whoever_waits() {
    let running = Running::start().await;
    let sync = "/api/data-plane/v1/sync";
    let request = || running.as_gateway(Method::GET, sync).body(Body::empty()).unwrap();
    let first = running.send(request()).await;
    let since = tidegate_policy::wire::sync::SyncAnswer::from_bytes(&first.bytes).unwrap().version;
    let held = running.as_gateway(Method::GET, &format!("{sync}?wait=30s&since={since}"));
    let poll = tokio::spawn({
        let request = held.body(Body::empty()).unwrap();
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        async move { crate::running::send(&client, request).await }
    });
    until("the poll is open", async || {
        let list = running.get("/api/admin/gateways").await.ok();
        (list["items"][0]["silent_for_ms"] == 0).then_some(())
    })
    .await;
    let Running { service, dir, .. } = running;
    tokio::time::timeout(DEADLINE, service.stop()).await.expect("no end within the deadline").unwrap();
    poll.await.unwrap().problem(503, "stopping");
    // The database is free for the next one.
    let again = until("the database is free", async || {
        tidegate_admin::store::sqlite::SqliteStore::open(db(&dir), Options::default()).ok()
    })
    .await;
    drop(again);
}

/// The binary itself, on ports that were free a moment ago.
struct Process {
    child: Child,
    people: u16,
}

impl Process {
    async fn start(dir: &Path) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, other) = (free(), free());
        let (people, gateways) = (one.local_addr().unwrap().port(), other.local_addr().unwrap().port());
        drop((one, other));
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["serve", "--log", "warn", "--listen", &format!("127.0.0.1:{people}")])
            .args(["--gateway-listen", &format!("127.0.0.1:{gateways}"), "--db"])
            .arg(dir.join("tidegate.db"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, people };
        until("the service answers", async || process.ask("GET /api/health HTTP/1.0\r\n\r\n").await).await;
        process
    }

    /// The whole answer to a request, if there is one.
    async fn ask(&self, request: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.people)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    async fn ban(&self, token: &str, ip: &str) {
        let body = format!("{{\"ip\": \"{ip}\"}}");
        let answer = self
            .ask(&format!(
                "POST /api/admin/ip/ban HTTP/1.0\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }

    async fn is_banned(&self, token: &str, ip: &str) -> bool {
        let request =
            format!("GET /api/admin/ip-monitor/{ip} HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n");
        self.ask(&request).await.unwrap().contains("\"status\":\"banned\"")
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn end(&mut self) -> std::process::ExitStatus {
        until("the process ends", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn token(dir: &Path, scope: &str) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["token", "create", "--name", "test", "--scope", scope, "--db"])
        .arg(dir.join("tidegate.db"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[test]
fn tokens_are_listed_without_their_secret_and_revoked_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let token = token(dir.path(), "gateway");
    assert!(token.starts_with("tg_") && token.len() == 67, "{token}");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("token").args(args).arg("--db").arg(dir.path().join("tidegate.db")).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (listed, text) = run(&["list"]);
    assert!(listed && text.contains("gateway") && text.contains("test"), "{text}");
    assert!(!text.contains(&token[3..]), "{text}");
    assert!(run(&["revoke", "--name", "test"]).0);
    assert!(!run(&["revoke", "--name", "test"]).0);
    assert_eq!(run(&["list"]), (true, String::new()));
    assert!(!run(&["create", "--name", "x", "--scope", "root"]).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_outlives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let token = token(dir.path(), "admin");
    let mut first = Process::start(dir.path()).await;
    first.ban(&token, "1.2.3.4").await;
    first.signal("-KILL");
    assert_eq!(first.end().await.signal(), Some(9));
    let second = Process::start(dir.path()).await;
    assert!(second.is_banned(&token, "1.2.3.4").await);
    assert!(!second.is_banned(&token, "1.2.3.5").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_success_while_a_connection_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let token = token(dir.path(), "admin");
    let mut process = Process::start(dir.path()).await;
    process.ban(&token, "1.2.3.4").await;
    // A connection that is kept open holds nothing up.
    let _idle = TcpStream::connect(("127.0.0.1", process.people)).await.unwrap();
    process.signal("-TERM");
    let ended = tokio::time::timeout(Duration::from_secs(10), process.end()).await.unwrap();
    assert!(ended.success(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_database_and_public_addresses_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Process::start(dir.path()).await;
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "--gateway-listen", "127.0.0.1:0", "--db"])
            .arg(dir.path().join("tidegate.db"));
        let output = command.args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(&["--listen", "127.0.0.1:0"]);
    assert!(said.contains("in use by another admin service"), "{said}");
    let said = run(&["--listen", "0.0.0.0:0"]);
    assert!(said.contains("--allow-public"), "{said}");
}
