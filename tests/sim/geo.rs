//! Scenarios of geo rules: from the table that the admin service sends, or from a
//! header that a trusted filter sets, asked directly or from the cache.

use std::time::Duration;

use serde_json::json;
use tidegate::root_context::module;
use tidegate_author as author;
use tidegate_host_sim::{CONFIG, Feed, Request, Response, Testbed};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::geo::{Country, CountryRange, GeoAction, GeoMode, GeoRule, UnknownCountry};
use tidegate_policy::tables::Table;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

fn range(first: &str, last: &str, code: &str) -> CountryRange {
    CountryRange { first: first.parse().unwrap(), last: last.parse().unwrap(), country: country(code) }
}

/// Two countries of each family.
fn countries() -> [CountryRange; 4] {
    [
        range("10.1.0.0", "10.1.255.255", "DE"),
        range("10.2.0.0", "10.2.255.255", "FR"),
        range("2001:db8:1::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff", "DE"),
        range("2001:db8:2::", "2001:db8:2:ffff:ffff:ffff:ffff:ffff", "FR"),
    ]
}

fn rule(name: &str, mode: GeoMode, codes: &[&str]) -> GeoRule {
    GeoRule {
        name: name.to_owned(),
        global: true,
        mode,
        countries: codes.iter().map(|code| country(code)).collect(),
        unknown: if mode == GeoMode::Deny { UnknownCountry::Allow } else { UnknownCountry::Deny },
        action: GeoAction::Forbidden,
        shadow: false,
    }
}

/// All cached, or all asked directly, which must make no difference.
fn both() -> [Flags; 2] {
    [Flags::all_on(), Flags::default().with(Flag::AsyncRecording, FlagState::On)]
}

fn testbed(flags: Flags, config: &str) -> Testbed {
    let mut feed = Feed::new();
    feed.set_flags(flags);
    feed.set_countries(countries().into_iter());
    Testbed::new(module, 2, config, feed)
}

fn told(response: &Response) -> (u16, &str) {
    (response.status, &response.details)
}

#[test]
fn a_deny_list_and_an_allow_list_hold_in_both_families() {
    for flags in both() {
        let mut testbed = testbed(flags, CONFIG);
        testbed.feed.set_geo([rule("eu", GeoMode::Deny, &["DE"])]);
        testbed.run(SECOND);
        for (client, status) in [
            ("10.1.2.3", 403),
            ("10.2.2.3", 200),
            ("10.3.0.1", 200),
            ("2001:db8:1::9", 403),
            ("2001:db8:2::9", 200),
            ("::ffff:10.1.0.1", 403),
        ] {
            assert_eq!(testbed.get(0, client).status, status, "{client}");
        }
        testbed.feed.set_geo([rule("eu", GeoMode::Allow, &["DE"])]);
        testbed.run(SECOND);
        for (client, status) in
            [("10.1.2.3", 200), ("10.2.2.3", 403), ("10.3.0.1", 403), ("2001:db8:1::9", 200)]
        {
            assert_eq!(testbed.get(1, client).status, status, "{client}");
        }
        // A client without an address is nowhere.
        let nowhere = Request::new("GET", "example.org", "/x", None);
        assert_eq!(told(&testbed.request(0, nowhere)), (403, "geo_denied"));
        testbed.check();
    }
}

#[test]
fn the_event_says_the_country_and_the_rule_and_451_is_a_rules_choice() {
    for flags in both() {
        let mut testbed = testbed(flags, CONFIG);
        testbed
            .feed
            .set_geo([GeoRule { action: GeoAction::LegalReasons, ..rule("law", GeoMode::Deny, &["FR"]) }]);
        testbed.run(SECOND);
        assert_eq!(told(&testbed.get(0, "10.2.0.1")), (451, "geo_denied"));
        assert_eq!(testbed.get(0, "10.1.0.1").status, 200);
        testbed.run(SECOND);
        let event = |at: usize| testbed.feed.events[at].1.clone();
        assert_eq!(event(0).country, Some(country("FR")));
        assert_eq!((event(0).reason.as_deref(), event(0).rule.as_deref()), (Some("geo_denied"), Some("law")));
        assert_eq!(event(0).status, Some(451));
        assert_eq!((event(1).country, event(1).rule), (Some(country("DE")), None));
        assert_eq!(testbed.metric("tidegate.requests.deny.geo_denied"), 1);
    }
}

#[test]
fn a_routes_own_rule_holds_for_that_route_only() {
    for flags in both() {
        let mut testbed = testbed(flags, CONFIG);
        let document = json!({
            "metadata": {"name": "shop"},
            "spec": {"rules": [
                {"matches": [{"path": {"value": "/shop"}}], "backendRefs": [{"name": "shop", "port": 80}]},
                {"matches": [{"path": {"value": "/lost"}}], "backendRefs": [{"name": "shop", "port": 80}]},
                {"backendRefs": [{"name": "demo", "port": 80}]},
            ]},
        });
        let mut route = author::read(&document).unwrap();
        route.rules[0].geo = vec!["eu".to_owned()];
        route.rules[1].geo = vec!["eu".to_owned(), "gone".to_owned()];
        testbed.feed.set_route_list(&[route]);
        testbed.feed.set_geo([GeoRule { global: false, ..rule("eu", GeoMode::Allow, &["DE"]) }]);
        testbed.run(SECOND);
        let mut get = |path: &str, client: &str| testbed.request(0, Request::get(path, client));
        assert_eq!(get("/shop", "10.1.0.1").cluster.as_deref(), Some("shop"));
        assert_eq!(told(&get("/shop", "10.2.0.1")), (403, "geo_denied"));
        assert_eq!(get("/", "10.2.0.1").cluster.as_deref(), Some("demo"), "the others are not meant");
        assert_eq!(
            told(&get("/lost", "10.1.0.1")),
            (500, "no_geo_rule"),
            "a rule that is gone is not skipped"
        );
        assert_eq!(told(&get("/lost", "10.2.0.1")), (403, "geo_denied"), "the first counts");
        testbed.feed.allow(&[("10.2.0.1", None)]);
        testbed.run(SECOND);
        assert_eq!(
            testbed.request(0, Request::get("/shop", "10.2.0.1")).status,
            200,
            "who is allowed skips them"
        );
        assert_eq!(testbed.request(0, Request::get("/lost", "10.2.0.1")).status, 200);
        testbed.check();
    }
}

