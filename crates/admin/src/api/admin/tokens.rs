//! `/api/admin/tokens`: who may use this API. A token itself is shown once, to whom it is made for.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::http::{HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_policy::wire::sync::Gateway;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::api::openapi::about::About;
use crate::api::query::{PathParam, QueryParams, shortened};
use crate::auth::{self, Role};
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::store::{Author, Change, TokenRow, time_text};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .get(Role::Admin, "/api/admin/tokens", list)
        .about(About::new("Lists the tokens").answers::<TokenList>())
        .post(Role::Admin, "/api/admin/tokens", create)
        .about(
            About::new("Makes a token")
                .takes::<NewToken>(json!({"name": "dashboard", "role": "read", "ttl": "90d"}))
                .answers::<CreatedToken>()
                .problems(&[ProblemCode::TokenExists]),
        )
        .delete(Role::Admin, "/api/admin/tokens/{name}", revoke)
        .about(
            About::new("Revokes all tokens of a name")
                .answers::<RevokedTokens>()
                .problems(&[ProblemCode::TokenNotFound]),
        )
}

/// All tokens.
#[derive(Serialize, Debug, ToSchema)]
pub struct TokenList {
    items: Vec<TokenInfo>,
}

/// A token, without its secret.
#[derive(Serialize, Debug, ToSchema)]
struct TokenInfo {
    /// The beginning of its hash.
    id: String,
    name: String,
    role: String,
    node: Option<String>,
    created_at: Option<String>,
    created_by: Option<String>,
    expires_at: Option<String>,
    expired: bool,
    last_used_at: Option<String>,
}

impl From<TokenRow> for TokenInfo {
    fn from(row: TokenRow) -> Self {
        let now = time_text::now_ms();
        let end = row.expires_at.as_deref().map(|end| time_text::to_ms(end).unwrap_or(0));
        Self {
            id: row.id().to_owned(),
            name: row.name,
            role: row.role,
            node: row.node,
            created_at: row.created_at.map(time::sql_to_rfc3339),
            created_by: row.created_by,
            expires_at: row.expires_at.map(time::sql_to_rfc3339),
            expired: end.is_some_and(|end| end <= now),
            last_used_at: row.last_used_at.map(time::sql_to_rfc3339),
        }
    }
}

/// Answers all tokens, by name.
async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<TokenList>> {
    QueryParams::read(&uri, &[])?;
    let rows = app.store.tokens().await?;
    Ok(Json(TokenList { items: rows.into_iter().map(TokenInfo::from).collect() }))
}

/// The body of a POST.
#[derive(Deserialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: String,
    role: String,
    node: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
}

/// The answer of a POST: the only one that has the token.
#[derive(Serialize, Debug, ToSchema)]
struct CreatedToken {
    name: String,
    role: String,
    node: Option<String>,
    expires_at: Option<String>,
    token: String,
}

/// Makes a token.
///
/// # Errors
/// When the body is not right, or there is a token of the name; then nothing was changed.
async fn create(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<([(HeaderName, HeaderValue); 1], Json<CreatedToken>)> {
    QueryParams::read(request.uri(), &[])?;
    let asked: NewToken = body::json(request).await?;
    let text = auth::new_token().map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Problem::new(ProblemCode::StoreFailed, "the system gives no random bytes; nothing was changed")
    })?;
    let token = asked.check(&text)?;
    let created = CreatedToken {
        name: token.name.clone(),
        role: token.role.clone(),
        node: token.node.clone(),
        expires_at: token.expires_at.clone().map(time::sql_to_rfc3339),
        token: text,
    };
    let change = Change::AddToken { token, only_new_name: true };
    let committed = app.store.commit(change, &author).await?;
    app.tokens.note_change();
    if committed.rows == 0 {
        let detail =
            format!("there is a token called `{}`: choose another name, or revoke that one", created.name);
        return Err(Problem::new(ProblemCode::TokenExists, detail));
    }
    tracing::info!(by = %author.name, name = created.name, role = created.role, "made a token");
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(created)))
}

impl NewToken {
    /// The row to store for the token `text`. The error lists all that is wrong.
    fn check(self, text: &str) -> ApiResult<TokenRow> {
        let mut errors = Vec::new();
        if !auth::is_name(&self.name) {
            let detail = format!("a name has 1 to {} bytes without control characters", auth::MAX_NAME);
            errors.push(FieldError::field("/name", "invalid", detail));
        }
        let role = Role::of_name(&self.role);
        if role.is_none() {
            let roles = Role::ALL.map(Role::name).join(", ");
            let detail = format!("`{}` is no role: {roles}", shortened(&self.role));
            errors.push(FieldError::field("/role", "invalid", detail));
        }
        if self.node.is_some() && role.is_some_and(|role| role != Role::Gateway) {
            let detail = "only a token of the role `gateway` is bound to a node";
            errors.push(FieldError::field("/node", "conflict", detail));
        }
        if self.node.as_deref().is_some_and(str::is_empty) {
            errors.push(FieldError::field(
                "/node",
                "invalid",
                "give the id of Envoy's node, or leave it out",
            ));
        }
        let until = entry_fields::end(self.ttl, self.expires_at.as_ref());
        match (until, errors.is_empty()) {
            (Ok(until), true) => Ok(TokenRow {
                hash: auth::hash_token(text),
                name: self.name,
                role: self.role,
                node: self.node.map(|node| Gateway::new(node.as_bytes(), 0).node),
                expires_at: until.map(time::to_sql),
                ..TokenRow::default()
            }),
            (until, _) => {
                errors.extend(until.err());
                Err(Problem::fields(errors))
            }
        }
    }
}

/// The answer of a DELETE.
#[derive(Serialize, Debug, ToSchema)]
struct RevokedTokens {
    name: String,
    /// How many tokens had the name: a file's token has the name of the one that the file held before.
    revoked: u64,
}

/// Revokes all tokens of a name: from this answer on no request passes with one.
///
/// # Errors
/// When there is none.
async fn revoke(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    uri: Uri,
) -> ApiResult<Json<RevokedTokens>> {
    QueryParams::read(&uri, &[])?;
    let committed = app.store.commit(Change::RevokeTokens { name: name.clone() }, &author).await?;
    app.tokens.note_change();
    if committed.rows == 0 {
        let detail = "there is no token of this name; GET /api/admin/tokens lists them";
        return Err(Problem::new(ProblemCode::TokenNotFound, detail));
    }
    tracing::info!(by = %author.name, name, "revoked");
    Ok(Json(RevokedTokens { name, revoked: committed.rows }))
}
