//! One request against the tables: the order of the checks is the specification.

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use crate::UnixSeconds;
use crate::address::Prefix;
use crate::bans::BanTable;
use crate::route::{RouteMatch, RouteTable};
use crate::table::AddressTable;
use crate::wire::sync::Version;

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
    /// Addresses that skip bans and geo rules.
    pub allow: AddressTable,
    /// Banned addresses.
    pub bans: BanTable,
    /// Routes; shared, so that a set with new bans need not compile them again.
    pub routes: Arc<RouteTable>,
}

/// What the operator chose in the plugin's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether routes choose the upstream at all, or Envoy's own route table does.
    pub routing: Routing,
    /// What becomes of a request that no route matches.
    pub on_no_route: OnNoRoute,
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
#[derive(Clone, Debug)]
pub struct Decision<'t> {
    /// Whether the request may pass, and where to.
    pub verdict: Verdict<'t>,
    /// The allow entry that made it skip the bans.
    pub allowed_by: Option<Prefix>,
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
    /// The ban that covers the client.
    pub ban: Option<Prefix>,
    /// The route that matched, when one did.
    pub route: Option<RouteMatch<'t>>,
}

/// The stable, machine-readable reasons of a denial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The client's address is banned.
    IpBanned,
    /// No route matches.
    NoRoute,
    /// The rule that matches has no backend that could answer.
    NoBackend,
    /// The gate holds no tables yet.
    NotReady,
}

impl Reason {
    /// All of them, for metrics that are defined at the start.
    pub const ALL: [Self; 4] = [Self::IpBanned, Self::NoRoute, Self::NoBackend, Self::NotReady];

    /// The name in bodies, `%RESPONSE_CODE_DETAILS%`, events and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::IpBanned => "ip_banned",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::NotReady => "not_ready",
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::IpBanned => 403,
            Self::NoRoute => 404,
            Self::NoBackend => 500,
            Self::NotReady => 503,
        }
    }

    /// A sentence for the person who reads the body. It tells nothing that helps
    /// to get around the denial.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::IpBanned => "This address may not use this service",
            Self::NoRoute => "No route matches this request",
            Self::NoBackend => "The route that matches has no backend",
            Self::NotReady => "The gate has no tables yet",
        }
    }
}

/// Decides one request. `now` is asked at most once, and only when an entry that
/// expires covers the client.
pub fn decide<'t>(
    facts: &Facts<'_>,
    tables: &'t Tables,
    settings: &Settings,
    now: impl Fn() -> UnixSeconds,
) -> Decision<'t> {
    let read = OnceCell::new();
    let now = || *read.get_or_init(&now);
    let allowed_by = facts.client.and_then(|client| {
        tables.allow.covering(client).find(|entry| entry.is_in_force(now)).map(|entry| entry.prefix)
    });
    let ban = match (facts.client, allowed_by) {
        (Some(client), None) => tables.bans.covering(client, now),
        _ => None,
    };
    let verdict = match ban {
        Some(ban) => Verdict::Deny(Denial { reason: Reason::IpBanned, ban: Some(ban.prefix), route: None }),
        None => route(facts, tables, settings),
    };
    Decision { verdict, allowed_by }
}

fn route<'t>(facts: &Facts<'_>, tables: &'t Tables, settings: &Settings) -> Verdict<'t> {
    if settings.routing == Routing::Envoy {
        return Verdict::Allow(None);
    }
    match tables.routes.find(facts) {
        Some(found) if found.backend.is_some() => Verdict::Allow(Some(found)),
        Some(found) => Verdict::Deny(Denial { reason: Reason::NoBackend, ban: None, route: Some(found) }),
        None if settings.on_no_route == OnNoRoute::Pass => Verdict::Allow(None),
        None => Verdict::Deny(Denial { reason: Reason::NoRoute, ban: None, route: None }),
    }
}
