//! Rows of `backends`. No gateway gets them as such: they are what references of
//! routes mean, and stand in the route table.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tidegate_author::{self as author, Backends, ObjectRef};
use tidegate_policy::route::Target;

use super::documents::{Documents, NamedDocument, ParsedDocument};
use super::fingerprint::describe;
use super::snapshot::Snapshot;
use crate::store::{DocumentKind, DocumentRow};

/// A backend that was understood.
pub type BackendInfo = ParsedDocument<Target>;

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

impl NamedDocument for Target {
    const KIND: DocumentKind = DocumentKind::Backend;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_backend(&row.name, document).map_err(|problems| describe(&problems))
    }

    fn of(snapshot: &mut Snapshot) -> &mut Documents<Self> {
        &mut snapshot.backends
    }
}

impl Snapshot {
    /// The backends that references of routes can mean.
    #[must_use]
    pub fn backends_by_name(&self) -> Backends {
        let backend = |info: &Arc<BackendInfo>| (info.name.to_string(), info.parsed.clone());
        self.backends.in_force.values().map(backend).collect()
    }

    /// References of routes that nobody answers, for health. `clusters`: the names that
    /// Envoy knows besides; empty: nobody said which.
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
        route: &'r author::Route,
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
        let needs = |info: &&Arc<ParsedDocument<author::Route>>| {
            info.parsed.references().any(|to| {
                let otherwise = matches!(to, ObjectRef::Service(to) if clusters.contains(to.name.as_str()));
                info.parsed.backend_of_api(to) == Some(backend) && !otherwise
            })
        };
        self.routes.in_force.values().filter(needs).map(|info| info.name.clone()).collect()
    }
}