#[test]
fn the_country_comes_from_a_trusted_header_where_the_operator_says_so() {
    let config = CONFIG.replacen('{', r#"{"geo": {"country_header": "X-Country"}, "#, 1);
    for flags in both() {
        let mut testbed = testbed(flags, &config);
        testbed.feed.set_geo([rule("eu", GeoMode::Deny, &["DE"])]);
        testbed.run(SECOND);
        // The table would say DE, and FR.
        for (value, client, status) in [
            ("FR", "10.1.0.1", 200),
            ("DE", "10.2.0.1", 403),
            ("de", "10.2.0.1", 403),
            ("", "10.1.0.1", 200),
            ("XX", "10.1.0.1", 200),
            ("Deutschland", "10.1.0.1", 200),
        ] {
            let request = Request::get("/x", client).header(b"x-country", value.as_bytes());
            assert_eq!(testbed.request(0, request).status, status, "{value:?}");
        }
        let odd = Request::get("/x", "10.1.0.1").header(b"x-country", b"\xff\xfe");
        assert_eq!(testbed.request(0, odd).status, 200);
        assert_eq!(testbed.get(0, "10.1.0.1").status, 200, "without it nobody knows");
        testbed.feed.set_geo([rule("eu", GeoMode::Allow, &["DE"])]);
        testbed.run(SECOND);
        assert_eq!(testbed.get(0, "10.1.0.1").status, 403);
    }
}

#[test]
fn a_new_table_is_swapped_in_whole_while_requests_go_on() {
    // Old: every address DE; new: every address FR. Whoever asks sees one of them.
    let table = |code: &str| {
        let address = |at: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from_bits((10 << 24) + at * 16));
        let last = |at: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from_bits((10 << 24) + at * 16 + 14));
        let country = country(code);
        (0..60_000).map(move |at| CountryRange { first: address(at), last: last(at), country })
    };
    let mut testbed = testbed(Flags::all_on(), CONFIG);
    testbed.feed.set_countries(table("DE"));
    testbed.run(5 * SECOND);
    testbed.feed.set_geo([rule("eu", GeoMode::Deny, &["DE"])]);
    testbed.run(SECOND);
    assert_eq!([testbed.get(0, "10.0.0.1").status, testbed.get(1, "10.0.200.1").status], [403; 2]);
    testbed.feed.set_countries(table("FR"));
    let mut rounds = 0;
    let mut switched = [false; 2];
    while switched != [true; 2] {
        for (gate, is_new) in switched.iter_mut().enumerate() {
            // Three places of the table at one moment: never some of each.
            let statuses =
                ["10.0.0.1", "10.7.160.1", "10.14.80.1"].map(|client| testbed.get_now(gate, client).status);
            assert!(statuses == [403; 3] || statuses == [200; 3], "{statuses:?}");
            assert!(!*is_new || statuses == [200; 3], "and never back");
            *is_new = statuses == [200; 3];
        }
        rounds += 1;
        assert!(rounds < 5_000, "never loads");
        if !testbed.sim.deliver() && !testbed.feed.answer_all(&mut testbed.sim) {
            testbed.sim.advance(MS);
        }
    }
    testbed.check();
}

#[test]
fn bytes_that_are_no_table_leave_the_old_one() {
    let mut testbed = testbed(Flags::all_on(), CONFIG);
    testbed.feed.set_geo([rule("eu", GeoMode::Deny, &["DE"])]);
    testbed.run(SECOND);
    let good = testbed.feed.tables().countries.as_bytes().to_vec();
    testbed.feed.set_whole(Table::Countries, good[..good.len() - 1].to_vec());
    testbed.run(10 * SECOND);
    assert_eq!(testbed.get_now(0, "10.1.0.1").status, 403);
    assert!(testbed.metric("tidegate.sync.decode_failures") > 0);
    testbed.feed.set_whole(Table::Countries, good);
    testbed.feed.set_geo([rule("eu", GeoMode::Deny, &["FR"])]);
    testbed.run(60 * SECOND);
    assert_eq!([testbed.get(0, "10.1.0.1").status, testbed.get(1, "10.2.0.1").status], [200, 403]);
}

#[test]
fn a_reloaded_vm_knows_the_countries_at_its_first_request() {
    let mut testbed = testbed(Flags::all_on(), CONFIG);
    testbed.feed.set_geo([rule("eu", GeoMode::Deny, &["DE"])]);
    testbed.run(2 * SECOND);
    for gate in 0..2 {
        testbed.sim.trap(testbed.gates[gate].0);
        assert_eq!(testbed.get_now(gate, "10.1.0.1").status, 403);
        assert_eq!(testbed.get_now(gate, "10.2.0.1").status, 200);
        testbed.run(3 * SECOND);
    }
}
