//! The end of the service: by SIGTERM, by a kill; and the command line beside it.

use std::os::unix::process::ExitStatusExt;

use serde_json::json;
use tidegate_admin::store::sqlite::{Options, SqliteStore};
use tokio::net::TcpStream;

use crate::test_gateway::TestGateway;
use crate::test_process::{Process, printed, tidegate, token};
use crate::test_service::{Answered, DEADLINE, TestService, db, until};

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
    let (listed, text) = run(&["list"]);
    assert!(listed && text.lines().count() == 1, "the heading only: {text}");
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
        [("127.0.0.1:0", "in use by another admin service"), ("0.0.0.0:0", "add --insecure-listen")]
    {
        let args = ["serve", "--gateway-listen", "127.0.0.1:0", "--listen", listen];
        let output = tidegate(dir.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(printed(&output).contains(wanted), "{}", printed(&output));
    }
}
