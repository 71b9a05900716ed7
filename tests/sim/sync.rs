//! Scenarios of the sync over the simulated host: what Envoy will not do on
//! demand.

mod bases;
mod clocks;
mod overwritten;

use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{Fault, Feed, Request, Response, Root, Sim, Worker};
use tidegate_policy::tables::Table;
use tidegate_policy::wire::sync::SyncAnswer;

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;
const GATE: &str = "tidegate";
const RECORDER: &str = "tidegate_recorder";
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

struct Testbed {
    sim: Sim,
    feed: Feed,
    gates: Vec<(Worker, Root)>,
}

impl Testbed {
    /// A process with this many workers and a feed, at rest.
    fn new(workers: usize) -> Self {
        let mut sim = Sim::new(module);
        assert!(sim.canary(GATE, CONFIG));
        let gates = (0..workers).map(|_| gate(&mut sim)).collect();
        let mut testbed = Self { sim, feed: Feed::new(), gates };
        testbed.run(SECOND);
        testbed
    }

    fn run(&mut self, time: Duration) {
        self.feed.run(&mut self.sim, time);
    }

    fn get(&mut self, gate: usize, client: &str) -> Response {
        let (worker, root) = self.gates[gate];
        self.sim.request(worker, root, Request::get("/x", client))
    }

    fn statuses(&mut self, client: &str) -> Vec<u16> {
        (0..self.gates.len()).map(|gate| self.get(gate, client).status).collect()
    }

    /// The gate that pulls: the one whose root has a poll open.
    fn holder(&self) -> usize {
        let polls: Vec<u32> = self.polls();
        assert_eq!(polls.len(), 1, "one poll a process");
        let is = |(_, root): &(Worker, Root)| format!("{root:?}") == format!("Root({})", polls[0]);
        self.gates.iter().position(is).expect("a gate polls")
    }

    fn polls(&self) -> Vec<u32> {
        let calls = self.sim.calls();
        let polls = calls.iter().filter(|call| call.path.starts_with("/api/data-plane/v1/sync?"));
        polls.map(|call| call.root).collect()
    }
}

fn gate(sim: &mut Sim) -> (Worker, Root) {
    let worker = sim.worker();
    let (root, accepted) = sim.root(worker, GATE, CONFIG);
    assert!(accepted, "{:?}", sim.errors());
    (worker, root)
}

#[test]
fn a_ban_reaches_every_vm_within_one_round_of_wake_ups() {
    let mut testbed = Testbed::new(4);
    assert_eq!(testbed.statuses("9.9.9.9"), [200; 4]);
    testbed.feed.ban("9.9.9.9");
    // No time passes: no tick is needed.
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.statuses("9.9.9.9"), [403; 4]);
    assert_eq!(testbed.statuses("9.9.9.8"), [200; 4]);
    testbed.feed.unban("9.9.9.9");
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.statuses("9.9.9.9"), [200; 4]);
    assert_eq!(testbed.get(0, "9.9.9.9").cluster.as_deref(), Some("demo"));
}

#[test]
fn an_ack_is_posted_once_all_that_serve_enforce() {
    let mut testbed = Testbed::new(3);
    testbed.statuses("1.1.1.1");
    testbed.run(SECOND);
    testbed.feed.ack_wanted = true;
    testbed.feed.ban("9.9.9.9");
    testbed.feed.serve(&mut testbed.sim);
    let ack = *testbed.feed.acks.last().expect("posted at once");
    assert_eq!((ack.version, ack.live, ack.stale), (testbed.feed.version(), 3, 0));
    // A worker that hangs holds the ack up until it is stale, and says so.
    let slow = (testbed.holder() + 1) % 3;
    testbed.sim.stall(testbed.gates[slow].0);
    testbed.feed.ban("8.8.8.8");
    testbed.run(SECOND);
    assert_ne!(testbed.feed.acks.last().unwrap().version, testbed.feed.version());
    testbed.run(2 * SECOND);
    let ack = *testbed.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.live, ack.stale), (testbed.feed.version(), 2, 1));
    testbed.sim.resume(testbed.gates[slow].0);
    testbed.run(SECOND);
    let ack = *testbed.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.live, ack.stale), (testbed.feed.version(), 3, 0));
}

