//! Questions that are not answered: at all, in time, or with an answer.

use super::*;

#[test]
fn what_is_no_answer_is_a_failed_question_and_the_cache_stands_in() {
    for parallel in [false, true] {
        for bad in BAD {
            let mut testbed = direct(parallel);
            testbed.feed.ban("9.9.9.9");
            testbed.run(SECOND);
            testbed.feed.check_faults = all_faulty(bad);
            assert_eq!(told(&testbed.get(0, "1.1.1.1")), (200, "via_upstream"), "{bad:?}");
            assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"), "{bad:?}, from the cache");
            let events = testbed.events();
            assert_eq!(events[0].answered, PerCheck::from_fn(|_| Answered::Fallback), "{bad:?}");
            assert_eq!(events[1].answered.ip, Answered::Fallback, "{bad:?}");
            assert!(Check::ALL.iter().all(|check| failed(&testbed, *check) > 0), "{bad:?}");
            assert_eq!(testbed.metric("tidegate.requests.deny.ip_banned"), 1);
            assert_eq!(testbed.metric("tidegate.requests.deny.check_unavailable"), 0);
            // It comes back.
            testbed.feed.check_faults = PerCheck::default();
            assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"));
            assert_eq!(testbed.events()[2].answered.ip, Answered::Direct, "{bad:?}");
            testbed.check();
        }
    }
}

#[test]
fn without_a_cache_each_check_does_as_the_operator_chose() {
    for bad in BAD {
        for check in Check::ALL {
            for allows in [false, true] {
                let mut testbed = without_tables(&if allows { lenient(&[check]) } else { lenient(&[]) });
                *testbed.feed.check_faults.get_mut(check) = Some(bad);
                let response = testbed.get(0, "1.1.1.1");
                let expected = if allows { (200, "via_upstream") } else { (503, "check_unavailable") };
                assert_eq!(told(&response), expected, "{bad:?} of {check:?}");
                let is_routed = allows && check != Check::Route;
                assert_eq!(response.cluster.is_some(), is_routed, "else by Envoy's own route table");
                testbed.run(SECOND);
                assert_eq!(failed(&testbed, check), 1, "{bad:?} of {check:?}");
                let denied = testbed.metric("tidegate.requests.deny.check_unavailable");
                assert_eq!(denied, u64::from(!allows), "denied and failed are counted apart");
                let unavailable = testbed.metric(&format!("tidegate.check.{}.unavailable", check.name()));
                assert_eq!(unavailable, 1);
                testbed.check();
            }
        }
    }
}

#[test]
fn a_denial_for_want_of_an_answer_says_so() {
    let mut testbed = without_tables(CONFIG);
    testbed.feed.check_faults.geo = Some(LastingFault::Status(503));
    let response = testbed.get(0, "1.1.1.1");
    assert_eq!(response.header("retry-after").as_deref(), Some("1"));
    assert_eq!(response.header("content-type").as_deref(), Some("application/problem+json"));
    testbed.run(SECOND);
    let event = &testbed.feed.events[0].1;
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
        let mut testbed = Testbed::with_flags(module, 1, &config.to_string(), flags(parallel));
        testbed.feed.check_faults = all_faulty(LastingFault::Never);
        let began = testbed.sim.now_ns();
        // In turn: 400 ms, 400 ms, and what is left of the second.
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "from the cache");
        assert_eq!((testbed.sim.now_ns() - began) / 1_000_000, took, "parallel: {parallel}");
        let event = &testbed.events()[0];
        assert_eq!((event.duration_us, event.gate_us), (Some(took * 1_000), Some(took * 1_000)));
        testbed.check();
    }
    // The budget may be over before all were asked.
    config["direct"] = serde_json::json!({"timeout": "400ms", "budget": "400ms"});
    let mut testbed = Testbed::with_flags(module, 1, &config.to_string(), flags(false));
    testbed.feed.check_faults = all_faulty(LastingFault::Never);
    let began = testbed.sim.now_ns();
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    assert_eq!((testbed.sim.now_ns() - began) / 1_000_000, 400);
    assert_eq!(testbed.feed.asked, PerCheck { ip: 1, geo: 0, route: 0 }, "nothing is asked in no time");
    testbed.run(SECOND);
    assert_eq!(Check::ALL.map(|check| failed(&testbed, check)), [1; 3]);
}

