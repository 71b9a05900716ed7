//! The order of the checks, and that an allow entry beats every ban.

mod findings;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::check::PerCheck;
use crate::geo::{GeoAction, RuleVerdict};
use crate::route::action::{Action, Cors};
use crate::route::{RouteMatch, sample};
use crate::table::Entry;
use crate::table::EntryState::{Absent, Present};
use crate::table::tests::{any_address, any_entries, kept, table};
use crate::tables::TableSet;
use crate::version::Version;

const PASS: Settings = Settings {
    routing: Routing::Tidegate,
    on_no_route: OnNoRoute::Pass,
    on_unavailable: PerCheck { ip: Unavailable::Deny, geo: Unavailable::Deny, route: Unavailable::Deny },
};

fn entry(prefix: &str, expires: Option<UnixSeconds>) -> Entry {
    Entry { prefix: prefix.parse().unwrap(), state: Present(expires) }
}

fn tables(allow: &[Entry], bans: &[Entry]) -> Tables {
    Tables::new(
        Version::default(),
        TableSet { allow: table(allow), ban_base: table(bans), ..TableSet::empty() },
    )
}

fn from(client: &str) -> Facts<'static> {
    Facts {
        client: Some(client.parse().unwrap()),
        method: b"GET",
        host: b"h",
        path: b"/",
        ..Facts::default()
    }
}

/// The reason of the denial, what decided, and the allow entry.
fn short(decision: &Decision<'_>) -> (Option<Reason>, Option<String>, Option<String>) {
    let denial = match &decision.verdict {
        Verdict::Deny(denial) => Some(denial),
        Verdict::Allow(_) => None,
    };
    let rule = denial.and_then(|denial| denial.rule).map(|rule| rule.to_string());
    (denial.map(|denial| denial.reason), rule, decision.allowed_by.map(|allow| allow.to_string()))
}

#[test]
fn a_ban_is_said_before_any_route_is_looked_for() {
    let tables = tables(&[], &[entry("10.0.0.0/8", None), entry("10.1.0.0/16", Some(100))]);
    for on_no_route in [OnNoRoute::Deny, OnNoRoute::Pass] {
        for routing in [Routing::Tidegate, Routing::Envoy] {
            let settings = Settings { routing, on_no_route, ..PASS };
            let banned = |by: &str| (Some(Reason::IpBanned), Some(by.to_owned()), None);
            let at =
                |now| short(&decide(&from("10.1.2.3"), CountrySource::Table, &tables, &settings, || now));
            assert_eq!(at(99), banned("10.1.0.0/16"));
            assert_eq!(at(100), banned("10.0.0.0/8"));
        }
    }
}

#[test]
fn an_allow_entry_skips_the_bans_but_not_the_routes() {
    let allow = [entry("0.0.0.0/0", Some(50)), entry("10.0.0.0/8", Some(100))];
    let tables = tables(&allow, &[entry("10.1.0.0/16", None), entry("10.1.2.3", None)]);
    let deny = Settings { on_no_route: OnNoRoute::Deny, ..PASS };
    let at =
        |now, settings| short(&decide(&from("10.1.2.3"), CountrySource::Table, &tables, settings, || now));
    let by = Some("10.0.0.0/8".to_owned());
    assert_eq!(at(99, &PASS), (None, None, by.clone()));
    assert_eq!(at(99, &deny), (Some(Reason::NoRoute), None, by));
    assert_eq!(at(100, &PASS), (Some(Reason::IpBanned), Some("10.1.2.3".to_owned()), None));
}

#[test]
fn one_decision_is_made_at_one_time() {
    let expiring = ["10.0.0.0/8", "10.1.0.0/16"].map(|prefix| entry(prefix, Some(100)));
    let tables = tables(&expiring, &expiring);
    let reads = Cell::new(0);
    let clock = || {
        reads.set(reads.get() + 1);
        // A second reading would go back to before the entries expired.
        if reads.get() == 1 { 100 } else { 99 }
    };
    assert_eq!(
        short(&decide(&from("10.1.2.3"), CountrySource::Table, &tables, &PASS, clock)),
        (None, None, None)
    );
    assert_eq!(reads.get(), 1);
}

