//! References between documents that cannot be resolved: for health and for the answers to
//! writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_author::{self as author, DocumentError, ObjectRef, Route};

use super::snapshot::Snapshot;

/// A route that names a geo rule that is not in force: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingGeoRule {
    /// The route.
    pub route: Arc<str>,
    /// The name of the rule.
    pub rule: String,
}

/// A limit that names a route that does not exist: for that route it has no effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingRoute {
    /// The limit.
    pub limit: Arc<str>,
    /// The name of the route.
    pub route: String,
}

/// A reference of a route to an unknown backend: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UnknownBackend {
    /// The route.
    pub route: Arc<str>,
    /// The name in the reference, or the whole reference if its kind is not supported.
    pub backend: String,
}

/// The name in a reference.
fn called(to: &ObjectRef) -> &str {
    match to {
        ObjectRef::Service(backend) => &backend.name,
        ObjectRef::Api(name) | ObjectRef::Foreign(name) => name,
    }
}

impl Snapshot {
    /// Geo rules that routes name but that are not in force.
    #[must_use]
    pub fn missing_geo_rules(&self) -> BTreeSet<MissingGeoRule> {
        let named = self.routes.in_force.values().flat_map(|info| {
            let names = info.parsed.rules.iter().flat_map(|rule| &rule.geo);
            names.map(|rule| MissingGeoRule { route: info.name.clone(), rule: rule.clone() })
        });
        named.filter(|named| !self.geo_rules.in_force.contains_key(named.rule.as_str())).collect()
    }

    /// Routes that limits name but that are not in force.
    #[must_use]
    pub fn missing_routes(&self) -> Vec<MissingRoute> {
        let named = self.limits.in_force.values().flat_map(|info| {
            let routes = info.parsed.routes.iter();
            routes.map(|route| MissingRoute { limit: info.name.clone(), route: route.clone() })
        });
        named.filter(|named| !self.routes.in_force.contains_key(named.route.as_str())).collect()
    }

    /// Routes with a `parentRef` to a listener that is not declared: there they are closed.
    pub fn closed_routes(&self) -> impl Iterator<Item = (Arc<str>, DocumentError)> {
        let listeners = self.listeners_by_name();
        self.routes.in_force.values().filter_map(move |info| {
            let problems = info.parsed.listener_problems(&listeners);
            let problem = problems.into_iter().find(|problem| problem.code == author::UNKNOWN_LISTENER)?;
            Some((info.name.clone(), problem))
        })
    }

    /// A route that may take requests of `route` and names other Gateways only.
    #[must_use]
    pub fn route_of_other_gateway(&self, route: &Route) -> Option<Arc<str>> {
        let is_other = |other: &Route| {
            let names = |gateway: &str| route.parents.iter().any(|parent| parent.gateway == gateway);
            !route.parents.is_empty()
                && !other.parents.is_empty()
                && !other.parents.iter().any(|parent| names(&parent.gateway))
                && route.shares_hosts_with(other)
        };
        self.routes.in_force.values().find(|info| is_other(&info.parsed)).map(|info| info.name.clone())
    }

    /// References of routes that are neither a backend of the API nor in `clusters`, the clusters
    /// of Envoy; empty `clusters`: they are not known, and any name is accepted.
    #[must_use]
    pub fn unknown_backends(&self, clusters: &BTreeSet<String>) -> BTreeSet<UnknownBackend> {
        let routes = self.routes.in_force.values();
        let unknown = routes.flat_map(|info| {
            let unknown = self.unknown_backends_of(&info.parsed, clusters);
            unknown.map(|to| UnknownBackend { route: info.name.clone(), backend: called(to).to_owned() })
        });
        unknown.collect()
    }

    /// The same of one route.
    pub fn unknown_backends_of<'r>(
        &self,
        route: &'r Route,
        clusters: &BTreeSet<String>,
    ) -> impl Iterator<Item = &'r ObjectRef> {
        let is_cluster = |name: &str| clusters.is_empty() || clusters.contains(name);
        route.references().filter(move |to| {
            let name = route.backend_of_api(to);
            let of_api = name.is_some_and(|name| self.backends.in_force.contains_key(name));
            !of_api && !matches!(to, ObjectRef::Service(backend) if is_cluster(&backend.name))
        })
    }

    /// Routes with references that only the backend of this name resolves. `clusters` as above.
    #[must_use]
    pub fn routes_that_need(&self, backend: &str, clusters: &BTreeSet<String>) -> Vec<Arc<str>> {
        let needs = |route: &Route| {
            route.references().any(|to| {
                let otherwise = matches!(to, ObjectRef::Service(to) if clusters.contains(to.name.as_str()));
                route.backend_of_api(to) == Some(backend) && !otherwise
            })
        };
        let routes = self.routes.in_force.values().filter(|info| needs(&info.parsed));
        routes.map(|info| info.name.clone()).collect()
    }
}
