//! Scenarios of questions asked per request: whatever the admin service answers,
//! and whenever, the request comes to an end that follows from what was known.

mod chaos;
mod endings;
mod failures;
mod told_later;

use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Feed, LastingFault, Order, Request, Response, TestRng, Testbed, Waits};
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Flag, FlagScope, FlagState, Flags, Mode, Modes, ScopedShare};
use tidegate_policy::scope::Scope;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Every check and every event at once, as the flags of these scenarios say.
const ASYNC: [(Flag, FlagState); 1] = [(Flag::AsyncRecording, FlagState::On)];

/// What is no answer, and what comes of it at once.
const BAD: [LastingFault; 11] = [
    LastingFault::Garbage,
    LastingFault::Long,
    LastingFault::Empty,
    LastingFault::Trailing,
    LastingFault::Version,
    LastingFault::Status(500),
    LastingFault::Status(404),
    LastingFault::Status(204),
    LastingFault::OtherQuestion,
    LastingFault::OtherCheck,
    LastingFault::Reset,
];

fn flags(parallel: bool) -> Flags {
    let flags = ASYNC.into_iter().fold(Flags::default(), |flags, (flag, state)| flags.with(flag, state));
    flags.with(Flag::ParallelExecution, if parallel { FlagState::On } else { FlagState::Off })
}

/// Everything asked directly, recorded asynchronously.
fn direct(parallel: bool) -> Testbed {
    Testbed::with_flags(module, 1, CONFIG, flags(parallel))
}

/// A configuration in which these checks let pass when nobody answers.
fn lenient(checks: &[Check]) -> String {
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    for check in Check::ALL {
        let choice = if checks.contains(&check) { "allow" } else { "deny" };
        config["on_unavailable"][check.name()] = choice.into();
    }
    config.to_string()
}

/// A process that has no tables and will get none, because polls stay open:
/// everything is asked, and nothing can stand in.
fn without_tables(config: &str) -> Testbed {
    let mut feed = Feed::new();
    feed.frozen = true;
    Testbed::new(module, 1, config, feed)
}

fn told(response: &Response) -> (u16, &str) {
    (response.status, &response.details)
}

fn failed(testbed: &Testbed, check: Check) -> u64 {
    testbed.metric(&format!("tidegate.direct.{}.failed", check.name()))
}

fn all_faulty(fault: LastingFault) -> PerCheck<Option<LastingFault>> {
    PerCheck::from_fn(|_| Some(fault))
}

/// Answers one callout as the service would.
fn answer_one(testbed: &mut Testbed, call: tidegate_host_sim::CallId) {
    testbed.feed.answer_one(&mut testbed.sim, call);
    testbed.sim.settle();
}

#[test]
fn everything_is_asked_in_turn_and_a_denial_saves_the_rest() {
    let mut testbed = direct(false);
    testbed.feed.ban("9.9.9.9");
    let response = testbed.get(0, "1.1.1.1");
    assert_eq!((response.status, response.cluster.as_deref()), (200, Some("demo")));
    assert_eq!(testbed.feed.asked, PerCheck { ip: 1, geo: 1, route: 1 });
    let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
    assert_eq!(testbed.sim.calls_of(stream).len(), 1, "one at a time");
    testbed.finish(stream);
    assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"));
    assert_eq!(testbed.feed.asked, PerCheck { ip: 3, geo: 2, route: 2 });
    testbed.check();
}

#[test]
fn in_parallel_all_are_asked_at_once_and_the_first_denial_decides() {
    let mut testbed = direct(true);
    testbed.feed.ban("9.9.9.9");
    let stream = testbed.begin(0, Request::get("/x", "9.9.9.9"));
    let calls = testbed.sim.calls_of(stream);
    assert_eq!(calls.len(), 3);
    // Only the ban's answer comes.
    testbed.feed.check_faults =
        PerCheck { ip: None, geo: Some(LastingFault::Never), route: Some(LastingFault::Never) };
    let began = testbed.sim.now_ns();
    assert_eq!(told(&testbed.finish(stream)), (403, "ip_banned"));
    assert_eq!(testbed.sim.now_ns(), began, "without waiting for the others");
    // Those run into their time limit, and nobody minds.
    testbed.run(5 * SECOND);
    assert_eq!(Check::ALL.map(|check| failed(&testbed, check)), [0; 3]);
    testbed.check();
}

