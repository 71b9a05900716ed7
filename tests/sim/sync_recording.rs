//! Scenarios of synchronous recording: a response waits until its event is
//! stored, and the event that completes it says the same as it would have said
//! without.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Feed, Order, Request, Stage, StreamId, TestRng, Trouble, Waits, random};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::wire::event::{DropReason, TrafficEvent, VerdictCode, VmId};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NOW: u32 = 1_795_400_001;

/// Everything from the cache, each event before its response.
fn sync() -> Flags {
    Flags::all_on().with(Flag::AsyncRecording, FlagState::Off)
}

fn stage() -> Stage {
    Stage::with_flags(module, 1, CONFIG, sync())
}

/// An event without what the mode of recording may change.
fn content(event: &TrafficEvent) -> TrafficEvent {
    TrafficEvent { modes: None, tables_seq: 0, ..event.clone() }
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
    let mut stage = stage();
    stage.feed.open_trouble = Some(Trouble::Slow(200 * MS));
    let stream = stage.begin(0, Request::get("/x?secret", "1.1.1.1"));
    assert_eq!(stage.sim.waits(stream), Some(Waits::Upstream));
    stage.sim.upstream(stream, 201, &[("x-from", "upstream")]);
    assert_eq!(stage.sim.waits(stream), Some(Waits::Response));
    let began = stage.sim.now_ns();
    stage.feed.carry(&mut stage.sim, stream);
    assert_eq!(stage.sim.now_ns() - began, 200_000_000);
    let open = stage.feed.opened[0].event.clone();
    assert_eq!((open.number, open.status, open.verdict), (1, Some(201), VerdictCode::Allow));
    assert_eq!((open.path.as_deref(), open.route.as_deref()), (Some(&b"/x"[..]), Some("all")));
    assert_eq!(stage.feed.open.len(), 1, "the row is there before the response is");
    let response = stage.sim.finish(stream);
    assert_eq!((response.status, response.header("x-from").as_deref()), (201, Some("upstream")));
    let events = stage.events();
    assert_eq!((events[0].number, events[0].status), (1, Some(201)));
    assert_eq!(events[0].duration_us, Some(200_000), "what the client waited for");
    assert!(stage.feed.open.is_empty() && stage.feed.opened.len() == 1);
    assert_eq!(stage.metric("tidegate.recording.sync.stored"), 1);
    stage.check();
}

#[test]
fn a_denial_waits_as_well() {
    let mut stage = stage();
    stage.feed.ban("9.9.9.9");
    stage.run(SECOND);
    let stream = stage.begin(0, Request::get("/x", "9.9.9.9"));
    assert_eq!(stage.sim.waits(stream), Some(Waits::Response), "the gate's own reply");
    assert_eq!(stage.finish(stream).status, 403);
    let open = &stage.feed.opened[0].event;
    assert_eq!((open.status, open.reason.as_deref()), (Some(403), Some("ip_banned")));
    assert_eq!(content(&stage.events()[0]).rule.as_deref(), Some("9.9.9.9"));
    stage.check();
}

