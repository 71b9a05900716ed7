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
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CURSOR, DRY_RUN, LIMIT};
use crate::api::query::{PathParam, QueryParams, shortened};
use crate::api::wait_applied::PendingWrite;
use crate::api::{body, cursor};
use crate::auth::{self, Role};
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::store::{Author, Change, TokenRow, time_text};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .get(Role::Admin, "/api/admin/tokens", list)
        .about(About::new("Lists the tokens").query(&[&LIMIT, &CURSOR]).answers::<TokenPage>())
        .post(Role::Admin, "/api/admin/tokens", create)
        .about(
            About::new("Makes a token")
                .query(&[&DRY_RUN])
                .takes::<NewToken>(json!({"name": "dashboard", "role": "read", "ttl": "90d"}))
                .answers::<CreatedToken>()
                .once_per_key()
                .problems(&[ProblemCode::TokenExists, ProblemCode::TableFull]),
        )
        .delete(Role::Admin, "/api/admin/tokens/{name}", revoke)
        .about(
            About::new("Revokes all tokens of a name")
                .query(&[&DRY_RUN])
                .answers::<RevokedTokens>()
                .problems(&[ProblemCode::TokenNotFound]),
        )
}

/// Tokens per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Tokens per page at most.
const MAX_LIMIT: usize = 1_000;
/// Tokens that there may be: a request's is compared with each.
const MAX_TOKENS: usize = 1_000;

/// A page of tokens.
#[derive(Serialize, Debug, ToSchema)]
pub struct TokenPage {
    items: Vec<TokenInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A token, without its secret.
#[derive(Serialize, Debug, ToSchema)]
pub struct TokenInfo {
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

/// Where a token is in the list: name, time, id.
type TokenPosition = (String, Option<String>, String);

/// Answers a page of tokens, by name.
async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<TokenPage>> {
    let params = QueryParams::read(&uri, &[LIMIT.name, CURSOR.name])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let after: Option<TokenPosition> = match params.get(CURSOR.name).map(cursor::read).transpose()? {
        Some(position) => Some(serde_json::from_str(&position).map_err(|_| cursor::bad())?),
        None => None,
    };
    let position = |row: &TokenRow| (row.name.clone(), row.created_at.clone(), row.id().to_owned());
    let mut rows = app.store.tokens().await?;
    rows.retain(|row| after.as_ref().is_none_or(|after| position(row) > *after));
    let is_last = rows.len() <= limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| !is_last).map(|row| cursor::write(&json!(position(row)).to_string()));
    Ok(Json(TokenPage { items: rows.into_iter().map(TokenInfo::from).collect(), next }))
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
    /// Absent: none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
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
    let write = PendingWrite::prepare(&app, &QueryParams::read(request.uri(), &[DRY_RUN.name])?)?;
    let asked: NewToken = body::json(request).await?;
    let text = auth::new_token().map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Problem::new(ProblemCode::StoreFailed, "the system gives no random bytes; nothing was changed")
    })?;
    let token = asked.check(&text)?;
    if app.store.tokens().await?.len() >= MAX_TOKENS {
        let detail =
            format!("there are {MAX_TOKENS} tokens, and there may be no more: revoke those that nobody uses");
        return Err(Problem::new(ProblemCode::TableFull, detail));
    }
    let created = CreatedToken {
        name: token.name.clone(),
        role: token.role.clone(),
        node: token.node.clone(),
        expires_at: token.expires_at.clone().map(time::sql_to_rfc3339),
        token: (!write.is_dry_run()).then_some(text),
        dry_run: write.is_dry_run(),
    };
    let change = Change::AddToken { token, only_new_name: true };
    let committed = write.commit_if(change, &author, None).await?;
    app.tokens.note_change();
    if committed.rows == 0 {
        let detail =
            format!("there is a token called `{}`: choose another name, or revoke that one", created.name);
        return Err(Problem::new(ProblemCode::TokenExists, detail));
    }
    if !created.dry_run {
        tracing::info!(by = %author.name, name = created.name, role = created.role, "made a token");
    }
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(created)))
}

impl NewToken {
    /// The row to store for the token `text`. The error lists all that is wrong.
    fn check(self, text: &str) -> ApiResult<TokenRow> {
        let mut errors = Vec::new();
        if !auth::is_name(&self.name) {
            let detail = format!("a name has {}", auth::NAME_FORM);
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
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
    let write = PendingWrite::prepare(&app, &QueryParams::read(&uri, &[DRY_RUN.name])?)?;
    let committed = write.commit_if(Change::RevokeTokens { name: name.clone() }, &author, None).await?;
    app.tokens.note_change();
    if committed.rows == 0 {
        let detail = "there is no token of this name; GET /api/admin/tokens lists them";
        return Err(Problem::new(ProblemCode::TokenNotFound, detail));
    }
    let dry_run = write.is_dry_run();
    if !dry_run {
        tracing::info!(by = %author.name, name, "revoked");
    }
    Ok(Json(RevokedTokens { name, revoked: committed.rows, dry_run }))
}
