//! Requests whose checks the admin service answers, or does not.

use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::decide::{Finding, Findings, GeoFinding, Given, RuleId, Step, Verdict};
use tidegate_policy::geo::{GeoAction, RuleVerdict};
use tidegate_policy::request::Facts;

use super::*;

const IP: &str = "/api/data-plane/v1/check/ip";

fn paths(calls: &[Made]) -> Vec<&str> {
    calls.iter().map(|call| call.path.rsplit('/').next().unwrap()).collect()
}

fn passed(cluster: &str) -> [Done; 2] {
    [Done::Set(CLUSTER_HEADER.to_owned(), cluster.to_owned()), Done::Resumed]
}

#[test]
fn questions_in_turn_follow_each_other() {
    let host = Fake::default();
    let filter = filter(&host, Some(Flags::default()), "");
    let (mut stream, flow) = begin(&host, &filter);
    assert_eq!(flow, Action::Pause);
    for check in ["ip", "geo", "route"] {
        assert_eq!(host.take_done(), []);
        let calls = host.take_calls();
        assert_eq!(paths(&calls), [check]);
        deliver(&host, &mut stream, &calls[0], 200, answer(&calls[0], pass(check)));
    }
    assert_eq!(host.take_done(), passed("shop"));
    let event = event(&stream);
    assert_eq!(event.answered, PerCheck::from_fn(|_| Answered::Direct));
    assert_eq!((event.verdict, event.route.as_deref()), (VerdictCode::Allow, Some("r")));
    assert_eq!(event.template.as_deref(), Some("/{p}"));
}

#[test]
fn a_request_whose_route_envoy_is_not_told_does_not_pass() {
    let host = Fake::default();
    let caches = Flags::all_on().with(Flag::RouteCache, State::Off);
    let filter = filter(&host, Some(caches), "");
    let (mut stream, _) = begin(&host, &filter);
    let route = host.take_calls().remove(0);
    host.0.refuse_headers.set(true);
    deliver(&host, &mut stream, &route, 200, answer(&route, pass("route")));
    assert_eq!(host.take_done(), [Done::Replied(503, "not_ready".to_owned())]);
    let event = event(&stream);
    assert_eq!((event.verdict, event.route.as_deref()), (VerdictCode::Deny, Some("r")));
    filter.vm.metrics.flush();
    assert_eq!(host.figure("tidegate.requests.allow"), 0);
}

#[test]
fn a_denial_saves_the_rest() {
    let host = Fake::default();
    let filter = filter(&host, Some(Flags::default()), "");
    let (mut stream, _) = begin(&host, &filter);
    let ip = host.take_calls().remove(0);
    let banned = Found::Ip(IpFinding::Banned("192.0.2.0/24".parse().unwrap()));
    deliver(&host, &mut stream, &ip, 200, answer(&ip, banned));
    assert_eq!(host.take_done(), [Done::Replied(403, "ip_banned".to_owned())]);
    assert!(host.take_calls().is_empty());
    assert_eq!(event(&stream).answered, PerCheck { ip: Answered::Direct, ..PerCheck::default() });
    assert_eq!(event(&stream).rule.as_deref(), Some("192.0.2.0/24"));
}

#[test]
fn what_the_cache_answers_is_not_asked() {
    let host = Fake::default();
    let flags = Flags::default()
        .with(Flag::IpBlacklistCache, State::On)
        .with(Flag::RouteCache, State::On)
        .with(Flag::ParallelExecution, State::On);
    let filter = filter(&host, Some(flags), "");
    let (mut stream, flow) = begin(&host, &filter);
    assert_eq!(flow, Action::Pause);
    let calls = host.take_calls();
    assert_eq!(paths(&calls), ["geo"]);
    deliver(&host, &mut stream, &calls[0], 200, answer(&calls[0], pass("geo")));
    assert_eq!(host.take_done(), [Done::Replied(404, "no_route".to_owned())]);
    let answered = PerCheck { ip: Answered::Cache, geo: Answered::Direct, route: Answered::Cache };
    assert_eq!(event(&stream).answered, answered);
}

#[test]
fn in_parallel_only_what_can_matter_is_asked() {
    let host = Fake::default();
    let flags = Flags::default().with(Flag::ParallelExecution, State::On);
    let envoys = filter(&host, Some(flags), r#", "routing": "envoy""#);
    let _ = begin(&host, &envoys);
    assert_eq!(paths(&host.take_calls()), ["ip", "geo"], "Envoy chooses the route");
}

/// What one check comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Passes,
    Denies,
    Fails,
}

