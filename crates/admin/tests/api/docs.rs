//! Runs the examples of `docs/API.md` as they are.

use std::process::Command;

use crate::test_service::{TestService, db};

/// The shell examples in order; addresses and files of the local stack are replaced by those of
/// this service.
fn script(service: &TestService) -> String {
    let docs = include_str!("../../../../docs/API.md");
    let examples: Vec<&str> =
        docs.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let token = service.dir.path().join("token");
    std::fs::write(&token, &service.admin).unwrap();
    let script = examples
        .join("\n")
        .replace("127.0.0.1:9070", &service.running.people().to_string())
        .replace("target/up/tidegate.db", &db(&service.dir).display().to_string())
        .replace("target/up/token", &token.display().to_string());
    // After each answer a line with its status.
    let curl = r#"curl() { command curl -w '\nstatus %{http_code}\n' "$@"; }"#;
    // Without sqlite3, Python's is used.
    let sqlite3 = r#"command -v sqlite3 >/dev/null || sqlite3() {
        python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[3], timeout=5).executescript(sys.argv[4])' "$@"; }"#;
    format!("{curl}\n{sqlite3}\nset -eu\n{script}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_does_what_it_says() {
    let service = TestService::start().await;
    let script = script(&service);
    let asked = script.matches("curl -s ").count();
    // What an example writes into a file is not left in the sources.
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(script).current_dir(service.dir.path());
    let output = tokio::task::spawn_blocking(move || bash.output().unwrap()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let statuses: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("status ")).collect();
    assert_eq!(statuses.len(), asked, "{said}");
    // One example shows an error.
    let others: Vec<_> = statuses.iter().filter(|status| **status != "200").collect();
    assert_eq!(others, [&"422"], "{said}");
    let list = service.get("/api/admin/ip-monitor").await.ok();
    assert_eq!(list["items"][0]["ip"], "5.6.7.8", "what was written with sqlite3: {list}");
}
