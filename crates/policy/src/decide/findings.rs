//! What each check found, from the tables or the admin service, and the decision that
//! follows. [`Findings::step`] is the specification of a decision: direct mode, cached mode
//! and every mixture of them go through it. A finding (this ban covers the client; the
//! country, and the verdict of each geo rule on it; this rule of this route) is never the
//! request's verdict, which depends on the gate's settings.

use std::cell::OnceCell;
use std::net::IpAddr;

use super::settings::{OnNoRoute, Routing, Settings, Unavailable};
use super::tables::Tables;
use super::verdict::{Decision, Denial, Reason, RuleId, Verdict, WouldDeny};
use crate::UnixSeconds;
use crate::address::Prefix;
use crate::check::Check;
use crate::geo::{Country, GeoAction, GeoOutcome, GeoRules, RuleVerdict};
use crate::host::RequestHost;
use crate::request::Facts;
use crate::route::{RouteMatch, TooLong};
use crate::scope::Scope;
use crate::scoped_bans::ScopedMatch;

use serde::{Deserialize, Serialize};

/// What was found in allow and ban list for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IpFinding {
    /// No entry.
    Clear,
    /// It skips bans and geo rules, by this entry.
    Allowed(Prefix),
    /// It is banned, by this entry.
    Banned(Prefix),
    /// It would be banned, by this entry in shadow.
    ShadowBanned(Prefix),
}

impl IpFinding {
    /// Looks a client up. `now` is called for entries with an expiry that cover the client, and
    /// should be the same each time.
    pub fn look_up(facts: &Facts<'_>, tables: &Tables, now: impl Fn() -> UnixSeconds) -> Self {
        Self::of_request(facts, tables, &now)
    }

    /// Not generic: there would be a copy for each caller in the filter.
    fn of_request(facts: &Facts<'_>, tables: &Tables, now: &dyn Fn() -> UnixSeconds) -> Self {
        let Some(client) = facts.client else { return Self::Clear };
        if let Some(entry) = tables.allow.covering(client).find(|entry| entry.is_in_force(now)) {
            return Self::Allowed(entry.prefix);
        }
        if let Some(ban) = tables.bans.covering(client, now) {
            return Self::Banned(ban.prefix);
        }
        let scoped = match tables.has_scoped_bans() {
            true => find_scoped(client, facts, tables, now),
            false => ScopedMatch::default(),
        };
        if let Some(prefix) = scoped.banned {
            return Self::Banned(prefix);
        }
        match tables.shadow_bans.covering(client).find(|entry| entry.is_in_force(now)) {
            Some(entry) => Self::ShadowBanned(entry.prefix),
            None => scoped.watched.map_or(Self::Clear, Self::ShadowBanned),
        }
    }
}

/// Looks a client up in the bans that apply at some hostnames or routes. The request's route is only searched
/// for if such a ban covers the client. One that takes too long to place counts as being in the scope: it is
/// denied for that as well, where Tidegate chooses routes, and must not get around a ban where Envoy does.
fn find_scoped(
    client: IpAddr,
    facts: &Facts<'_>,
    tables: &Tables,
    now: &dyn Fn() -> UnixSeconds,
) -> ScopedMatch {
    let (host, route) = (OnceCell::new(), OnceCell::new());
    let mut is_in = |scope: &Scope| {
        let host = host.get_or_init(|| RequestHost::read(facts.host));
        let fits_host = host.as_ref().is_some_and(|host| scope.fits_host(host));
        if !fits_host || scope.routes.is_empty() {
            return fits_host;
        }
        let route =
            route.get_or_init(|| tables.routes.find(facts).map(|found| found.map(|found| found.route)));
        route.as_ref().map_or(true, |route| scope.fits_route(*route))
    };
    let mut found = ScopedMatch::default();
    for table in [&tables.scoped_bans, &tables.scoped_sources] {
        if !table.is_empty() {
            found = found.or(table.find(client, now, &mut is_in));
        }
    }
    found
}

/// A client's country, and the verdict of each geo rule on it.
#[derive(Clone, Copy, Debug)]
pub enum GeoFinding<'t> {
    /// Verdicts are computed from the rules.
    Rules {
        /// The client's country, if known.
        country: Option<Country>,
        /// All rules.
        rules: &'t GeoRules,
    },
    /// Verdicts of the admin service.
    Verdicts {
        /// The client's country, if known.
        country: Option<Country>,
        /// Of every rule.
        verdicts: &'t [RuleVerdict],
    },
}