#[test]
fn what_no_route_matches_goes_where_the_operator_said() {
    let tables = tables(&[], &[entry("0.0.0.0/0", None), entry("::/0", None)]);
    // A client without an address: no ban can cover it.
    let facts = Facts { method: b"GET", host: b"h", path: b"/", ..Facts::default() };
    let reason = |routing, on_no_route| {
        short(&decide(
            &facts,
            CountrySource::Table,
            &tables,
            &Settings { routing, on_no_route, ..PASS },
            || panic!("nothing expires"),
        ))
        .0
    };
    assert_eq!(reason(Routing::Tidegate, OnNoRoute::Deny), Some(Reason::NoRoute));
    assert_eq!(reason(Routing::Tidegate, OnNoRoute::Pass), None);
    assert_eq!(reason(Routing::Envoy, OnNoRoute::Deny), None);
}

#[test]
fn bans_come_before_routes_and_routes_before_what_the_operator_said() {
    let routes = sample::table("shop", &[("/shop", &[], Some("shop")), ("/empty", &[], None)]);
    let mut tables = tables(&[], &[entry("10.0.0.0/8", None)]);
    tables.set.routes = Arc::new(routes);
    let deny = Settings { on_no_route: OnNoRoute::Deny, ..PASS };
    let verdict = |client, path, settings| {
        let facts = Facts { path, ..from(client) };
        decide(&facts, CountrySource::Table, &tables, settings, || panic!("nothing expires")).verdict
    };
    let found = |rule, backend| RouteMatch {
        route: "shop",
        rule,
        template: None,
        backend,
        geo: &[],
        action: None,
        backend_action: None,
    };

    let shop = tables.routes.backends().first();
    assert_eq!(shop.map(|backend| backend.name.as_str()), Some("shop"));
    assert_eq!(verdict("11.0.0.1", b"/shop/1", &deny), Verdict::Allow(Some(found(0, shop))));
    let no_backend = Denial::new(Reason::NoBackend, None, Some(found(1, None)));
    assert_eq!(verdict("11.0.0.1", b"/empty", &PASS), Verdict::Deny(no_backend));
    let no_route = Denial::new(Reason::NoRoute, None, None);
    assert_eq!(verdict("11.0.0.1", b"/other", &deny), Verdict::Deny(no_route));
    assert_eq!(verdict("11.0.0.1", b"/other", &PASS), Verdict::Allow(None));
    let envoy = Settings { routing: Routing::Envoy, ..deny };
    assert_eq!(verdict("11.0.0.1", b"/shop/1", &envoy), Verdict::Allow(None));
    let ban = Some(RuleId::Prefix("10.0.0.0/8".parse().unwrap()));
    let banned = Denial::new(Reason::IpBanned, ban, None);
    for path in [b"/shop/1" as &[u8], b"/empty", b"/other"] {
        assert_eq!(verdict("10.9.9.9", path, &deny), Verdict::Deny(banned));
    }
}

#[test]
fn a_host_that_cannot_be_read_is_denied_before_all_else_and_not_left_to_a_wider_rule() {
    let mut tables = tables(&[entry("10.0.0.0/8", None)], &[entry("11.0.0.0/8", None)]);
    tables.set.routes = Arc::new(sample::table("all", &[("/shop", &[], Some("shop"))]));
    for routing in [Routing::Tidegate, Routing::Envoy] {
        for client in ["10.0.0.1", "11.0.0.1", "12.0.0.1"] {
            let at = |host| {
                let facts = Facts { host, path: b"/shop", ..from(client) };
                let settings = Settings { routing, ..PASS };
                short(&decide(&facts, CountrySource::Table, &tables, &settings, || 0)).0
            };
            for host in [&b"h:abc"[..], b"h,h", b"u@h", b"", b"\xff"] {
                assert_eq!(at(host), Some(Reason::BadHost), "{host:?}");
            }
            assert_eq!(at(b"h:80"), (client == "11.0.0.1").then_some(Reason::IpBanned));
        }
    }
    let find = |host| tables.routes.find(&Facts { host, path: b"/shop", ..from("10.0.0.1") }).unwrap();
    assert!(find(b"h:abc").is_none() && find(b"h").is_some() && find(b"[::1]:80").is_some());
}

