//! Gateways of another version: `docs/OPERATIONS.md`, "Upgrading".

use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::decide::CountrySource;
use tidegate_policy::request::Facts;
use tidegate_policy::tables::Table;
use tidegate_policy::wire::check::{Question, path};
use tidegate_policy::wire::event::OpenEvent;
use tidegate_policy::wire::formats::{FORMATS_HEADER, formats};
use tidegate_policy::wire::sync::SyncAnswer;

use crate::test_gateway::{EVENTS, SOURCE, TestGateway, event};
use crate::test_service::{Answered, TestService, has};

#[tokio::test(flavor = "multi_thread")]
async fn a_question_and_an_open_event_of_an_earlier_version_are_refused_by_its_number() {
    let service = TestService::start().await;
    let question = Question::new(Check::Ip, 1, &Facts::default(), CountrySource::Table).to_bytes().unwrap();
    let open = OpenEvent { source: SOURCE, event: event(1) }.to_bytes().unwrap();
    for (path, mut bytes) in [(path(Check::Ip), question), (&format!("{EVENTS}?sync=1"), open)] {
        bytes[0] -= 1;
        let problem = service.post_as_gateway(path, bytes.clone()).await.problem(400, "invalid_body");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("format version {}", bytes[0])), "{detail}");
    }
}

/// A poll of a gateway that reads these formats.
async fn poll(service: &TestService, gateway: &TestGateway, formats: &str) -> Answered {
    poll_for(service, gateway, formats, "0s").await
}

/// The same, which waits so long for a change that was committed and is not read yet.
async fn poll_for(service: &TestService, gateway: &TestGateway, formats: &str, wait: &str) -> Answered {
    Answered::to(gateway.poll(service, wait).header(FORMATS_HEADER, formats)).await
}

/// The gateway in the service's list.
async fn listed(service: &TestService) -> serde_json::Value {
    service.get("/api/admin/gateways").await.ok()["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_gateway_cannot_read_are_left_out_and_the_others_arrive() {
    let service = TestService::start().await;
    let behind = formats().replace(",routes=", ",routes=1");
    let mut gateway = TestGateway::default();
    let answer = SyncAnswer::from_bytes(poll(&service, &gateway, &behind).await.binary()).unwrap();
    let tables: Vec<Table> = answer.whole.iter().map(|update| update.table).collect();
    assert_eq!(tables.len(), Table::whole().count() - 1);
    assert!(!tables.contains(&Table::Routes) && answer.bans.is_some(), "{tables:?}");
    // It has no reason to poll again at once.
    gateway.learn(&answer);
    assert_eq!(poll(&service, &gateway, &behind).await.status, 304);

    let banned = service.post("/api/admin/ip/ban", r#"{"ip": "9.8.7.6"}"#).await.ok();
    let news = poll_for(&service, &gateway, &behind, "10s").await;
    let news = SyncAnswer::from_bytes(news.binary()).unwrap();
    assert_eq!(json!(news.version.to_string()), banned["version"]);
    assert!(news.bans.is_some() && news.whole.is_empty(), "{news:?}");

    // It is known to be behind: its ack does not count as enforcing everything.
    gateway.learn(&news);
    poll(&service, &gateway, &behind).await;
    has(&listed(&service).await, json!({"cannot_read": ["routes"]}));
    let waited = service.post("/api/admin/ip/ban?wait_applied=50ms", r#"{"ip": "9.8.7.7"}"#).await.ok();
    has(&waited, json!({"applied": {"gateways": 0, "of": 1}}));

    // The process that replaces it reads them all.
    let whole = poll(&service, &TestGateway::default(), &formats()).await;
    assert_eq!(SyncAnswer::from_bytes(whole.binary()).unwrap().whole.len(), Table::whole().count());
    has(&listed(&service).await, json!({"cannot_read": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_cannot_read_the_answer_is_told_so_and_counted() {
    let service = TestService::start().await;
    let gateway = TestGateway::default();
    for unread in [formats().replace("sync=4", "sync=5"), "later=1".to_owned()] {
        let problem = poll(&service, &gateway, &unread).await.problem(406, "format_unavailable");
        assert!(problem["detail"].as_str().unwrap().contains(&formats()), "{problem}");
    }
    let listed = listed(&service).await;
    has(&listed, json!({"lost": false}));
    assert_eq!(listed["cannot_read"][0], "sync");
    let problem = poll(&service, &gateway, "sync").await.problem(400, "invalid_header");
    assert_eq!(problem["errors"][0]["header"], FORMATS_HEADER);
}
