//! Who asks for a page.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::api::{ApiClient, Caller, TokenHash};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::role::Role;
use crate::session::{HELD_FOR, NoRandomBytes, SessionId, Sessions, Taken, Upload};

/// The name of a session's cookie. Over TLS it is one that no other host, and no page without TLS, can set (RFC
/// 6265bis, 4.1.3.2).
pub const fn cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-tidegate_session" } else { "tidegate_session" }
}

/// A visitor who is signed in.
#[derive(Clone)]
pub struct Visitor {
    /// Name of the token.
    pub name: String,
    /// Its role, as it is now.
    pub role: Role,
    /// When it ends, RFC 3339.
    pub token_ends: Option<String>,
    /// The API, asked as this token.
    pub api: ApiClient,
    token: TokenHash,
    session: SessionId,
    sessions: Arc<Sessions>,
}

/// The answer of `GET /api/admin/whoami`.
#[derive(Deserialize)]
struct WhoAmI {
    name: String,
    role: Role,
    expires_at: Option<String>,
}

impl Visitor {
    /// The visitor of a request with these headers; `counts`: it is a use of the session.
    ///
    /// # Errors
    /// When there is no session, or its token is no longer good.
    pub async fn find(
        dashboard: &Dashboard,
        headers: &HeaderMap,
        caller: impl FnOnce(TokenHash) -> Caller,
        counts: bool,
    ) -> Result<Self, PageError> {
        let signed_out = || PageError::SignedOut { next: String::new() };
        let cookie = session_cookie(headers, cookie_name(dashboard.secure)).ok_or_else(signed_out)?;
        let (session, token) = dashboard.sessions.find(cookie, counts).ok_or_else(signed_out)?;
        let api = ApiClient::new(Arc::clone(&dashboard.api), caller(token));
        let who: WhoAmI = api.get("whoami").await.map_err(PageError::from).inspect_err(|error| {
            if matches!(error, PageError::SignedOut { .. }) {
                dashboard.sessions.end(session);
            }
        })?;
        let sessions = Arc::clone(&dashboard.sessions);
        let WhoAmI { name, role, expires_at: token_ends } = who;
        Ok(Self { name, role, token_ends, api, token, session, sessions })
    }

    /// Whether the token may do what needs `role`.
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }

    /// What each form of this visitor carries.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn form_token(&self) -> Result<String, NoRandomBytes> {
        self.sessions.form_token(self.session)
    }

    /// Whether a form of this visitor carried this.
    pub fn is_form_token(&self, text: &str) -> bool {
        self.sessions.is_form_token(self.session, text)
    }

    /// Shows a notice on the next page.
    pub fn note(&self, notice: impl Into<String>) {
        self.sessions.note(self.session, notice.into());
    }

    /// Takes the notices for this page.
    pub fn take_notices(&self) -> Vec<String> {
        self.sessions.take_notices(self.session)
    }

    /// Holds a list that was checked, until it is imported.
    pub fn hold(&self, upload: Upload) {
        self.sessions.hold(self.session, upload);
        self.drop_later();
    }

    /// Puts a list in the place of the held one with the id `before`. Returns whether that was still held.
    pub fn replace(&self, before: &str, upload: Upload) -> bool {
        let is_held = self.sessions.replace(self.session, before, upload);
        self.drop_later();
        is_held
    }

    fn drop_later(&self) {
        // Also when nobody asks for a page any more.
        let sessions = Arc::clone(&self.sessions);
        tokio::spawn(async move {
            tokio::time::sleep(HELD_FOR).await;
            sessions.drop_old_uploads();
        });
    }

    /// The list that is held.
    pub fn held(&self) -> Option<Upload> {
        self.sessions.held(self.session)
    }

    /// Takes the held list with this id, to import it.
    pub fn begin_import(&self, upload: &str) -> Taken {
        self.sessions.begin_import(self.session, upload)
    }

    /// A place for a stream of this session; `None`: there is none left.
    pub fn stream_place(&self) -> Option<OwnedSemaphorePermit> {
        self.sessions.stream_place(self.session)
    }

    /// The place of who sends a list in this session; `None`: it is taken.
    pub fn sending_place(&self) -> Option<OwnedSemaphorePermit> {
        self.sessions.sending_place(self.session)
    }

    /// Whether the session has not ended since.
    pub fn is_signed_in(&self) -> bool {
        self.sessions.is_open(self.session)
    }

    /// The token that the session stands for.
    pub fn token(&self) -> TokenHash {
        self.token
    }

    /// Ends this session.
    pub fn sign_out(&self) {
        self.sessions.end(self.session);
    }
}

/// The text of the cookie of this name. Others, of other programs on this host, may have any bytes.
fn session_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs =
        headers.get_all(COOKIE).into_iter().flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
    let mut values =
        pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.find_map(|value| std::str::from_utf8(value).ok())
}

/// What the listener knows of a request's connection, for requests of the API that are made for it.
pub fn caller_of(parts: &Parts) -> impl FnOnce(TokenHash) -> Caller + use<> {
    let extensions = Arc::new(parts.extensions.clone());
    move |token| Caller { token, extensions }
}

impl FromRequestParts<Dashboard> for Visitor {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, dashboard: &Dashboard) -> Result<Self, PageError> {
        // A form that comes too late leads to a page, not to itself.
        let next = match (&parts.method, parts.uri.path_and_query()) {
            (&Method::GET, Some(path)) => path.as_str().to_owned(),
            _ => String::new(),
        };
        Self::find(dashboard, &parts.headers, caller_of(parts), true).await.map_err(|error| match error {
            PageError::SignedOut { .. } => PageError::SignedOut { next },
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_cookie_is_found_among_others() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            session_cookie(&headers, cookie_name(false)).map(str::to_owned)
        };
        assert_eq!(headers("a=b; tidegate_session=xy;c=d").as_deref(), Some("xy"));
        assert_eq!(headers("name=Jürgen; tidegate_session=xy").as_deref(), Some("xy"));
        for other in ["my_tidegate_session=xy; a", "__Host-tidegate_session=xy", "tidegate_session2=xy"] {
            assert_eq!(headers(other), None, "{other}");
        }
    }
}
