//! The same requests in all 32 combinations of the flags, on a real Envoy: the
//! answer is what the policy says of the documents, whoever answers the checks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_author as author;
use tidegate_backend::InProcess;
use tidegate_host_sim::TestRng;
use tidegate_policy::check::PerCheck;
use tidegate_policy::decide::{
    CountrySource, OnNoRoute, Routing, Settings, Tables, Unavailable, Verdict, decide,
};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::geo::{CountryRange, CountryTable, GeoRules};
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteTable;
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::TableSet;
use tidegate_policy::version::Version;
use tidegate_stack::http::{Connection, Method, Request, Response};
use tidegate_stack::ports::local;
use tidegate_stack::{FlagsAtStart, NamedBackend, Options, Stack};

/// In each combination; the first [`COMMON`] are the same in all of them.
const REQUESTS: u64 = 64;
const COMMON: u64 = 16;

const BANS: [&str; 5] =
    ["10.1.0.0/16", "192.0.2.66", "198.51.100.128/25", "2001:db8:bad::/48", "2001:db8::66"];
const ALLOWED: [&str; 3] = ["10.1.2.0/24", "203.0.113.7", "2001:db8:bad:1::/64"];
const COUNTRIES: [(&str, &str, &str); 6] = [
    ("10.0.0.0", "10.0.255.255", "DE"),
    ("10.1.0.0", "10.2.0.255", "FR"),
    ("192.0.2.0", "192.0.2.255", "US"),
    ("203.0.113.0", "203.0.113.255", "KP"),
    ("2001:db8::", "2001:db8:0:ffff:ffff:ffff:ffff:ffff", "DE"),
    ("2001:db8:bad::", "2001:db8:bad:ffff:ffff:ffff:ffff:ffff", "KP"),
];
const CLIENTS: [&str; 16] = [
    "10.0.0.1",
    "10.0.255.255",
    "10.1.0.1",
    "10.1.2.3",
    "10.2.0.255",
    "10.2.1.0",
    "192.0.2.1",
    "192.0.2.66",
    "198.51.100.127",
    "198.51.100.128",
    "203.0.113.7",
    "203.0.113.8",
    "2001:db8::1",
    "2001:db8::66",
    "2001:db8:bad::1",
    "2001:db8:bad:1::1",
];
const HOSTS: [&str; 5] = ["a.example", "x.b.example:8080", "B.EXAMPLE", "other", "c.example"];
const TARGETS: [&str; 12] = [
    "/",
    "/a",
    "/a/b?x=1",
    "/ab",
    "/exact",
    "/exact/",
    "/v12/items",
    "/v/items",
    "/law/1",
    "/dach",
    "/nobody",
    "/lost?kind=b",
];
const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::DELETE];
const KINDS: [&str; 3] = ["", "a", "b"];

fn geo_rules() -> Vec<(&'static str, Value)> {
    vec![
        ("dach", json!({ "mode": "allow", "countries": ["DE", "AT", "CH"], "global": false })),
        ("embargo", json!({ "mode": "deny", "countries": ["KP"] })),
        (
            "law",
            json!({ "mode": "deny", "countries": ["FR", "US"], "global": false, "status": 451, "unknown": "deny" }),
        ),
    ]
}

