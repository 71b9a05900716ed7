//! Decisions from findings, in any order and from tables or answers, against a decision
//! from the raw rows.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::sample::select;

use super::*;
use crate::geo::{
    Country, CountryRange, CountryTable, GeoAction, GeoMode, GeoRule, GeoRules, RuleVerdict, UnknownCountry,
};
use crate::route::RouteTable;
use crate::scope::Scope;
use crate::scoped_bans::{ScopedBan, ScopedBans, ScopedBansCheck};
use crate::wire::check::{Answer, Found, GeoAnswer, Question, RouteAnswer};

const CODES: [&str; 3] = ["DE", "FR", "US"];
const NAMES: [&str; 4] = ["g0", "g1", "g2", "g3"];
const NOW: UnixSeconds = 100;

/// Each path's rule: the geo rules that it names, and its backend.
const PATHS: [(&str, &[&str], Option<&str>); 6] = [
    ("/plain", &[], Some("b")),
    ("/one", &["g0"], Some("b")),
    ("/two", &["g1", "g2"], Some("b")),
    ("/turned", &["g2", "g1"], Some("b")),
    ("/never", &["g9"], Some("b")),
    ("/empty", &["g3"], None),
];

static ROUTES: LazyLock<Arc<RouteTable>> = LazyLock::new(|| Arc::new(sample::table("r", &PATHS)));

/// A request, the rows that concern it, and the gate's settings.
#[derive(Clone, Debug)]
struct Case {
    allow: Vec<Entry>,
    bans: Vec<Entry>,
    shadow_bans: Vec<Entry>,
    /// Bans that apply somewhere: the scope as its index in [`SCOPES`].
    scoped: Vec<(Entry, ScopedBan<u8>)>,
    /// Those of odd scopes are of sources.
    has_sources: bool,
    /// The country of the addresses from each of these on, up to the next.
    countries: BTreeMap<u8, Option<Country>>,
    rules: Vec<GeoRule>,
    client: Option<IpAddr>,
    country_source: CountrySource,
    host: &'static str,
    path: &'static str,
    settings: Settings,
}

/// Hostnames and routes of scopes. All paths but `/nowhere` take the route `r`.
const SCOPES: [(&[&str], &[&str]); 5] =
    [(&["h"], &[]), (&["g", "*.h"], &[]), (&[], &["r"]), (&["h"], &["q", "r"]), (&[], &["q"])];

fn any_country() -> impl Strategy<Value = Country> {
    select(&CODES[..]).prop_map(|code| code.parse().unwrap())
}

fn any_rule() -> impl Strategy<Value = GeoRule> {
    let mode = select(&[GeoMode::Allow, GeoMode::Deny][..]);
    let unknown = select(&[UnknownCountry::Allow, UnknownCountry::Deny][..]);
    let action = select(&[GeoAction::Forbidden, GeoAction::LegalReasons][..]);
    let [global, shadow] = [0.3, 0.3].map(prop::bool::weighted);
    (select(&NAMES[..]), global, mode, vec(any_country(), 0..3), unknown, action, shadow).prop_map(
        |(name, global, mode, countries, unknown, action, shadow)| GeoRule {
            name: name.to_owned(),
            global,
            mode,
            countries,
            unknown,
            action,
            shadow,
        },
    )
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let unavailable = || select(&[Unavailable::Allow, Unavailable::Deny][..]);
    let routing = prop_oneof![4 => Just(Routing::Tidegate), 1 => Just(Routing::Envoy)];
    let on_no_route = select(&[OnNoRoute::Deny, OnNoRoute::Pass][..]);
    (routing, on_no_route, unavailable(), unavailable(), unavailable()).prop_map(
        |(routing, on_no_route, ip, geo, route)| Settings {
            routing,
            on_no_route,
            on_unavailable: PerCheck { ip, geo, route },
        },
    )
}

