//! `/api/admin/backends`: where requests go that Envoy's configuration does not know.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::route::Target;

use super::routes::fit_together;
use crate::api::app_state::Context;
use crate::api::named_documents::Resource;
use crate::feed::{Documents, Snapshot};
use crate::problem::{Answer, Code, Problem};
use crate::store::{DocumentKind, StoreTable};

/// Routes that are told by name when they need a backend that is to go.
const SHOWN_ROUTES: usize = 10;

/// The backends.
pub enum Backends {}

impl Resource for Backends {
    type Says = Target;
    const KIND: DocumentKind = DocumentKind::Backend;
    const NOUN: &str = "backend";
    const PATH: &str = "/api/admin/backends";
    const NOT_FOUND: Code = Code::BackendNotFound;
    const CHECKED_WITH: &'static [StoreTable] =
        &[StoreTable::Documents(DocumentKind::Route), StoreTable::Documents(DocumentKind::Backend)];
    const NAMED_BY: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::Route)];

    fn of(snapshot: &Snapshot) -> &Documents<Target> {
        &snapshot.backends
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> Answer<(String, Target)> {
        let target = author::read_backend(name, &document)
            .map_err(|problems| Problem::document(Code::InvalidField, problems))?;
        let text = document.to_string();
        let mut backends = snapshot.backends_by_name();
        backends.insert(name.to_owned(), target.clone());
        fit_together(snapshot, None, &backends, text.len())?;
        Ok((text, target))
    }

    fn written(_: &Context, _: &Snapshot, _: &str, _: &Target) -> Vec<String> {
        Vec::new()
    }

    fn may_go(context: &Context, snapshot: &Snapshot, name: &str) -> Answer<()> {
        let routes = snapshot.routes_that_need(name, &context.clusters);
        if routes.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = routes.iter().take(SHOWN_ROUTES).map(|route| format!("`{route}`")).collect();
        let more = if routes.len() > shown.len() { " and others" } else { "" };
        let detail = format!("these routes need it, change them first: {}{more}", shown.join(", "));
        Err(Problem::new(Code::BackendInUse, detail))
    }
}
