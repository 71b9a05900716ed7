//! References between documents, and those that lead nowhere: for health and for the
//! answers to writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_author::{ObjectRef, Route};

use super::snapshot::Snapshot;

/// A route that names a geo rule that is not in force: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingGeoRule {
    /// The route.
    pub route: Arc<str>,
    /// The name of the rule.
    pub rule: String,
}

/// A limit that is to hold for a route that there is not: for that one it holds for
/// no request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingRoute {
    /// The limit.
    pub limit: Arc<str>,
    /// The name of the route.
    pub route: String,
}

/// A reference of a route to something that nobody knows: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UnknownBackend {
    /// The route.
    pub route: Arc<str>,
    /// The name that the reference gives, or the whole of it where it is of another
    /// kind than can be carried out.
    pub backend: String,
}

/// What a reference calls it.
fn called(to: &ObjectRef) -> &str {
    match to {
        ObjectRef::Service(backend) => &backend.name,
        ObjectRef::Api(name) | ObjectRef::Foreign(name) => name,
    }
}

impl Snapshot {
    /// Geo rules that routes name and that are not in force.
    #[must_use]
    pub fn missing_geo_rules(&self) -> BTreeSet<MissingGeoRule> {
        let named = self.routes.in_force.values().flat_map(|info| {
            let names = info.parsed.rules.iter().flat_map(|rule| &rule.geo);
            names.map(|rule| MissingGeoRule { route: info.name.clone(), rule: rule.clone() })
        });
        named.filter(|named| !self.geo_rules.in_force.contains_key(named.rule.as_str())).collect()
    }

    /// Routes that limits name and that are not in force.
    #[must_use]
    pub fn missing_routes(&self) -> Vec<MissingRoute> {
        let named = self.limits.in_force.values().flat_map(|info| {
            let routes = info.parsed.routes.iter();
            routes.map(|route| MissingRoute { limit: info.name.clone(), route: route.clone() })
        });
        named.filter(|named| !self.routes.in_force.contains_key(named.route.as_str())).collect()
    }

    /// References of routes that nobody answers. `clusters`: the names that Envoy knows
    /// besides; empty: nobody said which.
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

    /// Routes whose requests have nobody else to go to than the backend of this name.
    /// `clusters` as above.
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