/// Bans of a few prefixes, several of one prefix among them.
fn any_scoped() -> impl Strategy<Value = Vec<(Entry, ScopedBan<u8>)>> {
    any_entries(false, 5).prop_flat_map(|entries| {
        let expires = option::of(select(&[NOW - 1, NOW, NOW + 1][..]));
        let ban = (0..u8::try_from(SCOPES.len()).unwrap(), any::<bool>(), expires)
            .prop_map(|(scope, shadow, expires)| ScopedBan { scope, shadow, expires });
        match entries.is_empty() {
            true => Just(Vec::new()).boxed(),
            false => vec((select(entries), ban), 0..8).boxed(),
        }
    })
}

prop_compose! {
    fn any_case()(
        (allow, bans, shadow_bans, scoped, client) in
            (any_entries(false, 3), any_entries(false, 5), any_entries(false, 5), any_scoped())
            .prop_flat_map(|(allow, bans, shadow, scoped)| {
                let of_scoped = scoped.iter().map(|(entry, _)| *entry).collect();
                let client = any_address(&[allow.clone(), bans.clone(), shadow.clone(), of_scoped].concat());
                (Just(allow), Just(bans), Just(shadow), Just(scoped), option::weighted(0.95, client))
            }),
        countries in btree_map(any::<u8>(), option::weighted(0.8, any_country()), 0..8),
        rules in vec(any_rule(), 0..6),
        country_source in prop_oneof![3 => Just(CountrySource::Table), 1 => option::of(any_country()).prop_map(CountrySource::Header)],
        host in select(&["h", "H.:80", "a.h", "b.a.h", "g", "x"][..]),
        path in prop_oneof![6 => select(&PATHS[..]).prop_map(|(path, _, _)| path), 1 => Just("/nowhere")],
        settings in any_settings(),
        has_sources in any::<bool>(),
    ) -> Case {
        Case { allow, bans, shadow_bans, scoped, has_sources, countries, rules, client, country_source, host, path, settings }
    }
}