#[test]
fn a_denial_of_a_later_check_waits_for_the_earlier_ones() {
    let mut testbed = direct(true);
    testbed.feed.set_route_list(&[]);
    testbed.feed.ban("9.9.9.9");
    testbed.feed.check_faults.ip = Some(LastingFault::Slow(300 * MS));
    // A route's 404 must not hide a ban.
    assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"));
    assert_eq!(told(&testbed.get(0, "1.1.1.1")), (404, "no_route"));
}

#[test]
fn in_parallel_nothing_is_asked_that_cannot_matter() {
    let asked = |config: &str, flags: Flags, client: &str| {
        let mut testbed = Testbed::with_flags(module, 1, config, flags);
        testbed.feed.ban("9.9.9.9");
        testbed.run(SECOND);
        testbed.get(0, client);
        testbed.check();
        testbed.feed.asked
    };
    let ip_cached = flags(true).with(Flag::IpBlacklistCache, FlagState::On);
    assert_eq!(asked(CONFIG, ip_cached.clone(), "9.9.9.9"), PerCheck::default(), "the cache knows the ban");
    assert_eq!(asked(CONFIG, ip_cached, "1.1.1.1"), PerCheck { ip: 0, geo: 1, route: 1 });
    let envoy = CONFIG.replacen('{', r#"{"routing": "envoy", "#, 1);
    assert_eq!(asked(&envoy, flags(true), "1.1.1.1"), PerCheck { ip: 1, geo: 1, route: 0 });
}

#[test]
fn a_request_that_is_too_large_for_a_question_is_not_asked_about() {
    let mut testbed = direct(false);
    let request = Request::get("/x", "1.1.1.1").header(b"x-large", &[b'a'; 300 << 10]);
    assert_eq!(testbed.request(0, request).status, 200);
    let answered = testbed.events()[0].answered;
    // A ban may apply on some routes only, so the ip check asks about all of the request as well.
    let expected = PerCheck { ip: Answered::Fallback, geo: Answered::Direct, route: Answered::Fallback };
    assert_eq!(answered, expected);
    assert_eq!(testbed.feed.asked, PerCheck { ip: 0, geo: 1, route: 0 });
}

#[test]
fn one_ban_in_the_database_is_enforced_before_any_gateway_knows() {
    let mut testbed = direct(false);
    testbed.feed.frozen = true;
    testbed.feed.ban("9.9.9.9");
    assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"));
    testbed.feed.unban("9.9.9.9");
    assert_eq!(testbed.get(0, "9.9.9.9").status, 200);
}

#[test]
fn before_the_first_tables_everything_is_asked_directly_and_recorded_at_once() {
    let mut testbed = without_tables(CONFIG);
    testbed.feed.ban("9.9.9.9");
    assert_eq!(told(&testbed.get(0, "1.1.1.1")), (200, "via_upstream"));
    assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"));
    assert_eq!(testbed.feed.opened.len(), 2);
    let events = testbed.events();
    assert!(events.iter().all(|event| event.modes == Some(Modes::default()) && event.tables_seq == 0));
    // With the first tables come the flags.
    testbed.feed.frozen = false;
    testbed.run(40 * SECOND);
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    let last = testbed.events().pop().unwrap();
    assert_eq!(last.modes, Some(Flags::all_on().modes(last.client)));
    assert_eq!(testbed.feed.opened.len(), 2);
    testbed.check();
}

#[test]
fn flags_that_change_while_a_request_waits_are_not_its_flags() {
    let mut rng = TestRng::new(7);
    let mut testbed = direct(false);
    testbed.feed.order = Order::Random(11);
    let mut held = Vec::new();
    let mut begun = 0;
    for _ in 0..400 {
        match rng.below(5) {
            0 => {
                let states = [FlagState::Off, FlagState::On, FlagState::Shadow, FlagState::Share(50)];
                let flag = rng.pick(&Flag::ALL);
                let state = rng.pick(&states);
                if flag.has_shadow() || state != FlagState::Shadow {
                    testbed.feed.set_flag(flag, state);
                }
            }
            1 | 2 => {
                let client = format!("10.0.0.{}", rng.below(20));
                let flags = testbed.feed.flags();
                // What is in force has reached the gate.
                testbed.feed.serve(&mut testbed.sim);
                let stream = testbed.begin(0, Request::get("/x", &client));
                begun += 1;
                held.push((stream, flags.modes(Some(client.parse().unwrap()))));
            }
            3 if !held.is_empty() => {
                let (stream, _) = held.remove(rng.below(held.len()));
                assert_eq!(testbed.finish(stream).status, 200);
            }
            _ => testbed.run(Duration::from_millis(rng.bits() % 50)),
        }
    }
    for (stream, _) in held {
        assert_eq!(testbed.finish(stream).status, 200);
    }
    let events = testbed.events();
    assert_eq!(events.len(), begun);
    for event in &events {
        let modes = event.modes.unwrap();
        for check in Check::ALL {
            let mode = match check {
                Check::Ip => modes.ip,
                Check::Geo => modes.geo,
                Check::Route => modes.route,
            };
            let by = if mode == Mode::Cached { Answered::Cache } else { Answered::Direct };
            assert_eq!(*event.answered.get(check), by, "{check:?} of {event:?}");
        }
        assert!(event.mismatches.is_empty());
    }
    // The numbers of those that were recorded at once are those that were opened.
    let opened = testbed.feed.opened.iter().map(|open| open.event.number);
    let sync = events.iter().filter(|event| !event.modes.unwrap().async_recording).map(|event| event.number);
    let (opened, sync): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        (opened.collect(), sync.collect());
    assert_eq!(opened, sync);
    testbed.check();
}

#[test]
fn a_share_of_the_clients_is_the_same_clients_in_every_vm() {
    let mut feed = Feed::new();
    feed.set_flags(
        Flags::default()
            .with(Flag::RouteCache, FlagState::Share(30))
            .with(Flag::AsyncRecording, FlagState::On),
    );
    let mut testbed = Testbed::new(module, 3, CONFIG, feed);
    let flags = testbed.feed.flags();
    for client in 0..200 {
        let client = format!("10.0.7.{client}");
        for gate in 0..3 {
            assert_eq!(testbed.get(gate, &client).status, 200);
        }
    }
    testbed.run(SECOND);
    assert_eq!(testbed.feed.events.len(), 600);
    let mut cached = 0;
    for (_, event) in &testbed.feed.events {
        assert_eq!(event.modes, Some(flags.modes(event.client)));
        cached += u32::from(event.answered.route == Answered::Cache);
    }
    // 60 of 200 clients on the average; six standard deviations are 39.
    assert!(cached % 3 == 0 && (21..=99).contains(&(cached / 3)), "{cached}");
}

#[test]
fn a_flag_that_is_limited_is_on_for_requests_within_and_off_for_all_others() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let limited = |gateways: &[&str], hostnames: &[&str], routes: &[&str]| {
        let place = Scope { hostnames: names(hostnames), routes: names(routes) };
        let scope = FlagScope { gateways: names(gateways), place };
        FlagState::Scoped(Box::new(ScopedShare { percent: 100, scope }))
    };
    let document = |name: &str| {
        serde_json::json!({"metadata": {"name": name}, "spec": {"rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
             "backendRefs": [{"name": "demo", "port": 80}]}]}})
    };
    let mut feed = Feed::new();
    feed.set_routes(&[document("a"), document("b")]);
    feed.set_flags(
        Flags::default()
            .with(Flag::RouteCache, limited(&["sim"], &["*.example"], &[]))
            .with(Flag::IpBlacklistCache, limited(&["another"], &[], &[]))
            .with(Flag::GeoRulesCache, limited(&[], &[], &["a"]))
            .with(Flag::AsyncRecording, FlagState::On),
    );
    let mut testbed = Testbed::new(module, 1, CONFIG, feed);
    let (inside, outside) = ((Mode::Cached, Answered::Cache), (Mode::Direct, Answered::Direct));
    for (host, path, route, geo) in [
        ("a.example", "/a", inside, inside),
        ("a.example", "/b", inside, outside),
        ("example", "/a", outside, inside),
        ("1.2.3.4:80", "/b", outside, outside),
    ] {
        assert_eq!(testbed.request(0, Request::new("GET", host, path, Some("1.1.1.1"))).status, 200);
        testbed.run(SECOND);
        let (_, event) = testbed.feed.events.last().unwrap();
        let modes = event.modes.unwrap();
        let found = [(modes.route, event.answered.route), (modes.geo, event.answered.geo)];
        assert_eq!((found, (modes.ip, event.answered.ip)), ([route, geo], outside), "{host}{path}");
        let is_outside = |flag| modes.outside.has(flag);
        let flags = [Flag::RouteCache, Flag::GeoRulesCache, Flag::IpBlacklistCache, Flag::AsyncRecording];
        assert_eq!(flags.map(is_outside), [route == outside, geo == outside, true, false], "{host}{path}");
    }
    testbed.check();
}

