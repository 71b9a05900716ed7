//! `GET whoami`: the token that the request came with. `POST sign-in-links`: a link that signs in to the dashboard
//! with it, once.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderName, HeaderValue, Uri};
use serde::Serialize;
use tidegate_dashboard::{NotBegun, TokenHash};
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::QueryParams;
use crate::api::ui::token_hash;
use crate::auth::Role;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Author, TokenRow};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .get(Role::Read, "/api/admin/whoami", whoami)
        .about(About::new("Says whose token the request came with").answers::<WhoAmI>())
        .post(Role::Read, "/api/admin/sign-in-links", make_link)
        .about(
            About::new("Makes a link that signs in to the dashboard once, with the token of the request")
                .answers::<SignInLink>(),
        )
}

/// The token of the request.
#[derive(Serialize, Debug, ToSchema)]
struct WhoAmI {
    name: String,
    role: String,
    expires_at: Option<String>,
}

/// Answers whose token this is.
async fn whoami(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    uri: Uri,
) -> ApiResult<Json<WhoAmI>> {
    QueryParams::read(&uri, &[])?;
    let token = token_of(&app, &author).await?;
    Ok(Json(WhoAmI {
        name: token.name,
        role: token.role,
        expires_at: token.expires_at.map(time::sql_to_rfc3339),
    }))
}

/// A link that signs in once.
#[derive(Serialize, Debug, ToSchema)]
struct SignInLink {
    /// Path and query, on the people's listener.
    path: String,
    /// When it ends.
    expires_at: String,
}

/// Makes a link for the token of the request. It is kept in memory, and is in no audit: it allows nothing that its
/// maker may not do.
async fn make_link(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    uri: Uri,
) -> ApiResult<([(HeaderName, HeaderValue); 1], Json<SignInLink>)> {
    QueryParams::read(&uri, &[])?;
    let token = token_of(&app, &author).await?;
    let hash = token_hash(&token.hash).unwrap_or(TokenHash([0; 32]));
    let path = app.sessions.make_link(hash).map_err(|why| match why {
        NotBegun::NoRandomBytes => {
            Problem::new(ProblemCode::StoreFailed, "the system gives no random bytes; nothing was changed")
        }
        NotBegun::TooMany => {
            let detail = "other tokens have all links that there may be; one is free within 15 minutes";
            Problem::new(ProblemCode::TooManyConnections, detail)
        }
    })?;
    tracing::info!(by = %author.name, "made a link that signs in to the dashboard once");
    let expires_at = time::rfc3339(time::now() + tidegate_dashboard::LINK_FOR);
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(SignInLink { path, expires_at })))
}

/// The stored token of a request's author.
async fn token_of(app: &AppState, author: &Author) -> ApiResult<TokenRow> {
    let hash = author.token.as_ref().map(|token| token.hash.as_str());
    let tokens = app.store.tokens().await?;
    let found = tokens.into_iter().find(|token| Some(token.hash.as_str()) == hash);
    found.ok_or_else(|| {
        Problem::new(ProblemCode::Unauthorized, "the token was revoked while the request was under way")
    })
}
