//! The decision about one request: host, allow list, bans, geo rules, route, in this order.

mod findings;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod verdict;

use std::cell::OnceCell;

use crate::UnixSeconds;
use crate::check::Check;
use crate::request::Facts;

pub use findings::{CountrySource, Finding, Findings, GeoFinding, GlobalRules, IpFinding, Step};
pub use settings::{OnNoRoute, Routing, Settings, Unavailable};
pub use tables::Tables;
pub use verdict::{Decision, Denial, Reason, RuleId, Verdict, WouldDeny};

/// Decides one request from the tables alone. `now` is called at most once, and only if
/// an entry with an expiry covers the client.
pub fn decide<'t>(
    facts: &Facts<'_>,
    country_source: CountrySource,
    tables: &'t Tables,
    settings: &Settings,
    now: impl Fn() -> UnixSeconds,
) -> Decision<'t> {
    let read = OnceCell::new();
    let mut findings = Findings::default();
    loop {
        match findings.step(facts, settings) {
            Step::Ask(Check::Ip) => {
                let found = IpFinding::look_up(facts, tables, || *read.get_or_init(&now));
                findings.ip = Some(Finding::Found(found));
            }
            Step::Ask(Check::Geo) => {
                findings.geo =
                    Some(Finding::Found(GeoFinding::look_up(facts.client, country_source, tables)));
            }
            Step::Ask(Check::Route) => findings.route = Some(Finding::Found(tables.routes.find(facts))),
            Step::Decided(decision) => return decision,
        }
    }
}
