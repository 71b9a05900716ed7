//! The pages around the editor.

use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::document_kind::DocumentKind;
use super::edit::Edit;
use crate::error::PageError;
use crate::page::Page;
use crate::show::sentence::sentence;
use crate::show::text::{foreign, visible};
use crate::visitor::Visitor;

/// The page of a document that is to be made; `about`: what such documents do.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn new_page(
    visitor: &Visitor,
    kind: &DocumentKind,
    edit: &Edit,
    about: &str,
) -> Result<Response, PageError> {
    let body = html! {
        p { (sentence(about)) }
        (edit.show(visitor, kind)?)
    };
    show(visitor, kind, edit, &format!("New {}", kind.noun), body)
}

/// The page of a document; `below`: what is shown below it.
///
/// # Errors
/// As [`new_page`].
pub fn page_of(
    visitor: &Visitor,
    kind: &DocumentKind,
    edit: &Edit,
    below: Markup,
) -> Result<Response, PageError> {
    let mut noun = kind.noun.to_owned();
    noun[..1].make_ascii_uppercase();
    let body = html! {
        nav aria-label="Path" { p { a href=(kind.page) { "All" } " › " (foreign(&edit.name)) } }
        (edit.show(visitor, kind)?)
        (below)
    };
    show(visitor, kind, edit, &format!("{noun} {}", visible(&edit.name)), body)
}

fn show(
    visitor: &Visitor,
    kind: &DocumentKind,
    edit: &Edit,
    title: &str,
    body: Markup,
) -> Result<Response, PageError> {
    Ok((edit.status(), Page { title, menu: kind.page, live: "", body }.show(visitor)?).into_response())
}
