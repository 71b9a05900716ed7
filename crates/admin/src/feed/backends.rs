//! Rows of `backends`. No gateway gets them as such: they are what references of
//! routes mean, and stand in the route table.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tidegate_policy::author::{self, Backends, Referent};
use tidegate_policy::route::Target;

use super::documents::{Documents, Info, Says};
use super::small::describe;
use super::world::World;
use crate::store::{DocumentRow, Kind};

/// A backend that was understood.
pub type BackendInfo = Info<Target>;

/// A reference of a route to something that nobody knows: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct UnknownBackend {
    /// The route.
    pub route: Arc<str>,
    /// The name that the reference gives, or the whole of it where it is of another
    /// kind than can be carried out.
    pub backend: String,
}

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, backend } = self;
        write!(
            f,
            "the route `{route}` names `{backend}`, which nobody knows: requests that go there get 500, and copies go nowhere"
        )
    }
}

impl Says for Target {
    const KIND: Kind = Kind::Backend;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_backend(&row.name, document).map_err(|problems| describe(&problems))
    }

    fn of(world: &mut World) -> &mut Documents<Self> {
        &mut world.backends
    }
}

impl World {
    /// The backends that references of routes can mean.
    #[must_use]
    pub fn backends_by_name(&self) -> Backends {
        let backend = |info: &Arc<BackendInfo>| (info.name.to_string(), info.says.clone());
        self.backends.in_force.values().map(backend).collect()
    }

    /// References of routes that nobody answers, for health. `clusters`: the names that
    /// Envoy knows besides; empty: nobody said which.
    #[must_use]
    pub fn unknown_backends(&self, clusters: &BTreeSet<String>) -> BTreeSet<UnknownBackend> {
        let of_route = |info: &Arc<Info<author::Route>>| {
            let unknown = |backend| UnknownBackend { route: info.name.clone(), backend };
            self.unknown_backends_of(&info.says, clusters).into_iter().map(unknown).collect::<Vec<_>>()
        };
        self.routes.in_force.values().flat_map(of_route).collect()
    }

    fn unknown_backends_of(&self, route: &author::Route, clusters: &BTreeSet<String>) -> Vec<String> {
        let is_cluster = |name: &str| clusters.is_empty() || clusters.contains(name);
        let is_known = |to: &Referent| {
            let of_api =
                route.backend_of_api(to).is_some_and(|name| self.backends.in_force.contains_key(name));
            of_api || matches!(to, Referent::Service(backend) if is_cluster(&backend.name))
        };
        let name = |to: &Referent| match to {
            Referent::Service(backend) => backend.name.clone(),
            Referent::Api(name) | Referent::Foreign(name) => name.clone(),
        };
        route.references().filter(|to| !is_known(to)).map(name).collect()
    }

    /// Routes whose requests have nobody else to go to than the backend of this name.
    /// `clusters` as above.
    #[must_use]
    pub fn routes_that_need(&self, backend: &str, clusters: &BTreeSet<String>) -> Vec<Arc<str>> {
        let needs = |info: &&Arc<Info<author::Route>>| {
            info.says.references().any(|to| {
                let otherwise = matches!(to, Referent::Service(to) if clusters.contains(to.name.as_str()));
                info.says.backend_of_api(to) == Some(backend) && !otherwise
            })
        };
        self.routes.in_force.values().filter(needs).map(|info| info.name.clone()).collect()
    }
}
