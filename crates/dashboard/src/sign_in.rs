//! Signing in with a token or a one-time link, and signing out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::html;

use crate::api::{ApiClient, ApiError, SignIn, TokenHash};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::form::{Form, read_fields, require_same_origin};
use crate::html_document::bare;
use crate::query::PageQuery;
use crate::redirect::see_other;
use crate::session::{LONGEST, SIGN_IN_PATH};
use crate::visitor::{Visitor, caller_of, cookie_name};

/// The page that asks for a token, or for the press of a button where a link brought its own.
pub async fn page(query: PageQuery, visitor: Result<Visitor, PageError>) -> Response {
    let next = local_path(query.get("next"));
    if visitor.is_ok() && query.get("code").is_empty() {
        return see_other(next);
    }
    show(&query, next, None, StatusCode::OK)
}

/// What the page sends.
struct Credentials {
    token: String,
    code: String,
    next: String,
}

impl Credentials {
    fn of(fields: &BTreeMap<String, String>) -> Self {
        let [token, code, next] =
            ["token", "code", "next"].map(|name| fields.get(name).cloned().unwrap_or_default());
        Self { token, code, next }
    }
}

/// Begins a session.
pub async fn sign_in(State(dashboard): State<Dashboard>, request: Request) -> Result<Response, PageError> {
    require_same_origin(request.headers(), request.uri())?;
    let (parts, body) = request.into_parts();
    let caller = caller_of(&parts);
    let log = |outcome: SignIn<'_>| dashboard.api.log_sign_in(&parts.extensions, outcome);
    let sent = Credentials::of(&read_fields(body).await?);
    let next = local_path(&sent.next).to_owned();
    let Some(token) = token_of(&dashboard, &sent) else {
        log(SignIn::Refused { code: "link_gone" });
        let why = "This link was used already, or is too old: ask for a new one, or sign in with a token.";
        return Ok(show(&PageQuery::default(), &next, Some(why), StatusCode::FORBIDDEN));
    };
    // Asked through the API, which slows down whoever tries many.
    let api = ApiClient::new(Arc::clone(&dashboard.api), caller(token));
    match api.get::<serde_json::Value>("whoami").await {
        Ok(who) => {
            let cookie = dashboard.sessions.begin(token)?;
            let name = who["name"].as_str().unwrap_or_default();
            log(SignIn::Begun { name, by_link: !sent.code.is_empty() });
            let cookie = set_cookie(&cookie, LONGEST.as_secs(), dashboard.secure);
            Ok(([(SET_COOKIE, cookie)], see_other(&next)).into_response())
        }
        Err(ApiError::Problem(problem)) if matches!(problem.status, 401 | 403 | 429) => {
            log(SignIn::Refused { code: &problem.code });
            let why = match problem.code.as_str() {
                "unauthorized" => "This token is not known: it is mistyped, or was revoked.",
                "token_expired" => "This token has ended: ask for a new one.",
                "wrong_role" => {
                    "This token is for gateways: one of the role read, operate or admin is needed."
                }
                _ => &problem.detail,
            };
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::FORBIDDEN);
            Ok(show(&PageQuery::default(), &next, Some(why), status))
        }
        Err(error) => Err(error.into()),
    }
}

fn token_of(dashboard: &Dashboard, sent: &Credentials) -> Option<TokenHash> {
    match sent.code.as_str() {
        "" => Some(dashboard.api.hash(sent.token.trim())),
        code => dashboard.sessions.take_link(code),
    }
}

/// Ends the session, or all of the token.
pub async fn sign_out(
    State(dashboard): State<Dashboard>,
    (headers, uri): (HeaderMap, Uri),
    form: Result<Form, PageError>,
) -> Result<Response, PageError> {
    // Whoever is signed out already gets where he wants to.
    if let Ok(form) = &form {
        form.visitor.sign_out();
        if form.is_ticked("everywhere") {
            dashboard.sessions.end_all(form.visitor.token());
        }
    } else {
        require_same_origin(&headers, &uri)?;
    }
    if let Err(error @ (PageError::Refused { .. } | PageError::OutOfDate { .. })) = form {
        return Err(error);
    }
    let cookie = set_cookie("", 0, dashboard.secure);
    Ok(([(SET_COOKIE, cookie)], see_other(SIGN_IN_PATH)).into_response())
}

fn set_cookie(value: &str, seconds: u64, secure: bool) -> String {
    let name = cookie_name(secure);
    // The prefix of its name asks for this path.
    let rest = if secure { "Path=/; Secure" } else { "Path=/ui" };
    format!("{name}={value}; {rest}; HttpOnly; SameSite=Strict; Max-Age={seconds}")
}

fn show(query: &PageQuery, next: &str, why: Option<&str>, status: StatusCode) -> Response {
    let code = query.get("code");
    let body = html! {
        @if let Some(why) = why { div.problem role="alert" { p { (why) } } }
        form.stacked method="post" action=(SIGN_IN_PATH) {
            input type="hidden" name="next" value=(next);
            @if code.is_empty() {
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="off" spellcheck="false"
                    placeholder="tg_…" autofocus;
                p.quiet {
                    "A token of the role read, operate or admin. " code { "tidegate token create" } " makes one; "
                    code { "tidegate dashboard" } " prints a link that signs in once."
                }
            } @else {
                input type="hidden" name="code" value=(code);
                p { "This link signs in once." }
            }
            button.primary type="submit" { "Sign in" }
        }
    };
    (status, bare("Sign in", &body)).into_response()
}

/// A path of a page of ours; the overview for anything else, so that a link leads to no other site.
fn local_path(next: &str) -> &str {
    let is_ours = next.starts_with("/ui/")
        && !next.starts_with(SIGN_IN_PATH)
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours { next } else { "/ui/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_no_other_site() {
        for ours in ["/ui/", "/ui/bans?q=1.2.3.4", "/ui/routes/a%2Fb"] {
            assert_eq!(local_path(ours), ours);
        }
        for other in [
            "",
            "//evil.example",
            "https://evil.example/",
            "/ui/\\evil",
            "/ui/a b",
            "/api/admin/",
            SIGN_IN_PATH,
        ] {
            assert_eq!(local_path(other), "/ui/", "{other}");
        }
    }

    #[test]
    fn the_cookie_is_for_pages_only() {
        let has = |secure: bool, part: &str| set_cookie("ab", 60, secure).split("; ").any(|one| one == part);
        for part in ["HttpOnly", "SameSite=Strict", "Max-Age=60"] {
            assert!(has(true, part) && has(false, part), "{part}");
        }
        assert!(has(false, "tidegate_session=ab") && has(false, "Path=/ui") && !has(false, "Secure"));
        assert!(has(true, "__Host-tidegate_session=ab") && has(true, "Path=/") && has(true, "Secure"));
    }
}
