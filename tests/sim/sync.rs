//! Scenarios of the sync over the simulated host: what Envoy will not do on
//! demand.

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

struct Stage {
    sim: Sim,
    feed: Feed,
    gates: Vec<(Worker, Root)>,
}

impl Stage {
    /// A process with this many workers and a feed, at rest.
    fn new(workers: usize) -> Self {
        let mut sim = Sim::new(module);
        assert!(sim.canary(GATE, CONFIG));
        let gates = (0..workers).map(|_| gate(&mut sim)).collect();
        let mut stage = Self { sim, feed: Feed::new(), gates };
        stage.run(SECOND);
        stage
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
    let mut stage = Stage::new(4);
    assert_eq!(stage.statuses("9.9.9.9"), [200; 4]);
    stage.feed.ban("9.9.9.9");
    // No time passes: no tick is needed.
    stage.feed.serve(&mut stage.sim);
    assert_eq!(stage.statuses("9.9.9.9"), [403; 4]);
    assert_eq!(stage.statuses("9.9.9.8"), [200; 4]);
    stage.feed.unban("9.9.9.9");
    stage.feed.serve(&mut stage.sim);
    assert_eq!(stage.statuses("9.9.9.9"), [200; 4]);
    assert_eq!(stage.get(0, "9.9.9.9").cluster.as_deref(), Some("demo"));
}

#[test]
fn an_ack_is_posted_once_all_that_serve_enforce() {
    let mut stage = Stage::new(3);
    stage.statuses("1.1.1.1");
    stage.run(SECOND);
    stage.feed.ack_wanted = true;
    stage.feed.ban("9.9.9.9");
    stage.feed.serve(&mut stage.sim);
    let ack = *stage.feed.acks.last().expect("posted at once");
    assert_eq!((ack.version, ack.live, ack.stale), (stage.feed.version(), 3, 0));
    // A worker that hangs holds the ack up until it is stale, and says so.
    let slow = (stage.holder() + 1) % 3;
    stage.sim.stall(stage.gates[slow].0);
    stage.feed.ban("8.8.8.8");
    stage.run(SECOND);
    assert_ne!(stage.feed.acks.last().unwrap().version, stage.feed.version());
    stage.run(2 * SECOND);
    let ack = *stage.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.live, ack.stale), (stage.feed.version(), 2, 1));
    stage.sim.resume(stage.gates[slow].0);
    stage.run(SECOND);
    let ack = *stage.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.live, ack.stale), (stage.feed.version(), 3, 0));
}

#[test]
fn a_vm_that_was_not_heard_of_looks_before_it_decides() {
    let mut stage = Stage::new(3);
    assert_eq!(stage.statuses("9.9.9.9"), [200; 3]);
    let slow = (stage.holder() + 1) % 3;
    stage.sim.stall(stage.gates[slow].0);
    stage.run(3 * SECOND);
    stage.feed.ban("9.9.9.9");
    stage.run(MS);
    // Its thread takes a request before it gets to its timer.
    assert_eq!(stage.get(slow, "9.9.9.9").status, 403);
}

#[test]
fn a_vm_that_comes_back_is_not_taken_for_one_that_enforces() {
    let mut stage = Stage::new(3);
    stage.feed.ack_wanted = true;
    stage.statuses("9.9.9.9");
    stage.run(SECOND);
    let slow = (stage.holder() + 1) % 3;
    let (worker, root) = stage.gates[slow];
    for away in [1, 15] {
        stage.sim.stall(worker);
        stage.run(3 * SECOND);
        // Nobody wakes it for this, which takes many callbacks to load.
        let banned = format!("9.9.9.{away}");
        stage.feed.ban_many(300_000 + away);
        stage.feed.ban(&banned);
        stage.run(away * SECOND);
        let acked = *stage.feed.acks.last().unwrap();
        assert_eq!((acked.version, acked.live), (stage.feed.version(), 2));
        stage.sim.resume(worker);
        // Its timer comes first, and requests between any two callbacks.
        stage.sim.advance(Duration::ZERO);
        for _ in 0..1_000 {
            let lets_through = stage.sim.request(worker, root, Request::get("/x", &banned)).status == 200;
            let ack = *stage.feed.acks.last().unwrap();
            assert!(!lets_through || ack.stale > 0, "after {away} s: {ack:?}");
            if !stage.sim.deliver() && !stage.feed.answer_all(&mut stage.sim) {
                stage.sim.advance(MS);
            }
        }
        assert_eq!(stage.statuses(&banned), [403; 3]);
    }
}

