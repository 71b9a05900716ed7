//! Tokens through the API and the command line.

use std::process::Output;

use reqwest::Method;
use serde_json::{Value, json};

use crate::test_gateway::TestGateway;
use crate::test_process::{Process, printed, tidegate};
use crate::test_service::{Answered, DEADLINE, TestService, binary, each, has, until};

const TOKENS: &str = "/api/admin/tokens";

/// Makes a token through the API; returns its text.
async fn create(service: &TestService, body: Value) -> String {
    let answer = service.post(TOKENS, body.to_string()).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.ok()["token"].as_str().unwrap().to_owned()
}

async fn get(service: &TestService, token: &str, path: &str) -> Answered {
    Answered::to(service.as_nobody(Method::GET, service.people(path)).bearer_auth(token)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_works_at_once_and_ends_with_its_revocation() {
    let service = TestService::start().await;
    let token = create(&service, json!({"name": "dash board/1", "role": "read", "ttl": "30d"})).await;
    get(&service, &token, "/api/admin/gateways").await.ok();
    get(&service, &token, TOKENS).await.problem(403, "wrong_role");
    let again = json!({"name": "dash board/1", "role": "admin"}).to_string();
    service.post(TOKENS, again).await.problem(409, "token_exists");
    let answer = service.get(TOKENS).await;
    assert!(!String::from_utf8_lossy(&answer.bytes).contains(&token[3..]), "{answer:?}");
    let list = answer.ok();
    assert_eq!(each(&list["items"], |item| item["name"].clone()), ["admin", "dash board/1", "gateway"]);
    has(&list["items"][1], json!({"role": "read", "node": null, "created_by": "admin", "expired": false}));
    assert!(list["items"][1]["expires_at"].as_str().unwrap().ends_with('Z'), "{list}");
    let revoked = service.delete("/api/admin/tokens/dash%20board%2F1").await.ok();
    assert_eq!(revoked, json!({"name": "dash board/1", "revoked": 1}));
    // Not within a second, as after a revocation by another program, but from now on.
    get(&service, &token, "/api/admin/gateways").await.problem(401, "unauthorized");
    service.delete("/api/admin/tokens/dash%20board%2F1").await.problem(404, "token_not_found");
    let audit = service.get("/api/admin/audit?limit=2").await.ok();
    has(
        &audit["items"][0],
        json!({"actor": "admin", "kind": "token", "name": "dash board/1", "after": null}),
    );
    has(&audit["items"][1], json!({"actor": "admin", "before": null, "after": {"role": "read"}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_wrong_makes_nothing_and_everything_wrong_is_named() {
    let service = TestService::start().await;
    let bad = json!({"name": " ", "role": "root", "ttl": "1h", "expires_at": "2100-01-01"});
    let problem = service.post(TOKENS, bad.to_string()).await.problem(422, "invalid_field");
    let pointers = each(&problem["errors"], |error| error["pointer"].clone());
    assert_eq!(pointers, ["/name", "/role", "/expires_at"]);
    let bound = json!({"name": "x", "role": "read", "node": "n"}).to_string();
    service.post(TOKENS, bound).await.wrong_field(422, "invalid_field", "/node", "conflict");
    let past = json!({"name": "x", "role": "read", "expires_at": "2026-01-01"}).to_string();
    service.post(TOKENS, past).await.wrong_field(422, "invalid_field", "/expires_at", "in_the_past");
    assert_eq!(service.get(TOKENS).await.ok()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_token_can_be_for_one_node() {
    let service = TestService::start().await;
    let token = create(&service, json!({"name": "edge-1", "role": "gateway", "node": "edge 1"})).await;
    let sync = async |gateway: &str| {
        let request = service.as_nobody(Method::GET, service.gateways("/api/data-plane/v1/sync"));
        Answered::to(request.bearer_auth(&token).header("x-tidegate-gateway", gateway)).await
    };
    assert_eq!(sync("edge_1;00000000000000aa").await.status, 200);
    sync("edge_2;00000000000000aa").await.problem(403, "wrong_node");
    sync("edge_1").await.problem(403, "wrong_node");
    let page = String::from_utf8(
        Answered::to(service.as_nobody(Method::GET, service.people("/metrics"))).await.bytes,
    );
    let count = r#"tidegate_admin_requests_refused_total{listener="gateways",why="wrong_node"} 2"#;
    assert!(page.as_ref().unwrap().contains(count), "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_streamed_breaks_off_when_its_token_is_revoked() {
    let service = TestService::start().await;
    let token = create(&service, json!({"name": "screen", "role": "read"})).await;
    let events = service.as_nobody(Method::GET, service.people("/api/admin/events")).bearer_auth(&token);
    let mut answer = events.header("accept", "text/event-stream").send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    service.delete("/api/admin/tokens/screen").await.ok();
    let rest = async {
        while answer.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    // Far from the minutes after which it would end by itself.
    let ended = tokio::time::timeout(DEADLINE, rest).await.expect("it ends");
    assert!(ended.is_err(), "and not as if that were all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_under_way_is_the_last_that_a_revoked_token_gets() {
    let service = TestService::start().await;
    let mut gateway = TestGateway::default();
    gateway.sync(&service, "0s").await;
    let poll = tokio::spawn(Answered::to(gateway.poll(&service, "30s")));
    until("the poll is open", async || {
        let list = service.get("/api/admin/gateways").await.ok();
        (list["items"][0]["silent_for_ms"] == 0).then_some(())
    })
    .await;
    service.delete("/api/admin/tokens/gateway").await.ok();
    service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    assert_eq!(poll.await.unwrap().status, 200);
    Answered::to(gateway.poll(&service, "30s")).await.problem(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_writes_down_when_tokens_were_used() {
    let service = TestService::start().await;
    service.get("/api/admin/gateways").await.ok();
    let TestService { running, dir, .. } = service;
    running.stop().await.unwrap();
    let listed = printed(&tidegate(dir.path(), &["token", "list"]).output().unwrap());
    let used: Vec<_> =
        listed.lines().skip(1).map(|line| (line.contains("admin"), !line.ends_with('-'))).collect();
    assert_eq!(used, [(true, true), (false, false)], "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_prints_the_first_token_and_no_second_one() {
    let dir = tempfile::tempdir().unwrap();
    let init = |args: &[&str]| tidegate(dir.path(), &[&["init"], args].concat()).output().unwrap();
    let made = init(&[]);
    let [token, said] =
        [made.stdout, made.stderr].map(|text| String::from_utf8(text).unwrap().trim().to_owned());
    assert!(said.contains("is not shown again") && !said.contains(&token), "{said}");
    assert!(token.starts_with("tg_") && token.len() == 67, "{token}");
    let again = init(&[]);
    assert!(!again.status.success() && printed(&again).contains("`first`"), "{}", printed(&again));
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("my-token");
    std::fs::write(&file, "short").unwrap();
    let given =
        |args: &[&str]| tidegate(other.path(), &[&["init", "--token-file"], args].concat()).output().unwrap();
    let file = file.to_str().unwrap();
    assert!(
        printed(&given(&[file])).contains("my-token: a token is 32 to 1024"),
        "{}",
        printed(&given(&[file]))
    );
    assert!(!other.path().join("tidegate.db").exists(), "nothing is made");
    std::fs::write(file, &token).unwrap();
    let taken = given(&[file, "--name", "alice"]);
    assert!(taken.status.success() && !printed(&taken).contains(&token), "{}", printed(&taken));
    let listed = printed(&tidegate(other.path(), &["token", "list"]).output().unwrap());
    assert!(listed.contains("admin  alice"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_tokens_through_a_service() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path()).await;
    let run = async |args: &[&str], token: &str| -> Output {
        let mut command = tokio::process::Command::new(binary());
        command.arg("token").args(args).args(["--server", &process.people]).env("TIDEGATE_TOKEN", token);
        command.output().await.unwrap()
    };
    let made =
        run(&["create", "--name", "a b", "--role", "operate", "--expires", "1d"], &process.token).await;
    assert!(made.status.success(), "{}", printed(&made));
    let operator = printed(&made).trim().to_owned();
    let listed = printed(&run(&["list"], &process.token).await);
    assert!(listed.contains("operate  a b   -     20") && listed.contains("admin    test"), "{listed}");
    let listed: Value =
        serde_json::from_slice(&run(&["list", "-o", "json"], &process.token).await.stdout).unwrap();
    has(&listed["items"][0], json!({"name": "a b", "role": "operate", "expired": false}));
    let refused = run(&["list"], &operator).await;
    assert!(
        !refused.status.success() && printed(&refused).contains("here `admin` is needed"),
        "{}",
        printed(&refused)
    );
    let revoke = ["revoke", "--name", "a b"];
    assert_eq!(printed(&run(&revoke, &process.token).await), "1 revoked\n");
    assert!(printed(&run(&revoke, &process.token).await).contains("there is no token called `a b`"));
    // A database that is named counts, whatever the environment says of a service.
    let mut beside = tidegate(dir.path(), &["token", "list"]);
    let listed = printed(&beside.env("TIDEGATE_SERVER", "http://127.0.0.1:1").output().unwrap());
    assert!(listed.contains("admin  test"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_listed_in_pages_and_are_not_without_number() {
    let service = TestService::start().await;
    for name in ["e", "b", "d", "c", "a"] {
        create(&service, json!({"name": name, "role": "read"})).await;
    }
    let names = ["a", "admin", "b", "c", "d", "e", "gateway"];
    for limit in [1, 2, 7, 100] {
        let listed = Value::from(service.pages("/api/admin/tokens", limit).await);
        assert_eq!(each(&listed, |token| token["name"].as_str().unwrap()), names, "{limit}");
    }
    for bad in ["cursor=x", "cursor=5b5d", "limit=0", "limit=1001"] {
        service.get(&format!("/api/admin/tokens?{bad}")).await.problem(400, "invalid_parameter");
    }
    service.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 993)
         INSERT INTO tokens (hash, name, role) SELECT 'h' || i, 'n' || i, 'read' FROM n",
    );
    let more = r#"{"name": "more", "role": "read"}"#;
    service.post("/api/admin/tokens", more).await.problem(409, "table_full");
    service.delete("/api/admin/tokens/a").await.ok();
    service.post("/api/admin/tokens", more).await.ok();
}