#[test]
fn a_vm_that_was_not_heard_of_looks_before_it_decides() {
    let mut testbed = Testbed::new(3);
    assert_eq!(testbed.statuses("9.9.9.9"), [200; 3]);
    let slow = (testbed.holder() + 1) % 3;
    testbed.sim.stall(testbed.gates[slow].0);
    testbed.run(3 * SECOND);
    testbed.feed.ban("9.9.9.9");
    testbed.run(MS);
    // Its thread takes a request before it gets to its timer.
    assert_eq!(testbed.get(slow, "9.9.9.9").status, 403);
}

#[test]
fn a_vm_that_comes_back_is_not_taken_for_one_that_enforces() {
    let mut testbed = Testbed::new(3);
    testbed.feed.ack_wanted = true;
    testbed.statuses("9.9.9.9");
    testbed.run(SECOND);
    let slow = (testbed.holder() + 1) % 3;
    let (worker, root) = testbed.gates[slow];
    for away in [1, 15] {
        testbed.sim.stall(worker);
        testbed.run(3 * SECOND);
        // Nobody wakes it for this, which takes many callbacks to load.
        let banned = format!("9.9.9.{away}");
        testbed.feed.ban_many(300_000 + away);
        testbed.feed.ban(&banned);
        testbed.run(away * SECOND);
        let acked = *testbed.feed.acks.last().unwrap();
        assert_eq!((acked.version, acked.live), (testbed.feed.version(), 2));
        testbed.sim.resume(worker);
        // Its timer comes first, and requests between any two callbacks.
        testbed.sim.advance(Duration::ZERO);
        for _ in 0..1_000 {
            let lets_through = testbed.sim.request(worker, root, Request::get("/x", &banned)).status == 200;
            let ack = *testbed.feed.acks.last().unwrap();
            assert!(!lets_through || ack.stale > 0, "after {away} s: {ack:?}");
            if !testbed.sim.deliver() && !testbed.feed.answer_all(&mut testbed.sim) {
                testbed.sim.advance(MS);
            }
        }
        assert_eq!(testbed.statuses(&banned), [403; 3]);
    }
}

#[test]
fn two_vms_race_for_the_lease_and_one_polls() {
    let mut testbed = Testbed::new(2);
    assert_eq!(testbed.polls().len(), 1);
    let first = testbed.holder();
    testbed.run(10 * SECOND);
    assert_eq!(testbed.holder(), first, "a lease that is renewed stays");
    // The other takes over from one that sleeps, and the sleeper gives in.
    testbed.sim.stall(testbed.gates[first].0);
    testbed.run(3 * SECOND);
    testbed.feed.ban("9.9.9.9");
    testbed.run(MS);
    assert_eq!(testbed.get(1 - first, "9.9.9.9").status, 403);
    testbed.sim.resume(testbed.gates[first].0);
    testbed.run(SECOND);
    assert_eq!(testbed.get(first, "9.9.9.9").status, 403);
    assert_eq!(testbed.sim.metric("tidegate.sync.poll_failures"), 0);
}

#[test]
fn a_holder_that_traps_at_any_host_call_of_a_publish_does_no_harm() {
    for calls in 0..60 {
        let mut testbed = Testbed::new(2);
        testbed.statuses("9.9.9.9");
        let holder = testbed.holder();
        testbed.sim.trap_after(testbed.gates[holder].0, calls);
        testbed.feed.ban("9.9.9.9");
        testbed.run(5 * SECOND);
        assert_eq!(testbed.statuses("9.9.9.9"), [403; 2], "after {calls} host calls");
        testbed.feed.ban("7.7.7.7");
        testbed.run(3 * SECOND);
        assert_eq!(testbed.statuses("7.7.7.7"), [403; 2], "after {calls} host calls");
        assert!(testbed.sim.errors().is_empty(), "{:?}", testbed.sim.errors());
    }
}