#[test]
fn a_service_that_hangs_is_waited_for_once_a_second_and_not_by_all() {
    let mut testbed = direct(true);
    testbed.feed.check_faults = all_faulty(LastingFault::Never);
    let began = testbed.sim.now_ns();
    for _ in 0..3 {
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "from the cache");
    }
    assert_eq!((testbed.sim.now_ns() - began) / 1_000_000, 3_000, "each waits for its whole time");
    for _ in 0..100 {
        assert_eq!(testbed.get_now(0, "1.1.1.1").status, 200, "and these for nothing");
    }
    assert_eq!(testbed.feed.asked, PerCheck { ip: 3, geo: 3, route: 3 });
    testbed.run(SECOND);
    let began = testbed.sim.now_ns();
    assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
    assert_eq!((testbed.sim.now_ns() - began) / 1_000_000, 1_000, "one finds out whether it still hangs");
    assert_eq!(testbed.get_now(0, "1.1.1.1").status, 200);
    assert_eq!(testbed.feed.asked, PerCheck { ip: 3, geo: 4, route: 3 }, "they take turns");
    // It goes on: the next that finds out is answered, and so are all after it.
    testbed.feed.check_faults = PerCheck::default();
    testbed.run(SECOND);
    (0..3).for_each(|_| drop(testbed.get(0, "1.1.1.1")));
    let before = testbed.events().len();
    for _ in 0..2 {
        testbed.get(0, "1.1.1.1");
    }
    let answered = testbed.events()[before..].iter().map(|event| event.answered).collect::<Vec<_>>();
    assert_eq!(answered, [PerCheck::from_fn(|_| Answered::Direct); 2]);
    assert_eq!(failed(&testbed, Check::Ip), 106, "not asking counts as a failed question");
    testbed.check();
}

#[test]
fn what_is_said_in_the_services_place_is_no_sign_of_it() {
    let in_place = [503, 504, 502, 404, 302].map(LastingFault::InPlace);
    for fault in in_place.into_iter().chain([LastingFault::Reset, LastingFault::Long, LastingFault::Garbage])
    {
        let mut testbed = direct(true);
        testbed.feed.check_faults = all_faulty(fault);
        for _ in 0..3 {
            assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "{fault:?}: from the cache");
        }
        for _ in 0..100 {
            assert_eq!(testbed.get_now(0, "1.1.1.1").status, 200, "{fault:?}: without a question");
        }
        assert_eq!(testbed.feed.asked, PerCheck { ip: 3, geo: 3, route: 3 }, "{fault:?}");
        testbed.run(SECOND);
        testbed.get(0, "1.1.1.1");
        testbed.get_now(0, "1.1.1.1");
        assert_eq!(testbed.feed.asked, PerCheck { ip: 3, geo: 4, route: 3 }, "{fault:?}: one finds out");
        testbed.check();
    }
    // What the service itself refuses it is asked again.
    for status in [503, 401] {
        let mut testbed = direct(true);
        testbed.feed.check_faults = all_faulty(LastingFault::Status(status));
        (0..10).for_each(|_| drop(testbed.get(0, "1.1.1.1")));
        assert_eq!(testbed.feed.asked, PerCheck { ip: 10, geo: 10, route: 10 }, "{status}");
    }
}

#[test]
fn whoever_finds_out_asks_one_question() {
    let mut testbed = direct(false);
    testbed.feed.check_faults = all_faulty(LastingFault::Never);
    let waited = |testbed: &mut Testbed| {
        let began = testbed.sim.now_ns();
        testbed.get(0, "1.1.1.1");
        (testbed.sim.now_ns() - began) / 1_000_000
    };
    assert_eq!([(); 4].map(|()| waited(&mut testbed)), [3_000, 3_000, 3_000, 0], "in turn");
    testbed.run(SECOND);
    assert_eq!([(); 3].map(|()| waited(&mut testbed)), [1_000, 0, 0]);
    // The service is back: the next finds out, and all that come after it are answered by it.
    testbed.feed.check_faults = PerCheck::default();
    testbed.run(SECOND);
    assert_eq!([(); 3].map(|()| waited(&mut testbed)), [0; 3]);
    let events = testbed.events();
    for event in &events[events.len() - 2..] {
        assert_eq!(event.answered, PerCheck::from_fn(|_| Answered::Direct));
    }
}

