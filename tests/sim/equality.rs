//! Whoever answers the checks, the decision is the same: random requests over
//! random tables, in every combination of the flags, against a process that
//! answers everything from its cache.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Feed, Order, Request, Response, TestRng, Testbed, random};
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::decide::{CountrySource, OnNoRoute, Routing, Settings, Unavailable, Verdict, decide};
use tidegate_policy::flags::{Flag, FlagState, Flags, Mode, Modes};
use tidegate_policy::geo::Country;
use tidegate_policy::request::Facts;
use tidegate_policy::route::{ResponseFrom, RouteMatch};
use tidegate_policy::wire::event::TrafficEvent;

const SECOND: Duration = Duration::from_secs(1);
const COUNTRY_HEADER: &str = "x-country";
/// Worlds for each of the 32 combinations.
const WORLDS: u64 = 5;
/// 32 * 5 * 125: 20,000 requests.
const REQUESTS: usize = 125;

/// One set of tables under one configuration, asked in two ways.
struct World {
    settings: Settings,
    country_header: Option<&'static str>,
    direct: Testbed,
    cached: Testbed,
}

impl World {
    /// The same tables twice: under these flags, and with all of them on.
    fn new(seed: u64, flags: Flags) -> Self {
        let mut rng = TestRng::new(seed);
        let (routing, on_no_route) = (rng.percent(25), rng.percent(30));
        let country_header = rng.percent(25).then_some(COUNTRY_HEADER);
        let settings = Settings {
            routing: if routing { Routing::Envoy } else { Routing::Tidegate },
            on_no_route: if on_no_route { OnNoRoute::Pass } else { OnNoRoute::Deny },
            on_unavailable: PerCheck {
                ip: Unavailable::Deny,
                geo: Unavailable::Deny,
                route: Unavailable::Deny,
            },
        };
        let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
        config["routing"] = if routing { "envoy" } else { "tidegate" }.into();
        config["on_no_route"] = if on_no_route { "pass" } else { "deny" }.into();
        if let Some(header) = country_header {
            config["geo"] = serde_json::json!({"country_header": header});
        }
        let testbed = |flags| {
            let mut feed = Feed::new();
            random::fill(&mut feed, &mut rng.clone(), NOW, SPAN);
            feed.set_flags(flags);
            Testbed::new(module, 1, &config.to_string(), feed)
        };
        let (mut direct, cached) = (testbed(flags), testbed(Flags::all_on()));
        direct.feed.order = Order::Random(seed | 1);
        Self { settings, country_header, direct, cached }
    }

    /// What may become of a request, by the policy alone: one outcome for each
    /// backend that chance may choose.
    fn outcomes(&mut self, request: &Request) -> BTreeSet<Outcome> {
        let now = self.cached.feed.now(&self.cached.sim);
        let lines: Vec<_> = request
            .headers()
            .iter()
            .filter(|(name, _)| !name.starts_with(b":") && !name.starts_with(b"x-tidegate-"))
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .collect();
        let value = |name: &str| {
            let found = request.headers().iter().find(|(other, _)| other == name.as_bytes());
            found.map_or(&b""[..], |(_, value)| value.as_slice())
        };
        let country_source = match self.country_header {
            Some(name) => CountrySource::Header(Country::new(value(name))),
            None => CountrySource::Table,
        };
        // No rule's weights add up to more than 9.
        let bits = (0..36u64).map(|at| u32::try_from((at << 32) / 36 + 1).unwrap());
        bits.map(|random_bits| {
            let facts = Facts {
                client: request.client(),
                method: value(":method"),
                host: value(":authority"),
                path: value(":path"),
                headers: &lines,
                random_bits,
                ..Facts::default()
            };
            Outcome::of(
                &decide(&facts, country_source, self.cached.feed.tables(), &self.settings, || now).verdict,
                &facts,
            )
        })
        .collect()
    }
}

/// A second of the simulated clock at which worlds begin, and for how long their
/// requests go on.
const NOW: u32 = 1_795_400_001;
const SPAN: u32 = 60;

/// What becomes of a request, as far as somebody outside sees it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Outcome {
    status: u16,
    details: String,
    cluster: Option<String>,
}

impl Outcome {
    fn of(verdict: &Verdict<'_>, facts: &Facts<'_>) -> Self {
        match verdict {
            Verdict::Allow(found) => Self::passed(found.as_ref(), facts),
            Verdict::Deny(denial) => {
                Self { status: denial.status, details: denial.reason.code().to_owned(), cluster: None }
            }
        }
    }