#[test]
fn a_root_dropped_during_its_long_poll_is_replaced_by_another_of_its_vm() {
    let mut sim = Sim::new(module);
    let worker = sim.worker();
    let (one, _) = sim.root(worker, GATE, CONFIG);
    let other_config = r#"{"admin": {"cluster": "admin", "token": "secret"}, "on_no_route": "pass"}"#;
    let (two, _) = sim.root(worker, GATE, other_config);
    let mut testbed = Testbed { sim, feed: Feed::new(), gates: vec![(worker, one), (worker, two)] };
    testbed.run(SECOND);
    let owner = testbed.holder();
    assert_eq!(testbed.polls().len(), 1, "two roots, one poll");
    assert_eq!(testbed.sim.keys().iter().filter(|key| key.contains("/slot/")).count(), 1, "and one slot");
    let (gone, left) = (testbed.gates[owner].1, testbed.gates[1 - owner]);
    testbed.sim.drop_root(worker, gone);
    assert!(testbed.polls().is_empty(), "cancelled without a callback");
    testbed.gates = vec![left];
    testbed.run(SECOND);
    assert_eq!(testbed.holder(), 0);
    testbed.feed.ban("9.9.9.9");
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
}

#[test]
fn a_vm_that_ended_holds_up_no_ack() {
    let mut testbed = Testbed::new(2);
    testbed.statuses("1.1.1.1");
    testbed.run(SECOND);
    let (worker, root) = testbed.gates[0];
    testbed.sim.drop_root(worker, root);
    testbed.gates.remove(0);
    // Past the time from which a silent slot counts as stale.
    testbed.run(3 * SECOND);
    testbed.feed.ack_wanted = true;
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    let ack = testbed.feed.acks.last().expect("an ack");
    assert_eq!((ack.version, ack.live, ack.stale), (testbed.feed.version(), 1, 0));
}

#[test]
fn a_holder_that_ended_gives_up_its_lease() {
    let mut testbed = Testbed::new(3);
    let holder = testbed.holder();
    let (worker, root) = testbed.gates.remove(holder);
    testbed.sim.drop_root(worker, root);
    assert!(testbed.polls().is_empty());
    testbed.run(300 * MS);
    testbed.holder();
    testbed.feed.ban("9.9.9.9");
    testbed.run(MS);
    assert_eq!(testbed.statuses("9.9.9.9"), [403; 2]);
}

#[test]
fn a_root_that_went_without_a_word_is_missed() {
    let mut sim = Sim::new(module);
    let worker = sim.worker();
    let (one, _) = sim.root(worker, GATE, CONFIG);
    let second = gate(&mut sim);
    let mut testbed = Testbed { sim, feed: Feed::new(), gates: vec![(worker, one), second] };
    testbed.run(SECOND);
    let holder = testbed.holder();
    // Its poll vanishes: no answer, no timeout.
    let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap();
    testbed.sim.lose(poll.id);
    testbed.run(45 * SECOND);
    assert_eq!(testbed.holder(), holder, "the watchdog has asked again");
    testbed.feed.ban("9.9.9.9");
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.statuses("9.9.9.9"), [403; 2]);
}