#[test]
fn a_request_is_told_what_each_question_cost() {
    let config = CONFIG.replacen('{', r#"{"performance_headers": "on_request", "#, 1);
    for (parallel, total) in [(false, "600.000"), (true, "300.000")] {
        let mut testbed = Testbed::with_flags(
            module,
            1,
            &config,
            flags(parallel).with(Flag::AsyncRecording, FlagState::Off),
        );
        let slow = |ms: u32| Some(LastingFault::Slow(ms * MS));
        testbed.feed.check_faults = PerCheck { ip: slow(100), geo: slow(200), route: slow(300) };
        testbed.feed.open_fault = slow(40);
        let response = testbed.request(0, Request::get("/x", "1.1.1.1").header(b"x-performance", b"1"));
        let told = |name: &str| response.header(&format!("x-performance-{name}")).unwrap_or_default();
        assert_eq!([told("ip"), told("geo"), told("route")], ["100.000", "200.000", "300.000"]);
        assert_eq!(told("recording"), "40.000");
        assert_eq!(told("cache"), "route=direct,ip=direct,geo=direct");
        let with_recording = total.replacen("00.", "40.", 1);
        assert_eq!(told("total"), with_recording);
        assert!(response.header("server-timing").unwrap().contains("ip;dur=100.000"));
        let silent = testbed.get(0, "1.1.1.1");
        assert!(silent.header("server-timing").is_none() && silent.header("x-performance-total").is_none());
        testbed.check();
    }
}

#[test]
fn a_reloaded_vm_asks_from_its_first_request_on() {
    let mut testbed = direct(false);
    testbed.get(0, "1.1.1.1");
    testbed.run(2 * SECOND);
    let (worker, _) = testbed.gates[0];
    testbed.sim.trap(worker);
    // Loaded by the request itself: it has not ticked.
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    testbed.run(15 * SECOND);
    let last = testbed.feed.events.last().unwrap().1.clone();
    assert_eq!(last.answered, PerCheck::from_fn(|_| Answered::Direct));
}

#[test]
fn a_request_before_the_first_tick_is_asked_about_as_well() {
    let mut testbed = Testbed::cold(module, 1, CONFIG, Feed::new());
    testbed.feed.ban("9.9.9.9");
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"));
    testbed.check();
}