#[test]
fn two_vms_race_for_the_lease_and_one_polls() {
    let mut stage = Stage::new(2);
    assert_eq!(stage.polls().len(), 1);
    let first = stage.holder();
    stage.run(10 * SECOND);
    assert_eq!(stage.holder(), first, "a lease that is renewed stays");
    // The other takes over from one that sleeps, and the sleeper gives in.
    stage.sim.stall(stage.gates[first].0);
    stage.run(3 * SECOND);
    stage.feed.ban("9.9.9.9");
    stage.run(MS);
    assert_eq!(stage.get(1 - first, "9.9.9.9").status, 403);
    stage.sim.resume(stage.gates[first].0);
    stage.run(SECOND);
    assert_eq!(stage.get(first, "9.9.9.9").status, 403);
    assert_eq!(stage.sim.metric("tidegate.sync.poll_failures"), 0);
}

#[test]
fn a_holder_that_traps_at_any_host_call_of_a_publish_does_no_harm() {
    for calls in 0..60 {
        let mut stage = Stage::new(2);
        stage.statuses("9.9.9.9");
        let holder = stage.holder();
        stage.sim.trap_after(stage.gates[holder].0, calls);
        stage.feed.ban("9.9.9.9");
        stage.run(5 * SECOND);
        assert_eq!(stage.statuses("9.9.9.9"), [403; 2], "after {calls} host calls");
        stage.feed.ban("7.7.7.7");
        stage.run(3 * SECOND);
        assert_eq!(stage.statuses("7.7.7.7"), [403; 2], "after {calls} host calls");
        assert!(stage.sim.errors().is_empty(), "{:?}", stage.sim.errors());
    }
}

#[test]
fn a_root_dropped_during_its_long_poll_is_replaced_by_another_of_its_vm() {
    let mut sim = Sim::new(module);
    let worker = sim.worker();
    let (one, _) = sim.root(worker, GATE, CONFIG);
    let other_config = r#"{"admin": {"cluster": "admin", "token": "secret"}, "on_no_route": "pass"}"#;
    let (two, _) = sim.root(worker, GATE, other_config);
    let mut stage = Stage { sim, feed: Feed::new(), gates: vec![(worker, one), (worker, two)] };
    stage.run(SECOND);
    let owner = stage.holder();
    assert_eq!(stage.polls().len(), 1, "two roots, one poll");
    assert_eq!(stage.sim.keys().iter().filter(|key| key.contains("/slot/")).count(), 1, "and one slot");
    let (gone, left) = (stage.gates[owner].1, stage.gates[1 - owner]);
    stage.sim.drop_root(worker, gone);
    assert!(stage.polls().is_empty(), "cancelled without a callback");
    stage.gates = vec![left];
    stage.run(SECOND);
    assert_eq!(stage.holder(), 0);
    stage.feed.ban("9.9.9.9");
    stage.feed.serve(&mut stage.sim);
    assert_eq!(stage.get(0, "9.9.9.9").status, 403);
}

#[test]
fn a_vm_that_ended_holds_up_no_ack() {
    let mut stage = Stage::new(2);
    stage.statuses("1.1.1.1");
    stage.run(SECOND);
    let (worker, root) = stage.gates[0];
    stage.sim.drop_root(worker, root);
    stage.gates.remove(0);
    // Past the time from which a silent slot counts as stale.
    stage.run(3 * SECOND);
    stage.feed.ack_wanted = true;
    stage.feed.ban("9.9.9.9");
    stage.run(SECOND);
    let ack = stage.feed.acks.last().expect("an ack");
    assert_eq!((ack.version, ack.live, ack.stale), (stage.feed.version(), 1, 0));
}