/// In the order of their names, in which they are also made.
fn routes() -> Vec<(&'static str, Value)> {
    let path = |kind: &str, value: &str| json!({ "type": kind, "value": value });
    let geo = |name: &str| {
        json!([{ "type": "ExtensionRef",
                 "extensionRef": { "group": "tidegate.dev", "kind": "GeoRule", "name": name } }])
    };
    let to = |name: &str| json!([{ "name": name }]);
    let specs = vec![
        (
            "any",
            json!({ "rules": [
            { "matches": [{ "path": path("PathPrefix", "/a") }], "backendRefs": to("demo") },
            { "matches": [{ "path": path("Exact", "/exact") }], "backendRefs": to("second") },
            { "matches": [{ "path": path("RegularExpression", "/v[0-9]+/items") }], "backendRefs": to("second") },
            { "matches": [{ "path": path("PathPrefix", "/nobody") }], "backendRefs": [] },
        ] }),
        ),
        (
            "geo",
            json!({ "rules": [
            { "matches": [{ "path": path("PathPrefix", "/law") }], "filters": geo("law"), "backendRefs": to("demo") },
            { "matches": [{ "path": path("PathPrefix", "/dach") }], "filters": geo("dach"), "backendRefs": to("second") },
            { "matches": [{ "path": path("PathPrefix", "/lost"), "queryParams": [{ "name": "kind", "value": "b" }] }],
              "filters": geo("no-such-rule"), "backendRefs": to("demo") },
        ] }),
        ),
        (
            "hosts",
            json!({ "hostnames": ["a.example", "*.b.example"], "rules": [
            { "matches": [{ "method": "POST" }], "backendRefs": to("second") },
            { "matches": [{ "headers": [{ "name": "X-Kind", "value": "a" }] }], "backendRefs": to("demo") },
        ] }),
        ),
    ];
    let document =
        |(name, spec): (&'static str, Value)| (name, json!({ "metadata": { "name": name }, "spec": spec }));
    specs.into_iter().map(document).collect()
}

/// The same documents, compiled here.
fn tables() -> Result<Tables> {
    let entries = |prefixes: &[&str]| -> Result<AddressTable> {
        let mut prefixes = prefixes.iter().map(|text| Ok(text.parse()?)).collect::<Result<Vec<_>>>()?;
        prefixes.sort_unstable();
        let entries = prefixes.into_iter().map(|prefix| Entry { prefix, state: EntryState::Present(None) });
        Ok(AddressTable::from_bytes(AddressTable::encode(entries)?)?)
    };
    let ranges = COUNTRIES
        .iter()
        .map(|(first, last, country)| {
            Ok(CountryRange { first: first.parse()?, last: last.parse()?, country: country.parse()? })
        })
        .collect::<Result<Vec<_>>>()?;
    let rules = geo_rules()
        .iter()
        .map(|(name, rule)| author::read_geo_rule(name, rule).map_err(|wrong| anyhow::anyhow!("{wrong:?}")))
        .collect::<Result<Vec<_>>>()?;
    let routes = routes()
        .iter()
        .map(|(_, route)| author::read(route).map_err(|wrong| anyhow::anyhow!("{wrong:?}")))
        .collect::<Result<Vec<_>>>()?;
    let set = TableSet {
        ban_base: entries(&BANS)?,
        flags: Flags::all_on(),
        allow: entries(&ALLOWED)?,
        countries: CountryTable::from_bytes(CountryTable::encode(ranges.into_iter())?)?,
        geo: Arc::new(GeoRules::new(rules)),
        routes: Arc::new(RouteTable::from_bytes(&author::compile(
            &routes,
            &author::Backends::new(),
            &author::Listeners::new(),
        )?)?),
        ..TableSet::empty()
    };
    Ok(Tables::new(Version::default(), set))
}

/// What a client sees.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    status: u16,
    /// Of the problem.
    code: Option<String>,
    backend: Option<String>,
}

impl Outcome {
    fn seen(response: &Response) -> Result<Self> {
        let body = response.json()?;
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        Ok(Self { status: response.status, code: text("code"), backend: text("backend") })
    }
}

/// One request, as it is sent and as the policy sees it.
#[derive(Debug)]
struct Ask {
    client: IpAddr,
    method: Method,
    host: &'static str,
    target: &'static str,
    kind: &'static str,
}

impl Ask {
    fn random(rng: &mut TestRng) -> Self {
        Self {
            client: rng.pick(&CLIENTS).parse().expect("an address"),
            method: METHODS[rng.below(METHODS.len())].clone(),
            host: rng.pick(&HOSTS),
            target: rng.pick(&TARGETS),
            kind: rng.pick(&KINDS),
        }
    }

    fn request(&self, agent: &str) -> Request {
        let request = Request::new(self.method.clone(), self.target)
            .from(&self.client.to_string())
            .header("host", self.host)
            .header("user-agent", agent);
        if self.kind.is_empty() { request } else { request.header("x-kind", self.kind) }
    }

    fn expected(&self, tables: &Tables) -> Outcome {
        let lines: &[(&[u8], &[u8])] = &[(b"x-kind", self.kind.as_bytes())];
        let facts = Facts {
            client: Some(self.client),
            method: self.method.as_str().as_bytes(),
            host: self.host.as_bytes(),
            path: self.target.as_bytes(),
            headers: if self.kind.is_empty() { &[] } else { lines },
            ..Facts::default()
        };
        let deny = Unavailable::Deny;
        let settings = Settings {
            routing: Routing::Tidegate,
            on_no_route: OnNoRoute::Deny,
            on_unavailable: PerCheck { ip: deny, geo: deny, route: deny },
        };
        match decide(&facts, CountrySource::Table, tables, &settings, || 0).verdict {
            Verdict::Allow(found) => Outcome {
                status: 200,
                code: None,
                backend: found.and_then(|found| Some(found.backend?.name.clone())),
            },
            Verdict::Deny(denial) => {
                Outcome { status: denial.status, code: Some(denial.reason.code().to_owned()), backend: None }
            }
        }
    }
}