impl Case {
    fn tables(&self) -> Tables {
        let nexts = self.countries.keys().skip(1).map(|next| u32::from(*next) << 24).map(|next| next - 1);
        let lasts = nexts.chain([u32::MAX]);
        let range = |((first, country), last): ((&u8, &Option<Country>), u32)| {
            let (first, last) = (u32::from(*first) << 24, last);
            Some(CountryRange {
                first: IpAddr::V4(first.into()),
                last: IpAddr::V4(last.into()),
                country: (*country)?,
            })
        };
        let countries = CountryTable::encode(self.countries.iter().zip(lasts).filter_map(range)).unwrap();
        let tables = tables(&self.allow, &self.bans);
        let set = TableSet {
            countries: CountryTable::from_bytes(countries).unwrap(),
            geo: Arc::new(GeoRules::new(self.rules.clone())),
            routes: ROUTES.clone(),
            shadow_bans: table(&self.shadow_bans),
            scoped_bans: self.scoped_bans(false),
            scoped_sources: self.scoped_bans(true),
            ..tables.set.clone()
        };
        Tables { set, ..tables }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            client: self.client,
            method: b"GET",
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            random_bits: 7,
            ..Facts::default()
        }
    }

    fn scoped_bans(&self, of_sources: bool) -> Arc<ScopedBans> {
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let scope = |(hostnames, routes): &(&[&str], &[&str])| Scope {
            hostnames: all(hostnames),
            routes: all(routes),
        };
        let mut bans: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let is_of_source = |ban: &ScopedBan<u8>| self.has_sources && ban.scope % 2 == 1;
        for (entry, ban) in self.scoped.iter().filter(|(_, ban)| is_of_source(ban) == of_sources) {
            bans.entry(entry.prefix).or_default().push(*ban);
        }
        let bans = bans.iter().map(|(prefix, bans)| (*prefix, &bans[..]));
        let bytes = ScopedBans::encode(SCOPES.iter().map(scope).collect(), bans).unwrap();
        ScopedBansCheck::new(&bytes).unwrap().step(usize::MAX).unwrap().unwrap()
    }

    /// Whether a ban of a scope that the request is in, and of this mode, covers the client.
    fn is_in_scope(&self, shadow: bool) -> bool {
        let name = self.host.to_ascii_lowercase();
        let name = name.trim_end_matches(":80").trim_end_matches('.');
        let route = PATHS.iter().any(|(path, _, _)| *path == self.path).then_some("r");
        self.scoped.iter().any(|(entry, ban)| {
            let (hostnames, routes) = SCOPES[usize::from(ban.scope)];
            let of_host = |hostname: &&str| match hostname.strip_prefix("*.") {
                Some(end) => name.strip_suffix(end).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                None => name == *hostname,
            };
            ban.shadow == shadow
                && ban.expires.is_none_or(|end| NOW < end)
                && self.client.is_some_and(|client| entry.prefix.contains(client))
                && (hostnames.is_empty() || hostnames.iter().any(of_host))
                && (routes.is_empty() || routes.iter().any(|name| Some(*name) == route))
        })
    }

    fn country(&self) -> Option<Country> {
        match (self.country_source, self.client.map(|client| client.to_canonical())) {
            (CountrySource::Header(country), _) => country,
            (CountrySource::Table, Some(IpAddr::V4(v4))) => {
                *self.countries.range(..=v4.octets()[0]).next_back()?.1
            }
            (CountrySource::Table, _) => None,
        }
    }

    /// The verdict of the rule of this name; the last of those with one name counts.
    fn rule(&self, name: &str) -> Option<Option<GeoAction>> {
        let rule = self.rules.iter().rfind(|rule| rule.name == name)?;
        let listed = |country| rule.countries.contains(&country);
        let denied = match self.country() {
            None => rule.unknown == UnknownCountry::Deny,
            Some(country) => listed(country) == (rule.mode == GeoMode::Deny),
        };
        Some(denied.then_some(rule.action).filter(|_| !rule.shadow))
    }

    /// The same rows without those in shadow. A route may name such a rule: it denies nobody.
    fn without_shadow(&self) -> Self {
        let denies_nobody = |rule: &GeoRule| match rule.shadow {
            true => GeoRule {
                mode: GeoMode::Deny,
                countries: Vec::new(),
                unknown: UnknownCountry::Allow,
                shadow: false,
                ..rule.clone()
            },
            false => rule.clone(),
        };
        let rules = self.rules.iter().map(denies_nobody).collect();
        let scoped = self.scoped.iter().filter(|(_, ban)| !ban.shadow).copied().collect();
        Self { rules, shadow_bans: Vec::new(), scoped, ..self.clone() }
    }

    /// The same rows with those in shadow enforced. Of a client that no ban covers.
    fn enforced(&self) -> Self {
        let rules = self.rules.iter().map(|rule| GeoRule { shadow: false, ..rule.clone() }).collect();
        let scoped =
            self.scoped.iter().map(|(entry, ban)| (*entry, ScopedBan { shadow: false, ..*ban })).collect();
        Self { rules, bans: self.shadow_bans.clone(), shadow_bans: Vec::new(), scoped, ..self.clone() }
    }

    /// The status, reason and deciding rule of the denial, from the raw rows; the
    /// bans' own prefix is left open.
    fn expected(&self) -> Option<(u16, Reason, Option<&str>)> {
        let covers =
            |entries: &[Entry]| self.client.is_some_and(|client| covered(&kept(entries), client, NOW));
        let allowed = covers(&self.allow);
        if !allowed && (covers(&self.bans) || self.is_in_scope(false)) {
            return Some((403, Reason::IpBanned, None));
        }
        let is_global =
            |name: &&str| self.rules.iter().rfind(|rule| rule.name == **name).is_some_and(|rule| rule.global);
        for name in NAMES.iter().filter(|name| !allowed && is_global(name)) {
            if let Some(Some(action)) = self.rule(name) {
                return Some((action.status(), Reason::GeoDenied, Some(name)));
            }
        }
        if self.settings.routing == Routing::Envoy {
            return None;
        }
        let Some((_, geo, backend)) = PATHS.iter().find(|(path, _, _)| *path == self.path) else {
            let denied = self.settings.on_no_route == OnNoRoute::Deny;
            return denied.then_some((404, Reason::NoRoute, None));
        };
        for name in geo.iter().filter(|_| !allowed) {
            match self.rule(name) {
                None => return Some((500, Reason::NoGeoRule, Some(name))),
                Some(Some(action)) => return Some((action.status(), Reason::GeoDenied, Some(name))),
                Some(None) => {}
            }
        }
        backend.is_none().then_some((500, Reason::NoBackend, None))
    }
}

