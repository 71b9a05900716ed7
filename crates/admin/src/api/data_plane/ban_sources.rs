//! Whose lists have the bans that events name. Gateways do not know it, and an event names a ban by its prefix
//! alone: of all bans of that prefix, it is those that can have decided about that request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tidegate_policy::address::Prefix;
use tidegate_policy::decide::Reason;
use tidegate_policy::host::RequestHost;
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteTable;
use tidegate_policy::scope::Scope;
use tidegate_policy::wire::event::{Batch, TrafficEvent};

use crate::feed::{Feed, RowStatus, Snapshot};
use crate::store::{BanSources, EventId};

/// A ban of a prefix.
struct Ban {
    status: RowStatus,
    scope: Option<Arc<Scope>>,
    /// The sources that have it.
    names: BTreeSet<String>,
}

/// The ban that denied a request, or would have in shadow, as its event has it.
struct NamedBan<'e> {
    prefix: &'e str,
    status: RowStatus,
}

impl<'e> NamedBan<'e> {
    fn of(event: &'e TrafficEvent) -> Option<Self> {
        let is_ban = |reason: &Option<String>| reason.as_deref() == Some(Reason::IpBanned.code());
        let of = |rule: &'e Option<String>, status| Some(Self { prefix: rule.as_deref()?, status });
        match event {
            TrafficEvent { reason, rule, .. } if is_ban(reason) => of(rule, RowStatus::Banned),
            TrafficEvent { would_deny, would_deny_rule, .. } if is_ban(would_deny) => {
                of(would_deny_rule, RowStatus::Watched)
            }
            _ => None,
        }
    }
}

/// Whose lists have the bans that events of these batches name, as far as any have them.
pub async fn of_events(feed: &Feed, batches: &[Batch]) -> BanSources {
    let snapshot = feed.snapshot();
    let named = || {
        let all =
            batches.iter().flat_map(|batch| batch.events.iter().map(move |event| (batch.source, event)));
        all.filter_map(|(source, event)| Some(((source, event.number), event, NamedBan::of(event)?)))
    };
    let mut known: HashMap<&str, Vec<Ban>> = HashMap::new();
    for (_, _, NamedBan { prefix, .. }) in named() {
        known.entry(prefix).or_insert_with(|| bans_of(&snapshot, prefix));
    }
    let (mut found, mut by_route) = (BanSources::new(), Vec::new());
    for (id, event, NamedBan { prefix, status }) in named() {
        let bans = known.get(prefix).map_or(&[][..], |bans| bans);
        let bans = deciding(bans, status, event);
        // Where one is left it is that one. Few requests are covered by several of one prefix at one host.
        match bans.len() > 1 && bans.iter().any(|ban| has_routes(ban)) {
            true => by_route.push((id, event, bans)),
            false => note(&mut found, id, &bans),
        }
    }
    if !by_route.is_empty() {
        let tables = feed.current_tables().await.ok();
        for (id, event, mut bans) in by_route {
            let placed = tables.as_ref().and_then(|now| route_of(event, &now.tables.routes));
            let route = event.route.as_deref().or(placed);
            let is_on_it = |ban: &&Ban| ban.scope.as_ref().is_none_or(|scope| scope.fits_route(route));
            // A header may have chosen the route, which events do not have.
            if bans.iter().any(is_on_it) {
                bans.retain(is_on_it);
            }
            note(&mut found, id, &bans);
        }
    }
    found
}

fn note(found: &mut BanSources, id: EventId, bans: &[&Ban]) {
    let names: BTreeSet<&str> = bans.iter().flat_map(|ban| ban.names.iter().map(String::as_str)).collect();
    if !names.is_empty() {
        found.insert(id, names.into_iter().collect::<Vec<_>>().join(",").into());
    }
}

/// The bans of exactly the prefix `text`.
fn bans_of(snapshot: &Snapshot, text: &str) -> Vec<Ban> {
    let Ok(prefix) = text.parse::<Prefix>() else { return Vec::new() };
    let bans = snapshot.all_listed(&prefix).filter(|listed| listed.status != RowStatus::Allowed);
    let ban = |listed: crate::feed::ListedPrefix| Ban {
        status: listed.status,
        names: listed.source_names().map(str::to_owned).collect(),
        scope: listed.scope,
    };
    bans.map(ban).collect()
}

/// Those of `bans` that can have decided about the request of `event`, by all but its route.
fn deciding<'b>(bans: &'b [Ban], status: RowStatus, event: &TrafficEvent) -> Vec<&'b Ban> {
    let mut bans: Vec<&Ban> = bans.iter().collect();
    // The mode of a source may have changed since.
    if bans.iter().any(|ban| ban.status == status) {
        bans.retain(|ban| ban.status == status);
    }
    // What applies everywhere decides before what has a scope.
    if bans.iter().any(|ban| ban.scope.is_none()) {
        bans.retain(|ban| ban.scope.is_none());
    }
    let host = event.host.as_deref().and_then(RequestHost::read);
    let fits = |scope: &Scope| host.as_ref().is_some_and(|host| scope.fits_host(host));
    bans.retain(|ban| ban.scope.as_ref().is_none_or(|scope| fits(scope)));
    bans
}

fn has_routes(ban: &Ban) -> bool {
    ban.scope.as_ref().is_some_and(|scope| !scope.routes.is_empty())
}

/// The route of a request, as far as its event says what routes ask for: it has neither headers nor the listener.
fn route_of<'t>(event: &TrafficEvent, routes: &'t RouteTable) -> Option<&'t str> {
    let [method, host, path] =
        [&event.method, &event.host, &event.path].map(|field| field.as_deref().unwrap_or_default());
    [false, true].into_iter().find_map(|https| {
        let facts = Facts { client: event.client, method, host, path, https, ..Facts::default() };
        Some(routes.find(&facts).ok()??.route)
    })
}
