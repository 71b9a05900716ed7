//! The program at the limits that its system gives it.

use std::time::Duration;

use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::test_process::Process;
use crate::test_service::{Answered, client, each, until};

/// Sets a limit of `process` and returns it as it was.
fn limit(process: &Process, what: Resource, limit: Rlimit) -> Rlimit {
    prlimit(Some(Pid::from_child(&process.child)), what, limit).unwrap()
}

/// Largest size of a file that `process` may write; `None`: any.
fn limit_files(process: &Process, bytes: Option<u64>) {
    limit(process, Resource::Fsize, Rlimit { current: bytes, maximum: None });
}

fn codes(health: &Value) -> Vec<String> {
    each(&health["reasons"], |reason| reason["code"].as_str().unwrap().to_owned())
}

/// A limit on the size of files stands for a full disk; by default it also ends a process that
/// meets it (SIGXFSZ).
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_outlived_and_said_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    process.ban("1.2.3.4").await;
    assert_eq!(process.get("/api/health").await.ok(), serde_json::json!({"status": "ok"}));
    limit_files(&process, Some(1 << 20));
    // Another program, which has no limit, fills the write-ahead log beyond it.
    let other = Connection::open(dir.path().join("tidegate.db")).unwrap();
    other
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE filler (bytes);
             INSERT INTO filler VALUES (zeroblob(6000000));",
        )
        .unwrap();
    process.try_ban("1.2.3.5").await.problem(500, "store_failed");
    until("health says what fails", async || {
        let said = codes(&process.get("/api/admin/optimization/health").await.ok());
        let wanted = ["store_write_failed", "store_checkpoint_failed"];
        wanted.iter().all(|code| said.iter().any(|said| said == code)).then_some(())
    })
    .await;
    let open = process.get("/api/health").await.ok();
    assert_eq!(open["status"], "degraded");
    assert!(each(&open["reasons"], Value::clone).contains(&"store_write_failed".into()), "{open}");
    let page = String::from_utf8(process.get("/metrics").await.bytes).unwrap();
    assert!(page.contains("tidegate_admin_store_failing{operation=\"checkpoint\"} 1\n"), "{page}");
    // What is stored is still read.
    assert_eq!(process.status("1.2.3.4").await, "banned");
    let restore = client().post(format!("{}/api/admin/restore", process.people)).bearer_auth(&process.token);
    Answered::to(restore.body(vec![0; 3 << 20])).await.problem(500, "store_failed");
    assert!(!dir.path().join("tidegate.db.upload").exists());

    limit_files(&process, None);
    until("all is well again, though nobody writes", async || {
        (process.get("/api/health").await.ok()["status"] == "ok").then_some(())
    })
    .await;
    process.ban("1.2.3.5").await;
    assert_eq!(process.status("1.2.3.5").await, "banned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_finds_no_descriptor_is_said_and_served_later() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    // One client, which keeps its connection. It may open another one while it has not noticed that the
    // first is free again; that one is not accepted, so a request has little time.
    let kept = client();
    let health = async || {
        let request = kept.get(format!("{}/api/health", process.people)).timeout(Duration::from_secs(2));
        request.send().await?.json::<Value>().await
    };
    assert_eq!(health().await.unwrap()["status"], "ok");
    // The process has this one's, and may not raise it.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = limit(&process, Resource::Nofile, Rlimit { current: Some(3), maximum });
    let waits = tokio::net::TcpStream::connect(process.gateways.trim_start_matches("http://")).await.unwrap();
    until("health says that it is not accepted", async || {
        let said = health().await.ok()?;
        said["reasons"].as_array()?.contains(&"accept_failed".into()).then_some(())
    })
    .await;
    limit(&process, Resource::Nofile, before);
    drop(waits);
    assert_eq!(process.get("/api/admin/optimization/health").await.status, 200);
    let page = String::from_utf8(process.get("/metrics").await.bytes).unwrap();
    let failed = r#"tidegate_admin_connections_closed_total{listener="gateways",reason="failed"} "#;
    assert!(page.contains(failed) && !page.contains(&format!("{failed}0\n")), "{page}");
}
