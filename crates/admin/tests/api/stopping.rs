//! The end of the service: by SIGTERM, by a kill; and the command line beside it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::json;
use tidegate_admin::store::sqlite::{Options, SqliteStore};
use tokio::net::TcpStream;

use crate::test_gateway::TestGateway;
use crate::test_service::{Answered, DEADLINE, TestService, binary, client, db, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_whoever_waits() {
    let service = TestService::start().await;
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    let poll = tokio::spawn(Answered::to(gateway.poll(&service, "30s")));
    until("the poll is open", async || {
        let list = service.get("/api/admin/gateways").await.ok();
        (list["items"][0]["silent_for_ms"] == 0).then_some(())
    })
    .await;
    let TestService { running, dir, .. } = service;
    tokio::time::timeout(DEADLINE, running.stop()).await.expect("no end within the deadline").unwrap();
    poll.await.unwrap().problem(503, "stopping");
    // The database is free for the next service.
    until("the database is free", async || SqliteStore::open(db(&dir), Options::default()).ok()).await;
}

/// The binary itself, on ports that were free a moment ago.
struct Process {
    child: Child,
    people: String,
    /// A token for the people's listener.
    token: String,
}

/// The program with these arguments, on the database in `dir`.
fn tidegate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).arg("--db").arg(dir.join("tidegate.db")).stdin(Stdio::null());
    command
}

fn printed(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

fn token(dir: &Path, scope: &str) -> String {
    let args = ["token", "create", "--name", "test", "--scope", scope];
    let made = tidegate(dir, &args).output().unwrap();
    assert!(made.status.success(), "{}", printed(&made));
    printed(&made).trim().to_owned()
}

impl Process {
    async fn start(dir: &Path) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (people, gateways) = (free(), free());
        let [people, gateways] = [people, gateways].map(|it| it.local_addr().unwrap().to_string());
        let token = token(dir, "admin");
        let args = ["serve", "--log", "warn", "--listen", &people, "--gateway-listen", &gateways];
        let child = tidegate(dir, &args).spawn().unwrap();
        let process = Self { child, people: format!("http://{people}"), token };
        let health = || client().get(format!("{}/api/health", process.people)).send();
        until("the service answers", async || health().await.ok()).await;
        process
    }

    async fn ban(&self, ip: &str) {
        let request = client().post(format!("{}/api/admin/ip/ban", self.people)).bearer_auth(&self.token);
        Answered::to(request.body(json!({"ip": ip}).to_string())).await.ok();
    }

    async fn status(&self, ip: &str) -> serde_json::Value {
        let request = client().get(format!("{}/api/admin/ip-monitor/{ip}", self.people));
        Answered::to(request.bearer_auth(&self.token)).await.ok()["status"].clone()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn end(&mut self) -> ExitStatus {
        until("the process ends", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tokens_are_listed_without_their_secret_and_revoked_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let token = token(dir.path(), "gateway");
    assert!(token.starts_with("tg_") && token.len() == 67, "{token}");
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["token"].iter().chain(args).copied().collect();
        let output = tidegate(dir.path(), &args).output().unwrap();
        (output.status.success(), printed(&output))
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
    let mut first = Process::start(dir.path()).await;
    first.ban("1.2.3.4").await;
    first.signal("-KILL");
    assert_eq!(first.end().await.signal(), Some(9));
    let second = Process::start(dir.path()).await;
    assert_eq!(
        (second.status("1.2.3.4").await, second.status("1.2.3.5").await),
        (json!("banned"), json!("none"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_success_while_a_connection_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path()).await;
    process.ban("1.2.3.4").await;
    // A connection that is kept open does not delay the end.
    let _idle = TcpStream::connect(process.people.trim_start_matches("http://")).await.unwrap();
    process.signal("-TERM");
    let ended = process.end().await;
    assert!(ended.success(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_database_and_public_addresses_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Process::start(dir.path()).await;
    for (listen, wanted) in
        [("127.0.0.1:0", "in use by another admin service"), ("0.0.0.0:0", "--allow-public")]
    {
        let args = ["serve", "--gateway-listen", "127.0.0.1:0", "--listen", listen];
        let output = tidegate(dir.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(printed(&output).contains(wanted), "{}", printed(&output));
    }
}
