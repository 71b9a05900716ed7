//! Scenarios of the recording over the simulated host: who drains, and what
//! happens when it dies.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{Feed, Request, Root, Sim, Worker};
use tidegate_policy::wire::event::SourceState;

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

struct Testbed {
    sim: Sim,
    feed: Feed,
    recorder: Option<(Worker, Root)>,
    gates: Vec<(Worker, Root)>,
}

impl Testbed {
    fn new(recorder: bool, workers: usize) -> Self {
        let mut sim = Sim::new(module);
        let mut start = |root_id: &str| {
            let worker = sim.worker();
            let (root, accepted) = sim.root(worker, root_id, CONFIG);
            assert!(accepted);
            (worker, root)
        };
        let recorder = recorder.then(|| start("tidegate_recorder"));
        let gates = (0..workers).map(|_| start("tidegate")).collect();
        let mut testbed = Self { sim, feed: Feed::new(), recorder, gates };
        testbed.run(SECOND);
        testbed
    }

    fn run(&mut self, time: Duration) {
        self.feed.run(&mut self.sim, time);
    }

    /// As many requests on every gate.
    fn requests(&mut self, each: usize) {
        for _ in 0..each {
            for (worker, root) in self.gates.clone() {
                let response = self.sim.request(worker, root, Request::get("/x?secret=1", "192.0.2.1"));
                assert_eq!(response.status, 200);
            }
        }
    }

    fn polling_root(&self) -> u32 {
        let calls = self.sim.calls();
        calls.iter().find(|call| call.path.contains("/sync?")).expect("somebody polls").root
    }

    fn is_polling(&self, (_, root): (Worker, Root)) -> bool {
        format!("{root:?}") == format!("Root({})", self.polling_root())
    }

    /// The highest number that each source was reported to have given.
    fn numbered(&self) -> u64 {
        let mut sources = std::collections::BTreeMap::new();
        for report in self.feed.posts.iter().flat_map(|post| &post.sources) {
            let hi: &mut u64 = sources.entry(report.source).or_default();
            *hi = report.numbered_hi.max(*hi);
        }
        sources.values().sum()
    }
}

#[test]
fn every_event_is_stored_once_with_and_without_a_recorder() {
    for recorder in [true, false] {
        let mut testbed = Testbed::new(recorder, 2);
        testbed.requests(700);
        testbed.run(2 * SECOND);
        assert_eq!(testbed.feed.events.len(), 1_400, "recorder: {recorder}");
        assert_eq!(testbed.feed.duplicates, 0);
        assert_eq!(testbed.numbered(), 1_400);
        assert_eq!(testbed.sim.queued("/events"), 0);
        assert!(testbed.feed.events.iter().all(|(_, event)| event.path.as_deref() == Some(b"/x")));
    }
}

#[test]
fn the_recorder_takes_the_lease_from_a_worker_and_keeps_it() {
    let mut testbed = Testbed::new(false, 2);
    assert!(testbed.gates.iter().any(|gate| testbed.is_polling(*gate)));
    let worker = testbed.sim.worker();
    let (root, _) = testbed.sim.root(worker, "tidegate_recorder", CONFIG);
    testbed.requests(10);
    testbed.run(SECOND);
    // The worker's poll cannot be taken back: its answer is nobody's.
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    assert!(testbed.is_polling((worker, root)));
    for gate in testbed.gates.clone() {
        assert_eq!(testbed.sim.request(gate.0, gate.1, Request::get("/", "9.9.9.9")).status, 403);
    }
    testbed.run(10 * SECOND);
    assert!(testbed.is_polling((worker, root)));
    assert_eq!(testbed.feed.events.len(), 22);
}

#[test]
fn a_recorder_that_traps_with_events_queued_is_replaced_by_a_worker() {
    let mut testbed = Testbed::new(true, 2);
    let recorder = testbed.recorder.unwrap();
    assert!(testbed.is_polling(recorder));
    testbed.requests(20);
    testbed.sim.stall(recorder.0);
    // Within the lease's term: workers go on handing over.
    testbed.run(200 * MS);
    testbed.requests(20);
    testbed.run(200 * MS);
    assert!(testbed.sim.queued("/events") > 0);
    testbed.sim.trap(recorder.0);
    testbed.requests(20);
    testbed.run(4 * SECOND);
    assert!(testbed.gates.iter().any(|gate| testbed.is_polling(*gate)));
    assert_eq!(testbed.feed.events.len(), 120, "what was queued, and what came after");
    assert_eq!(testbed.sim.queued("/events"), 0);
    testbed.feed.ban("9.9.9.9");
    testbed.run(MS);
    for gate in testbed.gates.clone() {
        assert_eq!(testbed.sim.request(gate.0, gate.1, Request::get("/", "9.9.9.9")).status, 403);
    }
}