#[test]
fn a_preflight_request_passes_the_geo_rules_of_its_route_and_the_request_after_it_does_not() {
    let cors = Cors { origins: vec!["*".to_owned()], ..Cors::default() };
    let action = Arc::new(Action { cors: Some(cors), ..Action::default() });
    let names = ["law".to_owned(), "lost".to_owned()];
    let found = RouteMatch {
        route: "r",
        rule: 0,
        template: None,
        backend: None,
        geo: &names,
        action: Some(&action),
        backend_action: None,
    };
    let verdict = |global: bool, cors: bool, method| {
        let denies = Some(GeoAction::LegalReasons);
        let verdicts = [RuleVerdict { name: "law".to_owned(), global, denies, shadow: false }];
        let geo = GeoFinding::Verdicts { country: None, verdicts: &verdicts };
        let found = RouteMatch { action: found.action.filter(|_| cors), ..found };
        let findings = Findings {
            ip: Some(Finding::Found(IpFinding::Clear)),
            geo: Some(Finding::Found(geo)),
            route: Some(Finding::Found(Ok(Some(found)))),
        };
        let headers = [(&b"origin"[..], &b"https://a"[..]), (b"access-control-request-method", b"PUT")];
        let facts = Facts { method, headers: &headers, ..from("10.0.0.1") };
        match findings.step(&facts, &PASS) {
            Step::Decided(Decision { verdict: Verdict::Deny(denial), .. }) => Some(denial.reason),
            Step::Decided(_) => None,
            Step::Ask(check) => panic!("{check:?} is known"),
        }
    };
    assert_eq!(verdict(false, true, b"OPTIONS"), None);
    assert_eq!(verdict(false, true, b"PUT"), Some(Reason::GeoDenied));
    assert_eq!(verdict(false, false, b"OPTIONS"), Some(Reason::GeoDenied), "which no filter answers");
    assert_eq!(verdict(true, true, b"OPTIONS"), Some(Reason::GeoDenied), "which comes before routes");
}

#[test]
fn reasons_have_a_name_and_an_error_status_each() {
    let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes.len(), Reason::ALL.len());
    assert!(Reason::ALL.iter().all(|reason| (400..600).contains(&reason.status())));
}

/// Whether an entry in force covers the address.
fn covered(entries: &[Entry], address: IpAddr, now: UnixSeconds) -> bool {
    entries.iter().any(|entry| {
        let in_force = match entry.state {
            Present(expires) => expires.is_none_or(|expires| now < expires),
            Absent => false,
        };
        in_force && entry.prefix.contains(address)
    })
}

proptest! {
    #[test]
    fn any_allow_in_force_beats_any_ban(
        (allow, bans, client) in (any_entries(false, 6), any_entries(false, 30))
            .prop_flat_map(|(allow, bans)| {
                let all = [allow.clone(), bans.clone()].concat();
                (Just(allow), Just(bans), any_address(&all))
            }),
        now in 97u32..104,
    ) {
        let tables = tables(&allow, &bans);
        let (allow, bans) = (kept(&allow), kept(&bans));
        let reads = Cell::new(0);
        let clock = || { reads.set(reads.get() + 1); now };
        let facts = Facts { client: Some(client), host: b"h", ..Facts::default() };
        let (reason, ban, allowed_by) = short(&decide(&facts, CountrySource::Table, &tables, &PASS, clock));
        let allowed = covered(&allow, client, now);
        let banned = !allowed && covered(&bans, client, now);
        prop_assert_eq!(allowed_by.is_some(), allowed);
        prop_assert_eq!(reason, banned.then_some(Reason::IpBanned));
        prop_assert_eq!(ban.is_some(), banned);
        prop_assert!(reads.get() <= 1, "the clock was read {} times", reads.get());
    }
}