#[test]
fn a_holder_that_ended_gives_up_its_lease() {
    let mut stage = Stage::new(3);
    let holder = stage.holder();
    let (worker, root) = stage.gates.remove(holder);
    stage.sim.drop_root(worker, root);
    assert!(stage.polls().is_empty());
    stage.run(300 * MS);
    stage.holder();
    stage.feed.ban("9.9.9.9");
    stage.run(MS);
    assert_eq!(stage.statuses("9.9.9.9"), [403; 2]);
}

#[test]
fn a_root_that_went_without_a_word_is_missed() {
    let mut sim = Sim::new(module);
    let worker = sim.worker();
    let (one, _) = sim.root(worker, GATE, CONFIG);
    let second = gate(&mut sim);
    let mut stage = Stage { sim, feed: Feed::new(), gates: vec![(worker, one), second] };
    stage.run(SECOND);
    let holder = stage.holder();
    // Its poll vanishes: no answer, no timeout.
    let poll = stage.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap();
    stage.sim.lose(poll.id);
    stage.run(45 * SECOND);
    assert_eq!(stage.holder(), holder, "the watchdog has asked again");
    stage.feed.ban("9.9.9.9");
    stage.feed.serve(&mut stage.sim);
    assert_eq!(stage.statuses("9.9.9.9"), [403; 2]);
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
    let mut stage = Stage::new(2);
    let slots = stage.sim.keys();
    assert!(stage.sim.canary(GATE, CONFIG), "while others run");
    stage.run(SECOND);
    assert_eq!(stage.sim.keys(), slots);
    stage.feed.ban("9.9.9.9");
    stage.feed.serve(&mut stage.sim);
    assert_eq!(stage.statuses("9.9.9.9"), [403; 2]);
}

#[test]
fn callouts_that_fail_time_out_or_are_refused_are_tried_again() {
    let mut stage = Stage::new(2);
    let expect = |stage: &mut Stage, client: &str| {
        stage.feed.ban(client);
        stage.run(12 * SECOND);
        assert_eq!(stage.statuses(client), [403; 2], "{client}");
    };
    let poll =
        |stage: &Stage| stage.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
    let open = poll(&stage);
    stage.sim.fail(open);
    expect(&mut stage, "1.1.1.1");
    let open = poll(&stage);
    stage.sim.answer(open, 504, b"");
    expect(&mut stage, "2.2.2.2");
    let open = poll(&stage);
    stage.sim.answer(open, 200, b"");
    expect(&mut stage, "3.3.3.3");
    for known in [true, false] {
        stage.sim.know_cluster(known);
        stage.sim.refuse_calls(known);
        let open = poll(&stage);
        stage.sim.fail(open);
        stage.run(10 * SECOND);
        stage.sim.know_cluster(true);
        stage.sim.refuse_calls(false);
        expect(&mut stage, if known { "4.4.4.4" } else { "5.5.5.5" });
    }
    stage.feed.up = false;
    let open = poll(&stage);
    stage.sim.fail(open);
    stage.run(20 * SECOND);
    assert_eq!(stage.statuses("1.1.1.1"), [403; 2], "enforced while nobody answers");
    stage.feed.up = true;
    stage.feed.restart();
    expect(&mut stage, "6.6.6.6");
    assert_eq!(stage.statuses("1.1.1.1"), [403; 2], "another epoch, the same bans");
    assert!(stage.sim.metric("tidegate.sync.poll_failures") > 0);
}

