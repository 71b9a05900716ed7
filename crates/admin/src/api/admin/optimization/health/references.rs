//! Health: references that cannot be resolved.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use crate::feed::{Snapshot, UnknownBackend};
use crate::finding::{Finding, FindingCode};

/// References that are shown; all are counted.
const SHOWN: usize = 100;
/// Limits with a missing route that are listed by name.
const SHOWN_ROUTES: usize = 5;

/// A reference of a route to an unknown backend.
#[derive(Serialize, Debug, ToSchema)]
pub struct UnknownReference {
    route: String,
    backend: String,
}

impl From<UnknownBackend> for UnknownReference {
    fn from(UnknownBackend { route, backend }: UnknownBackend) -> Self {
        Self { route: route.to_string(), backend }
    }
}

/// The first of these references, as they are shown.
pub fn shown(unknown: BTreeSet<UnknownBackend>) -> Vec<UnknownReference> {
    unknown.into_iter().take(SHOWN).map(UnknownReference::from).collect()
}

/// The finding of `count` references to unknown backends.
pub fn backends(count: usize) -> Option<Finding> {
    let count @ 1.. = count else { return None };
    Some(FindingCode::UnknownBackend.says(format!(
        "references of routes to backends that nobody knows: {count}; requests that go there get 500, \
         and `unknown_backends` says which"
    )))
}

/// Routes with a listener that is not declared.
pub fn listeners(snapshot: &Snapshot) -> Option<Finding> {
    let closed: Vec<_> = snapshot.closed_routes().collect();
    if closed.is_empty() {
        return None;
    }
    let named = closed.iter().take(SHOWN_ROUTES);
    let named: Vec<_> = named
        .map(|(route, problem)| format!("`{route}`, {}: {}", problem.pointer, problem.message))
        .collect();
    let detail = format!(
        "routes that are held to listeners that are not there: {}; what they would take by these gets 500: {}",
        closed.len(),
        named.join("; ")
    );
    Some(FindingCode::UnknownListener.says(detail))
}

/// Routes that bans apply to but that do not exist.
pub fn routes_of_bans(snapshot: &Snapshot) -> Option<Finding> {
    let named: BTreeSet<&str> =
        snapshot.scopes().flat_map(|scope| scope.routes.iter().map(String::as_str)).collect();
    let missing: Vec<_> =
        named.into_iter().filter(|id| !snapshot.routes.in_force.contains_key(*id)).collect();
    if missing.is_empty() {
        return None;
    }
    let shown: Vec<_> = missing.iter().take(SHOWN_ROUTES).map(|id| format!("`{id}`")).collect();
    let detail = format!(
        "routes that bans or sources apply to and that are not there: {}; nobody is banned there: {}",
        missing.len(),
        shown.join(", ")
    );
    Some(FindingCode::BanRouteMissing.says(detail))
}

/// Routes that limits name but that do not exist.
pub fn routes(snapshot: &Snapshot) -> Option<Finding> {
    let missing = snapshot.missing_routes();
    if missing.is_empty() {
        return None;
    }
    let named = missing.iter().take(SHOWN_ROUTES);
    let named: Vec<_> = named.map(|one| format!("`{}` names `{}`", one.limit, one.route)).collect();
    let detail = format!(
        "references of limits to routes that are not there: {}; what is named so is not limited: {}",
        missing.len(),
        named.join(", ")
    );
    Some(FindingCode::LimitRouteMissing.says(detail))
}
