//! `/api/admin/pages`: HTML pages of denials, one for a reason at most.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::pages::Page;

use crate::api::app_state::AppState;
use crate::api::named_documents::NamedDocument;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// The pages.
pub enum Pages {}

impl NamedDocument for Pages {
    type Content = Page;
    const KIND: DocumentKind = DocumentKind::Page;
    const NOUN: &str = "page";
    const EXAMPLE: &str = r#"{"html": "<!doctype html><title>No entry</title><p>{{request_id}}"}"#;
    const NOT_FOUND: ProblemCode = ProblemCode::PageNotFound;
    // As many as there are reasons always fit.
    const CHECK_READS: &'static [StoreTable] = &[];

    fn of(snapshot: &Snapshot) -> &Documents<Page> {
        &snapshot.pages
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<Page> {
        &mut snapshot.pages
    }

    fn read(name: &str, document: Value) -> ApiResult<(String, Page)> {
        let content = author::read_page(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn check(name: &str, document: Value, _: &Snapshot) -> ApiResult<(String, Page)> {
        Self::read(name, document)
    }

    fn written(_: &AppState, _: &Snapshot, _: &str, page: &Page) -> Vec<String> {
        let has_id = page.html.contains("request_id");
        let warning =
            "it has no {{request_id}}: who sees it has nothing to quote by which the request could be found";
        (!has_id).then(|| warning.to_owned()).into_iter().collect()
    }
}