#[test]
fn the_canary_only_reads() {
    let mut sim = Sim::new(module);
    assert!(sim.canary(GATE, CONFIG));
    assert!(sim.canary(RECORDER, CONFIG));
    assert!(sim.keys().is_empty(), "{:?}", sim.keys());
    assert!(sim.calls().is_empty());
    sim.advance(5 * SECOND);
    assert!(sim.keys().is_empty());
    assert!(!sim.canary(GATE, r#"{"admin": {"cluster": "admin", "token": "secret", "tiemout": "1s"}}"#));
    let mut testbed = Testbed::new(2);
    let slots = testbed.sim.keys();
    assert!(testbed.sim.canary(GATE, CONFIG), "while others run");
    testbed.run(SECOND);
    assert_eq!(testbed.sim.keys(), slots);
    testbed.feed.ban("9.9.9.9");
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.statuses("9.9.9.9"), [403; 2]);
}

#[test]
fn callouts_that_fail_time_out_or_are_refused_are_tried_again() {
    let mut testbed = Testbed::new(2);
    let expect = |testbed: &mut Testbed, client: &str| {
        testbed.feed.ban(client);
        testbed.run(12 * SECOND);
        assert_eq!(testbed.statuses(client), [403; 2], "{client}");
    };
    let poll = |testbed: &Testbed| {
        testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id
    };
    let open = poll(&testbed);
    testbed.sim.fail(open);
    expect(&mut testbed, "1.1.1.1");
    let open = poll(&testbed);
    testbed.sim.answer(open, 504, b"");
    expect(&mut testbed, "2.2.2.2");
    let open = poll(&testbed);
    testbed.sim.answer(open, 200, b"");
    expect(&mut testbed, "3.3.3.3");
    for known in [true, false] {
        testbed.sim.know_cluster(known);
        testbed.sim.refuse_calls(known);
        let open = poll(&testbed);
        testbed.sim.fail(open);
        testbed.run(10 * SECOND);
        testbed.sim.know_cluster(true);
        testbed.sim.refuse_calls(false);
        expect(&mut testbed, if known { "4.4.4.4" } else { "5.5.5.5" });
    }
    testbed.feed.up = false;
    let open = poll(&testbed);
    testbed.sim.fail(open);
    testbed.run(20 * SECOND);
    assert_eq!(testbed.statuses("1.1.1.1"), [403; 2], "enforced while nobody answers");
    testbed.feed.up = true;
    testbed.feed.restart();
    expect(&mut testbed, "6.6.6.6");
    assert_eq!(testbed.statuses("1.1.1.1"), [403; 2], "another epoch, the same bans");
    assert!(testbed.sim.metric("tidegate.sync.poll_failures") > 0);
}

#[test]
fn a_corrupt_answer_leaves_the_tables_and_is_asked_for_again() {
    for fault in [Fault::Truncated, Fault::Digest, Fault::WholeTable, Fault::NoTable] {
        let mut testbed = Testbed::new(2);
        testbed.feed.ban("1.1.1.1");
        testbed.run(MS);
        assert_eq!(testbed.statuses("1.1.1.1"), [403; 2]);
        // Wrong twice: the second is the answer to a poll for everything.
        testbed.feed.faults.extend([fault, fault]);
        testbed.feed.set_whole(Table::Routes, tidegate_host_sim::empty_routes());
        testbed.feed.ban("9.9.9.9");
        testbed.feed.serve(&mut testbed.sim);
        assert_eq!(testbed.statuses("1.1.1.1"), [403; 2], "{fault:?}");
        assert_eq!(testbed.statuses("9.9.9.9"), [200; 2], "{fault:?}: nothing of it is enforced");
        testbed.run(SECOND);
        assert_eq!(testbed.statuses("9.9.9.9"), [403; 2], "{fault:?}");
        assert_eq!(testbed.statuses("8.8.8.8"), [404; 2], "{fault:?}: routes came as well");
        assert_eq!(testbed.sim.metric("tidegate.sync.decode_failures"), 2, "{fault:?}");
        let polls = testbed.feed.served["poll"];
        testbed.run(SECOND);
        assert_eq!(testbed.feed.served["poll"], polls, "{fault:?}: and then there is peace");
    }
}

#[test]
fn what_is_published_and_does_not_decode_is_left_aside() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban("1.1.1.1");
    testbed.run(MS);
    testbed.sim.overwrite("/manifest", |value| value.truncate(5));
    testbed.run(2 * SECOND);
    assert_eq!(testbed.statuses("1.1.1.1"), [403; 2]);
    assert_eq!(testbed.sim.metric("tidegate.sync.decode_failures"), 2, "once a VM, not once a look");
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    assert_eq!(testbed.statuses("9.9.9.9"), [403; 2], "the next publish heals it");
}