#[test]
fn an_answer_in_time_is_waited_for() {
    for parallel in [false, true] {
        let mut testbed = direct(parallel);
        testbed.feed.check_faults = all_faulty(LastingFault::Slow(900 * MS));
        let began = testbed.sim.now_ns();
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
        let took = (testbed.sim.now_ns() - began) / 1_000_000;
        assert_eq!(took, if parallel { 900 } else { 2_700 });
        assert_eq!(testbed.events()[0].answered, PerCheck::from_fn(|_| Answered::Direct));
        assert_eq!(Check::ALL.map(|check| failed(&testbed, check)), [0; 3]);
    }
}

#[test]
fn a_question_that_cannot_be_sent_is_not_waited_for() {
    type Fault = fn(&mut Testbed, bool);
    let faults: [(&str, Fault); 3] = [
        ("no healthy host", |testbed, on| testbed.sim.refuse_calls(on)),
        ("an unknown cluster", |testbed, on| testbed.sim.know_cluster(!on)),
        ("an open circuit breaker", |testbed, on| testbed.sim.limit_calls(if on { 1 } else { usize::MAX })),
    ];
    for parallel in [false, true] {
        for (what, fault) in faults {
            let mut testbed = direct(parallel);
            fault(&mut testbed, true);
            let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
            assert_eq!(
                testbed.sim.waits(stream),
                Some(Waits::Upstream),
                "{what}: decided at once by the cache"
            );
            testbed.finish(stream);
            fault(&mut testbed, false);
            testbed.get(0, "1.1.1.1");
            let events = testbed.events();
            assert_eq!(events[0].answered, PerCheck::from_fn(|_| Answered::Fallback), "{what}");
            assert_eq!(events[1].answered, PerCheck::from_fn(|_| Answered::Direct), "{what}");
            testbed.check();
        }
    }
}

#[test]
fn of_questions_asked_at_once_some_may_be_refused() {
    // The poll is one callout; so many questions fit beside it.
    for fits in 0..=3 {
        let mut testbed = direct(true);
        testbed.sim.limit_calls(1 + fits);
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
        testbed.sim.limit_calls(usize::MAX);
        let answered = testbed.events()[0].answered;
        let expected =
            Check::ALL.map(|check| match Check::ALL.iter().position(|c| *c == check).unwrap() < fits {
                true => Answered::Direct,
                false => Answered::Fallback,
            });
        assert_eq!(Check::ALL.map(|check| *answered.get(check)), expected);
        testbed.check();
    }
    // Refused and denied for it, while the others are open: nobody waits for them.
    let mut testbed = without_tables(CONFIG);
    testbed.sim.limit_calls(1);
    let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
    assert_eq!(testbed.sim.waits(stream), Some(Waits::Nobody));
    assert_eq!(told(&testbed.finish(stream)), (503, "check_unavailable"));
    testbed.check();
}

#[test]
fn a_service_that_dies_between_question_and_answer_and_comes_back() {
    for parallel in [false, true] {
        let mut testbed = direct(parallel);
        let open: Vec<_> = (0..20).map(|_| testbed.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        testbed.feed.die(&mut testbed.sim);
        for stream in open {
            assert_eq!(testbed.finish(stream).status, 200, "from the cache");
        }
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
        testbed.feed.up = true;
        testbed.feed.restart();
        testbed.run(SECOND);
        (0..3).for_each(|_| assert_eq!(testbed.get(0, "1.1.1.1").status, 200));
        testbed.run(5 * SECOND);
        assert_eq!(testbed.events().last().unwrap().answered.ip, Answered::Direct);
        assert_eq!(testbed.events().len(), 24);
        testbed.check();
    }
}

#[test]
fn a_service_that_is_gone_while_everything_is_direct() {
    for (config, without) in
        [(CONFIG.to_owned(), (503, "check_unavailable")), (lenient(&Check::ALL), (200, "via_upstream"))]
    {
        let mut testbed = without_tables(&config);
        testbed.feed.die(&mut testbed.sim);
        assert_eq!(told(&testbed.get(0, "9.9.9.9")), without);
        let mut testbed = Testbed::with_flags(module, 1, &config, Flags::default());
        testbed.feed.ban("9.9.9.9");
        testbed.run(SECOND);
        testbed.feed.die(&mut testbed.sim);
        let began = testbed.sim.now_ns();
        assert_eq!(told(&testbed.get(0, "9.9.9.9")), (403, "ip_banned"), "with a cache the cache answers");
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
        assert_eq!(testbed.sim.now_ns(), began, "a refused connection is no wait");
        testbed.check();
    }
}