#[test]
fn a_recorder_that_traps_at_any_host_call_loses_at_most_what_it_held() {
    for calls in (0..80).step_by(3) {
        let mut testbed = Testbed::new(true, 2);
        testbed.requests(10);
        testbed.sim.trap_after(testbed.recorder.unwrap().0, calls);
        testbed.run(10 * SECOND);
        testbed.requests(10);
        testbed.run(5 * SECOND);
        let stored = testbed.feed.events.len();
        assert!((20..=40).contains(&stored), "after {calls} host calls: {stored}");
        assert_eq!(testbed.numbered(), 40, "after {calls} host calls: what is lost shows");
        assert_eq!(testbed.sim.queued("/events"), 0);
    }
}

#[test]
fn events_wait_while_the_admin_service_does_not_store() {
    let mut testbed = Testbed::new(true, 2);
    testbed.feed.takes_events = false;
    testbed.requests(300);
    testbed.run(20 * SECOND);
    assert!(testbed.feed.events.is_empty());
    testbed.feed.takes_events = true;
    testbed.run(10 * SECOND);
    assert_eq!(testbed.feed.events.len(), 600);
    assert_eq!(testbed.numbered(), 600);
}

#[test]
fn a_worker_that_died_is_reported_with_its_last_number() {
    let mut testbed = Testbed::new(true, 2);
    testbed.requests(30);
    testbed.run(2 * SECOND);
    let sources: BTreeSet<_> = testbed.feed.events.iter().map(|(source, _)| *source).collect();
    assert_eq!(sources.len(), 2);
    testbed.sim.trap(testbed.gates[0].0);
    testbed.run(15 * SECOND);
    let dead: BTreeSet<_> = testbed
        .feed
        .posts
        .iter()
        .flat_map(|post| &post.sources)
        .filter(|report| report.state == SourceState::Dead)
        .map(|report| (report.source, report.numbered_hi))
        .collect();
    let dead: Vec<_> = dead.into_iter().collect();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert!(sources.contains(&dead[0].0));
    assert_eq!(dead[0].1, 30);
}

#[test]
fn what_envoy_refused_before_the_gate_has_its_event() {
    let mut testbed = Testbed::new(true, 1);
    let (worker, root) = testbed.gates[0];
    testbed.sim.refuse(worker, root);
    testbed.run(SECOND);
    assert_eq!(testbed.feed.events.len(), 1);
    let event = &testbed.feed.events[0].1;
    assert_eq!((event.path.as_ref(), event.verdict.name()), (None, "unseen"));
}

#[test]
fn a_new_token_takes_over_without_losing_an_event_or_a_ban() {
    let mut testbed = Testbed::new(false, 2);
    testbed.requests(300);
    let new = CONFIG.replace("secret", "new");
    let old = std::mem::take(&mut testbed.gates);
    for (worker, _) in &old {
        let (root, accepted) = testbed.sim.root(*worker, "tidegate", &new);
        assert!(accepted);
        testbed.gates.push((*worker, root));
    }
    testbed.requests(100);
    testbed.run(20 * MS);
    for (worker, root) in old {
        testbed.sim.request(worker, root, Request::get("/x", "192.0.2.1"));
        testbed.sim.drop_root(worker, root);
    }
    testbed.requests(100);
    testbed.feed.ack_wanted = true;
    testbed.feed.ban("9.9.9.9");
    testbed.run(2 * SECOND);
    assert_eq!(testbed.feed.events.len(), 2 * (300 + 100 + 1 + 100));
    assert_eq!(testbed.sim.queued("/events"), 0);
    for (worker, root) in testbed.gates.clone() {
        assert_eq!(testbed.sim.request(worker, root, Request::get("/x", "9.9.9.9")).status, 403);
    }
    let ack = testbed.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.live, ack.stale), (testbed.feed.version(), 2, 0));
    let tokens: Vec<_> = testbed.sim.calls().iter().filter_map(|call| call.header("authorization")).collect();
    assert!(tokens.iter().all(|token| token == "Bearer new"), "{tokens:?}");
    // The sources that ended are reported once nothing of theirs can come.
    testbed.run(12 * SECOND);
    let reports = testbed.feed.posts.iter().flat_map(|post| &post.sources);
    let dead: BTreeSet<_> =
        reports.filter(|report| report.state == SourceState::Dead).map(|report| report.source).collect();
    assert_eq!(dead.len(), 2);
}
