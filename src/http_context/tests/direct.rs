//! Requests whose checks the admin service answers, or does not.

use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::decide::{CountrySource, Finding, Findings, GeoFinding, RuleId, Step, Verdict};
use tidegate_policy::geo::{GeoAction, RuleVerdict};
use tidegate_policy::request::Facts;

use super::*;

fn passed(cluster: &str) -> [Done; 3] {
    [
        Done::Set(CLUSTER_HEADER.to_owned(), cluster.to_owned()),
        Done::Added("cdn-loop".to_owned(), "tidegate".to_owned()),
        Done::Resumed,
    ]
}

#[test]
fn a_request_whose_route_envoy_is_not_told_does_not_pass() {
    let host = SimHost::alone();
    let caches = Flags::all_on().with(Flag::RouteCache, FlagState::Off);
    let filter = filter(&host, Some(caches), "");
    let (mut stream, _) = begin(&host, &filter);
    let route = host.take_calls().remove(0);
    host.refuse_headers(true);
    deliver(&host, &mut stream, &route, 200, answer(&route, pass("route")));
    assert_eq!(host.take_done(), [Done::Replied(503, "not_ready".to_owned())]);
    let event = event(&stream);
    assert_eq!((event.verdict, event.route.as_deref()), (VerdictCode::Deny, Some("r")));
    filter.instance.metrics.flush();
    assert_eq!(host.metric_value("tidegate.requests.allow"), 0);
}

/// The result of one check.
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
            let verdicts = vec![RuleVerdict { name: "law".to_owned(), global: true, denies, shadow: false }];
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
    let facts = Facts { client: Some("192.0.2.1".parse().unwrap()), host: b"h", ..Facts::default() };
    let ip = match (&answers.ip, tables) {
        (Some(Found::Ip(found)), _) => Finding::Found(*found),
        (_, Some(tables)) => Finding::Found(IpFinding::look_up(&facts, tables, || 0)),
        _ => Finding::Unavailable,
    };
    let geo = match (&answers.geo, tables) {
        (Some(Found::Geo(found)), _) => Finding::Found(found.finding()),
        (_, Some(tables)) => Finding::Found(GeoFinding::look_up(facts.client, CountrySource::Table, tables)),
        _ => Finding::Unavailable,
    };
    let route = match (&answers.route, tables) {
        (Some(Found::Route(found)), _) => Finding::Found(RouteAnswer::found(found)),
        (_, Some(_)) => Finding::Found(Ok(None)),
        _ => Finding::Unavailable,
    };
    let findings = Findings { ip: Some(ip), geo: Some(geo), route: Some(route) };
    let step = findings.step(&facts, settings);
    let Step::Decided(Decision { verdict, .. }) = step else { panic!("all is known") };
    match verdict {
        Verdict::Allow(Some(_)) => passed("shop").to_vec(),
        Verdict::Allow(None) => vec![Done::Resumed],
        Verdict::Deny(denial) => {
            assert!(denial.rule != Some(RuleId::Geo("law")) || denial.status == 451);
            vec![Done::Replied(denial.status, denial.reason.code().to_owned())]
        }
    }
}

/// Answers questions, in the order of `rank`, until none is open.
fn play(host: &SimHost, filter: &Rc<Filter<SimHost>>, fates: &PerCheck<Fate>, rank: [usize; 3]) -> Vec<Done> {
    // Earlier cases may have opened the filter's circuit breakers.
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
            for parallel in [FlagState::Off, FlagState::On] {
                let host = SimHost::alone();
                let flags = tables.then(|| Flags::default().with(Flag::ParallelExecution, parallel.clone()));
                let filter = filter(&host, flags, more);
                let held = filter.instance.sync.borrow().tables();
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
