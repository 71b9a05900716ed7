//! Schemathesis makes requests of the OpenAPI document, right ones and wrong ones, and looks whether
//! the answers are as the document says. `cargo xtask test` installs it and names it in
//! `TIDEGATE_SCHEMATHESIS`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Method;
use tidegate_admin::auth::Role;
use tidegate_admin::store::TokenRow;

use crate::test_service::{Answered, TestService, token_beside};

/// What it looks for. Not whether all that fits a schema is taken: that a name exists, or an address is
/// one, no schema says. Nor whether all else is refused: it means headers that nobody knows as well. Nor
/// whether tokens are needed, which `roles` tests.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,unsupported_method";
/// A gateway whose events are of a later format is told so with 503, and keeps them.
const CONFIGURATION: &str = r#"
[[operations]]
include-path = "/api/data-plane/v1/events"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
"#;
/// How long it may go on, in seconds.
const TIME: &str = "30";

/// Runs it on one listener, with these headers. It writes what it keeps into the folder `dir`.
fn run(program: &OsStr, dir: &Path, listener: &str, document: &str, headers: &[String], paths: &str) {
    let mut command = Command::new(program);
    command.args(["run", document, "--url", listener, "--include-path-regex", paths, "--checks", CHECKS]);
    command.args(["--max-time", TIME, "--seed", "1", "--generation-database", "none", "--no-color"]);
    command.args(["--warnings", "off"]);
    for header in headers {
        command.args(["--header", header]);
    }
    let output = command.current_dir(dir).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{paths}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let Some(program) = std::env::var_os("TIDEGATE_SCHEMATHESIS") else {
        println!("skipped: TIDEGATE_SCHEMATHESIS does not name it");
        return;
    };
    let service = TestService::start().await;
    let row =
        TokenRow { name: "schemathesis".into(), role: Role::Admin.name().into(), ..TokenRow::default() };
    let token = token_beside(&service.dir, row);
    let header = |token: &str| format!("authorization: Bearer {token}");
    let (people, gateways) = (service.people(""), service.gateways(""));
    let document = service.people("/api/openapi.json");
    let of_people = [header(&token)];
    let of_gateways = [header(&service.gateway), "x-tidegate-gateway: node-1;00000000000000aa".to_owned()];
    let dir = service.dir.path().to_owned();
    std::fs::write(dir.join("schemathesis.toml"), CONFIGURATION).unwrap();
    let ran = tokio::task::spawn_blocking(move || {
        run(&program, &dir, &people, &document, &of_people, "^(?!/api/data-plane/)");
        run(&program, &dir, &gateways, &document, &of_gateways, "^/api/data-plane/");
    });
    ran.await.unwrap();
    // Otherwise it would have seen nothing but 401 from then on.
    let request = service.as_nobody(Method::GET, service.people("/api/admin/tokens")).bearer_auth(token);
    Answered::to(request).await.ok();
}
