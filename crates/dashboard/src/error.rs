//! What a page answers when it cannot be shown.

use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::api::{ApiError, Problem};
use crate::html_document::bare;
use crate::session::{NoRandomBytes, NotBegun, SIGN_IN_PATH};
use crate::show::sentence::sentence;

/// Why a page cannot be shown.
#[derive(Debug)]
pub enum PageError {
    /// Nobody is signed in, or not any more. The path is where to go on after signing in; empty: the first page.
    SignedOut {
        /// Path and query.
        next: String,
    },
    /// A form came after its session had ended. Nothing was changed.
    Ended {
        /// Its longer texts, to be copied.
        typed: Vec<String>,
    },
    /// A form is of another session than the one that sent it. Nothing was changed.
    OutOfDate {
        /// Its longer texts, to be copied.
        typed: Vec<String>,
    },
    /// What was asked for is not there, is not allowed, or cannot be done.
    Refused {
        /// The status of the page.
        status: StatusCode,
        /// In a few words.
        title: String,
        /// A sentence, and what to do.
        detail: String,
        /// The problem's stable code; empty: none.
        code: String,
    },
}

impl PageError {
    /// A page that says what is wrong.
    pub fn refused(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        Self::Refused { status, title: title.to_owned(), detail: detail.into(), code: String::new() }
    }

    /// There is no such page.
    pub fn not_found() -> Self {
        Self::refused(StatusCode::NOT_FOUND, "There is no such page", "The overview leads to all pages.")
    }

    /// The answer to whoever asks for a stream: a browser would follow the way to sign in, and log an error, for a
    /// page is no stream.
    pub fn of_stream(self) -> Self {
        match self {
            Self::SignedOut { .. } => {
                let detail = "Sign in again to follow this page.";
                Self::refused(StatusCode::UNAUTHORIZED, "Your session has ended", detail)
            }
            other => other,
        }
    }
}

impl From<NoRandomBytes> for PageError {
    fn from(_: NoRandomBytes) -> Self {
        let detail = "The operating system gives no random bytes; nothing was changed.";
        Self::refused(StatusCode::INTERNAL_SERVER_ERROR, "The page cannot be made", detail)
    }
}

impl From<NotBegun> for PageError {
    fn from(why: NotBegun) -> Self {
        match why {
            NotBegun::NoRandomBytes => NoRandomBytes.into(),
            NotBegun::TooMany => {
                let detail = "As many are signed in as the service has room for: try again when one of them has \
                              signed out, or was idle for an hour.";
                Self::refused(StatusCode::SERVICE_UNAVAILABLE, "There are too many sessions", detail)
            }
        }
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        if problem.status == StatusCode::UNAUTHORIZED.as_u16() {
            return Self::SignedOut { next: String::new() };
        }
        let fields = problem.errors.iter().map(|error| error.detail.as_str());
        let more: Vec<&str> = fields.filter(|detail| *detail != problem.detail).collect();
        let detail = [&[problem.detail.as_str()][..], &more].concat().join("; ");
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::Refused { status, title: problem.title, detail, code: problem.code }
    }
}

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Problem(problem) => (*problem).into(),
            ApiError::Form(text) => {
                let detail = format!("The service answered in a form that this page does not read: {text}");
                Self::refused(StatusCode::INTERNAL_SERVER_ERROR, "The page cannot be made", detail)
            }
        }
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self {
            Self::SignedOut { next } => {
                let next = match next.as_str() {
                    "" | "/ui/" => String::new(),
                    path => format!("?next={}", crate::api::encoded(path)),
                };
                (StatusCode::SEE_OTHER, [(LOCATION, format!("{SIGN_IN_PATH}{next}"))]).into_response()
            }
            Self::Ended { typed } => {
                let detail = "The session ended before the form was sent. Nothing was changed: sign in, and fill \
                              it in again.";
                let link = html! { a.button.primary href=(SIGN_IN_PATH) { "Sign in" } };
                (StatusCode::UNAUTHORIZED, not_taken("Your session has ended", detail, &typed, &link))
                    .into_response()
            }
            Self::OutOfDate { typed } => {
                let detail = "The form is from before you signed in. Nothing was changed: load its page anew, and \
                              fill it in again.";
                let link = html! { a.button href="/ui/" { "To the overview" } };
                (StatusCode::FORBIDDEN, not_taken("This form is out of date", detail, &typed, &link))
                    .into_response()
            }
            Self::Refused { status, title, detail, code } => {
                let body = html! {
                    p { (sentence(&detail)) }
                    @if !code.is_empty() { p.quiet { "Code: " code { (code) } } }
                    p { a.button href="/ui/" { "To the overview" } }
                };
                (status, bare(&title, &body)).into_response()
            }
        }
    }
}

/// A page in the place of a form that was not taken, with what was typed.
fn not_taken(title: &str, detail: &str, typed: &[String], link: &Markup) -> Response {
    let body = html! {
        p { (detail) }
        @for (index, text) in typed.iter().enumerate() {
            div.stacked {
                label for={ "typed-" (index) } { "What you typed, to copy" }
                // A textarea leaves out a first line that is empty.
                textarea id={ "typed-" (index) } readonly rows="12" spellcheck="false" { "\n" (text) }
            }
        }
        p { (link) }
    };
    bare(title, &body)
}