/// All three findings, from the tables.
fn all<'t>(case: &Case, tables: &'t Tables) -> Findings<'t> {
    let facts = case.facts();
    Findings {
        ip: Some(Finding::Found(IpFinding::look_up(&facts, tables, || NOW))),
        geo: Some(Finding::Found(GeoFinding::look_up(facts.client, case.country_source, tables))),
        route: Some(Finding::Found(tables.routes.find(&facts))),
    }
}

/// `findings`, with some checks unavailable.
fn without<'t>(findings: &Findings<'t>, unavailable: &[Check]) -> Findings<'t> {
    let mut findings = *findings;
    for check in unavailable {
        match check {
            Check::Ip => findings.ip = Some(Finding::Unavailable),
            Check::Geo => findings.geo = Some(Finding::Unavailable),
            Check::Route => findings.route = Some(Finding::Unavailable),
        }
    }
    findings
}

fn take<'t>(known: &mut Findings<'t>, check: Check, from: &Findings<'t>) {
    match check {
        Check::Ip => known.ip = from.ip,
        Check::Geo => known.geo = from.geo,
        Check::Route => known.route = from.route,
    }
}

/// A request that has nothing for a step to look at.
const PLAIN: Facts<'static> = Facts {
    client: None,
    method: b"GET",
    host: b"h",
    path: b"/",
    https: false,
    port: 0,
    headers: &[],
    random_bits: 0,
};

/// Takes one step after the other; the decision, and the checks that it needed.
fn in_turn<'t>(answers: &Findings<'t>, settings: &Settings) -> (Decision<'t>, Vec<Check>) {
    let (mut known, mut asked) = (Findings::default(), Vec::new());
    loop {
        match known.step(&PLAIN, settings) {
            Step::Decided(decision) => return (decision, asked),
            Step::Ask(check) => {
                assert!(!asked.contains(&check), "{check:?} is asked for twice");
                asked.push(check);
                take(&mut known, check, answers);
            }
        }
    }
}

fn decided<'t>(answers: &Findings<'t>, settings: &Settings) -> Decision<'t> {
    match answers.step(&PLAIN, settings) {
        Step::Decided(decision) => decision,
        Step::Ask(check) => panic!("{check:?} is asked for though everything is known"),
    }
}

/// The answers that the admin service would send, read from their bytes.
fn over_the_wire(case: &Case, tables: &Tables) -> PerCheck<Found> {
    PerCheck::from_fn(|check| {
        let bytes = Question::new(check, 5, &case.facts(), case.country_source).to_bytes().unwrap();
        let question = Question::from_bytes(&bytes).unwrap();
        let facts = question.facts();
        let found = match check {
            Check::Ip => Found::Ip(IpFinding::look_up(&facts, tables, || NOW)),
            Check::Geo => {
                let country = GeoFinding::look_up(facts.client, question.country_source, tables).country();
                Found::Geo(GeoAnswer { country, verdicts: tables.geo.verdicts(country) })
            }
            Check::Route => {
                Found::Route(tables.routes.find(&facts).map(|found| found.as_ref().map(RouteAnswer::new)))
            }
        };
        let answer = Answer { id: question.id, version: tables.version, found };
        let read = Answer::from_bytes(&answer.to_bytes().unwrap()).unwrap();
        assert_eq!((read.id, read.found.check()), (5, check));
        read.found
    })
}

