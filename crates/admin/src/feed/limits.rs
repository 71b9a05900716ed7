//! Rows of `limits`.

use std::sync::Arc;

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::limit::{Limit, Limits, MAX_LIMITS};

use super::documents::{Documents, NamedDocument, ParsedDocument};
use super::fingerprint::describe;
use super::snapshot::Snapshot;
use crate::store::{DocumentKind, DocumentRow};

/// A limit that was understood.
pub type LimitInfo = ParsedDocument<Limit>;

/// A limit that is to hold for a route that there is not: for that one it holds for
/// no request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingRoute {
    /// The limit.
    pub limit: Arc<str>,
    /// The name of the route.
    pub route: String,
}

impl NamedDocument for Limit {
    const KIND: DocumentKind = DocumentKind::Limit;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_limit(&row.name, document).map_err(|problems| describe(&problems))
    }

    fn of(snapshot: &mut Snapshot) -> &mut Documents<Self> {
        &mut snapshot.limits
    }
}

/// The bytes of these limits; or how many there may be.
fn lay_out(limits: &[Limit]) -> Result<Vec<u8>, String> {
    if limits.len() > MAX_LIMITS {
        return Err(format!("there may be {MAX_LIMITS} limits"));
    }
    Limits::new(limits.iter().cloned()).to_bytes().map_err(|error| error.to_string())
}

impl Snapshot {
    /// The bytes of the limits.
    pub(super) fn lay_out_limits(&mut self) -> Vec<u8> {
        self.lay_out_documents(lay_out)
    }

    /// Routes that limits name and that are not in force, for health.
    #[must_use]
    pub fn missing_routes(&self) -> Vec<MissingRoute> {
        let named = self.limits.in_force.values().flat_map(|info| {
            let routes = info.parsed.routes.iter();
            routes.map(|route| MissingRoute { limit: info.name.clone(), route: route.clone() })
        });
        named.filter(|named| !self.routes.in_force.contains_key(named.route.as_str())).collect()
    }
}
