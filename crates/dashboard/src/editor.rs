//! One document of the API as YAML: shown, checked, saved and removed. Pages of routes, backends, limits and all
//! other documents have it.
//!
//! What is checked or saved is carried out by the API. What it refuses is shown by line, with what was typed; what
//! somebody else has changed meanwhile is shown beside it.

mod difference;
mod document_kind;
mod edit;
mod pages;
mod removal;
mod show;
mod written;

use crate::error::PageError;
use crate::form::Form;
pub use document_kind::{DocumentKind, Effect, path_of};
pub use edit::{Edit, Sent};
pub use pages::{new_page, page_of};
pub use removal::confirmation;
pub use show::jump;

/// Carries out what a form of the editor, or of a removal, asks for. `name`: of the document in the address; empty:
/// it is new.
///
/// # Errors
/// When nobody is signed in any more, or the API does not answer.
pub async fn send(form: &Form, kind: &DocumentKind, name: &str) -> Result<Sent, PageError> {
    if form.get("action") == "remove" {
        return removal::remove(form, kind, name).await.map(Sent::Done);
    }
    let edit = Edit::read(form, name);
    match form.get("action") {
        _ if edit.name.is_empty() => edit.without_name(kind),
        "save" => edit.save(form, kind).await,
        _ => edit.check(&form.visitor, kind).await,
    }
}