#[test]
fn a_corrupt_answer_leaves_the_tables_and_is_asked_for_again() {
    for fault in [Fault::Truncated, Fault::Digest, Fault::WholeTable, Fault::NoTable] {
        let mut stage = Stage::new(2);
        stage.feed.ban("1.1.1.1");
        stage.run(MS);
        assert_eq!(stage.statuses("1.1.1.1"), [403; 2]);
        // Wrong twice: the second is the answer to a poll for everything.
        stage.feed.faults.extend([fault, fault]);
        stage.feed.set_whole(Table::Routes, tidegate_host_sim::empty_routes());
        stage.feed.ban("9.9.9.9");
        stage.feed.serve(&mut stage.sim);
        assert_eq!(stage.statuses("1.1.1.1"), [403; 2], "{fault:?}");
        assert_eq!(stage.statuses("9.9.9.9"), [200; 2], "{fault:?}: nothing of it is enforced");
        stage.run(SECOND);
        assert_eq!(stage.statuses("9.9.9.9"), [403; 2], "{fault:?}");
        assert_eq!(stage.statuses("8.8.8.8"), [404; 2], "{fault:?}: routes came as well");
        assert_eq!(stage.sim.metric("tidegate.sync.decode_failures"), 2, "{fault:?}");
        let polls = stage.feed.served["poll"];
        stage.run(SECOND);
        assert_eq!(stage.feed.served["poll"], polls, "{fault:?}: and then there is peace");
    }
}

#[test]
fn what_is_published_and_does_not_decode_is_left_aside() {
    let mut stage = Stage::new(2);
    stage.feed.ban("1.1.1.1");
    stage.run(MS);
    stage.sim.overwrite("/manifest", |value| value.truncate(5));
    stage.run(2 * SECOND);
    assert_eq!(stage.statuses("1.1.1.1"), [403; 2]);
    assert_eq!(stage.sim.metric("tidegate.sync.decode_failures"), 2, "once a VM, not once a look");
    stage.feed.ban("9.9.9.9");
    stage.run(SECOND);
    assert_eq!(stage.statuses("9.9.9.9"), [403; 2], "the next publish heals it");
}

#[test]
fn a_reloaded_vm_is_warm_at_its_first_request() {
    let mut stage = Stage::new(2);
    stage.feed.ban("9.9.9.9");
    stage.run(2 * SECOND);
    for gate in 0..2 {
        stage.sim.trap(stage.gates[gate].0);
        assert_eq!(stage.get(gate, "9.9.9.9").status, 403, "gate {gate}");
        assert_eq!(stage.get(gate, "9.9.9.8").status, 200, "gate {gate}");
        stage.feed.ban(&format!("9.9.9.1{gate}"));
        stage.run(3 * SECOND);
        assert_eq!(stage.statuses(&format!("9.9.9.1{gate}")), [403; 2]);
    }
}

#[test]
fn a_dead_vms_slot_is_taken_by_the_next() {
    let mut stage = Stage::new(3);
    stage.statuses("1.1.1.1");
    let slots = |stage: &Stage| stage.sim.keys().iter().filter(|key| key.contains("/slot/")).count();
    assert_eq!(slots(&stage), 3);
    let dead = (stage.holder() + 1) % 3;
    stage.sim.trap(stage.gates[dead].0);
    stage.feed.ack_wanted = true;
    stage.feed.ban("9.9.9.9");
    stage.run(3 * SECOND);
    assert_eq!(stage.feed.acks.last().unwrap().stale, 1);
    stage.run(9 * SECOND);
    let last = stage.feed.acks.last().unwrap();
    assert_eq!((last.live, last.stale), (2, 0), "free after 10 s");
    // It comes back as another VM.
    assert_eq!(stage.get(dead, "9.9.9.9").status, 403);
    stage.run(SECOND);
    assert_eq!(slots(&stage), 3);
}

#[test]
fn a_base_of_a_million_loads_in_steps_while_requests_go_on() {
    let mut stage = Stage::new(2);
    stage.feed.ban("1.1.1.1");
    stage.run(MS);
    let other = 1 - stage.holder();
    stage.feed.ban_many(1_000_000);
    let mut rounds = 0;
    while stage.get(other, "10.0.0.2").status == 200 {
        assert_eq!(stage.get(other, "1.1.1.1").status, 403, "the set before");
        rounds += 1;
        assert!(rounds < 2_000, "never loads");
        // A callback at a time, as a worker gets to its requests between two.
        if !stage.sim.deliver() && !stage.feed.answer_all(&mut stage.sim) {
            stage.sim.advance(MS);
        }
    }
    assert!(rounds > 20, "{rounds}");
    assert_eq!(stage.get(other, "10.0.0.3").status, 200);
    stage.run(SECOND);
    assert_eq!(stage.statuses("10.0.0.2"), [403; 2]);
    // One more among a million costs no more than a page of the base.
    let pages = stage.feed.served["page"];
    stage.feed.ban("2.2.2.2");
    stage.feed.serve(&mut stage.sim);
    assert_eq!(stage.statuses("2.2.2.2"), [403; 2]);
    assert_eq!(stage.feed.served["page"], pages);
}

