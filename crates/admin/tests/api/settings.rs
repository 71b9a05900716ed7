//! The service's file of settings, and what SIGHUP reads again.

use std::fs::File;
use std::process::Stdio;

use tidegate_admin::auth;

use crate::test_process::{Process, printed, tidegate};
use crate::test_service::{client, until};

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_log_level_and_tokens_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let tokens = path("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let write = |log: &str| {
        std::fs::write(path("t.toml"), format!("log = \"{log}\"\ntokens = \"{}\"\n", tokens.display()))
            .unwrap();
    };
    write("warn");
    let args = ["--config", path("t.toml").to_str().unwrap()].map(str::to_owned);
    let args = args.each_ref().map(String::as_str);
    let log = Stdio::from(File::create(path("log")).unwrap());
    let process = Process::start_with(dir.path(), &args, log).await;
    let logged = || std::fs::read_to_string(path("log")).unwrap();
    process.ban("1.2.3.4").await;
    assert_eq!(logged(), "");

    write("tidegate_admin=debug");
    let token = auth::new_token().unwrap();
    std::fs::write(tokens.join("admin-token"), &token).unwrap();
    process.signal("-HUP");
    until("the new token is good", async || {
        let request = client().get(format!("{}/api/admin/routes", process.people)).bearer_auth(&token);
        (request.send().await.unwrap().status() == 200).then_some(())
    })
    .await;
    let request = client().get(format!("{}/api/admin/gateways", process.people)).bearer_auth(&process.token);
    request.header("x-request-id", "mine").send().await.unwrap();
    let line = until("the request is logged", async || {
        logged().lines().find(|line| line.contains("/api/admin/gateways")).map(str::to_owned)
    });
    let line = line.await;
    assert!(line.contains("id=\"mine\"") && line.contains("actor=\"test\""), "{line}");

    write("no=such=filter");
    process.signal("-HUP");
    until("what is wrong is logged", async || {
        logged().contains("what is logged stays as it was").then_some(())
    })
    .await;
}

#[test]
fn settings_are_printed_with_where_they_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    std::fs::write(&file, "listen = '127.0.0.1:1'\nlog = 'warn'\n").unwrap();
    let mut command = tidegate(dir.path(), &["config", "--config", file.to_str().unwrap()]);
    let output = command.env("TIDEGATE_LOG", "debug").output().unwrap();
    let said = printed(&output);
    for wanted in [
        format!("listen = \"127.0.0.1:1\"  # {}\n", file.display()),
        "log = \"debug\"  # TIDEGATE_LOG\n".to_owned(),
        "gateway_listen = \"127.0.0.1:9071\"  # default\n".to_owned(),
    ] {
        assert!(said.contains(&wanted), "{wanted}{said}");
    }
    assert!(said.contains("  # --db\n"), "{said}");
    std::fs::write(&file, "listn = '127.0.0.1:1'\n").unwrap();
    let output = tidegate(dir.path(), &["serve", "--config", file.to_str().unwrap()]).output().unwrap();
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("t.toml: there is no setting `listn`; there are db, listen, "), "{said}");
}
