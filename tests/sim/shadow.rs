//! Scenarios of checks in shadow: the admin service decides, the cache is
//! compared, and what differs is counted and told.

use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Feed, LastingFault, Order, Request, TestRng, Testbed, random};
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::wire::event::{MAX_FOUND, Mismatch};

const SECOND: Duration = Duration::from_secs(1);
const CACHES: [Flag; 3] = [Flag::IpBlacklistCache, Flag::GeoRulesCache, Flag::RouteCache];
const NOW: u32 = 1_795_400_001;

fn shadow(parallel: bool) -> Flags {
    let flags = CACHES.into_iter().fold(Flags::default(), |flags, flag| flags.with(flag, FlagState::Shadow));
    let flags = flags.with(Flag::AsyncRecording, FlagState::On);
    flags.with(Flag::ParallelExecution, if parallel { FlagState::On } else { FlagState::Off })
}

fn counts(testbed: &Testbed, what: &str) -> PerCheck<u64> {
    PerCheck::from_fn(|check| testbed.metric(&format!("tidegate.shadow.{}.{what}", check.name())))
}

#[test]
fn equal_tables_never_mismatch() {
    let mut compared = 0;
    for seed in 0..50 {
        let mut rng = TestRng::new(seed);
        let mut feed = Feed::new();
        random::fill(&mut feed, &mut rng, NOW, 60);
        feed.set_flags(shadow(seed % 2 == 0));
        feed.order = Order::Random(seed + 1);
        let mut testbed = Testbed::new(module, 1, CONFIG, feed);
        for _ in 0..200 {
            testbed.request(0, random::request(&mut rng, None));
            if rng.percent(5) {
                testbed.run(Duration::from_millis(rng.bits() % 3_000));
            }
        }
        let events = testbed.events();
        assert_eq!(events.len(), 200);
        assert!(events.iter().all(|event| event.mismatches.is_empty()), "world {seed}");
        assert_eq!(counts(&testbed, "mismatched"), PerCheck::default(), "world {seed}");
        let counts = counts(&testbed, "compared");
        let direct =
            |check| events.iter().filter(|event| *event.answered.get(check) == Answered::Direct).count();
        for check in Check::ALL {
            assert!(*counts.get(check) >= direct(check) as u64, "every answer that counted was compared");
            compared += counts.get(check);
        }
        testbed.check();
    }
    assert!(compared > 15_000, "{compared} of 10,000 requests");
}

/// A gateway whose tables stay as they were.
fn frozen(parallel: bool) -> Testbed {
    let mut testbed = Testbed::with_flags(module, 1, CONFIG, shadow(parallel));
    testbed.feed.frozen = true;
    testbed
}

fn only(testbed: &mut Testbed) -> Mismatch {
    let mut events = testbed.events();
    assert_eq!(events.len(), 1);
    let mut mismatches = std::mem::take(&mut events[0].mismatches);
    assert_eq!(mismatches.len(), 1, "{mismatches:?}");
    mismatches.remove(0)
}

#[test]
fn what_a_frozen_gateway_would_have_said_is_told_with_what_was_said() {
    for parallel in [false, true] {
        let mut testbed = frozen(parallel);
        let cached_seq = testbed.feed.version().seq;
        testbed.feed.ban("9.9.9.0/24");
        let response = testbed.get(0, "9.9.9.9");
        assert_eq!((response.status, response.details.as_str()), (403, "ip_banned"), "the database decides");
        let expected = Mismatch {
            check: Check::Ip,
            direct: "banned by 9.9.9.0/24".to_owned(),
            cached: "clear".to_owned(),
            direct_seq: cached_seq + 1,
            cached_seq,
        };
        assert_eq!(only(&mut testbed), expected);
        assert_eq!(counts(&testbed, "mismatched"), PerCheck { ip: 1, geo: 0, route: 0 });
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
        testbed.run(SECOND);
        assert_eq!(counts(&testbed, "mismatched"), PerCheck { ip: 1, geo: 0, route: 0 });
        // It catches up, and they agree again.
        testbed.feed.frozen = false;
        testbed.run(40 * SECOND);
        assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
        assert!(testbed.events()[2].mismatches.is_empty());
        testbed.check();
    }
}

