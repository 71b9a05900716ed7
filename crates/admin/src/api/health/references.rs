//! What health says of names that are given in vain.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Reason;
use crate::feed::{UnknownBackend, World};

/// References that are shown; all are counted.
const SHOWN: usize = 100;

/// A reference of a route that nobody answers.
#[derive(Serialize, Debug)]
pub struct Unknown {
    route: String,
    backend: String,
}

impl From<UnknownBackend> for Unknown {
    fn from(UnknownBackend { route, backend }: UnknownBackend) -> Self {
        Self { route: route.to_string(), backend }
    }
}

/// References of routes to backends that there are not. `clusters`: those that Envoy
/// has; empty: nobody said which.
pub fn backends(world: &World, clusters: &BTreeSet<String>, reasons: &mut Vec<Reason>) -> Vec<Unknown> {
    let unknown = world.unknown_backends(clusters);
    if let count @ 1.. = unknown.len() {
        let detail = format!(
            "{count} times a route names a backend that nobody knows, and requests that go there get 500: \
             `unknown_backends` says which"
        );
        reasons.push(Reason { code: "unknown_backend", detail });
    }
    unknown.into_iter().take(SHOWN).map(Unknown::from).collect()
}
