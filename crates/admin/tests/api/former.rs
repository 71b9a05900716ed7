//! Gateways of another version: `docs/OPERATIONS.md`, "Upgrading".

use axum::body::Body;
use axum::http::Method;
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::wire::check::path;
use tidegate_policy::wire::event::{EventPost, SealedBatch};
use tidegate_policy::wire::formats::{FORMATS, FORMATS_HEADER};
use tidegate_policy::wire::sync::{Held, SyncAnswer, WholeTable};

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

/// A poll of a gateway that reads these formats; its answer, if there was one.
async fn poll(running: &Running, formats: &str, ack: Option<&SyncAnswer>) -> Answered {
    let since = ack.map(|ack| format!("&since={}", ack.version)).unwrap_or_default();
    let mut request = running.as_gateway(Method::GET, &format!("/api/data-plane/v1/sync?wait=0s{since}"));
    request = request.header(FORMATS_HEADER, formats);
    if let Some(ack) = ack {
        let hold: Vec<_> = ack.whole.iter().map(|held| (held.table, held.blob.hash)).collect();
        let bans = ack.bans.as_ref().unwrap();
        let held = Held { whole: hold, base: Some(bans.base.hash), bans: Some(bans.digest), refresh: None };
        request = request.header("x-tidegate-held", held.to_string());
        request = request.header("x-tidegate-ack", format!("{};refresh=0;live=1;stale=0", ack.version));
    }
    running.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_gateway_cannot_read_are_left_out_and_the_others_arrive() {
    let running = Running::start().await;
    let behind = FORMATS.replace("routes=3", "routes=2");
    let answer = poll(&running, &behind, None).await;
    let answer = SyncAnswer::from_bytes(&answer.bytes).unwrap();
    let tables: Vec<WholeTable> = answer.whole.iter().map(|update| update.table).collect();
    assert_eq!(tables.len(), WholeTable::ALL.len() - 1);
    assert!(!tables.contains(&WholeTable::Routes) && answer.bans.is_some(), "{tables:?}");
    // It has nothing to ask for at once again.
    assert_eq!(poll(&running, &behind, Some(&answer)).await.status, 304);

    let banned = running.post("/api/admin/ip/ban", r#"{"ip": "9.8.7.6"}"#).await.ok();
    let news = poll(&running, &behind, Some(&answer)).await;
    let news = SyncAnswer::from_bytes(&news.bytes).unwrap();
    assert_eq!(json!(news.version.to_string()), banned["version"]);
    assert!(news.bans.is_some() && news.whole.is_empty(), "{news:?}");

    // It is known to be behind, and what it says it enforces is not taken for all.
    let _ = poll(&running, &behind, Some(&SyncAnswer { bans: news.bans, ..answer.clone() })).await;
    let list = running.get("/api/admin/gateways").await.ok();
    assert_eq!(list["items"][0]["cannot_read"], json!(["routes"]), "{list}");
    let waited = running.post("/api/admin/ip/ban?wait_applied=50ms", r#"{"ip": "9.8.7.7"}"#).await.ok();
    assert_eq!((&waited["applied"]["gateways"], &waited["applied"]["of"]), (&json!(0), &json!(1)));

    // Its successor reads them all.
    let whole = poll(&running, FORMATS, None).await;
    assert_eq!(SyncAnswer::from_bytes(&whole.bytes).unwrap().whole.len(), WholeTable::ALL.len());
    let list = running.get("/api/admin/gateways").await.ok();
    assert_eq!(list["items"][0]["cannot_read"], json!([]), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_cannot_read_the_answer_is_told_so_and_counted() {
    let running = Running::start().await;
    for formats in [FORMATS.replace("sync=3", "sync=4"), "later=1".to_owned()] {
        let problem = poll(&running, &formats, None).await.problem(406, "format_unavailable");
        assert!(problem["detail"].as_str().unwrap().contains(FORMATS), "{problem}");
    }
    let list = running.get("/api/admin/gateways").await.ok();
    assert_eq!(
        (&list["items"][0]["lost"], &list["items"][0]["cannot_read"][0]),
        (&json!(false), &json!("sync"))
    );
    let problem = poll(&running, "sync", None).await.problem(400, "invalid_header");
    assert_eq!(problem["errors"][0]["header"], FORMATS_HEADER);
}
