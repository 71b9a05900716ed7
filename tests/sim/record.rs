//! Scenarios of the events over the simulated host: from a request's log to the
//! admin service, whoever drains, and whatever becomes of him.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{Feed, LastingFault, Request, Root, Sim, StreamId, TestRng, Waits, Worker};
use tidegate_policy::flags::{Flag, FlagState};
use tidegate_policy::wire::event::{BatchHead, SourceState, TrafficEvent, VerdictCode, VmId};

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;
/// Another plugin configuration of the same admin service: it shares the VM's part.
const ENVOY_ROUTES: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}, "routing": "envoy"}"#;
const GATE: &str = "tidegate";
const RECORDER: &str = "tidegate_recorder";
const SECOND: Duration = Duration::from_secs(1);

struct Testbed {
    sim: Sim,
    feed: Feed,
    gates: Vec<(Worker, Root)>,
}

impl Testbed {
    fn new(workers: usize) -> Self {
        let mut testbed = Self { sim: Sim::new(module), feed: Feed::new(), gates: Vec::new() };
        for _ in 0..workers {
            testbed.worker(GATE);
        }
        testbed.run(SECOND);
        testbed
    }

    fn worker(&mut self, root_id: &str) -> (Worker, Root) {
        let worker = self.sim.worker();
        let (root, accepted) = self.sim.root(worker, root_id, CONFIG);
        assert!(accepted, "{:?}", self.sim.errors());
        if root_id == GATE {
            self.gates.push((worker, root));
        }
        (worker, root)
    }

    fn run(&mut self, time: Duration) {
        self.feed.run(&mut self.sim, time);
    }

    /// Requests in turn on all gates, 10 ms apart.
    fn requests(&mut self, count: usize) {
        for at in 0..count {
            let (worker, root) = self.gates[at % self.gates.len()];
            self.sim.request(worker, root, Request::get("/x?secret", "9.9.9.9"));
            self.run(Duration::from_millis(10));
        }
    }

    /// The numbers stored of each source, which must be one run from 1.
    fn stored(&self) -> BTreeMap<VmId, u64> {
        let mut numbers: BTreeMap<VmId, BTreeSet<u64>> = BTreeMap::new();
        for (source, event) in &self.feed.events {
            numbers.entry(*source).or_default().insert(event.number);
        }
        let count = |(source, numbers): (VmId, BTreeSet<u64>)| {
            assert_eq!(
                numbers.last().copied(),
                Some(numbers.len() as u64),
                "{source} has holes: {numbers:?}"
            );
            (source, numbers.len() as u64)
        };
        numbers.into_iter().map(count).collect()
    }

    fn total(&self) -> u64 {
        self.stored().values().sum()
    }

    fn last_state(&self, source: VmId) -> Option<SourceState> {
        let mut reports = self.feed.posts.iter().rev().flat_map(|post| &post.sources);
        reports.find(|report| report.source == source).map(|report| report.state)
    }

    fn holder(&self) -> usize {
        let calls = self.sim.calls();
        let poll = calls.iter().find(|call| call.path.contains("/sync?")).expect("somebody polls");
        let is = |(_, root): &(Worker, Root)| format!("{root:?}") == format!("Root({})", poll.root);
        self.gates.iter().position(is).expect("a gate polls")
    }
}

#[test]
fn every_request_is_one_event_with_what_became_of_it() {
    let mut testbed = Testbed::new(3);
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    testbed.requests(30);
    let (worker, root) = testbed.gates[0];
    testbed.sim.request(worker, root, Request::get("/y", "8.8.8.8"));
    testbed.sim.refuse(worker, root);
    // Refused by the codec, and for want of memory; the access log tells of three others too, each of which
    // has an event.
    for (request, answer) in [
        (Request::default(), None),
        (Request::get("/busy", "8.8.8.8"), Some((503, "overload"))),
        (Request::get("/denied", "8.8.8.8"), Some((503, "check_unavailable"))),
        (Request::default(), Some((400, "http1.codec_error"))),
        (Request::get("/left", "8.8.8.8"), None),
    ] {
        testbed.sim.log_to_root(worker, root, request, answer);
    }
    testbed.run(SECOND);
    assert_eq!(testbed.total(), 34);
    let count = |verdict| testbed.feed.events.iter().filter(|(_, event)| event.verdict == verdict).count();
    assert_eq!([VerdictCode::Deny, VerdictCode::Allow, VerdictCode::Unseen].map(count), [30, 1, 3]);
    let (_, denied) = testbed.feed.events.iter().find(|(_, e)| e.verdict == VerdictCode::Deny).unwrap();
    assert_eq!(denied.reason.as_deref(), Some("ip_banned"));
    assert_eq!(denied.rule.as_deref(), Some("9.9.9.9"));
    assert_eq!(denied.path.as_deref(), Some(&b"/x"[..]), "without its query");
    assert_eq!(testbed.sim.metric("tidegate.events.numbered"), 34);
    assert_eq!(testbed.sim.metric("tidegate.requests.unseen"), 3);
    assert_eq!(testbed.sim.metric("tidegate.queue.bytes"), 0);
}

