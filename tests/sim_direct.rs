//! Scenarios of questions asked per request: whatever the admin service answers,
//! and whenever, the request comes to an end that follows from what was known.

use std::time::Duration;

use tidegate_host_sim::{CONFIG, Dice, Feed, Order, Request, Response, Stage, Trouble, Waits};
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Flag, Flags, Mode, Modes, State};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Every check and every event at once, as the flags of these scenarios say.
const ASYNC: [(Flag, State); 1] = [(Flag::AsyncRecording, State::On)];

/// What is no answer, and what comes of it at once.
const BAD: [Trouble; 11] = [
    Trouble::Garbage,
    Trouble::Long,
    Trouble::Empty,
    Trouble::Trailing,
    Trouble::Version,
    Trouble::Status(500),
    Trouble::Status(404),
    Trouble::Status(204),
    Trouble::OtherQuestion,
    Trouble::OtherCheck,
    Trouble::Reset,
];

fn flags(parallel: bool) -> Flags {
    let flags = ASYNC.into_iter().fold(Flags::default(), |flags, (flag, state)| flags.with(flag, state));
    flags.with(Flag::ParallelExecution, if parallel { State::On } else { State::Off })
}

/// Everything asked directly, recorded asynchronously.
fn direct(parallel: bool) -> Stage {
    Stage::with_flags(1, CONFIG, flags(parallel))
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
fn without_tables(config: &str) -> Stage {
    let mut feed = Feed::new();
    feed.frozen = true;
    Stage::new(1, config, feed)
}

fn told(response: &Response) -> (u16, &str) {
    (response.status, &response.details)
}

fn failed(stage: &Stage, check: Check) -> u64 {
    stage.metric(&format!("tidegate.direct.{}.failed", check.name()))
}

fn all_troubled(trouble: Trouble) -> PerCheck<Option<Trouble>> {
    PerCheck::from_fn(|_| Some(trouble))
}

#[test]
fn everything_is_asked_in_turn_and_a_denial_saves_the_rest() {
    let mut stage = direct(false);
    stage.feed.ban("9.9.9.9");
    let response = stage.get(0, "1.1.1.1");
    assert_eq!((response.status, response.cluster.as_deref()), (200, Some("demo")));
    assert_eq!(stage.feed.asked, PerCheck { ip: 1, geo: 1, route: 1 });
    let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
    assert_eq!(stage.sim.calls_of(stream).len(), 1, "one at a time");
    stage.finish(stream);
    assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"));
    assert_eq!(stage.feed.asked, PerCheck { ip: 3, geo: 2, route: 2 });
    stage.check();
}

#[test]
fn in_parallel_all_are_asked_at_once_and_the_first_denial_decides() {
    let mut stage = direct(true);
    stage.feed.ban("9.9.9.9");
    let stream = stage.begin(0, Request::get("/x", "9.9.9.9"));
    let calls = stage.sim.calls_of(stream);
    assert_eq!(calls.len(), 3);
    // Only the ban's answer comes.
    stage.feed.trouble = PerCheck { ip: None, geo: Some(Trouble::Never), route: Some(Trouble::Never) };
    let began = stage.sim.now_ns();
    assert_eq!(told(&stage.finish(stream)), (403, "ip_banned"));
    assert_eq!(stage.sim.now_ns(), began, "without waiting for the others");
    // Those run into their time limit, and nobody minds.
    stage.run(5 * SECOND);
    assert_eq!(Check::ALL.map(|check| failed(&stage, check)), [0; 3]);
    stage.check();
}

#[test]
fn a_denial_of_a_later_check_waits_for_the_earlier_ones() {
    let mut stage = direct(true);
    stage.feed.set_route_list(&[]);
    stage.feed.ban("9.9.9.9");
    stage.feed.trouble.ip = Some(Trouble::Slow(300 * MS));
    // A route's 404 must not hide a ban.
    assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"));
    assert_eq!(told(&stage.get(0, "1.1.1.1")), (404, "no_route"));
}

#[test]
fn in_parallel_nothing_is_asked_that_cannot_matter() {
    let asked = |config: &str, flags: Flags, client: &str| {
        let mut stage = Stage::with_flags(1, config, flags);
        stage.feed.ban("9.9.9.9");
        stage.run(SECOND);
        stage.get(0, client);
        stage.check();
        stage.feed.asked
    };
    let ip_cached = flags(true).with(Flag::IpBlacklistCache, State::On);
    assert_eq!(asked(CONFIG, ip_cached, "9.9.9.9"), PerCheck::default(), "the cache knows the ban");
    assert_eq!(asked(CONFIG, ip_cached, "1.1.1.1"), PerCheck { ip: 0, geo: 1, route: 1 });
    let envoy = CONFIG.replacen('{', r#"{"routing": "envoy", "#, 1);
    assert_eq!(asked(&envoy, flags(true), "1.1.1.1"), PerCheck { ip: 1, geo: 1, route: 0 });
}

#[test]
fn a_request_that_is_too_large_for_a_question_is_not_asked_about() {
    let mut stage = direct(false);
    let request = Request::get("/x", "1.1.1.1").header(b"x-large", &[b'a'; 300 << 10]);
    assert_eq!(stage.request(0, request).status, 200);
    let answered = stage.events()[0].answered;
    let expected = PerCheck { ip: Answered::Direct, geo: Answered::Direct, route: Answered::Fallback };
    assert_eq!(answered, expected);
    assert_eq!(stage.feed.asked, PerCheck { ip: 1, geo: 1, route: 0 });
}

#[test]
fn what_is_no_answer_is_a_failed_question_and_the_cache_stands_in() {
    for parallel in [false, true] {
        for bad in BAD {
            let mut stage = direct(parallel);
            stage.feed.ban("9.9.9.9");
            stage.run(SECOND);
            stage.feed.trouble = all_troubled(bad);
            assert_eq!(told(&stage.get(0, "1.1.1.1")), (200, "via_upstream"), "{bad:?}");
            assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"), "{bad:?}, from the cache");
            let events = stage.events();
            assert_eq!(events[0].answered, PerCheck::from_fn(|_| Answered::Fallback), "{bad:?}");
            assert_eq!(events[1].answered.ip, Answered::Fallback, "{bad:?}");
            assert!(Check::ALL.iter().all(|check| failed(&stage, *check) > 0), "{bad:?}");
            assert_eq!(stage.metric("tidegate.requests.deny.ip_banned"), 1);
            assert_eq!(stage.metric("tidegate.requests.deny.check_unavailable"), 0);
            // It comes back.
            stage.feed.trouble = PerCheck::default();
            assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"));
            assert_eq!(stage.events()[2].answered.ip, Answered::Direct, "{bad:?}");
            stage.check();
        }
    }
}

#[test]
fn without_a_cache_each_check_does_as_the_operator_chose() {
    for bad in BAD {
        for check in Check::ALL {
            for allows in [false, true] {
                let mut stage = without_tables(&if allows { lenient(&[check]) } else { lenient(&[]) });
                *stage.feed.trouble.get_mut(check) = Some(bad);
                let response = stage.get(0, "1.1.1.1");
                let expected = if allows { (200, "via_upstream") } else { (503, "check_unavailable") };
                assert_eq!(told(&response), expected, "{bad:?} of {check:?}");
                let is_routed = allows && check != Check::Route;
                assert_eq!(response.cluster.is_some(), is_routed, "else by Envoy's own route table");
                stage.run(SECOND);
                assert_eq!(failed(&stage, check), 1, "{bad:?} of {check:?}");
                let denied = stage.metric("tidegate.requests.deny.check_unavailable");
                assert_eq!(denied, u64::from(!allows), "denied and failed are counted apart");
                let unavailable = stage.metric(&format!("tidegate.check.{}.unavailable", check.name()));
                assert_eq!(unavailable, 1);
                stage.check();
            }
        }
    }
}

#[test]
fn a_denial_for_want_of_an_answer_says_so() {
    let mut stage = without_tables(CONFIG);
    stage.feed.trouble.geo = Some(Trouble::Status(503));
    let response = stage.get(0, "1.1.1.1");
    assert_eq!(response.header("retry-after").as_deref(), Some("1"));
    assert_eq!(response.header("content-type").as_deref(), Some("application/problem+json"));
    stage.run(SECOND);
    let event = &stage.feed.events[0].1;
    assert_eq!(event.reason.as_deref(), Some("check_unavailable"));
    assert_eq!(event.rule.as_deref(), Some("geo"));
    assert_eq!(
        event.answered,
        PerCheck { ip: Answered::Direct, geo: Answered::Nobody, route: Answered::Unneeded }
    );
}

#[test]
fn nobody_waits_longer_than_the_limits_say() {
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    config["direct"] = serde_json::json!({"timeout": "400ms", "budget": "1s"});
    for (parallel, took) in [(false, 1_000), (true, 400)] {
        let mut stage = Stage::with_flags(1, &config.to_string(), flags(parallel));
        stage.feed.trouble = all_troubled(Trouble::Never);
        let began = stage.sim.now_ns();
        // In turn: 400 ms, 400 ms, and what is left of the second.
        assert_eq!(stage.get(0, "1.1.1.1").status, 200, "from the cache");
        assert_eq!((stage.sim.now_ns() - began) / 1_000_000, took, "parallel: {parallel}");
        assert_eq!(stage.events()[0].duration_us, Some(took * 1_000));
        stage.check();
    }
    // The budget may be over before all were asked.
    config["direct"] = serde_json::json!({"timeout": "400ms", "budget": "400ms"});
    let mut stage = Stage::with_flags(1, &config.to_string(), flags(false));
    stage.feed.trouble = all_troubled(Trouble::Never);
    let began = stage.sim.now_ns();
    assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    assert_eq!((stage.sim.now_ns() - began) / 1_000_000, 400);
    assert_eq!(stage.feed.asked, PerCheck { ip: 1, geo: 0, route: 0 }, "nothing is asked in no time");
    stage.run(SECOND);
    assert_eq!(Check::ALL.map(|check| failed(&stage, check)), [1; 3]);
}

#[test]
fn an_answer_in_time_is_waited_for() {
    for parallel in [false, true] {
        let mut stage = direct(parallel);
        stage.feed.trouble = all_troubled(Trouble::Slow(900 * MS));
        let began = stage.sim.now_ns();
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        let took = (stage.sim.now_ns() - began) / 1_000_000;
        assert_eq!(took, if parallel { 900 } else { 2_700 });
        assert_eq!(stage.events()[0].answered, PerCheck::from_fn(|_| Answered::Direct));
        assert_eq!(Check::ALL.map(|check| failed(&stage, check)), [0; 3]);
    }
}

#[test]
fn a_question_that_cannot_be_sent_is_not_waited_for() {
    type Fault = fn(&mut Stage, bool);
    let faults: [(&str, Fault); 3] = [
        ("no healthy host", |stage, on| stage.sim.refuse_calls(on)),
        ("an unknown cluster", |stage, on| stage.sim.know_cluster(!on)),
        ("an open circuit breaker", |stage, on| stage.sim.limit_calls(if on { 1 } else { usize::MAX })),
    ];
    for parallel in [false, true] {
        for (what, fault) in faults {
            let mut stage = direct(parallel);
            fault(&mut stage, true);
            let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
            assert_eq!(
                stage.sim.waits(stream),
                Some(Waits::Upstream),
                "{what}: decided at once by the cache"
            );
            stage.finish(stream);
            fault(&mut stage, false);
            stage.get(0, "1.1.1.1");
            let events = stage.events();
            assert_eq!(events[0].answered, PerCheck::from_fn(|_| Answered::Fallback), "{what}");
            assert_eq!(events[1].answered, PerCheck::from_fn(|_| Answered::Direct), "{what}");
            stage.check();
        }
    }
}

#[test]
fn of_questions_asked_at_once_some_may_be_refused() {
    // The poll is one callout; so many questions fit beside it.
    for fits in 0..=3 {
        let mut stage = direct(true);
        stage.sim.limit_calls(1 + fits);
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        stage.sim.limit_calls(usize::MAX);
        let answered = stage.events()[0].answered;
        let expected =
            Check::ALL.map(|check| match Check::ALL.iter().position(|c| *c == check).unwrap() < fits {
                true => Answered::Direct,
                false => Answered::Fallback,
            });
        assert_eq!(Check::ALL.map(|check| *answered.get(check)), expected);
        stage.check();
    }
    // Refused and denied for it, while the others are open: nobody waits for them.
    let mut stage = without_tables(CONFIG);
    stage.sim.limit_calls(1);
    let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
    assert_eq!(stage.sim.waits(stream), Some(Waits::Nobody));
    assert_eq!(told(&stage.finish(stream)), (503, "check_unavailable"));
    stage.check();
}

#[test]
fn a_service_that_dies_between_question_and_answer_and_comes_back() {
    for parallel in [false, true] {
        let mut stage = direct(parallel);
        let open: Vec<_> = (0..20).map(|_| stage.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        stage.feed.die(&mut stage.sim);
        for stream in open {
            assert_eq!(stage.finish(stream).status, 200, "from the cache");
        }
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        stage.feed.up = true;
        stage.feed.restart();
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        stage.run(5 * SECOND);
        assert_eq!(stage.events().last().unwrap().answered.ip, Answered::Direct);
        assert_eq!(stage.events().len(), 22);
        stage.check();
    }
}

#[test]
fn an_answer_after_envoys_own_is_left_alone() {
    for parallel in [false, true] {
        let mut stage = direct(parallel);
        stage.feed.ban("9.9.9.9");
        let stream = stage.begin(0, Request::get("/x", "9.9.9.9"));
        let open = stage.sim.calls_of(stream).len();
        stage.sim.answer_early(stream, 408, "request_overall_timeout");
        // The answer that would have denied it, and those that would have let it pass.
        stage.feed.serve(&mut stage.sim);
        assert!(stage.sim.calls_of(stream).is_empty(), "no more questions");
        stage.check();
        let response = stage.sim.finish(stream);
        assert_eq!(told(&response), (408, "request_overall_timeout"));
        let events = stage.events();
        assert_eq!(events[0].status, Some(408));
        assert_eq!(events[0].reason, None, "nothing was decided");
        assert_eq!(stage.metric("tidegate.direct.late"), open as u64);
    }
}

#[test]
fn whatever_overtakes_a_request_at_any_step_its_answers_do_no_harm() {
    // After so many answers Envoy gives the request up, or its client leaves.
    for parallel in [false, true] {
        for recording in [State::Off, State::On] {
            for answers in 0..4 {
                for leaves in [false, true] {
                    let mut stage = direct(parallel);
                    stage.feed.set_flag(Flag::AsyncRecording, recording);
                    stage.run(SECOND);
                    let handles = stage.sim.handles();
                    let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
                    for _ in 0..answers {
                        let Some(call) = stage.sim.calls_of(stream).first().map(|call| call.id) else {
                            break;
                        };
                        // One answer, by hand: the others stay open.
                        answer_one(&mut stage, call);
                    }
                    let waits = stage.sim.waits(stream).unwrap();
                    if leaves {
                        stage.sim.leave(stream);
                    } else if matches!(waits, Waits::Request | Waits::Upstream) {
                        stage.sim.answer_early(stream, 504, "response_timeout");
                        stage.finish(stream);
                    } else {
                        stage.finish(stream);
                    }
                    stage.run(5 * SECOND);
                    stage.check();
                    assert!(stage.sim.calls().iter().all(|call| call.stream.is_none()));
                    assert_eq!(stage.sim.handles(), handles, "nothing is left of it");
                    assert_eq!(stage.events().len(), 1);
                    assert_eq!(stage.get(0, "1.1.1.1").status, 200, "the VM goes on");
                }
            }
        }
    }
}

/// Answers one callout as the service would.
fn answer_one(stage: &mut Stage, call: tidegate_host_sim::CallId) {
    stage.feed.answer_one(&mut stage.sim, call);
    stage.sim.settle();
}

#[test]
fn a_client_that_goes_away_while_questions_are_open_leaves_nothing() {
    for parallel in [false, true] {
        let mut stage = direct(parallel);
        let handles = stage.sim.handles();
        let streams: Vec<_> = (0..500).map(|_| stage.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        assert!(stage.sim.handles() > handles);
        for stream in streams {
            assert_eq!(stage.sim.leave(stream).status, 0);
        }
        assert_eq!(stage.sim.handles(), handles, "dropped with the request, not with the answer");
        // Their answers come to nobody.
        stage.run(2 * SECOND);
        assert!(stage.sim.calls().iter().all(|call| call.stream.is_none()));
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        let events = stage.events();
        assert_eq!(events.len(), 501);
        assert!(events[..500].iter().all(|event| event.status.is_none() && event.duration_us.is_some()));
        assert!(events.iter().all(|event| event.client.is_some()));
        stage.check();
    }
}

#[test]
fn a_vm_that_traps_with_questions_open_comes_back() {
    for calls in 0..40 {
        let mut stage = direct(true);
        let (worker, _) = stage.gates[0];
        let held: Vec<_> = (0..3).map(|_| stage.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        stage.sim.trap_after(worker, calls);
        stage.feed.serve(&mut stage.sim);
        stage.run(3 * SECOND);
        for stream in held {
            let status = stage.finish(stream).status;
            assert!(matches!(status, 200 | 503), "{status}");
        }
        stage.sim.spare(worker);
        stage.get(0, "1.1.1.1");
        stage.run(15 * SECOND);
        assert_eq!(stage.get(0, "1.1.1.1").status, 200, "after {calls} host calls");
        stage.check();
    }
}

#[test]
fn one_ban_in_the_database_is_enforced_before_any_gateway_knows() {
    let mut stage = direct(false);
    stage.feed.frozen = true;
    stage.feed.ban("9.9.9.9");
    assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"));
    stage.feed.unban("9.9.9.9");
    assert_eq!(stage.get(0, "9.9.9.9").status, 200);
}

#[test]
fn before_the_first_tables_everything_is_asked_directly_and_recorded_at_once() {
    let mut stage = without_tables(CONFIG);
    stage.feed.ban("9.9.9.9");
    assert_eq!(told(&stage.get(0, "1.1.1.1")), (200, "via_upstream"));
    assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"));
    assert_eq!(stage.feed.opened.len(), 2);
    let events = stage.events();
    assert!(events.iter().all(|event| event.modes == Some(Modes::default()) && event.tables_seq == 0));
    // With the first tables come the flags.
    stage.feed.frozen = false;
    stage.run(40 * SECOND);
    assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    let last = stage.events().pop().unwrap();
    assert_eq!(last.modes, Some(Flags::all_on().modes(last.client)));
    assert_eq!(stage.feed.opened.len(), 2);
    stage.check();
}

#[test]
fn a_service_that_is_gone_while_everything_is_direct() {
    for (config, without) in
        [(CONFIG.to_owned(), (503, "check_unavailable")), (lenient(&Check::ALL), (200, "via_upstream"))]
    {
        let mut stage = without_tables(&config);
        stage.feed.die(&mut stage.sim);
        assert_eq!(told(&stage.get(0, "9.9.9.9")), without);
        let mut stage = Stage::with_flags(1, &config, Flags::default());
        stage.feed.ban("9.9.9.9");
        stage.run(SECOND);
        stage.feed.die(&mut stage.sim);
        let began = stage.sim.now_ns();
        assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"), "with a cache the cache answers");
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        assert_eq!(stage.sim.now_ns(), began, "a refused connection is no wait");
        stage.check();
    }
}

#[test]
fn flags_that_change_while_a_request_waits_are_not_its_flags() {
    let mut dice = Dice::new(7);
    let mut stage = direct(false);
    stage.feed.order = Order::Random(11);
    let mut held = Vec::new();
    let mut begun = 0;
    for _ in 0..400 {
        match dice.below(5) {
            0 => {
                let states = [State::Off, State::On, State::Shadow, State::Share(50)];
                let flag = dice.pick(&Flag::ALL);
                let state = dice.pick(&states);
                if flag.has_shadow() || state != State::Shadow {
                    stage.feed.set_flag(flag, state);
                }
            }
            1 | 2 => {
                let client = format!("10.0.0.{}", dice.below(20));
                let flags = stage.feed.flags();
                // What is in force has reached the gate.
                stage.feed.serve(&mut stage.sim);
                let stream = stage.begin(0, Request::get("/x", &client));
                begun += 1;
                held.push((stream, flags.modes(Some(client.parse().unwrap()))));
            }
            3 if !held.is_empty() => {
                let (stream, _) = held.remove(dice.below(held.len()));
                assert_eq!(stage.finish(stream).status, 200);
            }
            _ => stage.run(Duration::from_millis(dice.bits() % 50)),
        }
    }
    for (stream, _) in held {
        assert_eq!(stage.finish(stream).status, 200);
    }
    let events = stage.events();
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
    let opened = stage.feed.opened.iter().map(|open| open.event.number);
    let sync = events.iter().filter(|event| !event.modes.unwrap().async_recording).map(|event| event.number);
    let (opened, sync): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        (opened.collect(), sync.collect());
    assert_eq!(opened, sync);
    stage.check();
}

#[test]
fn a_share_of_the_clients_is_the_same_clients_in_every_vm() {
    let mut feed = Feed::new();
    feed.set_flags(
        Flags::default().with(Flag::RouteCache, State::Share(30)).with(Flag::AsyncRecording, State::On),
    );
    let mut stage = Stage::new(3, CONFIG, feed);
    let flags = stage.feed.flags();
    for client in 0..200 {
        let client = format!("10.0.7.{client}");
        for gate in 0..3 {
            assert_eq!(stage.get(gate, &client).status, 200);
        }
    }
    stage.run(SECOND);
    assert_eq!(stage.feed.events.len(), 600);
    let mut cached = 0;
    for (_, event) in &stage.feed.events {
        assert_eq!(event.modes, Some(flags.modes(event.client)));
        cached += u32::from(event.answered.route == Answered::Cache);
    }
    // 60 of 200 clients on the average; six standard deviations are 39.
    assert!(cached % 3 == 0 && (21..=99).contains(&(cached / 3)), "{cached}");
}

#[test]
fn a_request_is_told_what_each_question_cost() {
    let config = CONFIG.replacen('{', r#"{"performance_headers": "on_request", "#, 1);
    for (parallel, total) in [(false, "600.000"), (true, "300.000")] {
        let mut stage = Stage::with_flags(1, &config, flags(parallel).with(Flag::AsyncRecording, State::Off));
        let slow = |ms: u32| Some(Trouble::Slow(ms * MS));
        stage.feed.trouble = PerCheck { ip: slow(100), geo: slow(200), route: slow(300) };
        stage.feed.open_trouble = slow(40);
        let response = stage.request(0, Request::get("/x", "1.1.1.1").header(b"x-performance", b"1"));
        let told = |name: &str| response.header(&format!("x-performance-{name}")).unwrap_or_default();
        assert_eq!([told("ip"), told("geo"), told("route")], ["100.000", "200.000", "300.000"]);
        assert_eq!(told("recording"), "40.000");
        assert_eq!(told("cache"), "route=direct,ip=direct,geo=direct");
        let with_recording = total.replacen("00.", "40.", 1);
        assert_eq!(told("total"), with_recording);
        assert!(response.header("server-timing").unwrap().contains("ip;dur=100.000"));
        let silent = stage.get(0, "1.1.1.1");
        assert!(silent.header("server-timing").is_none() && silent.header("x-performance-total").is_none());
        stage.check();
    }
}

/// A world in which anything happens to requests, answers and the service.
struct Chaos {
    stage: Stage,
    dice: Dice,
    /// Requests under way; whether their client was banned before they began.
    held: Vec<(tidegate_host_sim::StreamId, bool)>,
    begun: u64,
}

const GATES: usize = 2;

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut stage = Stage::new(GATES, CONFIG, Feed::new());
        stage.feed.ban("9.9.9.0/24");
        stage.feed.order = Order::Random(seed | 1);
        stage.run(2 * SECOND);
        Self { stage, dice: Dice::new(seed), held: Vec::new(), begun: 0 }
    }

    fn trouble(&mut self) -> Option<Trouble> {
        let slow = Trouble::Slow(Duration::from_millis(self.dice.bits() % 1_500));
        match self.dice.below(4) {
            0 => Some(self.dice.pick(&BAD)),
            1 => Some(self.dice.pick(&[slow, Trouble::Never])),
            _ => None,
        }
    }

    fn happen(&mut self) {
        match self.dice.below(24) {
            0 => {
                let flag = self.dice.pick(&Flag::ALL);
                let state =
                    self.dice.pick(&[State::Off, State::Off, State::On, State::Shadow, State::Share(40)]);
                if flag.has_shadow() || state != State::Shadow {
                    self.stage.feed.set_flag(flag, state);
                }
            }
            1 => {
                self.stage.feed.trouble = PerCheck::from_fn(|_| self.trouble());
                self.stage.feed.open_trouble = self.trouble();
            }
            2 => self.stage.feed.die(&mut self.stage.sim),
            3 => self.stage.feed.up = true,
            4 => self.stage.sim.refuse_calls(self.dice.percent(30)),
            5 => self.stage.sim.limit_calls(if self.dice.percent(30) { 4 } else { usize::MAX }),
            6 => drop(self.stage.feed.answer_all(&mut self.stage.sim)),
            7..=11 => {
                let banned = self.dice.percent(40);
                let client = if banned { "9.9.9.9" } else { "1.1.1.1" };
                let gate = self.dice.below(GATES);
                self.held.push((self.stage.begin(gate, Request::get("/x", client)), banned));
                self.begun += 1;
            }
            12..=14 => {
                let calls = self.stage.sim.calls();
                if !calls.is_empty() {
                    let call = calls[self.dice.below(calls.len())].id;
                    answer_one(&mut self.stage, call);
                }
            }
            15..=19 => self.end_one(),
            _ => self.stage.run(Duration::from_millis(self.dice.bits() % 300)),
        }
        assert!(self.stage.sim.stuck().is_empty());
    }

    /// One that is under way comes to some end, or a step nearer.
    fn end_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.dice.below(self.held.len());
        let (stream, banned) = self.held[at];
        let waits = self.stage.sim.waits(stream).unwrap();
        assert!(!(banned && waits == Waits::Upstream), "a banned client passes");
        let how = self.dice.below(5);
        match (waits, how) {
            (Waits::Upstream, 0 | 1) => self.stage.sim.upstream(stream, 200, &[]),
            (Waits::Request | Waits::Upstream, 2) => self.stage.sim.answer_early(stream, 504, "timeout"),
            (_, 3) => {
                self.held.swap_remove(at);
                self.stage.sim.leave(stream);
            }
            (Waits::Response, 4) => {
                self.held.swap_remove(at);
                self.stage.sim.turn(stream, 502, "upstream_reset");
                self.stage.sim.finish(stream);
            }
            (Waits::Nobody, _) => {
                self.held.swap_remove(at);
                self.stage.sim.finish(stream);
            }
            _ => {}
        }
    }

    /// All is well again: whoever is still held gets on.
    fn end(&mut self) {
        let Self { stage, .. } = self;
        (stage.feed.up, stage.feed.open_trouble) = (true, None);
        stage.feed.trouble = PerCheck::default();
        stage.sim.refuse_calls(false);
        stage.sim.limit_calls(usize::MAX);
        for (stream, banned) in self.held.drain(..) {
            let overtaken = stage.sim.waits(stream) == Some(Waits::Nobody);
            let status = stage.finish(stream).status;
            assert!(!banned || status != 200, "a banned client passes");
            assert!(matches!(status, 200 | 403) || overtaken || status == 504, "{status}");
        }
        stage.run(15 * SECOND);
    }
}

#[test]
fn whatever_happens_every_request_ends_once_and_no_banned_client_passes() {
    for seed in 0..60 {
        let mut chaos = Chaos::new(seed);
        let handles = chaos.stage.sim.handles();
        for _ in 0..250 {
            chaos.happen();
        }
        chaos.end();
        let stage = &chaos.stage;
        stage.check();
        assert_eq!(stage.sim.handles(), handles, "seed {seed}: nothing is left in the VMs");
        assert_eq!(stage.feed.events.len() as u64, chaos.begun, "seed {seed}: one event each");
        assert_eq!(stage.feed.duplicates, 0);
        assert!(stage.feed.open.is_empty(), "seed {seed}: all that was opened is completed");
        assert_eq!(stage.metric("tidegate.host_errors"), 0, "seed {seed}");
        assert!(stage.sim.errors().is_empty());
    }
}

#[test]
fn a_reloaded_vm_asks_from_its_first_request_on() {
    let mut stage = direct(false);
    stage.get(0, "1.1.1.1");
    stage.run(2 * SECOND);
    let (worker, _) = stage.gates[0];
    stage.sim.trap(worker);
    // Loaded by the request itself: it has not ticked.
    assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    stage.run(15 * SECOND);
    let last = stage.feed.events.last().unwrap().1.clone();
    assert_eq!(last.answered, PerCheck::from_fn(|_| Answered::Direct));
}

#[test]
fn a_request_before_the_first_tick_is_asked_about_as_well() {
    let mut stage = Stage::cold(1, CONFIG, Feed::new());
    stage.feed.ban("9.9.9.9");
    assert_eq!(stage.get(0, "1.1.1.1").status, 200);
    assert_eq!(told(&stage.get(0, "9.9.9.9")), (403, "ip_banned"));
    stage.check();
}
