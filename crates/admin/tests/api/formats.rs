//! Gateways of another version: `docs/OPERATIONS.md`, "Upgrading".

use axum::body::Body;
use axum::http::Method;
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::decide::Given;
use tidegate_policy::request::Facts;
use tidegate_policy::wire::check::{Question, path};
use tidegate_policy::wire::event::{OpenEvent, Source, TrafficEvent};
use tidegate_policy::wire::formats::{FORMATS, FORMATS_HEADER};
use tidegate_policy::wire::sync::{Held, SyncAnswer, WholeTable};

use crate::running::{Answered, Running};

#[tokio::test(flavor = "multi_thread")]
async fn a_question_and_an_open_event_of_an_earlier_version_are_refused_by_its_number() {
    let running = Running::start().await;
    let question = Question::new(Check::Ip, 1, &Facts::default(), Given::Table).to_bytes().unwrap();
    let open = OpenEvent { source: Source(7), event: TrafficEvent { number: 1, ..TrafficEvent::default() } };
    for (path, mut bytes) in
        [(path(Check::Ip), question), ("/api/data-plane/v1/events?sync=1", open.to_bytes().unwrap())]
    {
        bytes[0] -= 1;
        let request = running.as_gateway(Method::POST, path).body(Body::from(bytes.clone())).unwrap();
        let problem = running.send(request).await.problem(400, "invalid_body");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("format version {}", bytes[0])), "{detail}");
    }
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