#[test]
fn a_request_over_http3_is_one_event_too() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    let (worker, root) = testbed.gates[0];
    let http3 = |client| Request::get("/x?secret", client).over_http3();
    // Denied before all of the body that they declare has come.
    let declared = |request: Request| request.header(b"content-length", b"5000").body(1_200);
    for _ in 0..20 {
        testbed.sim.request(worker, root, declared(http3("9.9.9.9")));
        testbed.sim.request(worker, root, declared(Request::get("/x?secret", "9.9.9.9")));
    }
    for request in [http3("8.8.4.4"), Request::get("/y", "8.8.4.4")] {
        testbed.sim.request(worker, root, request.body(300));
    }
    let left = testbed.sim.begin(worker, root, http3("8.8.8.8"));
    testbed.sim.leave(left);
    testbed.run(SECOND);
    assert_eq!(testbed.total(), 43);
    let denied = |(_, e): &&(VmId, TrafficEvent)| e.verdict == VerdictCode::Deny && e.status == Some(403);
    let denied: Vec<_> = testbed.feed.events.iter().filter(denied).collect();
    let sizes: BTreeSet<_> = denied.iter().map(|(_, e)| (e.bytes_in, e.bytes_out)).collect();
    assert_eq!((denied.len(), sizes.len()), (40, 1), "{sizes:?}");
    assert!(sizes.iter().all(|(received, _)| *received == Some(1_200)), "{sizes:?}");
    let of = |ip: [u8; 4]| testbed.feed.events.iter().filter(move |(_, e)| e.client == Some(ip.into()));
    for (_, event) in of([8, 8, 4, 4]) {
        assert_eq!((event.bytes_in, event.bytes_out), (Some(300), Some(1_000)), "bodies alone");
    }
    let (_, left) = of([8, 8, 8, 8]).next().unwrap();
    assert_eq!((left.status, left.path.as_deref()), (None, Some(&b"/x"[..])), "reset by its client");
}

#[test]
fn an_admin_service_that_is_away_costs_no_event() {
    let mut testbed = Testbed::new(2);
    testbed.requests(20);
    testbed.feed.up = false;
    testbed.requests(200);
    testbed.run(20 * SECOND);
    testbed.requests(50);
    testbed.feed.up = true;
    testbed.run(10 * SECOND);
    assert_eq!(testbed.total(), 270);
    assert_eq!(testbed.feed.duplicates, 0);
    assert!(testbed.feed.posts.iter().all(|post| post.dropped.is_empty()));
}

#[test]
fn the_singleton_takes_over_from_a_worker_that_has_its_hands_full() {
    let mut testbed = Testbed::new(2);
    testbed.feed.takes_events = false;
    testbed.requests(100);
    testbed.worker(RECORDER);
    testbed.requests(20);
    testbed.feed.takes_events = true;
    testbed.run(10 * SECOND);
    assert_eq!(testbed.total(), 120, "what the worker held went back into the queue");
}

#[test]
fn a_drainer_that_traps_takes_with_it_only_what_it_held() {
    let mut testbed = Testbed::new(3);
    testbed.requests(30);
    testbed.run(SECOND);
    assert_eq!(testbed.total(), 30);
    let holder = testbed.holder();
    let (worker, _) = testbed.gates.remove(holder);
    let alive: BTreeSet<VmId> = testbed.stored().into_keys().collect();
    testbed.sim.trap(worker);
    testbed.requests(40);
    testbed.run(15 * SECOND);
    assert_eq!(testbed.total(), 70, "it held nothing, and the next holder drains");
    let dead = |source: &&VmId| testbed.last_state(**source) == Some(SourceState::Dead);
    assert_eq!(alive.iter().filter(dead).count(), 1, "the one that trapped is reported");
}

#[test]
fn the_number_goes_on_when_one_of_two_roots_goes() {
    let mut testbed = Testbed::new(1);
    let (worker, first) = testbed.gates[0];
    let (second, accepted) = testbed.sim.root(worker, GATE, ENVOY_ROUTES);
    assert!(accepted);
    testbed.requests(10);
    testbed.sim.drop_root(worker, first);
    testbed.gates[0] = (worker, second);
    testbed.requests(10);
    testbed.run(10 * SECOND);
    assert_eq!(testbed.stored().into_values().collect::<Vec<_>>(), [20], "one source, no holes");
}