    fn passed(found: Option<&RouteMatch<'_>>, facts: &Facts<'_>) -> Self {
        let answer = |status, details: &str| Self { status, details: details.to_owned(), cluster: None };
        let cluster = match found.map(|found| found.response_from(facts)) {
            Some(ResponseFrom::Preflight(_)) => return answer(204, "cors_preflight"),
            Some(ResponseFrom::Redirect(redirect)) => return answer(redirect.status, "redirect"),
            Some(ResponseFrom::NoBackend) => return answer(500, "no_backend"),
            Some(ResponseFrom::Backend(backend)) => Some(backend.name.clone()),
            None => None,
        };
        Self { status: 200, details: "via_upstream".to_owned(), cluster }
    }

    fn seen(response: &Response) -> Self {
        Self { status: response.status, details: response.details.clone(), cluster: response.cluster.clone() }
    }
}

/// An event without what the flags may change: who answered, and how long it took.
fn content(event: &TrafficEvent) -> TrafficEvent {
    TrafficEvent { modes: None, answered: PerCheck::default(), tables_seq: 0, ..event.clone() }
}

fn mode(modes: Modes, check: Check) -> Mode {
    match check {
        Check::Ip => modes.ip,
        Check::Geo => modes.geo,
        Check::Route => modes.route,
    }
}

/// Runs requests through both; the first difference, if there is one.
fn compare(world: &mut World, rng: &mut TestRng, requests: usize) -> Result<(), String> {
    for at in 0..requests {
        let request = random::request(rng, world.country_header);
        let allowed = world.outcomes(&request);
        let before = world.direct.feed.asked;
        // Whole: what upstream, mirrors, Envoy's own parts and the client were told.
        let direct = world.direct.request(0, request.clone());
        let cached = world.cached.request(0, request.clone());
        if direct != cached {
            return Err(format!("request {at}: {direct:?}, from the cache {cached:?}: {request:?}"));
        }
        let direct = Outcome::seen(&direct);
        if !allowed.contains(&direct) {
            return Err(format!("request {at}: {direct:?}, by the policy {allowed:?}: {request:?}"));
        }
        let asked = world.direct.feed.asked;
        for check in Check::ALL {
            let count = asked.get(check) - before.get(check);
            if count > 1 {
                return Err(format!("request {at}: {count} questions about {check:?}"));
            }
        }
        if rng.percent(10) {
            let pause = Duration::from_millis(1 + rng.bits() % 4_000);
            world.direct.run(pause);
            world.cached.run(pause);
        }
    }
    world.direct.check();
    world.cached.check();
    compare_events(world, requests)
}

fn compare_events(world: &mut World, requests: usize) -> Result<(), String> {
    let (direct, cached) = (world.direct.events(), world.cached.events());
    if direct.len() != requests || cached.len() != requests {
        return Err(format!("{} and {} events of {requests} requests", direct.len(), cached.len()));
    }
    let mut answered = PerCheck::<u64>::default();
    for (direct, cached) in direct.iter().zip(&cached) {
        if content(direct) != content(cached) {
            return Err(format!("{direct:?}\nfrom the cache\n{cached:?}"));
        }
        let modes = direct.modes.expect("the gate saw it");
        for check in Check::ALL {
            let by = *direct.answered.get(check);
            let right = match mode(modes, check) {
                Mode::Cached => Answered::Cache,
                Mode::Direct | Mode::Shadow => Answered::Direct,
            };
            if by != right && by != Answered::Unneeded {
                return Err(format!("{check:?} answered by {by:?} in {modes:?}"));
            }
            *answered.get_mut(check) += u64::from(by == Answered::Direct);
        }
    }
    // In turn, a denial saves the rest: nobody is asked for nothing.
    let parallel = direct.first().and_then(|event| event.modes).is_some_and(|modes| modes.parallel);
    let asked = world.direct.feed.asked;
    if !parallel && asked != answered {
        return Err(format!("asked {asked:?}, needed {answered:?}"));
    }
    let failed =
        Check::ALL.map(|check| world.direct.metric(&format!("tidegate.direct.{}.failed", check.name())));
    if failed != [0; 3] { Err(format!("{failed:?} questions failed")) } else { Ok(()) }
}

/// The flags of a combination, each bit one.
fn flags(bits: usize, off: FlagState) -> Flags {
    Flag::ALL.into_iter().enumerate().fold(Flags::default(), |flags, (at, flag)| {
        let is_on = bits >> at & 1 == 1;
        let off = if flag.has_shadow() { off.clone() } else { FlagState::Off };
        flags.with(flag, if is_on { FlagState::On } else { off })
    })
}

fn run(combinations: impl Iterator<Item = usize>) {
    for bits in combinations {
        for at in 0..WORLDS {
            let seed = (bits as u64) << 32 | at;
            // Every other world: whatever is not on is compared as well.
            let off = if at % 2 == 0 { FlagState::Off } else { FlagState::Shadow };
            let flags = flags(bits, off);
            let mut world = World::new(seed, flags.clone());
            if let Err(difference) = compare(&mut world, &mut TestRng::new(!seed), REQUESTS) {
                panic!("world {at} of combination {bits:05b} ({flags:?}): {difference}");
            }
            let mismatched = ["ip", "geo", "route"]
                .map(|check| world.direct.metric(&format!("tidegate.shadow.{check}.mismatched")));
            assert_eq!(mismatched, [0; 3], "world {at} of combination {bits:05b}");
        }
    }
}

