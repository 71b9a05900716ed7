//! Contexts of the command line.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::command_line::{Said, program, run};
use crate::test_service::TestService;

/// Runs `tidegate` with its contexts in `dir`, and no other hint where a service is.
async fn tidegate(dir: &Path, args: &[&str]) -> Said {
    let mut command = program(dir);
    command.env("TIDEGATE_CONFIG", dir.join("contexts/config.toml")).args(args);
    run(command, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_says_what_is_not_said_otherwise() {
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let dir = tempfile::tempdir().unwrap();
    let at = async |args: &[&str]| tidegate(dir.path(), args).await;
    std::fs::write(dir.path().join("token"), &service.admin).unwrap();
    assert_eq!(at(&["context", "list"]).await.done().lines().count(), 1);
    let none = at(&["bans", "list", "--context", "prod"]).await.failed();
    assert!(none.contains("there is no context `prod`; there is: none"), "{none}");
    let incomplete = at(&["context", "set", "prod", "--token-file", "token"]).await.failed();
    assert!(incomplete.contains("a new context needs --server"), "{incomplete}");
    let url = service.people("");
    let set = ["context", "set", "prod", "--server", &url, "--token-file", "token"];
    assert_eq!(at(&set).await.done(), "prod is in use\n");
    let ca = authority.file().to_str().unwrap();
    at(&["context", "set", "prod", "--ca", ca]).await.done();
    let banned = at(&["ban", "203.0.113.7"]).await.done();
    assert!(banned.starts_with("203.0.113.7 is banned"), "{banned}");
    // Through the service, although a database could be meant.
    assert!(at(&["token", "list"]).await.done().contains("gateway"));

    at(&["context", "set", "lab", "--server", "http://127.0.0.1:1"]).await.done();
    let list = at(&["context", "list"]).await.done();
    assert!(list.contains("*  prod") && list.contains("   lab"), "{list}");
    let lab = at(&["bans", "list", "--context", "lab"]).await.failed();
    assert!(lab.contains("no token"), "{lab}");
    // The token of a context is for its server only.
    let other = at(&["bans", "list", "--server", "http://127.0.0.1:1"]).await.failed();
    assert!(other.contains("no token"), "{other}");
    let other = at(&["bans", "list", "--server", "http://127.0.0.1:1", "--context", "prod"]).await.failed();
    assert!(other.contains("of another server, https://"), "{other}");
    assert_eq!(at(&["context", "use", "lab"]).await.done(), "lab is in use\n");
    at(&["bans", "list", "--server", &url, "--context", "prod"]).await.done();
    assert_eq!(at(&["context", "delete", "lab"]).await.done(), "no context is in use\n");
    let mode = std::fs::metadata(dir.path().join("contexts/config.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_others_may_read_is_warned_of_and_a_wrong_file_named() {
    let service = TestService::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("contexts/config.toml");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    let write = |more: &str| {
        let url = service.people("");
        let token = &service.admin;
        let text = format!("current = \"a\"\n[contexts.a]\nserver = \"{url}\"\ntoken = \"{token}\"\n{more}");
        std::fs::write(&file, text).unwrap();
    };
    write("");
    for (mode, warned) in [(0o600, false), (0o640, true)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        // The second could also mean a database: it is warned of once all the same.
        for command in ["bans", "token"] {
            let said = tidegate(dir.path(), &[command, "list"]).await;
            let warnings = said.err.matches("others may read it (640)").count();
            assert_eq!((said.code, warnings), (Some(0), warned.into()), "{said:?}");
        }
    }
    write("tokenfile = \"secret\"\n");
    let wrong = tidegate(dir.path(), &["bans", "list"]).await.failed();
    assert!(wrong.contains("config.toml:5: unknown field `tokenfile`"), "{wrong}");
    assert!(!wrong.contains("secret") && !wrong.contains(&service.admin), "{wrong}");
}