#[test]
fn a_new_base_is_folded_and_fetched_only_if_the_fold_differs() {
    let mut stage = Stage::new(2);
    for i in 0..50 {
        stage.feed.ban(&format!("9.9.0.{i}"));
    }
    stage.run(MS);
    stage.feed.unban("9.9.0.7");
    stage.feed.cut_base();
    stage.feed.ban("1.1.1.1");
    stage.run(SECOND);
    assert_eq!(stage.statuses("1.1.1.1"), [403; 2]);
    assert_eq!(stage.statuses("9.9.0.8"), [403; 2]);
    assert_eq!(stage.statuses("9.9.0.7"), [200; 2]);
    assert_eq!(stage.sim.metric("tidegate.sync.misfolds"), 0);
    let pages = stage.feed.served.get("page").copied();
    stage.feed.faults.push_back(Fault::Fold);
    stage.feed.ban("2.2.2.2");
    stage.feed.cut_base();
    stage.run(SECOND);
    assert_eq!(stage.statuses("2.2.2.2"), [403; 2]);
    assert_eq!(stage.statuses("192.0.2.77"), [200; 2]);
    assert_eq!(stage.sim.metric("tidegate.sync.misfolds"), 1);
    assert!(stage.feed.served.get("page").copied() > pages);
}

#[test]
fn a_page_that_is_spoilt_or_gone_is_asked_for_again() {
    for fault in [Fault::Page, Fault::Gone] {
        let mut stage = Stage::new(2);
        stage.feed.faults.push_back(fault);
        stage.feed.ban_many(500_000);
        stage.run(8 * SECOND);
        assert_eq!(stage.statuses("10.0.0.2"), [403; 2], "{fault:?}");
        assert_eq!(stage.statuses("10.0.0.3"), [200; 2], "{fault:?}");
        assert!(stage.feed.faults.is_empty());
    }
}

#[test]
fn a_refresh_loads_everything_anew() {
    let mut stage = Stage::new(2);
    stage.feed.ban_many(10);
    stage.run(MS);
    stage.statuses("1.1.1.1");
    let pages = stage.feed.served["page"];
    stage.feed.ack_wanted = true;
    stage.feed.order_refresh();
    stage.run(SECOND);
    assert!(stage.feed.served["page"] > pages, "fetched although nothing seems changed");
    let ack = stage.feed.acks.last().unwrap();
    assert_eq!((ack.refresh, ack.live), (1, 2));
    assert_eq!(stage.statuses("10.0.0.2"), [403; 2]);
}

#[test]
fn a_refresh_of_another_epoch_is_carried_out_as_well() {
    let mut stage = Stage::new(2);
    stage.feed.ban_many(10);
    stage.run(MS);
    stage.statuses("1.1.1.1");
    let pages = stage.feed.served["page"];
    stage.feed.ack_wanted = true;
    // Ordered before this gateway has heard of the new epoch, whose tables are the same.
    stage.feed.restart();
    stage.feed.order_refresh();
    let poll = stage.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
    stage.sim.fail(poll);
    stage.run(SECOND);
    assert!(stage.feed.served["page"] > pages, "fetched although nothing seems changed");
    let ack = stage.feed.acks.last().unwrap();
    assert_eq!((ack.version, ack.refresh, ack.live), (stage.feed.version(), 1, 2));
    assert_eq!(stage.statuses("10.0.0.2"), [403; 2]);
}