#[test]
fn events_of_both_modes_are_the_same_apart_from_the_mode() {
    for seed in 0..12 {
        let stages = [Flags::all_on(), sync()].map(|flags| {
            let mut rng = TestRng::new(seed);
            let mut feed = Feed::new();
            random::fill(&mut feed, &mut rng, NOW, 60);
            feed.set_flags(flags);
            let mut stage = Stage::new(module, 1, CONFIG, feed);
            for _ in 0..150 {
                let request = random::request(&mut rng, None);
                let stream = stage.begin(0, request);
                end_somehow(&mut stage, stream, &mut rng);
            }
            stage.check();
            stage
        });
        let [mut later, mut at_once] = stages;
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
fn end_somehow(stage: &mut Stage, stream: StreamId, rng: &mut TestRng) {
    let (how, takes) = (rng.below(8), Duration::from_millis(rng.bits() % 40));
    if stage.sim.waits(stream) != Some(Waits::Upstream) {
        stage.finish(stream);
        return;
    }
    stage.run(takes);
    match how {
        0 => drop(stage.sim.leave(stream)),
        1 => {
            stage.sim.answer_early(stream, 504, "response_timeout");
            stage.finish(stream);
        }
        2 => {
            stage.sim.upstream(stream, 200, &[]);
            stage.sim.turn(stream, 502, "upstream_reset_after_response_started");
            stage.sim.finish(stream);
        }
        3 => {
            stage.sim.upstream(stream, 200, &[]);
            stage.feed.carry(&mut stage.sim, stream);
            stage.sim.turn(stream, 504, "stream_idle_timeout");
            stage.sim.finish(stream);
        }
        4 => {
            stage.sim.upstream(stream, 404, &[("x", "y")]);
            stage.finish(stream);
        }
        _ => drop(stage.finish(stream)),
    }
}

#[test]
fn a_status_that_changes_after_the_headers_is_recorded_as_it_ended() {
    for carried in [false, true] {
        let mut stage = stage();
        let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
        stage.sim.upstream(stream, 200, &[]);
        if carried {
            stage.feed.carry(&mut stage.sim, stream);
        }
        stage.sim.turn(stream, 502, "upstream_reset");
        assert_eq!(stage.sim.finish(stream).status, 502);
        stage.feed.serve(&mut stage.sim);
        assert_eq!(stage.feed.opened[0].event.status, Some(200));
        let events = stage.events();
        assert_eq!((events.len(), events[0].number, events[0].status), (1, 1, Some(502)));
        assert!(stage.feed.open.is_empty());
        stage.check();
    }
}

#[test]
fn a_response_goes_on_whatever_becomes_of_its_event() {
    for (trouble, waited, stored) in [
        (Trouble::Status(503), 0, 0),
        (Trouble::Status(401), 0, 0),
        (Trouble::Reset, 0, 0),
        (Trouble::Never, 1_000, 0),
        (Trouble::Slow(1_500 * MS), 1_000, 0),
        (Trouble::Slow(900 * MS), 900, 1),
        (Trouble::Garbage, 0, 1),
    ] {
        let mut stage = stage();
        stage.feed.open_trouble = Some(trouble);
        let began = stage.sim.now_ns();
        assert_eq!(stage.get(0, "1.1.1.1").status, 200, "{trouble:?}");
        assert_eq!((stage.sim.now_ns() - began) / 1_000_000, waited, "{trouble:?}");
        stage.run(3 * SECOND);
        assert_eq!(stage.metric("tidegate.recording.sync.stored"), stored, "{trouble:?}");
        assert_eq!(stage.metric("tidegate.recording.sync.failed"), 1 - stored, "{trouble:?}");
        assert_eq!(stage.events().len(), 1, "{trouble:?}: recorded later all the same");
        check_numbers(&stage.feed);
        stage.check();
    }
}

#[test]
fn the_operator_says_how_long_a_response_waits() {
    let config = CONFIG.replacen('{', r#"{"events": {"sync_timeout": "150ms"}, "#, 1);
    let mut stage = Stage::with_flags(module, 1, &config, sync());
    stage.feed.open_trouble = Some(Trouble::Never);
    let began = stage.sim.now_ns();
    assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    assert_eq!((stage.sim.now_ns() - began) / 1_000_000, 150);
}

#[test]
fn an_event_that_cannot_be_sent_holds_up_nothing() {
    let mut stage = stage();
    let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
    stage.sim.refuse_calls(true);
    stage.sim.upstream(stream, 200, &[]);
    assert_eq!(stage.sim.waits(stream), Some(Waits::Nobody));
    stage.sim.finish(stream);
    stage.sim.refuse_calls(false);
    assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    assert_eq!(stage.events().len(), 2);
    assert_eq!(stage.metric("tidegate.recording.sync.failed"), 1);
    check_numbers(&stage.feed);
    stage.check();
}

#[test]
fn a_service_that_is_down_holds_up_nothing_and_gets_all_of_it_later() {
    let mut stage = stage();
    stage.feed.die(&mut stage.sim);
    for _ in 0..50 {
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    }
    stage.run(10 * SECOND);
    stage.feed.up = true;
    stage.run(10 * SECOND);
    assert_eq!(stage.events().len(), 50);
    check_numbers(&stage.feed);
}

#[test]
fn a_client_that_leaves_while_its_response_waits_leaves_one_event() {
    let mut stage = stage();
    let handles = stage.sim.handles();
    for _ in 0..30 {
        let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
        stage.sim.upstream(stream, 200, &[]);
        assert_eq!(stage.sim.waits(stream), Some(Waits::Response));
        assert_eq!(stage.sim.leave(stream).status, 0);
        assert_eq!(stage.sim.handles(), handles);
    }
    let events = stage.events();
    assert_eq!(events.len(), 30);
    assert!(events.iter().all(|event| event.status.is_none()));
    assert_eq!(stage.feed.opened.len(), 30);
    assert!(stage.feed.open.is_empty(), "completed");
    stage.check();
}

#[test]
fn an_answer_that_envoy_gave_is_recorded_before_it_goes_out() {
    let mut stage = stage();
    let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
    stage.sim.answer_early(stream, 503, "no_healthy_upstream");
    assert_eq!(stage.sim.waits(stream), Some(Waits::Response));
    assert_eq!(stage.finish(stream).status, 503);
    assert_eq!(stage.feed.opened[0].event.status, Some(503));
    assert_eq!(stage.events()[0].status, Some(503));
    stage.check();
}

#[test]
fn what_envoy_refuses_before_the_gate_is_recorded_asynchronously() {
    let mut stage = stage();
    let (worker, root) = stage.gates[0];
    stage.sim.refuse(worker, root);
    stage.get(0, "1.1.1.1");
    stage.sim.refuse(worker, root);
    let events = stage.events();
    assert_eq!(
        events.iter().map(|event| event.verdict.name()).collect::<Vec<_>>(),
        ["unseen", "allow", "unseen"]
    );
    assert_eq!(stage.feed.opened.len(), 1);
    assert_eq!(events[0].status, Some(400));
    check_numbers(&stage.feed);
}

#[test]
fn a_number_that_is_open_for_long_holds_up_no_other() {
    let mut stage = stage();
    let tunnel = stage.begin(0, Request::get("/tunnel", "1.1.1.1"));
    stage.feed.carry(&mut stage.sim, tunnel);
    for _ in 0..300 {
        stage.get(0, "1.1.1.1");
    }
    stage.run(30 * SECOND);
    assert_eq!(stage.feed.events.len(), 300);
    assert_eq!(stage.feed.open.keys().map(|(_, number)| *number).collect::<Vec<_>>(), [1]);
    stage.sim.finish(tunnel);
    assert_eq!(stage.events().len(), 301);
    assert!(stage.feed.open.is_empty());
    check_numbers(&stage.feed);
}

#[test]
fn a_mode_switched_under_load_costs_no_number() {
    for seed in 0..6 {
        let mut rng = TestRng::new(seed);
        let mut feed = Feed::new();
        feed.order = Order::Random(seed + 1);
        let mut stage = Stage::new(module, 3, CONFIG, feed);
        let mut held: Vec<StreamId> = Vec::new();
        let mut begun = 0;
        for _ in 0..900 {
            match rng.below(10) {
                0 => {
                    let flag =
                        rng.pick(&[Flag::AsyncRecording, Flag::AsyncRecording, Flag::IpBlacklistCache]);
                    let state = rng.pick(&[FlagState::Off, FlagState::On, FlagState::Share(50)]);
                    stage.feed.set_flag(flag, state);
                }
                1..=4 => {
                    let client = format!("10.0.0.{}", rng.below(30));
                    held.push(stage.begin(rng.below(3), Request::get("/x", &client)));
                    begun += 1;
                }
                5..=7 if !held.is_empty() => {
                    let stream = held.swap_remove(rng.below(held.len()));
                    end_somehow(&mut stage, stream, &mut rng);
                }
                8 => {
                    let troubles = [None, None, Some(Trouble::Status(500)), Some(Trouble::Slow(30 * MS))];
                    stage.feed.open_trouble = rng.pick(&troubles);
                }
                _ => stage.run(Duration::from_millis(rng.bits() % 80)),
            }
        }
        stage.feed.open_trouble = None;
        for stream in held {
            stage.finish(stream);
        }
        stage.run(10 * SECOND);
        assert_eq!(check_numbers(&stage.feed).values().sum::<u64>(), begun, "seed {seed}");
        assert_eq!(stage.metric("tidegate.events.numbered"), begun);
        assert!(stage.feed.open.is_empty(), "every open event was completed: {:?}", stage.feed.open);
        for open in &stage.feed.opened {
            let key = (open.source, open.event.number);
            let event = stage.feed.events.iter().find(|(source, event)| (*source, event.number) == key);
            let (_, event) = event.expect("completed");
            assert_eq!((event.client, event.time_ms), (open.event.client, open.event.time_ms));
            assert!(!event.modes.unwrap().async_recording);
        }
        let sync = stage.feed.events.iter().filter(|(_, e)| !e.modes.unwrap().async_recording).count();
        assert!(sync > 50 && (sync as u64) < begun - 50, "{sync} of {begun}");
        stage.check();
    }
}

#[test]
fn a_full_buffer_gives_up_no_number_that_is_open() {
    let config = CONFIG.replacen('{', r#"{"events": {"buffer_bytes": 65536, "queue_bytes": 65536}, "#, 1);
    let mut stage = Stage::with_flags(module, 1, &config, sync());
    let open = stage.begin(0, Request::get("/long", "1.1.1.1"));
    stage.feed.carry(&mut stage.sim, open);
    stage.feed.set_flag(Flag::AsyncRecording, FlagState::On);
    stage.run(SECOND);
    stage.feed.takes_events = false;
    let (worker, root) = stage.gates[0];
    // Far more than fits, with nobody draining.
    for _ in 0..3_000 {
        stage.sim.request(worker, root, Request::get(&"/x".repeat(100), "1.1.1.1"));
    }
    stage.run(SECOND);
    stage.feed.takes_events = true;
    stage.sim.finish(open);
    stage.run(20 * SECOND);
    let mut numbers: BTreeSet<u64> = stage.feed.events.iter().map(|(_, event)| event.number).collect();
    let batches = stage.feed.posts.iter().flat_map(|post| &post.batches);
    let heads = batches.map(|batch| tidegate_policy::wire::event::BatchHead::read(&batch.0).unwrap().0);
    let mut dropped: Vec<_> = heads.flat_map(|head| head.dropped).collect();
    dropped.extend(stage.feed.posts.iter().flat_map(|post| post.dropped.clone()));
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
