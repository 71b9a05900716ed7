//! A decision and its reasons.

use std::fmt;

use crate::address::Prefix;
use crate::check::Check;
use crate::geo::{Country, GeoAction};
use crate::route::RouteMatch;

/// What was decided, and by what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision<'t> {
    /// Whether the request may pass, and where to.
    pub verdict: Verdict<'t>,
    /// The allow entry that made it skip bans and geo rules.
    pub allowed_by: Option<Prefix>,
    /// The client's country, if the decision needed it and it is known.
    pub country: Option<Country>,
    /// The first entry in shadow that would have denied it: of those that come before what
    /// denies it, if something does. None if the client is on the allow list.
    pub would_deny: Option<WouldDeny<'t>>,
}

/// What would have become of a request, were an entry not in shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WouldDeny<'t> {
    /// Why it would have been denied.
    pub reason: Reason,
    /// The entry in shadow.
    pub rule: RuleId<'t>,
}

impl<'t> WouldDeny<'t> {
    pub(super) fn ban(prefix: Prefix) -> Self {
        Self { reason: Reason::IpBanned, rule: RuleId::Prefix(prefix) }
    }

    pub(super) fn geo(rule: &'t str) -> Self {
        Self { reason: Reason::GeoDenied, rule: RuleId::Geo(rule) }
    }
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
    /// The check that could not be answered.
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

    pub(super) fn geo(rule: &'t str, action: GeoAction, route: Option<RouteMatch<'t>>) -> Self {
        Self { status: action.status(), ..Self::new(Reason::GeoDenied, Some(RuleId::Geo(rule)), route) }
    }

    pub(super) fn unavailable(check: Check) -> Self {
        Self::new(Reason::CheckUnavailable, Some(RuleId::Check(check)), None)
    }
}

/// The stable, machine-readable reasons of a denial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The request's host is no `host` or `host:port`.
    BadHost,
    /// The client's address is banned.
    IpBanned,
    /// The client's country may not enter.
    GeoDenied,
    /// No route matches.
    NoRoute,
    /// The rule that matches has no backend that could answer.
    NoBackend,
    /// The rule that matches names a geo rule that does not exist.
    NoGeoRule,
    /// The request is too long to be matched against the rules.
    TooLong,
    /// Too many requests in too short a time. Never a result of [`decide`](super::decide), which
    /// looks at one request alone.
    RateLimited,
    /// The request came back to the gate that sent it on, again and again. Never a result of
    /// [`decide`](super::decide), as above.
    LoopDetected,
    /// A check could not be answered, and the settings deny that.
    CheckUnavailable,
    /// The gate cannot decide: it has no configuration, or could not read or change the
    /// request's headers.
    NotReady,
}

impl Reason {
    /// All of them, for metrics that are defined at the start.
    pub const ALL: [Self; 11] = [
        Self::BadHost,
        Self::IpBanned,
        Self::GeoDenied,
        Self::NoRoute,
        Self::NoBackend,
        Self::NoGeoRule,
        Self::TooLong,
        Self::RateLimited,
        Self::LoopDetected,
        Self::CheckUnavailable,
        Self::NotReady,
    ];

    /// The name in bodies, `%RESPONSE_CODE_DETAILS%`, events and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::IpBanned => "ip_banned",
            Self::GeoDenied => "geo_denied",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::NoGeoRule => "no_geo_rule",
            Self::TooLong => "request_too_long",
            Self::RateLimited => "rate_limited",
            Self::LoopDetected => "loop_detected",
            Self::CheckUnavailable => "check_unavailable",
            Self::NotReady => "not_ready",
        }
    }

    /// The status of the answer, unless a rule names another.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            // RFC 9112, 3.2.
            Self::BadHost => 400,
            Self::IpBanned | Self::GeoDenied => 403,
            Self::NoRoute => 404,
            Self::NoBackend | Self::NoGeoRule => 500,
            Self::RateLimited => 429,
            // RFC 5842, 7.2.
            Self::LoopDetected => 508,
            // As Envoy answers a request that is too long for itself (RFC 6585).
            Self::TooLong => 431,
            Self::CheckUnavailable | Self::NotReady => 503,
        }
    }

    /// A sentence for the person who reads the body. It has nothing in it that would help
    /// to get around the denial.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::BadHost => "The host of the request cannot be read",
            Self::IpBanned => "This address may not use this service",
            Self::GeoDenied => "This service is not available in this country",
            Self::NoRoute => "No route matches this request",
            Self::NoBackend => "The route that matches has no backend",
            Self::TooLong => "The path or a header is too long",
            Self::NoGeoRule => "The route that matches names a rule that does not exist",
            Self::RateLimited => "Too many requests",
            Self::LoopDetected => "The request goes in circles",
            Self::CheckUnavailable => "A check of this request could not be made",
            Self::NotReady => "The gate cannot decide yet",
        }
    }
}
