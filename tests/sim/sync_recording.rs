//! Scenarios of synchronous recording: a response waits until its event is
//! stored, and the event that completes it says the same as it would have said
//! without.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{
    CONFIG, Feed, LastingFault, Order, Request, StreamId, TestRng, Testbed, Waits, random,
};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::wire::event::{DropReason, TrafficEvent, VerdictCode, VmId};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NOW: u32 = 1_795_400_001;

/// Everything from the cache, each event before its response.
fn sync() -> Flags {
    Flags::all_on().with(Flag::AsyncRecording, FlagState::Off)
}

fn testbed() -> Testbed {
    Testbed::with_flags(module, 1, CONFIG, sync())
}

/// An event without what the mode of recording may change.
fn content(event: &TrafficEvent) -> TrafficEvent {
    TrafficEvent { modes: None, tables_seq: 0, gate_us: None, ..event.clone() }
}

/// Numbers that were stored, each exactly once and without holes.
fn check_numbers(feed: &Feed) -> BTreeMap<VmId, u64> {
    let mut numbers: BTreeMap<VmId, BTreeSet<u64>> = BTreeMap::new();
    for (source, event) in &feed.events {
        assert!(numbers.entry(*source).or_default().insert(event.number), "{} twice", event.number);
    }
    assert_eq!(feed.duplicates, 0);
    let count = |(source, numbers): (VmId, BTreeSet<u64>)| {
        assert_eq!(numbers.last().copied(), Some(numbers.len() as u64), "{source} has holes: {numbers:?}");
        (source, numbers.len() as u64)
    };
    numbers.into_iter().map(count).collect()
}

#[test]
fn a_response_waits_until_its_event_is_stored() {
    let mut testbed = testbed();
    testbed.feed.open_fault = Some(LastingFault::Slow(200 * MS));
    let stream = testbed.begin(0, Request::get("/x?secret", "1.1.1.1"));
    assert_eq!(testbed.sim.waits(stream), Some(Waits::Upstream));
    testbed.sim.upstream(stream, 201, &[("x-from", "upstream")]);
    assert_eq!(testbed.sim.waits(stream), Some(Waits::Response));
    let began = testbed.sim.now_ns();
    testbed.feed.carry(&mut testbed.sim, stream);
    assert_eq!(testbed.sim.now_ns() - began, 200_000_000);
    let open = testbed.feed.opened[0].event.clone();
    assert_eq!((open.number, open.status, open.verdict), (1, Some(201), VerdictCode::Allow));
    assert_eq!((open.path.as_deref(), open.route.as_deref()), (Some(&b"/x"[..]), Some("all")));
    assert_eq!(testbed.feed.open.len(), 1, "the row is there before the response is");
    let response = testbed.sim.finish(stream);
    assert_eq!((response.status, response.header("x-from").as_deref()), (201, Some("upstream")));
    let events = testbed.events();
    assert_eq!((events[0].number, events[0].status), (1, Some(201)));
    assert_eq!(events[0].duration_us, Some(200_000), "what the client waited for");
    assert_eq!(
        (events[0].gate_us, events[0].upstream_us),
        (Some(200_000), Some(0)),
        "all of it for the gate"
    );
    assert!(testbed.feed.open.is_empty() && testbed.feed.opened.len() == 1);
    assert_eq!(testbed.metric("tidegate.recording.sync.stored"), 1);
    testbed.check();
}

#[test]
fn a_denial_waits_as_well() {
    let mut testbed = testbed();
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    let stream = testbed.begin(0, Request::get("/x", "9.9.9.9"));
    assert_eq!(testbed.sim.waits(stream), Some(Waits::Response), "the gate's own reply");
    assert_eq!(testbed.finish(stream).status, 403);
    let open = &testbed.feed.opened[0].event;
    assert_eq!((open.status, open.reason.as_deref()), (Some(403), Some("ip_banned")));
    assert_eq!(content(&testbed.events()[0]).rule.as_deref(), Some("9.9.9.9"));
    testbed.check();
}

