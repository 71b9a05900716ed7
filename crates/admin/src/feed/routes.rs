//! Rows of `routes`.

use std::num::NonZeroI64;

use serde_json::Value;
use tidegate_author as author;

use super::clock;
use super::documents::{Documents, NamedDocument, ParsedDocument};
use super::fingerprint::describe;
use super::snapshot::Snapshot;
use crate::store::{DocumentKind, DocumentRow};

/// A route that was understood.
pub type RouteInfo = ParsedDocument<author::Route>;

impl NamedDocument for author::Route {
    const KIND: DocumentKind = DocumentKind::Route;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        let route = author::read(document).map_err(|problems| describe(&problems))?;
        if route.name != row.name {
            return Err(format!(
                "/metadata/name: the document is called `{}`, its row differently: both must be the same",
                route.name
            ));
        }
        let created = row.created_at.as_deref().and_then(clock::millis);
        Ok(Self { created: created.map(NonZeroI64::get), ..route })
    }

    fn of(snapshot: &mut Snapshot) -> &mut Documents<Self> {
        &mut snapshot.routes
    }
}

impl Snapshot {
    /// The bytes of the route table.
    pub(super) fn compile_routes(&mut self) -> Vec<u8> {
        let backends = self.backends_by_name();
        self.lay_out_documents(|routes| author::compile(routes, &backends))
    }
}
