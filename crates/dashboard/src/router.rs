//! The paths under `/ui/`.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::session::SIGN_IN_PATH;
use crate::{assets, live, pages, sign_in};

/// All pages.
pub fn router(dashboard: Dashboard) -> Router {
    let to_overview = || async { (StatusCode::PERMANENT_REDIRECT, [(LOCATION, "/ui/")]).into_response() };
    pages::routes()
        .route("/ui", get(to_overview))
        .route(SIGN_IN_PATH, get(sign_in::page).post(sign_in::sign_in))
        .route("/ui/sign-out", post(sign_in::sign_out))
        .route("/ui/assets/{hash}/{name}", get(assets::answer))
        .route("/ui/live/{page}", get(live::answer))
        .route("/ui/{*other}", any(async || PageError::not_found()))
        .layer(map_response(as_page))
        .with_state(dashboard)
}

/// What the router refuses as plain text or with nothing, as a page.
async fn as_page(answer: Response) -> Response {
    let status = answer.status();
    let kind = answer.headers().get(CONTENT_TYPE);
    let is_plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !is_plain || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let allowed = answer.headers().get(ALLOW).cloned();
    let (title, detail) = match (status, &allowed) {
        (StatusCode::METHOD_NOT_ALLOWED, Some(allowed)) if !allowed.as_bytes().starts_with(b"GET") => (
            "This address takes a form only",
            "Open the page that has the form: the menu of the overview has all pages.",
        ),
        (StatusCode::METHOD_NOT_ALLOWED, _) => ("This page takes no form", "Nothing was changed."),
        _ => (
            "This cannot be read",
            "The address, or what was sent with it, is broken: is it cut off? Nothing was changed.",
        ),
    };
    let mut page = PageError::refused(status, title, detail).into_response();
    page.headers_mut().extend(allowed.map(|allowed| (ALLOW, allowed)));
    page
}
