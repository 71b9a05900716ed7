//! One request against what is known: the order of the checks is the specification.

mod finding;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::UnixSeconds;
use crate::address::Prefix;
use crate::bans::BanTable;
use crate::check::{Check, PerCheck};
use crate::flags::Flags;
use crate::geo::{Country, CountryTable, GeoAction, GeoRules};
use crate::limit::Limits;
use crate::route::{RouteMatch, RouteTable};
use crate::table::AddressTable;
use crate::wire::sync::Version;

pub use finding::{Finding, Findings, GeoFinding, Given, IpFinding, Step};

/// What is known of a request when it is decided. All of it came from a client:
/// bytes, not text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'r> {
    /// The client, as Envoy's trusted-hop rules see it; `None` when there is no
    /// address (a pipe): no ban can cover it.
    pub client: Option<IpAddr>,
    /// Request method; empty when absent.
    pub method: &'r [u8],
    /// Host as sent (port and case included); empty when absent.
    pub host: &'r [u8],
    /// Path with its query; empty when absent (CONNECT).
    pub path: &'r [u8],
    /// Header lines in order, names in lower case, pseudo-headers left out.
    pub headers: &'r [(&'r [u8], &'r [u8])],
    /// Random bits: which backend of several weighted ones takes the request.
    pub dice: u32,
}

/// One consistent set of tables. A request keeps the set it began with.
pub struct Tables {
    /// The version that they are.
    pub version: Version,
    /// Which checks are answered from these tables at all.
    pub flags: Flags,
    /// Addresses that skip bans and geo rules.
    pub allow: AddressTable,
    /// Banned addresses.
    pub bans: BanTable,
    /// Where addresses are. A clone shares the bytes.
    pub countries: CountryTable,
    /// Which countries may enter.
    pub geo: Arc<GeoRules>,
    /// Routes; shared, so that a set with new bans need not compile them again.
    pub routes: Arc<RouteTable>,
    /// How many requests may pass. No check: it is asked of requests that pass.
    pub limits: Arc<Limits>,
}

/// What the operator chose in the plugin's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether routes choose the upstream at all, or Envoy's own route table does.
    pub routing: Routing,
    /// What becomes of a request that no route matches.
    pub on_no_route: OnNoRoute,
    /// What becomes of a request of which a check cannot be answered.
    pub on_unavailable: PerCheck<Unavailable>,
}

/// What a check that nobody can answer comes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Unavailable {
    /// As if it had found nothing: no ban, no rule, Envoy's own route table.
    Allow,
    /// 503 `check_unavailable`.
    #[default]
    Deny,
}

/// Who chooses the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routing {
    /// Tidegate's routes.
    Tidegate,
    /// Envoy's route table: the gate only guards.
    Envoy,
}

/// What becomes of a request that no route matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnNoRoute {
    /// 404 `no_route`.
    Deny,
    /// Envoy's route table takes it.
    Pass,
}

/// What was decided, and by what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision<'t> {
    /// Whether the request may pass, and where to.
    pub verdict: Verdict<'t>,
    /// The allow entry that made it skip bans and geo rules.
    pub allowed_by: Option<Prefix>,
    /// Where the client is, if the decision came to ask that and it is known.
    pub country: Option<Country>,
}

/// Pass or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict<'t> {
    /// Pass, by this route; `None`: Envoy's own route table takes it.
    Allow(Option<RouteMatch<'t>>),
    /// Do not pass.
    Deny(Denial<'t>),
}

/// Why a request does not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial<'t> {
    /// The stable reason.
    pub reason: Reason,
    /// Status of the answer.
    pub status: u16,
    /// What decided.
    pub rule: Option<RuleId<'t>>,
    /// The route that matched, when one did.
    pub route: Option<RouteMatch<'t>>,
}

/// What decided, for the event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleId<'t> {
    /// The ban that covers the client.
    Prefix(Prefix),
    /// The geo rule of this name.
    Geo(&'t str),
    /// The check that nobody answered.
    Check(Check),
    /// The limit of this name.
    Limit(&'t str),
}

impl fmt::Display for RuleId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Geo(name) | Self::Limit(name) => f.write_str(name),
            Self::Check(check) => f.write_str(check.name()),
        }
    }
}