#[test]
fn events_of_both_modes_are_the_same_apart_from_the_mode() {
    for seed in 0..12 {
        let testbeds = [Flags::all_on(), sync()].map(|flags| {
            let mut rng = TestRng::new(seed);
            let mut feed = Feed::new();
            random::fill(&mut feed, &mut rng, NOW, 60);
            feed.set_flags(flags);
            let mut testbed = Testbed::new(module, 1, CONFIG, feed);
            for _ in 0..150 {
                let request = random::request(&mut rng, None);
                let stream = testbed.begin(0, request);
                end_somehow(&mut testbed, stream, &mut rng);
            }
            testbed.check();
            testbed
        });
        let [mut later, mut at_once] = testbeds;
        let (later_events, events) = (later.events(), at_once.events());
        assert_eq!((later_events.len(), events.len()), (150, 150));
        for (later, event) in later_events.iter().zip(&events) {
            assert_eq!(content(later), content(event), "seed {seed}");
            assert!(later.modes.unwrap().async_recording && !event.modes.unwrap().async_recording);
        }
        assert!(later.feed.opened.is_empty());
        // Each that was opened is one that was completed, and said the same so far.
        for open in &at_once.feed.opened {
            let event = events.iter().find(|event| event.number == open.event.number).expect("completed");
            let so_far = |event: &TrafficEvent| {
                let none = TrafficEvent { duration_us: None, upstream_us: None, ..content(event) };
                TrafficEvent { bytes_in: None, bytes_out: None, status: None, tunnel: false, ..none }
            };
            assert_eq!(so_far(&open.event), so_far(event));
        }
        assert!(at_once.feed.open.is_empty());
        assert!(at_once.feed.opened.len() > 100);
    }
}

/// However a request may end, chance choosing; the same chances whether its
/// response waits or not.
fn end_somehow(testbed: &mut Testbed, stream: StreamId, rng: &mut TestRng) {
    let (how, takes) = (rng.below(8), Duration::from_millis(rng.bits() % 40));
    if testbed.sim.waits(stream) != Some(Waits::Upstream) {
        testbed.finish(stream);
        return;
    }
    testbed.run(takes);
    match how {
        0 => drop(testbed.sim.leave(stream)),
        1 => {
            testbed.sim.answer_early(stream, 504, "response_timeout");
            testbed.finish(stream);
        }
        2 => {
            testbed.sim.upstream(stream, 200, &[]);
            testbed.sim.turn(stream, 502, "upstream_reset_after_response_started");
            testbed.sim.finish(stream);
        }
        3 => {
            testbed.sim.upstream(stream, 200, &[]);
            testbed.feed.carry(&mut testbed.sim, stream);
            testbed.sim.turn(stream, 504, "stream_idle_timeout");
            testbed.sim.finish(stream);
        }
        4 => {
            testbed.sim.upstream(stream, 404, &[("x", "y")]);
            testbed.finish(stream);
        }
        _ => drop(testbed.finish(stream)),
    }
}

#[test]
fn a_status_that_changes_after_the_headers_is_recorded_as_it_ended() {
    for carried in [false, true] {
        let mut testbed = testbed();
        let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
        testbed.sim.upstream(stream, 200, &[]);
        if carried {
            testbed.feed.carry(&mut testbed.sim, stream);
        }
        testbed.sim.turn(stream, 502, "upstream_reset");
        assert_eq!(testbed.sim.finish(stream).status, 502);
        testbed.feed.serve(&mut testbed.sim);
        assert_eq!(testbed.feed.opened[0].event.status, Some(200));
        let events = testbed.events();
        assert_eq!((events.len(), events[0].number, events[0].status), (1, 1, Some(502)));
        assert!(testbed.feed.open.is_empty());
        testbed.check();
    }
}

#[test]
fn a_response_goes_on_whatever_becomes_of_its_event() {
    for (fault, waited, stored) in [
        (LastingFault::Status(503), 0, 0),
        (LastingFault::Status(401), 0, 0),
        (LastingFault::Reset, 0, 0),
        (LastingFault::Never, 1_000, 0),
        (LastingFault::Slow(1_500 * MS), 1_000, 0),
        (LastingFault::Slow(900 * MS), 900, 1),
        (LastingFault::Garbage, 0, 0),
    ] {
        let mut testbed = testbed();
        testbed.feed.open_fault = Some(fault);
        let began = testbed.sim.now_ns();
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "{fault:?}");
        assert_eq!((testbed.sim.now_ns() - began) / 1_000_000, waited, "{fault:?}");
        testbed.run(3 * SECOND);
        assert_eq!(testbed.metric("tidegate.recording.sync.stored"), stored, "{fault:?}");
        assert_eq!(testbed.metric("tidegate.recording.sync.failed"), 1 - stored, "{fault:?}");
        assert_eq!(testbed.events().len(), 1, "{fault:?}: recorded later all the same");
        check_numbers(&testbed.feed);
        testbed.check();
    }
}