#[test]
fn a_vm_closes_with_its_last_root() {
    let mut testbed = Testbed::new(2);
    testbed.requests(10);
    let holder = testbed.holder();
    // The drainer itself goes, in the middle of a post that nobody answers.
    testbed.feed.up = false;
    testbed.requests(10);
    let (worker, root) = testbed.gates.remove(holder);
    testbed.sim.drop_root(worker, root);
    testbed.feed.up = true;
    testbed.run(15 * SECOND);
    assert_eq!(testbed.total(), 20, "the other worker drains what it handed back");
    let batches = testbed.feed.posts.iter().flat_map(|post| &post.batches);
    let heads = batches.map(|batch| BatchHead::read(&batch.0).unwrap().0);
    let closing: Vec<(VmId, u64)> =
        heads.filter(|head| head.closing).map(|head| (head.source, head.numbered_hi)).collect();
    assert_eq!(closing.len(), 1);
    assert_eq!(testbed.stored().get(&closing[0].0), Some(&closing[0].1), "its last figure is right");
}

/// Flips the way of recording under load: responses wait or not, are answered,
/// refused, or left without an answer; requests end in any order, long after
/// others, with another status than their headers had, or with a client gone.
#[test]
fn events_are_exact_while_the_way_of_recording_changes_under_load() {
    let mut rng = TestRng::new(0x1dea);
    let mut testbed = Testbed::new(3);
    testbed.feed.ban("9.9.9.0/24");
    testbed.run(SECOND);
    let states = [FlagState::On, FlagState::Off, FlagState::Share(50)];
    let faults =
        [None, None, Some(LastingFault::Status(503)), Some(LastingFault::Never), Some(LastingFault::Reset)];
    let mut open: Vec<StreamId> = Vec::new();
    let requests = 2_000;
    for at in 0..requests {
        if at % 50 == 0 {
            testbed.feed.set_flag(Flag::AsyncRecording, rng.pick(&states));
            testbed.feed.open_fault = rng.pick(&faults);
            testbed.run(Duration::from_millis(5));
        }
        let (worker, root) = rng.pick(&testbed.gates);
        let client = rng.pick(&["9.9.9.9", "1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]);
        open.push(testbed.sim.begin(worker, root, Request::get("/x", client)));
        for _ in 0..rng.below(4) {
            if !open.is_empty() {
                let stream = open.swap_remove(rng.below(open.len()));
                testbed.advance(stream, &mut rng, &mut open);
            }
        }
        if rng.below(8) == 0 {
            testbed.run(Duration::from_millis(60));
        }
    }
    testbed.feed.open_fault = None;
    testbed.run(5 * SECOND);
    for stream in open {
        testbed.sim.finish(stream);
    }
    testbed.run(10 * SECOND);

    assert_eq!(testbed.total(), requests as u64, "one event for each request");
    assert_eq!(testbed.sim.metric("tidegate.events.numbered"), requests as u64);
    assert_eq!(testbed.feed.duplicates, 0);
    assert!(testbed.feed.open.is_empty(), "every event that was sent ahead was completed");
    assert!(testbed.feed.posts.iter().all(|post| post.dropped.is_empty()));
    assert!(testbed.sim.metric("tidegate.recording.sync.stored") > 50);
    assert!(testbed.sim.metric("tidegate.recording.sync.failed") > 50);
    testbed.compare_with_those_sent_ahead();
}

impl Testbed {
    /// What may happen next to a request; back into `open` unless it is over.
    fn advance(&mut self, stream: StreamId, rng: &mut TestRng, open: &mut Vec<StreamId>) {
        match (self.sim.waits(stream), rng.below(10)) {
            (_, 0) => drop(self.sim.leave(stream)),
            (Some(Waits::Nobody), 1) => {
                self.sim.turn(stream, 504, "upstream_response_timeout");
                self.sim.finish(stream);
            }
            (Some(Waits::Nobody), _) => drop(self.sim.finish(stream)),
            (Some(Waits::Upstream), _) => {
                self.sim.upstream(stream, 200, &[]);
                open.push(stream);
            }
            _ => open.push(stream),
        }
    }

    /// An event that was sent ahead and the one that completes it are one event:
    /// they differ in what only the end of a request tells.
    fn compare_with_those_sent_ahead(&self) {
        let at_the_end = |event: &TrafficEvent| TrafficEvent {
            status: None,
            duration_us: None,
            upstream_us: None,
            gate_us: None,
            bytes_in: None,
            bytes_out: None,
            ..event.clone()
        };
        let complete: BTreeMap<(VmId, u64), &TrafficEvent> =
            self.feed.events.iter().map(|(source, event)| ((*source, event.number), event)).collect();
        let mut turned = 0;
        for ahead in &self.feed.opened {
            let event = complete[&(ahead.source, ahead.event.number)];
            assert_eq!(at_the_end(event), at_the_end(&ahead.event));
            turned += usize::from(event.status != ahead.event.status);
        }
        assert!(self.feed.opened.len() > 100 && turned > 0, "{turned} of {}", self.feed.opened.len());
    }
}
