//! Gateways of the version before: `docs/OPERATIONS.md`, "Upgrading".

use axum::body::Body;
use axum::http::Method;
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::wire::check::path;
use tidegate_policy::wire::event::{EventPost, SealedBatch};

use crate::running::{Answered, Running, db};

const EVENTS: &str = "/api/data-plane/v1/events";

/// What their writers wrote: the file says how it was made.
fn written(name: &str) -> Vec<u8> {
    let all = include_str!("../../../policy/src/wire/former/bytes.txt");
    let lines = all.lines().skip_while(|line| *line != name).skip(1);
    let digits: String = lines.take_while(|line| line.bytes().all(|b| b.is_ascii_hexdigit())).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

async fn send(running: &Running, path: &str, bytes: Vec<u8>) -> Answered {
    running.send(running.as_gateway(Method::POST, path).body(Body::from(bytes)).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn their_events_are_stored() {
    let running = Running::start().await;
    // Its number is 6; the batch has 3 to 5.
    let answer = send(&running, &format!("{EVENTS}?sync=1"), written("open")).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let batches = vec![SealedBatch(written("batch"))];
    let post = EventPost { batches, ..EventPost::default() }.to_bytes().unwrap();
    let taken = send(&running, EVENTS, post).await.ok();
    assert_eq!(taken, json!({"stored": 3, "duplicates": 0, "malformed": 0}));
    let connection = rusqlite::Connection::open(db(&running.dir)).unwrap();
    let mut rows = connection
        .prepare(
            "SELECT number || ' ' || verdict || ' ' || coalesce(status, '-') || ' ' || coalesce(rule, '-')
               || ' ' || coalesce(template, '-') FROM events ORDER BY number",
        )
        .unwrap();
    let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let expected =
        ["3 deny 403 2001:db8::/32 -", "4 allow 200 - -", "5 unseen - - -", "6 deny 403 2001:db8::/32 -"];
    assert_eq!(rows, expected);
    let stats = running.get("/api/admin/optimization/recording/stats").await.ok();
    let counts = ["malformed", "stored", "open"].map(|name| stats[name].clone());
    assert_eq!(counts, [0, 3, 1].map(serde_json::Value::from), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn their_questions_are_answered_in_their_words_or_not_at_all() {
    let running = Running::start().await;
    let route = |filters: serde_json::Value| {
        let rule = json!({"filters": filters, "backendRefs": [{"name": "b", "namespace": "n", "port": 80}]});
        json!({"spec": {"rules": [rule]}}).to_string()
    };
    let ask = async || send(&running, path(Check::Route), written("question")).await;
    // The version of the tables is another each time: what follows it is the answer.
    let answer = ask().await;
    assert_eq!((answer.status.as_u16(), answer.bytes[0]), (200, 1), "{answer:?}");
    assert!(answer.bytes.ends_with(&written("answer no route")[5..]), "{answer:?}");

    let geo = json!([{"type": "ExtensionRef",
        "extensionRef": {"group": "tidegate.dev", "kind": "GeoRule", "name": "g"}}]);
    running.put("/api/admin/routes/r", route(geo)).await.ok();
    let answer = ask().await;
    let mut expected = written("answer route")[5..].to_vec();
    // Index of the rule, which was 1 in the bytes.
    assert_eq!(std::mem::replace(&mut expected[4], 0), 1);
    assert!(answer.bytes.ends_with(&expected), "{answer:?}, {expected:?}");

    let adds = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier":
        {"set": [{"name": "x-a", "value": "b"}]}}]);
    running.put("/api/admin/routes/r", route(adds)).await.ok();
    ask().await.problem(406, "format_unavailable");
}
