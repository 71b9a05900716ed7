//! Removing a document, which is asked for once more.

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::document_kind::{DocumentKind, path_of};
use super::written::{WAIT, note_removed};
use crate::api::{ApiError, Problem, Write};
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command, form_problem};
use crate::show::shell::shell_word;
use crate::show::text::foreign;
use crate::visitor::Visitor;

/// Problems whose detail names the routes that need the document.
const NAMING_ROUTES: [&str; 2] = ["backend_in_use", "listener_in_use"];

/// The page that asks whether a document is to be removed.
///
/// # Errors
/// When there is none.
pub async fn confirmation(visitor: &Visitor, kind: &DocumentKind, name: &str) -> Result<Response, PageError> {
    let etag = visitor.api.get_tagged(&kind.api_path(name)).await?.etag;
    page(visitor, kind, name, &etag, None)
}

/// Removes the document.
///
/// # Errors
/// When nobody is signed in any more, or the API does not answer.
pub async fn remove(form: &Form, kind: &DocumentKind, name: &str) -> Result<Response, PageError> {
    let (visitor, etag) = (&form.visitor, form.get("etag"));
    let path = format!("{}?{WAIT}", kind.api_path(name));
    let write = Write::json(Method::DELETE, path, &Value::Null).if_unchanged(etag).once(form.once());
    match visitor.api.send(write).await {
        Ok(answer) => {
            note_removed(visitor, kind, name, answer)?;
            Ok(Redirect::to(kind.page).into_response())
        }
        Err(ApiError::Problem(problem)) if problem.status != 401 => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::CONFLICT);
            Ok((status, page(visitor, kind, name, etag, Some(&problem))?).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

fn page(
    visitor: &Visitor,
    kind: &DocumentKind,
    name: &str,
    etag: &str,
    problem: Option<&Problem>,
) -> Result<Response, PageError> {
    let title = format!("Remove the {} {}?", kind.noun, crate::show::text::visible(name));
    let back = kind.page_of(name);
    let body = html! {
        @match problem {
            Some(problem) if problem.status == 412 => {
                div.problem role="alert" {
                    p { strong { "Somebody else has changed it meanwhile" } }
                    p { "Nothing was removed. " a href=(back) { "Look at it" } ", and then remove it if it still is to go." }
                }
            }
            problem => { (form_problem(problem)) (routes_of(problem)) }
        }
        section.card {
            p { "Gateways stop using it at once. It is not kept; the audit has what it said." }
            form.actions method="post" action=(back) {
                (hidden_fields(visitor)?)
                input type="hidden" name="etag" value=(etag);
                button.danger.primary type="submit" name="action" value="remove" { "Remove" }
                a.button href=(back) { "Keep it" }
            }
            (command(&format!("tidegate {} delete {}", kind.command, shell_word(name))))
        }
    };
    Page { title: &title, menu: kind.page, live: "", body }.show(visitor)
}

/// Links to the routes that a problem names.
fn routes_of(problem: Option<&Problem>) -> Markup {
    let named = problem.filter(|problem| NAMING_ROUTES.contains(&problem.code.as_str()));
    let detail = named.map_or("", |problem| problem.detail.as_str());
    let routes: Vec<&str> = detail.split('`').skip(1).step_by(2).collect();
    html! {
        @if !routes.is_empty() {
            p { "Change these first: " }
            ul {
                @for route in routes {
                    li { a href={ "/ui/routes/" (path_of(route)) } { (foreign(route)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_need_a_document_are_linked() {
        let problem = Problem {
            status: 409,
            code: "backend_in_use".to_owned(),
            title: String::new(),
            detail: "these routes need it, change them first: `a`, `team/b` and others".to_owned(),
            errors: Vec::new(),
        };
        let links = routes_of(Some(&problem)).into_string();
        assert!(
            links.contains("href=\"/ui/routes/a\"") && links.contains("href=\"/ui/routes/team/b\""),
            "{links}"
        );
        let other = Problem { code: "other".to_owned(), ..problem };
        assert_eq!(routes_of(Some(&other)).into_string(), "");
    }
}
