//! The flags as they apply to one request, which may be limited to gateways, hostnames and routes.

use std::cell::OnceCell;

use tidegate_policy::decide::Tables;
use tidegate_policy::flags::Modes;
use tidegate_policy::host::RequestHost;
use tidegate_policy::request::Facts;

use super::facts::RequestFacts;
use super::listener::CameBy;
use crate::filter::Filter;
use crate::host::Host;

/// Reads the request's host and finds its route at most once, and only where a flag is limited to some. A route is
/// that of the gate's own tables, whoever is to answer the check of routes: it chooses only who answers, and is found
/// before anybody was asked. A request that takes too long to place is on none.
pub fn of_request<H: Host>(
    filter: &Filter<H>,
    facts: &RequestFacts,
    tables: &Tables,
    random_bits: u32,
) -> Modes {
    let (host, route) = (OnceCell::new(), OnceCell::new());
    let find_route = || {
        let lines = facts.lines();
        let CameBy { https, port } = CameBy::as_asked_by(filter, facts, Some(&tables.routes));
        let facts = Facts { https, port, ..facts.facts(&lines, random_bits) };
        tables.routes.find(&facts).ok().flatten().map(|found| found.route)
    };
    tables.flags.modes_at(facts.client(), |scope| {
        let host = host.get_or_init(|| RequestHost::read(facts.facts(&[], 0).host));
        scope.fits(filter.instance.client.node(), host.as_ref(), || *route.get_or_init(find_route))
    })
}