impl<'t> Denial<'t> {
    /// A denial with the reason's own status.
    #[must_use]
    pub fn new(reason: Reason, rule: Option<RuleId<'t>>, route: Option<RouteMatch<'t>>) -> Self {
        Self { reason, status: reason.status(), rule, route }
    }

    fn geo(rule: &'t str, action: GeoAction, route: Option<RouteMatch<'t>>) -> Self {
        Self { status: action.status(), ..Self::new(Reason::GeoDenied, Some(RuleId::Geo(rule)), route) }
    }

    fn unavailable(check: Check) -> Self {
        Self::new(Reason::CheckUnavailable, Some(RuleId::Check(check)), None)
    }
}

/// The stable, machine-readable reasons of a denial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The client's address is banned.
    IpBanned,
    /// The client's country may not enter.
    GeoDenied,
    /// No route matches.
    NoRoute,
    /// The rule that matches has no backend that could answer.
    NoBackend,
    /// The rule that matches names a geo rule that there is not.
    NoGeoRule,
    /// The request is too long to find out which rule matches.
    TooLong,
    /// Too many requests came in too short a time. [`decide`] does not say this: it
    /// knows of no other request.
    RateLimited,
    /// A check could not be answered, and the operator wants that denied.
    CheckUnavailable,
    /// The gate cannot decide: it has no configuration, or Envoy does not show
    /// it the request.
    NotReady,
}

impl Reason {
    /// All of them, for metrics that are defined at the start.
    pub const ALL: [Self; 9] = [
        Self::IpBanned,
        Self::GeoDenied,
        Self::NoRoute,
        Self::NoBackend,
        Self::NoGeoRule,
        Self::TooLong,
        Self::RateLimited,
        Self::CheckUnavailable,
        Self::NotReady,
    ];

    /// The name in bodies, `%RESPONSE_CODE_DETAILS%`, events and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::IpBanned => "ip_banned",
            Self::GeoDenied => "geo_denied",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::NoGeoRule => "no_geo_rule",
            Self::TooLong => "request_too_long",
            Self::RateLimited => "rate_limited",
            Self::CheckUnavailable => "check_unavailable",
            Self::NotReady => "not_ready",
        }
    }

    /// The status of the answer, unless a rule names another.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::IpBanned | Self::GeoDenied => 403,
            Self::NoRoute => 404,
            Self::NoBackend | Self::NoGeoRule => 500,
            Self::RateLimited => 429,
            // As Envoy answers a request that is too long for itself (RFC 6585).
            Self::TooLong => 431,
            Self::CheckUnavailable | Self::NotReady => 503,
        }
    }

    /// A sentence for the person who reads the body. It tells nothing that helps
    /// to get around the denial.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::IpBanned => "This address may not use this service",
            Self::GeoDenied => "This service is not available in this country",
            Self::NoRoute => "No route matches this request",
            Self::NoBackend => "The route that matches has no backend",
            Self::TooLong => "The path or a header is too long",
            Self::NoGeoRule => "The route that matches names a rule that does not exist",
            Self::RateLimited => "Too many requests",
            Self::CheckUnavailable => "A check of this request could not be made",
            Self::NotReady => "The gate cannot decide yet",
        }
    }
}

/// Decides one request from the tables alone. `now` is asked at most once, and
/// only when an entry that expires covers the client.
pub fn decide<'t>(
    facts: &Facts<'_>,
    given: Given,
    tables: &'t Tables,
    settings: &Settings,
    now: impl Fn() -> UnixSeconds,
) -> Decision<'t> {
    let read = OnceCell::new();
    let mut findings = Findings::default();
    loop {
        match findings.step(settings) {
            Step::Ask(Check::Ip) => {
                let found = IpFinding::look_up(facts.client, tables, || *read.get_or_init(&now));
                findings.ip = Some(Finding::Found(found));
            }
            Step::Ask(Check::Geo) => {
                findings.geo = Some(Finding::Found(GeoFinding::look_up(facts.client, given, tables)));
            }
            Step::Ask(Check::Route) => findings.route = Some(Finding::Found(tables.routes.find(facts))),
            Step::Decided(decision) => return decision,
        }
    }
}