impl<'t> GeoFinding<'t> {
    /// Looks a client up. `country_source`: where its country comes from.
    #[must_use]
    pub fn look_up(client: Option<IpAddr>, country_source: CountrySource, tables: &'t Tables) -> Self {
        let country = match country_source {
            CountrySource::Table => client.and_then(|client| tables.countries.find(client)),
            CountrySource::Header(country) => country,
        };
        Self::Rules { country, rules: &tables.geo }
    }

    /// The client's country, if known.
    #[must_use]
    pub fn country(&self) -> Option<Country> {
        match self {
            Self::Rules { country, .. } | Self::Verdicts { country, .. } => *country,
        }
    }

    /// What the global rules say of the client.
    #[must_use]
    pub fn global(&self) -> GlobalRules<'t> {
        match *self {
            Self::Rules { country, rules } => {
                let global = rules.rules().iter().filter(|rule| rule.global);
                GlobalRules::new(global.map(|rule| (rule.name.as_str(), rule.outcome(country))))
            }
            Self::Verdicts { verdicts, .. } => {
                let global = verdicts.iter().filter(|rule| rule.global);
                GlobalRules::new(global.map(|rule| (rule.name.as_str(), rule.outcome())))
            }
        }
    }

    /// What the rule of this name says of the client. `None`: there is no such rule.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<GeoOutcome> {
        match *self {
            Self::Rules { country, rules } => rules.get(name).map(|rule| rule.outcome(country)),
            Self::Verdicts { verdicts, .. } => {
                verdicts.iter().find(|rule| rule.name == name).map(RuleVerdict::outcome)
            }
        }
    }
}

/// What the global rules say of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GlobalRules<'t> {
    /// The first of them, by name, that denies it.
    pub denies: Option<(&'t str, GeoAction)>,
    /// The first in shadow that would deny it, of those before that.
    pub would_deny: Option<&'t str>,
}

impl<'t> GlobalRules<'t> {
    /// Of what the rules say, in the order of their names.
    fn new(rules: impl Iterator<Item = (&'t str, GeoOutcome)>) -> Self {
        let mut found = Self::default();
        for (name, outcome) in rules {
            match outcome {
                GeoOutcome::Allow => {}
                GeoOutcome::Deny(action) => {
                    found.denies = Some((name, action));
                    break;
                }
                GeoOutcome::WouldDeny(_) => found.would_deny = found.would_deny.or(Some(name)),
            }
        }
        found
    }
}

/// Where a client's country comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum CountrySource {
    /// From the country table.
    #[default]
    Table,
    /// From a header that a trusted filter set; `None`: the header has no country.
    Header(Option<Country>),
}

/// The result of one check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding<T> {
    /// It was answered.
    Found(T),
    /// The admin service did not answer, and there are no tables.
    Unavailable,
}

/// The results of one request's checks so far; `None`: not asked, or not answered yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Findings<'t> {
    /// Of allow and ban list.
    pub ip: Option<Finding<IpFinding>>,
    /// Of country and geo rules.
    pub geo: Option<Finding<GeoFinding<'t>>>,
    /// Of routes; `None` in it: no route matches.
    pub route: Option<Finding<Result<Option<RouteMatch<'t>>, TooLong>>>,
}

/// What comes next for a request.
#[derive(Clone, Debug)]
pub enum Step<'t> {
    /// This check has to be answered.
    Ask(Check),
    /// The decision: checks that are still unanswered do not change it.
    Decided(Decision<'t>),
}

