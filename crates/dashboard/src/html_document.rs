//! An HTML document as it is sent, with the headers that say what a browser may do with it.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::assets::{ICON, SCRIPT, STYLE};

/// Nothing but what this service serves; no script or style within a page; in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page without a menu: signing in, and what cannot be shown.
pub fn bare(title: &str, body: &Markup) -> Response {
    let body = html! {
        main.bare #content {
            p.brand { (logo()) "Tidegate" }
            h1 { (title) }
            (body)
        }
    };
    document(title, None, &body)
}

/// A whole document. `live`: the path of its live parts.
pub fn document(title: &str, live: Option<&str>, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Tidegate" }
                link rel="icon" type="image/svg+xml" href=(ICON.path());
                link rel="stylesheet" href=(STYLE.path());
                script src=(SCRIPT.path()) defer {}
            }
            body data-live=[live] { (body) }
        }
    };
    (security_headers(), page.into_string()).into_response()
}

/// The headers of each page.
fn security_headers() -> [(HeaderName, HeaderValue); 6] {
    [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        // With `no-referrer` a browser sends `Origin: null` with our own forms (Fetch, 3.2).
        (REFERRER_POLICY, "same-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
}

/// The project's mark.
pub fn logo() -> Markup {
    html! { img.logo src=(ICON.path()) alt="" width="24" height="24"; }
}