const FATES: [Fate; 3] = [Fate::Passes, Fate::Denies, Fate::Fails];

fn found(check: Check, fate: Fate) -> Option<Found> {
    let denied = match check {
        Check::Ip => Found::Ip(IpFinding::Banned("192.0.2.1/32".parse().unwrap())),
        Check::Geo => {
            let denies = Some(GeoAction::LegalReasons);
            let verdicts = vec![RuleVerdict { name: "law".to_owned(), global: true, denies }];
            Found::Geo(GeoAnswer { country: None, verdicts })
        }
        Check::Route => Found::Route(Ok(None)),
    };
    match fate {
        Fate::Passes => Some(pass(check.name())),
        Fate::Denies => Some(denied),
        Fate::Fails => None,
    }
}

/// The decision by the specification alone.
fn expected(fates: &PerCheck<Fate>, tables: Option<&Tables>, settings: &Settings) -> Vec<Done> {
    let answers = PerCheck::from_fn(|check| found(check, *fates.get(check)));
    let facts = Facts { client: Some("192.0.2.1".parse().unwrap()), ..Facts::default() };
    let ip = match (&answers.ip, tables) {
        (Some(Found::Ip(found)), _) => Finding::Found(*found),
        (_, Some(tables)) => Finding::Found(IpFinding::look_up(facts.client, tables, || 0)),
        _ => Finding::Unavailable,
    };
    let geo = match (&answers.geo, tables) {
        (Some(Found::Geo(found)), _) => Finding::Found(found.finding()),
        (_, Some(tables)) => Finding::Found(GeoFinding::look_up(facts.client, Given::Table, tables)),
        _ => Finding::Unavailable,
    };
    let route = match (&answers.route, tables) {
        (Some(Found::Route(found)), _) => Finding::Found(RouteAnswer::found(found)),
        (_, Some(_)) => Finding::Found(Ok(None)),
        _ => Finding::Unavailable,
    };
    let findings = Findings { ip: Some(ip), geo: Some(geo), route: Some(route) };
    let Step::Decided(Decision { verdict, .. }) = findings.step(settings) else { panic!("all is known") };
    match verdict {
        Verdict::Allow(Some(_)) => passed("shop").to_vec(),
        Verdict::Allow(None) => vec![Done::Resumed],
        Verdict::Deny(denial) => {
            assert!(denial.rule != Some(RuleId::Geo("law")) || denial.status == 451);
            vec![Done::Replied(denial.status, denial.reason.code().to_owned())]
        }
    }
}

/// Asks and answers until nothing is asked any more, in the order of `rank`.
fn play(host: &Fake, filter: &Rc<Filter<Fake>>, fates: &PerCheck<Fate>, rank: [usize; 3]) -> Vec<Done> {
    // The cases before this one may have worn out the filter's patience.
    host.advance(Duration::from_secs(2));
    let (mut stream, _) = begin(host, filter);
    let mut open = host.take_calls();
    while !open.is_empty() {
        open.sort_by_key(|call| rank[Check::ALL.iter().position(|c| call.path.ends_with(c.name())).unwrap()]);
        let call = open.remove(0);
        let check = Check::ALL.into_iter().find(|check| call.path.ends_with(check.name())).unwrap();
        match found(check, *fates.get(check)) {
            Some(found) => deliver(host, &mut stream, &call, 200, answer(&call, found)),
            None => deliver(host, &mut stream, &call, 504, b"upstream request timeout".to_vec()),
        }
        open.extend(host.take_calls());
    }
    stream.on_log();
    host.take_done()
}