impl<'t> Findings<'t> {
    /// The decision, or the check that it needs next. Checks count in the order of
    /// [`Check::ALL`], whichever is answered first: so asking in turn and asking all at
    /// once give the same decision. A host that cannot be read is denied before any.
    #[must_use]
    pub fn step(&self, facts: &Facts<'_>, settings: &Settings) -> Step<'t> {
        self.decide(facts, settings).map_or_else(Step::Ask, Step::Decided)
    }

    /// The decision, or the check without which there is none.
    fn decide(&self, facts: &Facts<'_>, settings: &Settings) -> Result<Decision<'t>, Check> {
        let denied = |denial| Decision {
            verdict: Verdict::Deny(denial),
            allowed_by: None,
            country: None,
            would_deny: None,
        };
        let unavailable = settings.on_unavailable;
        if RequestHost::read(facts.host).is_none() {
            return Ok(denied(Denial::new(Reason::BadHost, None, None)));
        }

        let mut would_deny = None;
        let allowed_by = match self.ip.ok_or(Check::Ip)? {
            Finding::Found(IpFinding::Banned(prefix)) => {
                return Ok(denied(Denial::new(Reason::IpBanned, Some(RuleId::Prefix(prefix)), None)));
            }
            Finding::Unavailable if unavailable.ip == Unavailable::Deny => {
                return Ok(denied(Denial::unavailable(Check::Ip)));
            }
            Finding::Found(IpFinding::Allowed(prefix)) => Some(prefix),
            Finding::Found(IpFinding::ShadowBanned(prefix)) => {
                would_deny = Some(WouldDeny::ban(prefix));
                None
            }
            Finding::Found(IpFinding::Clear) | Finding::Unavailable => None,
        };

        // A client on the allow list skips all geo rules, also those of its route.
        let geo = match allowed_by {
            Some(_) => None,
            None => match self.geo.ok_or(Check::Geo)? {
                Finding::Unavailable if unavailable.geo == Unavailable::Deny => {
                    return Ok(Decision { would_deny, ..denied(Denial::unavailable(Check::Geo)) });
                }
                Finding::Unavailable => None,
                Finding::Found(geo) => Some(geo),
            },
        };
        let country = geo.and_then(|geo| geo.country());
        let global = geo.map(|geo| geo.global()).unwrap_or_default();
        would_deny = would_deny.or(global.would_deny.map(WouldDeny::geo));
        if let Some((rule, action)) = global.denies {
            return Ok(Decision { country, would_deny, ..denied(Denial::geo(rule, action, None)) });
        }

        let verdict = match settings.routing {
            Routing::Envoy => Verdict::Allow(None),
            Routing::Tidegate => {
                routed(self.route.ok_or(Check::Route)?, geo, facts, settings, &mut would_deny)
            }
        };
        Ok(Decision { verdict, allowed_by, country, would_deny })
    }
}

/// The verdict on a request that no check before its route denies. `would_deny`: what entries in shadow
/// would have denied so far.
fn routed<'t>(
    route: Finding<Result<Option<RouteMatch<'t>>, TooLong>>,
    geo: Option<GeoFinding<'t>>,
    facts: &Facts<'_>,
    settings: &Settings,
    would_deny: &mut Option<WouldDeny<'t>>,
) -> Verdict<'t> {
    let found = match route {
        Finding::Found(Ok(found)) => found,
        Finding::Found(Err(TooLong)) => return Verdict::Deny(Denial::new(Reason::TooLong, None, None)),
        Finding::Unavailable if settings.on_unavailable.route == Unavailable::Deny => {
            return Verdict::Deny(Denial::unavailable(Check::Route));
        }
        Finding::Unavailable => return Verdict::Allow(None),
    };
    let Some(found) = found else {
        return match settings.on_no_route {
            OnNoRoute::Pass => Verdict::Allow(None),
            OnNoRoute::Deny => Verdict::Deny(Denial::new(Reason::NoRoute, None, None)),
        };
    };
    // A browser shows its page nothing of a preflight request that is denied. The request after it
    // is checked, and its denial can be read.
    let geo = geo.filter(|_| found.geo.is_empty() || found.preflight(facts).is_none());
    for name in found.geo.iter().filter(|_| geo.is_some()) {
        match geo.and_then(|geo| geo.rule(name)) {
            Some(GeoOutcome::Allow) => {}
            Some(GeoOutcome::WouldDeny(_)) => *would_deny = would_deny.or(Some(WouldDeny::geo(name))),
            Some(GeoOutcome::Deny(action)) => {
                return Verdict::Deny(Denial::geo(name, action, Some(found)));
            }
            // The Gateway API: a filter that cannot be resolved must not be skipped.
            None => {
                let rule = Some(RuleId::Geo(name));
                return Verdict::Deny(Denial::new(Reason::NoGeoRule, rule, Some(found)));
            }
        }
    }
    match found.is_dead_end() {
        true => Verdict::Deny(Denial::new(Reason::NoBackend, None, Some(found))),
        false => Verdict::Allow(Some(found)),
    }
}
