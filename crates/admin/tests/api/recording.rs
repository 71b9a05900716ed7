//! What gateways say of their events, and what is believed of it.

use serde_json::json;
use tidegate_policy::wire::event::{
    Batch, DropReason, DroppedRange, EventPost, SourceState, TrafficEvent, UNTOLD_HEADER,
};

use crate::test_gateway::{EVENTS, SOURCE, batch, event, open, post, record};
use crate::test_service::{Answered, TestService, each, has};

const TOO_MANY: u64 = 1 << 45;

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_no_vm_can_have_reached_is_refused_and_its_gateway_named() {
    let service = TestService::start().await;
    record(&service, 1, vec![event(1), event(2)]).await;
    let claim = service.post_as_gateway(EVENTS, post([], TOO_MANY, SourceState::Alive)).await;
    claim.problem(422, "impossible_claim");
    open(&service, event(TOO_MANY)).await.problem(422, "impossible_claim");
    // What is right beside it is stored.
    let wrong = Batch { source: SOURCE, numbered_hi: TOO_MANY, ..Batch::default() }.to_bytes().unwrap();
    let mixed =
        service.post_as_gateway(EVENTS, post([batch(3, vec![event(3)]), wrong], 3, SourceState::Alive)).await;
    assert_eq!(mixed.ok(), json!({"stored": 1, "duplicates": 0, "malformed": 0, "refused": 1}));
    let stats = service.recording_stats().await;
    has(&stats, json!({"numbered": 3, "stored": 3, "completeness": 1.0, "refused": 3, "gaps": []}));
    let by =
        json!({"source": SOURCE.to_string(), "gateway": "node-1;00000000000000aa", "numbered": TOO_MANY});
    has(&stats["last_refused"], by);

    // What is possible is believed, and the VM is named that has the gap.
    service.post_as_gateway(EVENTS, post([], 1_000_000_000, SourceState::Alive)).await.ok();
    let stats = service.recording_stats().await;
    let gap = json!({"source": SOURCE.to_string(), "gateway": "node-1;00000000000000aa", "numbered": 1_000_000_000,
        "stored": 3, "dropped": 0});
    assert_eq!(stats["gaps"], json!([gap]));
}

/// What may be believed beside what the clock says is not believed again with each post.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_several_posts_do_not_add_up() {
    let service = TestService::start().await;
    let most = 200_000_000_000;
    let claim = async |number| service.post_as_gateway(EVENTS, post([], number, SourceState::Alive)).await;
    claim(most).await.ok();
    claim(2 * most).await.problem(422, "impossible_claim");
    let range = DroppedRange { source: SOURCE, first: 1, last: u64::MAX, reason: DropReason::Expired };
    let post = EventPost { dropped: vec![range], ..EventPost::default() };
    let answer = service.post_as_gateway(EVENTS, post.to_bytes().unwrap()).await;
    answer.problem(422, "impossible_claim");
    has(&service.recording_stats().await, json!({"numbered": most, "refused": 2}));
}

/// For good: what was refused then has no numbers.
#[tokio::test(flavor = "multi_thread")]
async fn completeness_is_a_bound_once_a_gateway_was_not_told_of_all_requests() {
    let service = TestService::start().await;
    let told = || post([batch(1, vec![event(1)])], 1, SourceState::Alive);
    service.post_as_gateway(EVENTS, told()).await.ok();
    has(&service.recording_stats().await, json!({"exact": true, "untold": false}));
    let untold = service.as_gateway(reqwest::Method::POST, EVENTS).header(UNTOLD_HEADER, "1").body(told());
    Answered::to(untold).await.ok();
    service.post_as_gateway(EVENTS, told()).await.ok();
    has(&service.recording_stats().await, json!({"completeness": 1.0, "exact": false, "untold": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_carries_no_more_than_a_gateway_can_have() {
    let service = TestService::start().await;
    let range = |at: u64| DroppedRange {
        source: SOURCE,
        first: at * 2 + 1,
        last: at * 2 + 1,
        reason: DropReason::Expired,
    };
    let of = |ranges: u64| EventPost { dropped: (0..ranges).map(range).collect(), ..EventPost::default() };
    let answer = service.post_as_gateway(EVENTS, of(20_001).to_bytes().unwrap()).await;
    answer.problem(413, "post_too_large");
    service.post_as_gateway(EVENTS, of(2_000).to_bytes().unwrap()).await.ok();
    has(&service.recording_stats().await, json!({"dropped": {"expired": 2_000}}));
}

/// The time of an event is the gateway's: the service's clock may be wrong by days.
#[tokio::test(flavor = "multi_thread")]
async fn rows_have_the_gateways_time_and_stay_in_order_of_arrival() {
    let service = TestService::start().await;
    let day = 86_400_000;
    let now = u64::try_from(tidegate_admin::store::time_text::now_ms()).unwrap();
    let times = [now + day, now - day, now];
    let client = Some("203.0.113.7".parse().unwrap());
    let events = (1..).zip(times).map(|(number, time_ms)| TrafficEvent { time_ms, client, ..event(number) });
    record(&service, 1, events.collect()).await;
    let text = |ms: u64| tidegate_admin::store::time_text::from_ms(i64::try_from(ms).unwrap());
    let rows: Vec<String> = service.column("SELECT timestamp FROM traffic_events ORDER BY number");
    assert_eq!(rows, times.map(text));
    let stats = service.recording_stats().await;
    has(&stats, json!({"stored": 3, "pending": 0, "lost": 0, "completeness": 1.0, "exact": true}));
    // An address was last seen at the latest time that was said.
    let monitor = service.get("/api/admin/ip-monitor/203.0.113.7").await.ok();
    let seen = monitor["requests_seen"]["last_seen"].as_str().unwrap().replace('T', " ");
    assert!(seen.starts_with(&text(now + day)[..19]), "{seen}");
    // What the service says of itself has its own clock.
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    let audit = service.get("/api/admin/audit").await.ok();
    let at = each(&audit["items"], |entry| entry["at"].as_str().unwrap().replace('T', " "));
    assert!(at[0][..10] == text(now)[..10] || at[0][..10] == text(now + 60_000)[..10], "{at:?}");
}
