//! Random tables, and random requests that match their entries.

mod routes;

use tidegate_policy::geo::{Country, CountryRange, GeoAction, GeoMode, GeoRule, UnknownCountry};
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::ScopedBan;

use crate::feed::Feed;
use crate::rng::TestRng;
use crate::stream::Request;
use routes::{RULES, VALUES};

const CLIENTS: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "10.0.128.9",
    "10.1.0.1",
    "10.200.3.4",
    "192.0.2.1",
    "192.0.2.130",
    "198.51.100.7",
    "::ffff:10.0.0.1",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:1::1",
    "2001:db8:8000::1",
    "2a00::1",
];
const PREFIXES: &[&str] = &[
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.1",
    "10.0.0.2/31",
    "10.0.128.0/17",
    "10.1.0.1",
    "10.200.0.0/13",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.1/32",
    "198.51.100.7",
    "2001:db8::/32",
    "2001:db8::/48",
    "2001:db8::1",
    "2001:db8::2/127",
    "2001:db8:8000::/33",
    "2a00::/16",
    "0.0.0.0/1",
];
/// Runs of addresses that a country may have, in order.
const RUNS: &[(&str, &str)] = &[
    ("10.0.0.0", "10.0.0.1"),
    ("10.0.0.2", "10.0.127.255"),
    ("10.0.128.0", "10.0.255.255"),
    ("10.1.0.0", "10.255.255.255"),
    ("192.0.2.0", "192.0.2.127"),
    ("192.0.2.128", "192.0.2.255"),
    ("2001:db8::", "2001:db8::1"),
    ("2001:db8::2", "2001:db8:0:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8:8000::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2a00::", "2a00::ffff"),
];
const COUNTRIES: &[&str] = &["DE", "FR", "US", "JP", "T1"];
const HOSTS: &[&str] = &[
    "a.example",
    "x.a.example:80",
    "y.x.a.example",
    "B.Example.",
    "c.example",
    "other",
    "[::1]:80",
    "a.example:x",
];
const SCOPE_HOSTNAMES: &[&str] = &["a.example", "*.a.example", "*.example", "b.example"];
const SCOPE_ROUTES: &[&str] = &["r0", "r1", "r2", "none"];
const TARGETS: &[&str] =
    &["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/ab", "/A/x", "//", "/c", "*", "/a\u{e9}"];
const QUERIES: &[&str] = &["", "", "?p=1", "?p=2&p=1", "?p=1&q=1", "?%70=%31", "?q", "?token=secret"];
const METHODS: &[&str] = &["GET", "GET", "HEAD", "POST", "OPTIONS", "PURGE"];
const ORIGINS: &[&str] = &["https://a.example", "https://x.b.example", "https://c.example:8443"];

/// Fills a service with random tables. Expiries are within `span` seconds of now.
pub fn fill(feed: &mut Feed, rng: &mut TestRng, now: u32, span: u32) {
    for prefix in rng.some(PREFIXES, 6) {
        feed.ban_until(prefix, expiry(rng, now, span));
    }
    let allowed: Vec<_> =
        rng.some(PREFIXES, 3).into_iter().map(|prefix| (prefix, expiry(rng, now, span))).collect();
    feed.allow(&allowed);
    let in_shadow: Vec<_> =
        rng.some(PREFIXES, 4).into_iter().map(|prefix| (prefix, expiry(rng, now, span))).collect();
    feed.ban_in_shadow(&in_shadow);
    let scoped: Vec<_> = (0..rng.below(3)).map(|_| scoped(rng, now, span)).collect();
    feed.ban_in_scopes(&scoped);
    feed.set_countries(countries(rng).into_iter());
    let rules = rng.some(RULES, 4);
    feed.set_geo(rules.iter().map(|name| geo_rule(rng, name)).collect::<Vec<_>>());
    let routes: Vec<_> = (0..rng.below(6)).map(|at| routes::route(rng, at)).collect();
    feed.set_route_list(&routes);
}

/// A ban at some hostnames, on some routes, or both.
fn scoped(rng: &mut TestRng, now: u32, span: u32) -> (&'static str, ScopedBan<Scope>) {
    let (hostnames, routes) = match rng.below(3) {
        0 => (rng.some(SCOPE_HOSTNAMES, 2), Vec::new()),
        1 => (Vec::new(), rng.some(SCOPE_ROUTES, 2)),
        _ => (rng.some(SCOPE_HOSTNAMES, 2), rng.some(SCOPE_ROUTES, 2)),
    };
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mut scope = Scope { hostnames: owned(hostnames), routes: owned(routes) };
    if scope.is_empty() {
        scope.hostnames.push("*.example".to_owned());
    }
    (rng.pick(PREFIXES), ScopedBan { scope, shadow: rng.percent(30), expires: expiry(rng, now, span) })
}

/// No expiry, one in the past, or one within the span.
fn expiry(rng: &mut TestRng, now: u32, span: u32) -> Option<u32> {
    match rng.below(4) {
        0 => Some(now - 1 - rng.below(100) as u32),
        1 => Some(now + 1 + rng.below(span as usize) as u32),
        _ => None,
    }
}

fn countries(rng: &mut TestRng) -> Vec<CountryRange> {
    let runs = rng.some(RUNS, RUNS.len());
    let address = |text: &str| text.parse().expect("an address");
    runs.into_iter()
        .map(|(first, last)| CountryRange {
            first: address(first),
            last: address(last),
            country: country(rng.pick(COUNTRIES)),
        })
        .collect()
}

fn country(code: &str) -> Country {
    code.parse().expect("a country")
}

fn geo_rule(rng: &mut TestRng, name: &str) -> GeoRule {
    GeoRule {
        name: name.to_owned(),
        global: rng.percent(25),
        mode: if rng.percent(70) { GeoMode::Deny } else { GeoMode::Allow },
        countries: rng.some(COUNTRIES, 3).into_iter().map(country).collect(),
        unknown: if rng.percent(75) { UnknownCountry::Allow } else { UnknownCountry::Deny },
        action: if rng.percent(50) { GeoAction::Forbidden } else { GeoAction::LegalReasons },
        shadow: rng.percent(25),
    }
}

/// A request that may match any of these entries. `country_header`: the header that a
/// trusted filter would set.
#[must_use]
pub fn request(rng: &mut TestRng, country_header: Option<&str>) -> Request {
    let client = (!rng.percent(4)).then(|| rng.pick(CLIENTS));
    let target = format!("{}{}", rng.pick(TARGETS), rng.pick(QUERIES));
    let method = rng.pick(METHODS);
    let mut request = Request::new(method, rng.pick(HOSTS), &target, client);
    for _ in 0..rng.below(3) {
        request = request.header(rng.pick(&["x", "y", "z"]).as_bytes(), rng.pick(VALUES).as_bytes());
    }
    if rng.percent(5) {
        request = request.header(b"x-tidegate-cluster", b"internal");
    }
    if method == "OPTIONS" || rng.percent(25) {
        request = request.header(b"origin", rng.pick(ORIGINS).as_bytes());
    }
    if rng.percent(75) {
        request = request.header(b"access-control-request-method", b"PUT");
    }
    if let Some(name) = country_header.filter(|_| !rng.percent(20)) {
        let code = rng.pick(&["DE", "fr", "US", "JP", "ZZ", "nonsense", ""]);
        request = request.header(name.as_bytes(), code.as_bytes());
    }
    request
}