fn start(name: &str) -> Result<(Stack, InProcess)> {
    let second = InProcess::start("second", local(0))?;
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    // A slow machine must not make the cache answer for the database.
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
    options.backends.push(NamedBackend::at("second", second.address()));
    let stack = Stack::start(options)?;
    let mut sql = stack.sql()?;
    for (prefixes, status) in [(&BANS[..], "banned"), (&ALLOWED[..], "allowed")] {
        for prefix in prefixes {
            sql.run(&format!("INSERT INTO ip_monitor (ip, status) VALUES ('{prefix}', '{status}')"))?;
        }
    }
    for (name, rule) in geo_rules() {
        stack.put_geo_rule(name, &rule)?;
    }
    for (name, route) in routes() {
        stack.api_ok(Method::PUT, &format!("/api/admin/routes/{name}?wait_applied=30s"), Some(&route))?;
    }
    let lines = COUNTRIES.map(|(first, last, country)| format!("{first},{last},{country}\n"));
    let file = stack.options().dir.join("countries.csv");
    std::fs::write(&file, lines.concat())?;
    stack.import_countries(&file)?;
    Ok((stack, second))
}

/// All of the five flags on and off, and once more with the caches in shadow.
fn combinations() -> impl Iterator<Item = usize> {
    (0..32).chain((0..4).map(|bits| SHADOW | bits << 3))
}

/// In a combination: whatever has a shadow and is not on is in it.
const SHADOW: usize = 1 << 5;

/// The flags of a combination: each bit one.
fn flags(bits: usize) -> Flags {
    Flag::ALL.into_iter().enumerate().fold(Flags::default(), |flags, (at, flag)| {
        let is_shadow = bits & SHADOW != 0 && flag.has_shadow();
        let off = if is_shadow { FlagState::Shadow } else { FlagState::Off };
        flags.with(flag, if bits >> at & 1 == 1 { FlagState::On } else { off })
    })
}

/// How the row of a request says its modes.
fn modes(flags: &Flags) -> String {
    let modes = flags.modes(None);
    let on = |on| if on { "on" } else { "off" };
    format!(
        "ip={},geo={},route={},parallel={},async={}",
        modes.ip.name(),
        modes.geo.name(),
        modes.route.name(),
        on(modes.parallel),
        on(modes.async_recording)
    )
}

fn compare(stack: &Stack, workers: &mut [Connection], tables: &Tables, bits: usize) -> Result<()> {
    stack.flags(&Value::Object(author::write_flags(&flags(bits))))?;
    let (mut common, mut own) = (TestRng::new(7), TestRng::new(1_000 + bits as u64));
    for at in 0..REQUESTS {
        let ask = Ask::random(if at < COMMON { &mut common } else { &mut own });
        let count = workers.len();
        let worker = &mut workers[usize::try_from(at)? % count];
        let seen = Outcome::seen(&worker.send(&ask.request(&format!("equality/{bits}/{at}")))?)
            .with_context(|| format!("{ask:?}"))?;
        assert_eq!(seen, ask.expected(tables), "combination {bits:06b}, request {at}: {ask:?}");
    }
    Ok(())
}

#[test]
fn every_combination_of_flags_decides_as_the_policy_does() {
    let (stack, _second) = start("equality").unwrap();
    let tables = tables().unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    for bits in combinations() {
        compare(&stack, &mut workers, &tables, bits).unwrap();
    }

    // Each was decided in the way that its flags say, and recorded as the others.
    let whole = stack.recorded(Duration::from_secs(30)).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    for (check, counts) in [("ip", whole.checks.ip), ("geo", whole.checks.geo), ("route", whole.checks.route)]
    {
        assert_eq!(
            (counts.fallback, counts.unavailable, counts.mismatched),
            (0, 0, 0),
            "{check}: {counts:?}"
        );
        assert!(counts.cache > 100 && counts.direct > 100 && counts.compared > 100, "{check}: {counts:?}");
    }
    let mut sql = stack.sql().unwrap();
    for bits in combinations() {
        let rows = format!(
            "SELECT modes, count(*) FROM traffic_events WHERE user_agent LIKE 'equality/{bits}/%' GROUP BY 1"
        );
        assert_eq!(sql.run(&rows).unwrap(), [format!("{}|{REQUESTS}", modes(&flags(bits)))]);
    }
    for at in 0..COMMON {
        let rows = format!(
            "SELECT client_ip, method, host, path, verdict, reason, rule, route, country, status, count(*) \
             FROM traffic_events WHERE user_agent LIKE 'equality/%/{at}' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
        );
        let rows = sql.run(&rows).unwrap();
        assert!(rows.len() == 1 && rows[0].ends_with("|36"), "request {at}: {rows:?}");
    }
}

#[test]
fn the_requests_meet_every_outcome() {
    let tables = tables().unwrap();
    let mut rng = TestRng::new(7);
    let mut seen: Vec<_> = (0..2_000)
        .map(|_| {
            let outcome = Ask::random(&mut rng).expected(&tables);
            format!("{} {}", outcome.status, outcome.code.or(outcome.backend).unwrap_or_default())
        })
        .collect();
    seen.sort_unstable();
    seen.dedup();
    let expected = [
        "200 demo",
        "200 second",
        "403 geo_denied",
        "403 ip_banned",
        "404 no_route",
        "451 geo_denied",
        "500 no_backend",
        "500 no_geo_rule",
    ];
    assert_eq!(seen, expected);
}
