//! What each check found, wherever the answer came from, and what follows from
//! all of it. [`Findings::step`] is the specification of a decision: direct mode,
//! cached mode and every mixture of them go through it. A finding (this ban covers the client;
//! the country, and what each geo rule says of it; this rule of this route) is never a verdict:
//! that is the gate's, with its own settings.

use std::net::IpAddr;

use super::settings::{OnNoRoute, Routing, Settings, Unavailable};
use super::tables::Tables;
use super::verdict::{Decision, Denial, Reason, RuleId, Verdict};
use crate::UnixSeconds;
use crate::address::Prefix;
use crate::check::Check;
use crate::geo::{Country, GeoAction, GeoRules, RuleVerdict};
use crate::route::{RouteMatch, TooLong};

use serde::{Deserialize, Serialize};

/// What allow and ban list say of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IpFinding {
    /// Nothing.
    Clear,
    /// It skips bans and geo rules, by this entry.
    Allowed(Prefix),
    /// It is banned, by this entry.
    Banned(Prefix),
}

impl IpFinding {
    /// Looks a client up. `now` is asked at most once per list, and only when an
    /// entry that expires covers the client.
    pub fn look_up(client: Option<IpAddr>, tables: &Tables, now: impl Fn() -> UnixSeconds) -> Self {
        let Some(client) = client else { return Self::Clear };
        if let Some(entry) = tables.allow.covering(client).find(|entry| entry.is_in_force(&now)) {
            return Self::Allowed(entry.prefix);
        }
        match tables.bans.covering(client, now) {
            Some(ban) => Self::Banned(ban.prefix),
            None => Self::Clear,
        }
    }
}

/// Where a client is, and what each geo rule says of that.
#[derive(Clone, Copy, Debug)]
pub enum GeoFinding<'t> {
    /// To be worked out from the rules.
    Rules {
        /// The client's country, if known.
        country: Option<Country>,
        /// All rules.
        rules: &'t GeoRules,
    },
    /// As the admin service answered.
    Verdicts {
        /// The client's country, if known.
        country: Option<Country>,
        /// What every rule says of it.
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

    /// The first global rule, by name, that denies the client.
    #[must_use]
    pub fn global(&self) -> Option<(&'t str, GeoAction)> {
        match *self {
            Self::Rules { country, rules } => rules
                .rules()
                .iter()
                .filter(|rule| rule.global)
                .find_map(|rule| Some((rule.name.as_str(), rule.denies(country)?))),
            Self::Verdicts { verdicts, .. } => verdicts
                .iter()
                .filter(|rule| rule.global)
                .find_map(|rule| Some((rule.name.as_str(), rule.denies?))),
        }
    }

    /// What the rule of this name says; `None`: there is none.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<Option<GeoAction>> {
        match *self {
            Self::Rules { country, rules } => rules.get(name).map(|rule| rule.denies(country)),
            Self::Verdicts { verdicts, .. } => {
                verdicts.iter().find(|rule| rule.name == name).map(|rule| rule.denies)
            }
        }
    }
}

/// Where a client's country comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum CountrySource {
    /// From the country table.
    #[default]
    Table,
    /// From a header that a trusted filter set; `None`: it said none.
    Header(Option<Country>),
}

/// What became of one check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding<T> {
    /// It was answered.
    Found(T),
    /// Nobody answered, and no cache could stand in.
    Unavailable,
}

/// What is known so far of one request; `None`: not asked, or not answered yet.
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
    /// Nothing: what is still unanswered does not change the decision.
    Decided(Decision<'t>),
}

impl<'t> Findings<'t> {
    /// What follows from what is known. Checks count in the order of
    /// [`Check::ALL`], whichever is answered first: so asking in turn and asking
    /// all at once come to the same decision.
    #[must_use]
    pub fn step(&self, settings: &Settings) -> Step<'t> {
        self.decide(settings).map_or_else(Step::Ask, Step::Decided)
    }

    /// The decision, or the check without which there is none.
    fn decide(&self, settings: &Settings) -> Result<Decision<'t>, Check> {
        let denied = |denial| Decision { verdict: Verdict::Deny(denial), allowed_by: None, country: None };
        let unavailable = settings.on_unavailable;

        let allowed_by = match self.ip.ok_or(Check::Ip)? {
            Finding::Found(IpFinding::Banned(prefix)) => {
                return Ok(denied(Denial::new(Reason::IpBanned, Some(RuleId::Prefix(prefix)), None)));
            }
            Finding::Unavailable if unavailable.ip == Unavailable::Deny => {
                return Ok(denied(Denial::unavailable(Check::Ip)));
            }
            Finding::Found(IpFinding::Allowed(prefix)) => Some(prefix),
            Finding::Found(IpFinding::Clear) | Finding::Unavailable => None,
        };

        // Who is on the allow list skips all geo rules, those of its route too.
        let geo = match allowed_by {
            Some(_) => None,
            None => match self.geo.ok_or(Check::Geo)? {
                Finding::Unavailable if unavailable.geo == Unavailable::Deny => {
                    return Ok(denied(Denial::unavailable(Check::Geo)));
                }
                Finding::Unavailable => None,
                Finding::Found(geo) => Some(geo),
            },
        };
        let country = geo.and_then(|geo| geo.country());
        if let Some((rule, action)) = geo.and_then(|geo| geo.global()) {
            return Ok(Decision { country, ..denied(Denial::geo(rule, action, None)) });
        }

        let verdict = match settings.routing {
            Routing::Envoy => Verdict::Allow(None),
            Routing::Tidegate => routed(self.route.ok_or(Check::Route)?, geo, settings),
        };
        Ok(Decision { verdict, allowed_by, country })
    }
}

fn routed<'t>(
    route: Finding<Result<Option<RouteMatch<'t>>, TooLong>>,
    geo: Option<GeoFinding<'t>>,
    settings: &Settings,
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
    for name in found.geo.iter().filter(|_| geo.is_some()) {
        match geo.and_then(|geo| geo.rule(name)) {
            Some(None) => {}
            Some(Some(action)) => return Verdict::Deny(Denial::geo(name, action, Some(found))),
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