#[test]
fn a_reloaded_vm_is_warm_at_its_first_request() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban("9.9.9.9");
    testbed.run(2 * SECOND);
    for gate in 0..2 {
        testbed.sim.trap(testbed.gates[gate].0);
        assert_eq!(testbed.get(gate, "9.9.9.9").status, 403, "gate {gate}");
        assert_eq!(testbed.get(gate, "9.9.9.8").status, 200, "gate {gate}");
        testbed.feed.ban(&format!("9.9.9.1{gate}"));
        testbed.run(3 * SECOND);
        assert_eq!(testbed.statuses(&format!("9.9.9.1{gate}")), [403; 2]);
    }
}

#[test]
fn a_dead_vms_slot_is_taken_by_the_next() {
    let mut testbed = Testbed::new(3);
    testbed.statuses("1.1.1.1");
    let slots = |testbed: &Testbed| testbed.sim.keys().iter().filter(|key| key.contains("/slot/")).count();
    assert_eq!(slots(&testbed), 3);
    let dead = (testbed.holder() + 1) % 3;
    testbed.sim.trap(testbed.gates[dead].0);
    testbed.feed.ack_wanted = true;
    testbed.feed.ban("9.9.9.9");
    testbed.run(3 * SECOND);
    assert_eq!(testbed.feed.acks.last().unwrap().stale, 1);
    testbed.run(9 * SECOND);
    let last = testbed.feed.acks.last().unwrap();
    assert_eq!((last.live, last.stale), (2, 0), "free after 10 s");
    // It comes back as another VM.
    assert_eq!(testbed.get(dead, "9.9.9.9").status, 403);
    testbed.run(SECOND);
    assert_eq!(slots(&testbed), 3);
}

#[test]
fn a_refresh_loads_everything_anew() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban_many(10);
    testbed.run(MS);
    testbed.statuses("1.1.1.1");
    let pages = testbed.feed.served["page"];
    testbed.feed.ack_wanted = true;
    testbed.feed.order_refresh();
    testbed.run(SECOND);
    assert!(testbed.feed.served["page"] > pages, "fetched although nothing seems changed");
    let ack = testbed.feed.acks.last().unwrap();
    assert_eq!((ack.refresh, ack.live), (1, 2));
    assert_eq!(testbed.statuses("10.0.0.2"), [403; 2]);
}

#[test]
fn a_refresh_of_another_epoch_is_carried_out_as_well() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban_many(10);
    testbed.run(MS);
    testbed.statuses("1.1.1.1");
    let pages = testbed.feed.served["page"];
    testbed.feed.ack_wanted = true;
    // Ordered before this gateway has heard of the new epoch, whose tables are the same.
    testbed.feed.restart();
    testbed.feed.order_refresh();
    let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
    testbed.sim.fail(poll);
    testbed.run(SECOND);
    assert!(testbed.feed.served["page"] > pages, "fetched although nothing seems changed");
    let ack = testbed.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.refresh, ack.live), (testbed.feed.version(), 1, 2));
    assert_eq!(testbed.statuses("10.0.0.2"), [403; 2]);
}

#[test]
fn an_answer_that_only_asks_for_an_ack_is_no_failure() {
    let mut testbed = Testbed::new(2);
    testbed.statuses("1.1.1.1");
    testbed.run(SECOND);
    for round in 1..=5 {
        let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
        let asks = SyncAnswer {
            version: testbed.feed.version(),
            refresh: 0,
            server_time_ms: testbed.sim.wall_ms(),
            ack_wanted: true,
            whole: Vec::new(),
            bans: None,
        };
        testbed.sim.answer(poll, 200, &asks.to_bytes().unwrap());
        testbed.run(60 * MS);
        assert_eq!(testbed.polls().len(), 1, "round {round}: polls again, without waiting longer each time");
        assert_eq!(testbed.feed.acks.last().map(|ack| (ack.version, ack.live)), Some((asks.version, 2)));
    }
    assert_eq!(testbed.sim.metric("tidegate.sync.poll_failures"), 0);
}