fn findings_of(found: &PerCheck<Found>) -> Findings<'_> {
    match (&found.ip, &found.geo, &found.route) {
        (Found::Ip(ip), Found::Geo(geo), Found::Route(route)) => Findings {
            ip: Some(Finding::Found(*ip)),
            geo: Some(Finding::Found(geo.finding())),
            route: Some(Finding::Found(RouteAnswer::found(route))),
        },
        other => panic!("answers to other questions: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_decided_is_what_the_rows_say(case in any_case()) {
        let tables = case.tables();
        let decision = decide(&case.facts(), case.country_source, &tables, &case.settings, || NOW);
        let denial = match &decision.verdict {
            Verdict::Deny(denial) => Some(denial),
            Verdict::Allow(_) => None,
        };
        let short = denial.map(|denial| {
            let rule = match denial.rule {
                Some(RuleId::Geo(name)) => Some(name),
                Some(RuleId::Prefix(_) | RuleId::Check(_) | RuleId::Limit(_)) | None => None,
            };
            (denial.status, denial.reason, rule)
        });
        prop_assert_eq!(short, case.expected());
        if denial.is_none_or(|denial| denial.reason != Reason::IpBanned) && decision.allowed_by.is_none() {
            prop_assert_eq!(decision.country, case.country());
        }
    }

    #[test]
    fn an_entry_in_shadow_changes_no_verdict_and_what_it_would_do_is_what_it_does_when_enforced(
        case in any_case(),
    ) {
        let decide = |case: &Case, tables| {
            let decision = super::decide(&case.facts(), case.country_source, tables, &case.settings, || NOW);
            format!("{:?}", Decision { would_deny: None, ..decision })
        };
        let tables = case.tables();
        let plain = case.without_shadow();
        prop_assert_eq!(decide(&case, &tables), decide(&plain, &plain.tables()));

        let decision = super::decide(&case.facts(), case.country_source, &tables, &case.settings, || NOW);
        let is_banned = |verdict: &Verdict<'_>| {
            matches!(verdict, Verdict::Deny(Denial { reason: Reason::IpBanned, .. }))
        };
        if is_banned(&decision.verdict) {
            prop_assert_eq!(decision.would_deny, None);
        } else {
            let enforced = case.enforced();
            let enforced_tables = enforced.tables();
            let wanted = super::decide(
                &case.facts(), case.country_source, &enforced_tables, &case.settings, || NOW,
            );
            let denial = match wanted.verdict {
                Verdict::Deny(denial) => denial.rule.map(|rule| WouldDeny { reason: denial.reason, rule }),
                Verdict::Allow(_) => None,
            };
            match decision.would_deny {
                Some(_) => prop_assert_eq!(decision.would_deny, denial),
                None => prop_assert_eq!(decision.verdict, wanted.verdict),
            }
        }
    }

    #[test]
    fn the_order_of_the_answers_does_not_matter(
        case in any_case(),
        unavailable in proptest::sample::subsequence(&Check::ALL[..], 0..=3),
        order in Just(Check::ALL).prop_shuffle(),
    ) {
        let tables = case.tables();
        let answers = without(&all(&case, &tables), &unavailable);
        let decision = decided(&answers, &case.settings);
        if unavailable.is_empty() {
            let alone = decide(&case.facts(), case.country_source, &tables, &case.settings, || NOW);
            prop_assert_eq!(&alone, &decision, "from the tables alone");
        }
        let (turn, asked) = in_turn(&answers, &case.settings);
        prop_assert_eq!(&turn, &decision, "in turn");
        prop_assert!(asked.is_sorted(), "asked out of order: {:?}", asked);
        let mut known = Findings::default();
        for check in order {
            take(&mut known, check, &answers);
            if let Step::Decided(early) = known.step(&PLAIN, &case.settings) {
                prop_assert_eq!(&early, &decision, "all at once, in the order {:?}", order);
            }
        }
    }

    #[test]
    fn an_answer_over_the_wire_finds_what_the_tables_do(case in any_case()) {
        let tables = case.tables();
        let here = all(&case, &tables);
        let found = over_the_wire(&case, &tables);
        let there = findings_of(&found);
        prop_assert_eq!((here.ip, here.route), (there.ip, there.route));
        let (Some(Finding::Found(mine)), Some(Finding::Found(theirs))) = (here.geo, there.geo) else {
            panic!("both were found");
        };
        prop_assert_eq!((mine.country(), mine.global()), (theirs.country(), theirs.global()));
        for name in NAMES.into_iter().chain(["g9"]) {
            prop_assert_eq!(mine.rule(name), theirs.rule(name), "{}", name);
        }
        prop_assert_eq!(decided(&here, &case.settings), decided(&there, &case.settings));
    }

    /// Said of each check by what it may be replaced with: that it comes after
    /// what denies earlier is not taken from the code under test.
    #[test]
    fn a_check_that_nobody_answers_denies_or_is_as_if_it_found_nothing(case in any_case()) {
        let tables = case.tables();
        let all = all(&case, &tables);
        // One answer for the check, the other for those that were answered.
        let set = |check, own, others| {
            let on_unavailable = PerCheck::from_fn(|of| if of == check { own } else { others });
            Settings { on_unavailable, ..case.settings }
        };
        let deny = |check| set(check, Unavailable::Deny, Unavailable::Allow);
        let allow = |check| set(check, Unavailable::Allow, Unavailable::Deny);
        let by_nobody = |check| {
            Verdict::Deny(Denial::new(Reason::CheckUnavailable, Some(RuleId::Check(check)), None))
        };
        let missing = |check| without(&all, &[check]);

        prop_assert_eq!(decided(&missing(Check::Ip), &deny(Check::Ip)).verdict, by_nobody(Check::Ip));
        let clear = Findings { ip: Some(Finding::Found(IpFinding::Clear)), ..all };
        prop_assert_eq!(decided(&missing(Check::Ip), &allow(Check::Ip)), decided(&clear, &allow(Check::Ip)));

        // Rules of every name that any route has, and none of them denies.
        let passes = |name: &str| RuleVerdict { name: name.to_owned(), global: true, denies: None, shadow: false };
        let verdicts: Vec<_> = NAMES.into_iter().chain(["g9"]).map(passes).collect();
        let nothing = GeoFinding::Verdicts { country: None, verdicts: &verdicts };
        let no_rule = Findings { geo: Some(Finding::Found(nothing)), ..all };
        prop_assert_eq!(decided(&missing(Check::Geo), &allow(Check::Geo)), decided(&no_rule, &allow(Check::Geo)));
        let needed = matches!(
            all.ip,
            Some(Finding::Found(IpFinding::Clear | IpFinding::ShadowBanned(_)))
        );
        prop_assert!(!case.is_in_scope(true) || !matches!(all.ip, Some(Finding::Found(IpFinding::Clear))));
        let wanted = if needed { by_nobody(Check::Geo) } else { decided(&all, &deny(Check::Geo)).verdict };
        prop_assert_eq!(decided(&missing(Check::Geo), &deny(Check::Geo)).verdict, wanted);

        let no_route = Findings { route: Some(Finding::Found(Ok(None))), ..all };
        let pass = Settings { on_no_route: OnNoRoute::Pass, ..allow(Check::Route) };
        prop_assert_eq!(decided(&missing(Check::Route), &allow(Check::Route)), decided(&no_route, &pass));
        let before = decided(&no_route, &pass).verdict;
        let needed = before == Verdict::Allow(None) && case.settings.routing == Routing::Tidegate;
        let wanted = if needed { by_nobody(Check::Route) } else { before };
        prop_assert_eq!(decided(&missing(Check::Route), &deny(Check::Route)).verdict, wanted);
    }
}