#[test]
fn the_operator_says_how_long_a_response_waits() {
    let config = CONFIG.replacen('{', r#"{"events": {"sync_timeout": "150ms"}, "#, 1);
    let mut testbed = Testbed::with_flags(module, 1, &config, sync());
    testbed.feed.open_fault = Some(LastingFault::Never);
    let began = testbed.sim.now_ns();
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    assert_eq!((testbed.sim.now_ns() - began) / 1_000_000, 150);
}

#[test]
fn an_event_that_cannot_be_sent_holds_up_nothing() {
    let mut testbed = testbed();
    let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
    testbed.sim.refuse_calls(true);
    testbed.sim.upstream(stream, 200, &[]);
    assert_eq!(testbed.sim.waits(stream), Some(Waits::Nobody));
    testbed.sim.finish(stream);
    testbed.sim.refuse_calls(false);
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    assert_eq!(testbed.events().len(), 2);
    assert_eq!(testbed.metric("tidegate.recording.sync.failed"), 1);
    check_numbers(&testbed.feed);
    testbed.check();
}

#[test]
fn a_service_that_is_down_holds_up_nothing_and_gets_all_of_it_later() {
    let mut testbed = testbed();
    testbed.feed.die(&mut testbed.sim);
    for _ in 0..50 {
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    }
    testbed.run(10 * SECOND);
    testbed.feed.up = true;
    testbed.run(10 * SECOND);
    assert_eq!(testbed.events().len(), 50);
    check_numbers(&testbed.feed);
}

#[test]
fn a_client_that_leaves_while_its_response_waits_leaves_one_event() {
    let mut testbed = testbed();
    let handles = testbed.sim.handles();
    for _ in 0..30 {
        let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
        testbed.sim.upstream(stream, 200, &[]);
        assert_eq!(testbed.sim.waits(stream), Some(Waits::Response));
        assert_eq!(testbed.sim.leave(stream).status, 0);
        assert_eq!(testbed.sim.handles(), handles);
    }
    let events = testbed.events();
    assert_eq!(events.len(), 30);
    assert!(events.iter().all(|event| event.status.is_none()));
    assert_eq!(testbed.feed.opened.len(), 30);
    assert!(testbed.feed.open.is_empty(), "completed");
    testbed.check();
}

#[test]
fn an_answer_that_envoy_gave_is_recorded_before_it_goes_out() {
    let mut testbed = testbed();
    let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
    testbed.sim.answer_early(stream, 503, "no_healthy_upstream");
    assert_eq!(testbed.sim.waits(stream), Some(Waits::Response));
    assert_eq!(testbed.finish(stream).status, 503);
    assert_eq!(testbed.feed.opened[0].event.status, Some(503));
    assert_eq!(testbed.events()[0].status, Some(503));
    testbed.check();
}

#[test]
fn what_envoy_refuses_before_the_gate_is_recorded_asynchronously() {
    let mut testbed = testbed();
    let (worker, root) = testbed.gates[0];
    testbed.sim.refuse(worker, root);
    testbed.get(0, "1.1.1.1");
    testbed.sim.refuse(worker, root);
    let events = testbed.events();
    assert_eq!(
        events.iter().map(|event| event.verdict.name()).collect::<Vec<_>>(),
        ["unseen", "allow", "unseen"]
    );
    assert_eq!(testbed.feed.opened.len(), 1);
    assert_eq!(events[0].status, Some(400));
    check_numbers(&testbed.feed);
}

#[test]
fn a_number_that_is_open_for_long_holds_up_no_other() {
    let mut testbed = testbed();
    let tunnel = testbed.begin(0, Request::get("/tunnel", "1.1.1.1"));
    testbed.feed.carry(&mut testbed.sim, tunnel);
    for _ in 0..300 {
        testbed.get(0, "1.1.1.1");
    }
    testbed.run(30 * SECOND);
    assert_eq!(testbed.feed.events.len(), 300);
    assert_eq!(testbed.feed.open.keys().map(|(_, number)| *number).collect::<Vec<_>>(), [1]);
    testbed.sim.finish(tunnel);
    assert_eq!(testbed.events().len(), 301);
    assert!(testbed.feed.open.is_empty());
    check_numbers(&testbed.feed);
}

#[test]
fn a_mode_switched_under_load_costs_no_number() {
    for seed in 0..6 {
        let mut rng = TestRng::new(seed);
        let mut feed = Feed::new();
        feed.order = Order::Random(seed + 1);
        let mut testbed = Testbed::new(module, 3, CONFIG, feed);
        let mut held: Vec<StreamId> = Vec::new();
        let mut begun = 0;
        for _ in 0..900 {
            match rng.below(10) {
                0 => {
                    let flag =
                        rng.pick(&[Flag::AsyncRecording, Flag::AsyncRecording, Flag::IpBlacklistCache]);
                    let state = rng.pick(&[FlagState::Off, FlagState::On, FlagState::Share(50)]);
                    testbed.feed.set_flag(flag, state);
                }
                1..=4 => {
                    let client = format!("10.0.0.{}", rng.below(30));
                    held.push(testbed.begin(rng.below(3), Request::get("/x", &client)));
                    begun += 1;
                }
                5..=7 if !held.is_empty() => {
                    let stream = held.swap_remove(rng.below(held.len()));
                    end_somehow(&mut testbed, stream, &mut rng);
                }
                8 => {
                    let faults =
                        [None, None, Some(LastingFault::Status(500)), Some(LastingFault::Slow(30 * MS))];
                    testbed.feed.open_fault = rng.pick(&faults);
                }
                _ => testbed.run(Duration::from_millis(rng.bits() % 80)),
            }
        }
        testbed.feed.open_fault = None;
        for stream in held {
            testbed.finish(stream);
        }
        testbed.run(10 * SECOND);
        assert_eq!(check_numbers(&testbed.feed).values().sum::<u64>(), begun, "seed {seed}");
        assert_eq!(testbed.metric("tidegate.events.numbered"), begun);
        assert!(testbed.feed.open.is_empty(), "every open event was completed: {:?}", testbed.feed.open);
        for open in &testbed.feed.opened {
            let key = (open.source, open.event.number);
            let event = testbed.feed.events.iter().find(|(source, event)| (*source, event.number) == key);
            let (_, event) = event.expect("completed");
            assert_eq!((event.client, event.time_ms), (open.event.client, open.event.time_ms));
            assert!(!event.modes.unwrap().async_recording);
        }
        let sync = testbed.feed.events.iter().filter(|(_, e)| !e.modes.unwrap().async_recording).count();
        assert!(sync > 50 && (sync as u64) < begun - 50, "{sync} of {begun}");
        testbed.check();
    }
}

#[test]
fn a_full_buffer_gives_up_no_number_that_is_open() {
    let config = CONFIG.replacen('{', r#"{"events": {"buffer_bytes": 65536, "queue_bytes": 65536}, "#, 1);
    let mut testbed = Testbed::with_flags(module, 1, &config, sync());
    let open = testbed.begin(0, Request::get("/long", "1.1.1.1"));
    testbed.feed.carry(&mut testbed.sim, open);
    testbed.feed.set_flag(Flag::AsyncRecording, FlagState::On);
    testbed.run(SECOND);
    testbed.feed.takes_events = false;
    let (worker, root) = testbed.gates[0];
    // Far more than fits, with nobody draining.
    for _ in 0..3_000 {
        testbed.sim.request(worker, root, Request::get(&"/x".repeat(100), "1.1.1.1"));
    }
    testbed.run(SECOND);
    testbed.feed.takes_events = true;
    testbed.sim.finish(open);
    testbed.run(20 * SECOND);
    let mut numbers: BTreeSet<u64> = testbed.feed.events.iter().map(|(_, event)| event.number).collect();
    let batches = testbed.feed.posts.iter().flat_map(|post| &post.batches);
    let heads = batches.map(|batch| tidegate_policy::wire::event::BatchHead::read(&batch.0).unwrap().0);
    let mut dropped: Vec<_> = heads.flat_map(|head| head.dropped).collect();
    dropped.extend(testbed.feed.posts.iter().flat_map(|post| post.dropped.clone()));
    assert!(numbers.contains(&1), "the one that was open");
    assert!(!dropped.is_empty() && numbers.len() < 3_001, "more than fits");
    for range in dropped {
        assert!(matches!(range.reason, DropReason::BufferFull | DropReason::RecorderFull));
        for number in range.first..=range.last {
            assert!(numbers.insert(number), "{number} is stored and given up");
        }
    }
    assert_eq!(numbers.len(), 3_001, "each is stored, or said to be given up");
    assert_eq!(numbers.last(), Some(&3_001));
}