#[test]
fn the_decision_is_the_same_whichever_answer_comes_first_and_whatever_fails() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let allow = r#", "on_unavailable": {"ip": "allow", "geo": "allow", "route": "allow"}"#;
    for more in ["", allow, r#", "on_no_route": "pass""#] {
        for tables in [false, true] {
            for parallel in [State::Off, State::On] {
                let host = Fake::default();
                let flags = tables.then(|| Flags::default().with(Flag::ParallelExecution, parallel));
                let filter = filter(&host, flags, more);
                let held = filter.vm.sync.borrow().tables();
                for fates in FATES.iter().flat_map(|ip| FATES.iter().map(move |geo| (*ip, *geo))) {
                    for route in FATES {
                        let fates = PerCheck { ip: fates.0, geo: fates.1, route };
                        let expected = expected(&fates, held.as_deref(), &filter.settings);
                        for order in orders {
                            let case = format!("{fates:?} {order:?} {parallel:?} {tables} {more}");
                            assert_eq!(play(&host, &filter, &fates, order), expected, "{case}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_question_that_cannot_be_sent_has_failed_at_once() {
    for (flags, more, done, answered) in [
        (None, "", Done::Replied(503, "check_unavailable".to_owned()), Answered::Nobody),
        (Some(Flags::default()), "", Done::Replied(404, "no_route".to_owned()), Answered::Fallback),
    ] {
        let host = Fake::default();
        let filter = filter(&host, flags, more);
        host.0.refuse_calls.set(Some(crate::host::HostError::Refused));
        let (stream, flow) = begin(&host, &filter);
        assert_eq!((flow, host.take_done()), (Action::Pause, vec![done]));
        assert_eq!(event(&stream).answered.ip, answered);
        filter.vm.metrics.flush();
        assert_eq!(host.figure("tidegate.direct.ip.failed"), 1);
    }
    let host = Fake::default();
    let filter =
        filter(&host, None, r#", "on_unavailable": {"ip": "allow", "geo": "allow", "route": "allow"}"#);
    host.0.refuse_calls.set(Some(crate::host::HostError::BadArgument));
    assert_eq!(begin(&host, &filter).1, Action::Continue);
    assert_eq!(host.take_done(), [], "Envoy's own route table takes it; it never stopped");
}

#[test]
fn what_is_no_answer_to_this_question_has_failed() {
    let host = Fake::default();
    let filter = filter(&host, None, r#", "routing": "envoy", "on_unavailable": {"geo": "allow"}"#);
    type Wrong = fn(&Made) -> (u16, usize, Vec<u8>);
    let wrong: [Wrong; 8] = [
        |made| (500, 3, answer(made, pass("ip"))),
        |made| (204, 3, answer(made, pass("ip"))),
        |made| (200, 0, answer(made, pass("ip"))),
        |_| (200, 3, Vec::new()),
        |_| (200, 3, b"<html>".to_vec()),
        |made| (200, 3, answer(made, pass("geo"))),
        |made| (200, 3, answer(made, pass("ip")).into_iter().chain([0]).collect()),
        |made| {
            let other =
                Question { id: Question::from_bytes(&made.body).unwrap().id + 1, ..Question::default() };
            (200, 3, answer(&Made { body: other.to_bytes().unwrap(), ..made.clone() }, pass("ip")))
        },
    ];
    for (at, wrong) in wrong.iter().enumerate() {
        let (mut stream, _) = begin(&host, &filter);
        let made = host.take_calls().remove(0);
        assert_eq!(made.path, IP);
        let (status, num_headers, body) = wrong(&made);
        host.0.status.set(Some(status));
        host.0.body.replace(body);
        stream.on_http_call_response(made.token, num_headers, 0, 0);
        assert_eq!(host.take_done(), [Done::Replied(503, "check_unavailable".to_owned())], "{at}");
        assert_eq!(event(&stream).rule.as_deref(), Some("ip"));
    }
    filter.vm.metrics.flush();
    assert_eq!(host.figure("tidegate.direct.ip.failed"), 8);
    assert_eq!(host.figure("tidegate.check.ip.unavailable"), 8);
    assert_eq!(host.figure("tidegate.requests.deny.check_unavailable"), 8);
}

#[test]
fn no_question_waits_longer_than_its_request_may() {
    let host = Fake::default();
    let filter = filter(&host, None, r#", "direct": {"timeout": "1s", "budget": "1500ms"}"#);
    let (mut stream, _) = begin(&host, &filter);
    let ip = host.take_calls().remove(0);
    assert_eq!(ip.timeout, Duration::from_secs(1));
    host.advance(Duration::from_millis(900));
    deliver(&host, &mut stream, &ip, 200, answer(&ip, pass("ip")));
    let geo = host.take_calls().remove(0);
    assert_eq!(geo.timeout, Duration::from_millis(600));
    host.advance(Duration::from_millis(600));
    deliver(&host, &mut stream, &geo, 200, answer(&geo, pass("geo")));
    assert!(host.take_calls().is_empty(), "there is no time left for the route");
    assert_eq!(host.take_done(), [Done::Replied(503, "check_unavailable".to_owned())]);
    assert_eq!(event(&stream).rule.as_deref(), Some("route"));
}

#[test]
fn a_question_that_is_too_long_has_failed_and_the_others_are_asked() {
    let host = Fake::default();
    let long = vec![b'a'; 257 << 10];
    host.0.headers.replace(Some(pairs(&[(":path", b"/"), (":authority", b"h"), ("x-long", &long)])));
    let flags = Flags::default().with(Flag::ParallelExecution, State::On);
    let filter = filter(&host, Some(flags), "");
    let (mut stream, _) = begin(&host, &filter);
    let calls = host.take_calls();
    assert_eq!(paths(&calls), ["ip", "geo"]);
    for call in &calls {
        deliver(&host, &mut stream, call, 200, answer(call, pass(&call.path)));
    }
    assert_eq!(host.take_done(), [Done::Replied(404, "no_route".to_owned())], "the cache stands in");
    assert_eq!(event(&stream).answered.route, Answered::Fallback);
}

#[test]
fn an_answer_after_the_response_does_nothing() {
    let host = Fake::default();
    let filter = filter(&host, Some(Flags::default().with(Flag::AsyncRecording, State::On)), "");
    let (mut stream, _) = begin(&host, &filter);
    let ip = host.take_calls().remove(0);
    host.0.response.replace(Some(pairs(&[(":status", b"408")])));
    assert_eq!(stream.on_http_response_headers(3, true), Action::Continue);
    let banned = Found::Ip(IpFinding::Banned("192.0.2.1/32".parse().unwrap()));
    deliver(&host, &mut stream, &ip, 200, answer(&ip, banned));
    assert_eq!((host.take_done(), host.take_calls().len()), (Vec::new(), 0));
    assert_eq!(event(&stream).verdict, VerdictCode::Unseen, "nothing was decided");
    stream.on_log();
    filter.vm.metrics.flush();
    assert_eq!(host.figure("tidegate.direct.late"), 1);
    assert_eq!(host.figure("tidegate.requests.undecided"), 1);
}

#[test]
fn a_client_that_leaves_takes_everything_with_it() {
    let host = Fake::default();
    let filter = filter(&host, Some(Flags::default().with(Flag::ParallelExecution, State::On)), "");
    let tables = filter.vm.sync.borrow().tables().unwrap();
    let before = Rc::strong_count(&tables);
    let (mut stream, _) = begin(&host, &filter);
    assert_eq!(host.take_calls().len(), 3);
    assert_eq!(Rc::strong_count(&tables), before + 1);
    stream.on_log();
    drop(stream);
    filter.vm.metrics.flush();
    assert_eq!(host.figure("tidegate.requests.undecided"), 1);
    assert_eq!((Rc::strong_count(&tables), Rc::strong_count(&filter)), (before, 1));
    assert_eq!(filter.vm.reserve(), 2, "its event has a number");
}

#[test]
fn a_check_in_shadow_is_decided_directly_and_compared() {
    let host = Fake::default();
    let flags = Flags::default()
        .with(Flag::IpBlacklistCache, State::Shadow)
        .with(Flag::RouteCache, State::Shadow)
        .with(Flag::GeoRulesCache, State::Shadow);
    let filter = filter(&host, Some(flags), "");
    let (mut stream, _) = begin(&host, &filter);
    for check in ["ip", "geo", "route"] {
        let call = host.take_calls().remove(0);
        deliver(&host, &mut stream, &call, 200, answer(&call, pass(check)));
    }
    assert_eq!(host.take_done(), passed("shop"), "the cache knows no route, and is not asked");
    let event = event(&stream);
    assert_eq!(event.answered, PerCheck::from_fn(|_| Answered::Direct));
    let [mismatch] = event.mismatches.as_slice() else { panic!("{:?}", event.mismatches) };
    assert_eq!((mismatch.check, mismatch.cached.as_str()), (Check::Route, "no route"));
    assert_eq!(mismatch.direct, "r rule 0 by /{p} to shop");
    assert_eq!((mismatch.direct_seq, mismatch.cached_seq), (SEQ + 1, SEQ));
    filter.vm.metrics.flush();
    for (check, differ) in [("ip", 0), ("geo", 0), ("route", 1)] {
        assert_eq!(host.figure(&format!("tidegate.shadow.{check}.compared")), 1);
        assert_eq!(host.figure(&format!("tidegate.shadow.{check}.mismatched")), differ);
    }
}