#[test]
fn a_ban_that_only_the_cache_knows_is_not_enforced_and_told() {
    let mut testbed = Testbed::with_flags(module, 1, CONFIG, shadow(false));
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    testbed.feed.frozen = true;
    testbed.feed.unban("9.9.9.9");
    assert_eq!(testbed.get(0, "9.9.9.9").status, 200);
    let mismatch = only(&mut testbed);
    assert_eq!((mismatch.direct.as_str(), mismatch.cached.as_str()), ("clear", "banned by 9.9.9.9"));
}

#[test]
fn another_route_is_told_by_name_and_backend() {
    let mut testbed = frozen(false);
    let route = |name: &str, backend: &str| {
        serde_json::json!({
            "metadata": {"name": name},
            "spec": {"rules": [{"backendRefs": [{"name": backend, "port": 80}]}]},
        })
    };
    testbed.feed.set_routes(&[route("new", "other")]);
    let response = testbed.get(0, "1.1.1.1");
    assert_eq!(response.cluster.as_deref(), Some("other"), "the database decides");
    let mismatch = only(&mut testbed);
    assert_eq!(mismatch.check, Check::Route);
    assert!(mismatch.direct.starts_with("new rule 0 to other"), "{mismatch:?}");
    assert!(mismatch.cached.starts_with("all rule 0 to demo"), "{mismatch:?}");
    assert_eq!(testbed.events()[0].route.as_deref(), Some("new"));
    // A name of 253 characters does not make the event any longer than it may be.
    let long = vec!["a".repeat(63); 4].join(".")[..253].to_owned();
    testbed.feed.set_routes(&[route(&long, &"b".repeat(253))]);
    testbed.get(0, "1.1.1.1");
    let events = testbed.events();
    assert!(events[1].mismatches[0].direct.len() <= MAX_FOUND);
}

#[test]
fn every_check_that_differs_is_told() {
    for parallel in [false, true] {
        let mut testbed = frozen(parallel);
        testbed.feed.ban("9.9.9.9");
        testbed.feed.set_route_list(&[]);
        assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
        assert_eq!(testbed.get(0, "1.1.1.1").status, 404);
        let events = testbed.events();
        let checks = |at: usize| events[at].mismatches.iter().map(|m| m.check).collect::<Vec<_>>();
        assert_eq!(checks(0), [Check::Ip], "what was not needed is not compared");
        assert_eq!(checks(1), [Check::Route]);
        testbed.check();
    }
}

#[test]
fn shadow_of_one_check_leaves_the_others_as_they_are() {
    let flags = Flags::all_on().with(Flag::GeoRulesCache, FlagState::Shadow);
    let mut testbed = Testbed::with_flags(module, 1, CONFIG, flags);
    testbed.feed.frozen = true;
    testbed.feed.ban("9.9.9.9");
    assert_eq!(testbed.get(0, "9.9.9.9").status, 200, "bans are from the cache, which does not know it yet");
    assert_eq!(testbed.feed.asked, PerCheck { ip: 0, geo: 1, route: 0 });
    testbed.run(SECOND);
    assert_eq!(counts(&testbed, "compared"), PerCheck { ip: 0, geo: 1, route: 0 });
}

#[test]
fn a_question_that_fails_in_shadow_is_no_mismatch() {
    let mut testbed = frozen(true);
    testbed.feed.ban("9.9.9.9");
    testbed.feed.check_faults = PerCheck::from_fn(|_| Some(LastingFault::Garbage));
    assert_eq!(testbed.get(0, "9.9.9.9").status, 200, "the cache stands in");
    let events = testbed.events();
    assert!(events[0].mismatches.is_empty());
    assert_eq!(events[0].answered, PerCheck::from_fn(|_| Answered::Fallback));
    assert_eq!(counts(&testbed, "compared"), PerCheck::default());
    assert_eq!(counts(&testbed, "mismatched"), PerCheck::default());
}

#[test]
fn without_tables_there_is_nothing_to_compare() {
    let mut feed = Feed::new();
    feed.set_flags(shadow(false));
    feed.frozen = true;
    let mut testbed = Testbed::new(module, 1, CONFIG, feed);
    assert_eq!(testbed.request(0, Request::get("/x", "1.1.1.1")).status, 200);
    testbed.run(SECOND);
    assert_eq!(counts(&testbed, "compared"), PerCheck::default());
}