#[test]
fn a_service_that_was_away_for_long_is_asked_again_within_a_second_and_a_half() {
    let mut testbed = Testbed::new(2);
    testbed.statuses("1.1.1.1");
    testbed.feed.up = false;
    let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
    testbed.sim.fail(poll);
    for _ in 0..5 {
        testbed.run(20 * SECOND);
        testbed.feed.up = true;
        testbed.feed.ban("9.9.9.9");
        testbed.run(SECOND + SECOND / 2);
        assert_eq!(testbed.statuses("9.9.9.9"), [403; 2]);
        testbed.feed.unban("9.9.9.9");
        testbed.run(SECOND);
        testbed.feed.up = false;
        let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
        testbed.sim.fail(poll);
    }
}

#[test]
fn a_request_keeps_the_tables_that_it_began_with() {
    let mut testbed = Testbed::new(1);
    let seq = testbed.feed.version().seq;
    let (worker, root) = testbed.gates[0];
    let stream = testbed.sim.begin(worker, root, Request::get("/x", "9.9.9.9"));
    testbed.feed.ban("9.9.9.9");
    testbed.run(MS);
    assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
    assert_eq!(testbed.sim.finish(stream).status, 200);
    testbed.run(SECOND);
    let seqs: Vec<u64> = testbed.feed.events.iter().map(|(_, event)| event.tables_seq).collect();
    assert_eq!(seqs, [seq + 1, seq], "the one that ended first came first");
}

/// Longer than a poll without news takes.
const A_POLL: Duration = Duration::from_secs(11);

#[test]
fn a_poll_that_is_never_answered_holds_tables_up_for_seconds() {
    let mut testbed = Testbed::new(2);
    testbed.run(A_POLL);
    let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap();
    testbed.feed.deaf_to.insert(poll.id);
    testbed.feed.ban("9.9.9.9");
    let began = testbed.sim.now_ns();
    while testbed.statuses("9.9.9.9") != [403; 2] {
        testbed.run(100 * MS);
    }
    let took = Duration::from_nanos(testbed.sim.now_ns() - began);
    assert!(took < 14 * SECOND, "{took:?}");
}

#[test]
fn what_something_in_between_answers_to_a_poll_is_not_heard() {
    let mut testbed = Testbed::new(1);
    for _ in 0..3 {
        testbed.run(SECOND);
        let poll = testbed.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap();
        testbed.feed.deaf_to.insert(poll.id);
        testbed.sim.answer(poll.id, 304, b"");
        testbed.sim.settle();
    }
    testbed.run(SECOND);
    assert_eq!(testbed.sim.metric("tidegate.sync.poll_failures"), 3);
}

#[test]
fn before_the_first_tables_the_service_is_asked_about_each_request() {
    let mut sim = Sim::new(module);
    let first = gate(&mut sim);
    let mut testbed = Testbed { sim, feed: Feed::new(), gates: vec![first] };
    testbed.feed.up = false;
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    let (worker, root) = first;
    let ask = |testbed: &mut Testbed, client| {
        let response = testbed.feed.request(&mut testbed.sim, worker, root, Request::get("/x", client));
        (response.status, response.details)
    };
    assert_eq!(ask(&mut testbed, "1.1.1.1"), (503, "check_unavailable".into()));
    testbed.feed.up = true;
    assert_eq!(ask(&mut testbed, "9.9.9.9"), (403, "ip_banned".into()));
    assert_eq!(testbed.feed.served.get("poll"), None, "not yet polled, so there is no table");
    testbed.run(6 * SECOND);
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "and now there are tables");
    assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
}
