//! `/api/admin/backends`: upstreams that Envoy's configuration does not have.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::route::Target;

use super::routes::{ROUTE_TABLE_READS, fit_together};
use crate::api::app_state::AppState;
use crate::api::named_documents::NamedDocument;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// Routes that the problem names when they need the backend that is to be removed.
const SHOWN_ROUTES: usize = 10;

/// The backends.
pub enum Backends {}

impl NamedDocument for Backends {
    type Content = Target;
    const KIND: DocumentKind = DocumentKind::Backend;
    const NOUN: &str = "backend";
    const EXAMPLE: &str = r#"{"address": "api.example.com:443", "tls": {"enabled": true}}"#;
    const CONFLICTS: &'static [ProblemCode] = &[ProblemCode::BackendInUse];
    const NOT_FOUND: ProblemCode = ProblemCode::BackendNotFound;
    const CHECK_READS: &'static [StoreTable] = ROUTE_TABLE_READS;
    const REMOVAL_READS: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::Route)];

    fn of(snapshot: &Snapshot) -> &Documents<Target> {
        &snapshot.backends
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<Target> {
        &mut snapshot.backends
    }

    fn read(name: &str, document: Value) -> ApiResult<(String, Target)> {
        let content = author::read_backend(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, Target)> {
        let (text, target) = Self::read(name, document)?;
        let mut backends = snapshot.backends_by_name();
        backends.insert(name.to_owned(), target.clone());
        fit_together(snapshot, None, &backends, &snapshot.listeners_by_name(), text.len())?;
        Ok((text, target))
    }

    fn written(_: &AppState, _: &Snapshot, _: &str, _: &Target) -> Vec<String> {
        Vec::new()
    }

    fn check_removal(app: &AppState, snapshot: &Snapshot, name: &str) -> ApiResult<()> {
        let routes = snapshot.routes_that_need(name, &app.clusters);
        if routes.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = routes.iter().take(SHOWN_ROUTES).map(|route| format!("`{route}`")).collect();
        let more = if routes.len() > shown.len() { " and others" } else { "" };
        let detail = format!("these routes need it, change them first: {}{more}", shown.join(", "));
        Err(Problem::new(ProblemCode::BackendInUse, detail))
    }
}