#[test]
fn an_answer_that_only_asks_for_an_ack_is_no_failure() {
    let mut stage = Stage::new(2);
    stage.statuses("1.1.1.1");
    stage.run(SECOND);
    for round in 1..=5 {
        let poll = stage.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
        let asks = SyncAnswer {
            version: stage.feed.version(),
            refresh: 0,
            server_time_ms: stage.sim.wall_ms(),
            ack_wanted: true,
            whole: Vec::new(),
            bans: None,
        };
        stage.sim.answer(poll, 200, &asks.to_bytes().unwrap());
        stage.run(60 * MS);
        assert_eq!(stage.polls().len(), 1, "round {round}: polls again, without waiting longer each time");
        assert_eq!(stage.feed.acks.last().map(|ack| (ack.version, ack.live)), Some((asks.version, 2)));
    }
    assert_eq!(stage.sim.metric("tidegate.sync.poll_failures"), 0);
}

#[test]
fn a_service_that_was_away_for_long_is_asked_again_within_a_second_and_a_half() {
    let mut stage = Stage::new(2);
    stage.statuses("1.1.1.1");
    stage.feed.up = false;
    let poll = stage.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
    stage.sim.fail(poll);
    for _ in 0..5 {
        stage.run(20 * SECOND);
        stage.feed.up = true;
        stage.feed.ban("9.9.9.9");
        stage.run(SECOND + SECOND / 2);
        assert_eq!(stage.statuses("9.9.9.9"), [403; 2]);
        stage.feed.unban("9.9.9.9");
        stage.run(SECOND);
        stage.feed.up = false;
        let poll = stage.sim.calls().into_iter().find(|call| call.path.contains("/sync?")).unwrap().id;
        stage.sim.fail(poll);
    }
}

#[test]
fn a_request_keeps_the_tables_that_it_began_with() {
    let mut stage = Stage::new(1);
    let seq = stage.feed.version().seq;
    let (worker, root) = stage.gates[0];
    let stream = stage.sim.begin(worker, root, Request::get("/x", "9.9.9.9"));
    stage.feed.ban("9.9.9.9");
    stage.run(MS);
    assert_eq!(stage.get(0, "9.9.9.9").status, 403);
    assert_eq!(stage.sim.finish(stream).status, 200);
    stage.run(SECOND);
    let seqs: Vec<u64> = stage.feed.events.iter().map(|(_, event)| event.tables_seq).collect();
    assert_eq!(seqs, [seq + 1, seq], "the one that ended first came first");
}

#[test]
fn entries_expire_by_the_admin_services_clock() {
    let mut stage = Stage::new(1);
    let now = u32::try_from(stage.sim.wall_ms() / 1000).unwrap();
    stage.feed.ban_until("9.9.9.9", Some(now + 5));
    stage.run(MS);
    assert_eq!(stage.get(0, "9.9.9.9").status, 403);
    stage.run(3 * SECOND);
    assert_eq!(stage.get(0, "9.9.9.9").status, 403);
    stage.run(2 * SECOND);
    assert_eq!(stage.get(0, "9.9.9.9").status, 200);
    stage.feed.clock_ahead_ms = 60_000;
    stage.feed.ban_until("8.8.8.8", Some(now + 30));
    stage.run(MS);
    assert_eq!(stage.get(0, "8.8.8.8").status, 200, "over by the clock that counts");
}

#[test]
fn before_the_first_tables_the_service_is_asked_about_each_request() {
    let mut sim = Sim::new(module);
    let first = gate(&mut sim);
    let mut stage = Stage { sim, feed: Feed::new(), gates: vec![first] };
    stage.feed.up = false;
    stage.feed.ban("9.9.9.9");
    stage.run(SECOND);
    let (worker, root) = first;
    let ask = |stage: &mut Stage, client| {
        let response = stage.feed.request(&mut stage.sim, worker, root, Request::get("/x", client));
        (response.status, response.details)
    };
    assert_eq!(ask(&mut stage, "1.1.1.1"), (503, "check_unavailable".into()));
    stage.feed.up = true;
    assert_eq!(ask(&mut stage, "9.9.9.9"), (403, "ip_banned".into()));
    assert_eq!(stage.feed.served.get("poll"), None, "not yet polled, so there is no table");
    stage.run(6 * SECOND);
    assert_eq!(stage.get(0, "1.1.1.1").status, 200, "and now there are tables");
    assert_eq!(stage.get(0, "9.9.9.9").status, 403);
}
