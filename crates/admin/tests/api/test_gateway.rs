//! A gateway for tests: its polls, acks and events.

use reqwest::{Method, RequestBuilder};
use tidegate_policy::tables::Table;
use tidegate_policy::wire::event::{
    Batch, EventPost, OpenEvent, SealedBatch, SourceReport, SourceState, TrafficEvent, VmId,
};
use tidegate_policy::wire::sync::{Held, SyncAnswer, WholeUpdate};

use crate::test_service::{Answered, TestService};

pub const SYNC: &str = "/api/data-plane/v1/sync";
pub const EVENTS: &str = "/api/data-plane/v1/events";
/// The VM that numbers the events here.
pub const SOURCE: VmId = VmId(7);

/// The state of a gateway.
#[derive(Clone, Default)]
pub struct TestGateway {
    pub since: Option<String>,
    pub held: Held,
}

impl TestGateway {
    /// Applies an answer.
    pub fn learn(&mut self, answer: &SyncAnswer) {
        self.since = Some(answer.version.to_string());
        for WholeUpdate { table, blob, .. } in &answer.whole {
            self.held.hashes[*table] = Some(blob.hash);
        }
        if let Some(bans) = &answer.bans {
            self.held.hashes[Table::BanBase] = Some(bans.base.hash);
            self.held.bans = Some(bans.digest);
        }
    }

    /// A poll that waits for this time, with the gateway's state and ack.
    pub fn poll(&self, service: &TestService, wait: &str) -> RequestBuilder {
        let since = self.since.as_ref().map(|since| format!("&since={since}")).unwrap_or_default();
        let mut request = service.as_gateway(Method::GET, &format!("{SYNC}?wait={wait}{since}"));
        if let Some(since) = &self.since {
            request = request.header("x-tidegate-ack", format!("{since};refresh=0;live=1;stale=0"));
        }
        request.header("x-tidegate-held", self.held.to_string())
    }

    /// Polls, and applies the answer.
    pub async fn sync(&mut self, service: &TestService, wait: &str) -> SyncAnswer {
        let answer = SyncAnswer::from_bytes(Answered::to(self.poll(service, wait)).await.binary()).unwrap();
        self.learn(&answer);
        answer
    }
}

/// Acks, for two VMs, the version of `answer`.
pub async fn ack(service: &TestService, answer: &SyncAnswer) {
    let ack = format!("{};refresh={};live=2;stale=0", answer.version, answer.refresh);
    let request = service.as_gateway(Method::POST, &format!("{SYNC}/ack")).header("x-tidegate-ack", ack);
    assert_eq!(Answered::to(request).await.status, 204);
}

/// An event of 2026-11-23 18:00:00 UTC.
pub fn event(number: u64) -> TrafficEvent {
    TrafficEvent { number, time_ms: 1_795_456_800_000, ..TrafficEvent::default() }
}

/// A batch of these events, the first numbered `first`.
pub fn batch(first: u64, events: Vec<TrafficEvent>) -> Vec<u8> {
    let numbered_hi = first + events.len() as u64 - 1;
    Batch { source: SOURCE, first, numbered_hi, events, ..Batch::default() }.to_bytes().unwrap()
}

/// A post of batches by a VM that numbered up to `numbered_hi`.
pub fn post(batches: impl IntoIterator<Item = Vec<u8>>, numbered_hi: u64, state: SourceState) -> Vec<u8> {
    let sources = vec![SourceReport { source: SOURCE, numbered_hi, state }];
    let batches = batches.into_iter().map(SealedBatch).collect();
    EventPost { sources, batches, waiting_bytes: 12, ..EventPost::default() }.to_bytes().unwrap()
}

/// Posts these events, and returns the service's answer.
pub async fn record(service: &TestService, first: u64, events: Vec<TrafficEvent>) -> serde_json::Value {
    let numbered_hi = first + events.len() as u64 - 1;
    let bytes = post([batch(first, events)], numbered_hi, SourceState::Alive);
    service.post_as_gateway(EVENTS, bytes).await.ok()
}

/// Posts an open event.
pub async fn open(service: &TestService, event: TrafficEvent) -> Answered {
    let open = OpenEvent { source: SOURCE, event };
    service.post_as_gateway(&format!("{EVENTS}?sync=1"), open.to_bytes().unwrap()).await
}