// In four, so that they run beside each other.

#[test]
fn direct_and_cached_decide_the_same_asked_in_turn_and_recorded_at_once() {
    run((0..32).filter(|bits| bits & 0b11000 == 0));
}

#[test]
fn direct_and_cached_decide_the_same_asked_in_parallel_and_recorded_at_once() {
    run((0..32).filter(|bits| bits & 0b11000 == 0b01000));
}

#[test]
fn direct_and_cached_decide_the_same_asked_in_turn_and_recorded_later() {
    run((0..32).filter(|bits| bits & 0b11000 == 0b10000));
}

#[test]
fn direct_and_cached_decide_the_same_asked_in_parallel_and_recorded_later() {
    run((0..32).filter(|bits| bits & 0b11000 == 0b11000));
}

#[test]
fn the_worlds_show_every_kind_of_outcome() {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut clusters = BTreeSet::new();
    let (mut ruled, mut placed, mut in_shadow) = (0, 0, BTreeMap::<_, u32>::new());
    for seed in 0..60 {
        let mut world = World::new(seed, Flags::all_on());
        let mut rng = TestRng::new(!seed);
        for _ in 0..100 {
            let request = random::request(&mut rng, world.country_header);
            let response = world.cached.request(0, request);
            seen.insert(format!("{} {}", response.status, response.details));
            clusters.extend(response.cluster);
        }
        for event in world.cached.events() {
            ruled += usize::from(event.rule.is_some());
            placed += usize::from(event.country.is_some());
            if let Some(reason) = event.would_deny {
                *in_shadow.entry((reason, event.verdict.name())).or_default() += 1;
            }
        }
    }
    let expected = [
        "200 via_upstream",
        "204 cors_preflight",
        "302 redirect",
        "400 bad_host",
        "403 geo_denied",
        "403 ip_banned",
        "404 no_route",
        "451 geo_denied",
        "500 no_backend",
        "500 no_geo_rule",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(clusters.len(), 3, "{clusters:?}");
    assert!(ruled > 800 && placed > 800, "{ruled} with a rule, {placed} with a country, of 6,000");
    // A ban and a geo rule in shadow, of requests that passed and of others.
    let both = ["ip_banned", "geo_denied"].map(|reason| ["allow", "deny"].map(|verdict| (reason, verdict)));
    let counted =
        |(reason, verdict): &(&str, &str)| in_shadow.get(&((*reason).to_owned(), *verdict)).copied();
    assert!(both.as_flattened().iter().all(|one| counted(one) >= Some(5)), "{in_shadow:?}");
}

#[test]
fn a_difference_between_the_tables_is_found() {
    // What is in the database and not in the cache: one ban, one geo rule, one route.
    type Change = fn(&mut Feed);
    let changes: [(&str, Change); 3] = [
        ("a ban", |feed| feed.ban("10.0.0.0/8")),
        ("countries", |feed| feed.set_countries([].into_iter())),
        ("routes", |feed| feed.set_route_list(&[])),
    ];
    for (what, change) in changes {
        let found = (0..12).any(|seed| {
            let mut world = World::new(seed, Flags::default().with(Flag::AsyncRecording, FlagState::On));
            world.direct.feed.frozen = true;
            change(&mut world.direct.feed);
            compare(&mut world, &mut TestRng::new(!seed), 60).is_err()
        });
        assert!(found, "{what}: nothing was noticed");
    }
}

#[test]
fn a_percentage_that_splits_the_clients_changes_no_decision() {
    for seed in 0..8 {
        let share = |rng: &mut TestRng| FlagState::Share(u8::try_from(10 + rng.below(80)).unwrap());
        let mut rng = TestRng::new(seed ^ 0x5a5a);
        let flags =
            Flag::ALL.into_iter().fold(Flags::default(), |flags, flag| flags.with(flag, share(&mut rng)));
        let mut world = World::new(seed, flags.clone());
        for at in 0..200 {
            let request = random::request(&mut rng, world.country_header);
            let direct = Outcome::seen(&world.direct.request(0, request.clone()));
            let cached = Outcome::seen(&world.cached.request(0, request.clone()));
            assert_eq!(direct, cached, "request {at}: {request:?}");
        }
        let (direct, cached) = (world.direct.events(), world.cached.events());
        assert_eq!(direct.len(), 200);
        for (direct, cached) in direct.iter().zip(&cached) {
            assert_eq!(content(direct), content(cached));
            assert_eq!(direct.modes, Some(flags.modes(direct.client)), "always the same for one client");
        }
        world.direct.run(SECOND);
    }
}
