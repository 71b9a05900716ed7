//! `allow-list`: addresses and blocks that skip bans and geo rules.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_policy::address::{Prefix, PrefixError};
use utoipa::ToSchema;

use crate::api::admin::ip_monitor::{self, AddressStatus, Entry, IpMonitorPage};
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CURSOR, LIMIT, WAIT_APPLIED};
use crate::api::query::{PathParam, QueryParams};
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::auth::Role;
use crate::feed::RowStatus;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Author, Change};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    // A block contains a slash: 203.0.113.0/24.
    const ENTRY: &str = "/api/admin/allow-list/{*prefix}";
    const NOT_FOUND: [ProblemCode; 1] = [ProblemCode::NotOnAllowList];
    Endpoints::default()
        .get(Role::Read, "/api/admin/allow-list", list)
        .about(About::new("Lists the allow list").query(&[&LIMIT, &CURSOR]).answers::<IpMonitorPage>())
        .get(Role::Read, ENTRY, one)
        .about(About::new("Answers an entry of the allow list").answers::<Entry>().problems(&NOT_FOUND))
        .put(Role::Operate, ENTRY, allow)
        .about(
            About::new("Puts an address or a block on the allow list")
                .query(&[&WAIT_APPLIED])
                .takes::<AllowRequest>(json!({"reason": "our office"}))
                .answers::<Allowed>()
                .problems(&[ProblemCode::TableFull]),
        )
        .delete(Role::Operate, ENTRY, disallow)
        .about(
            About::new("Removes an entry of the allow list")
                .query(&[&WAIT_APPLIED])
                .answers::<Disallowed>()
                .problems(&NOT_FOUND),
        )
}

/// Answers a page of the allow list, expired entries included.
pub async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<IpMonitorPage>> {
    let params = QueryParams::read(&uri, &["limit", "cursor"])?;
    ip_monitor::entries(&app, &params, Some(RowStatus::Allowed)).await.map(Json)
}

/// Answers the entry of exactly this address or block.
///
/// # Errors
/// When there is none.
pub async fn one(
    State(app): State<AppState>,
    PathParam(prefix): PathParam,
    uri: Uri,
) -> ApiResult<Json<Entry>> {
    QueryParams::read(&uri, &[])?;
    let prefix = read_prefix(&prefix)?;
    let listed = app.current().await.listed(&prefix, RowStatus::Allowed);
    let listed = listed.ok_or_else(|| not_on_the_list(&prefix))?;
    Ok(Json(Entry::new(listed, time::now_seconds())))
}

/// The body of `PUT`.
#[derive(Deserialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    reason: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
}

/// The answer of `PUT`.
#[derive(Serialize, Debug, ToSchema)]
pub struct Allowed {
    ip: String,
    status: &'static str,
    reason: Option<String>,
    until: Option<String>,
    #[serde(flatten)]
    written: WriteResult,
}

/// Puts an address or a block on the allow list. An entry of exactly this prefix is replaced, be it
/// one of this list or a ban.
///
/// # Errors
/// When the prefix or the body is invalid, or the table is full; then nothing was changed.
pub async fn allow(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(prefix): PathParam,
    request: Request<Body>,
) -> ApiResult<Json<Allowed>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let prefix = read_prefix(&prefix)?;
    let asked: AllowRequest = body::json(request).await?;
    let mut errors = Vec::new();
    let until = entry_fields::end(asked.ttl, asked.expires_at.as_ref());
    let until = until.map_err(|error| errors.push(error)).ok().flatten();
    errors.extend(entry_fields::check_reason(asked.reason.as_deref()).err());
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    if !app.feed.snapshot().has_room_for(RowStatus::Allowed, &prefix) {
        let detail =
            format!("the allow list is full, so {prefix} was not added: remove entries that are not needed");
        return Err(Problem::new(ProblemCode::TableFull, detail));
    }
    let (ip, expires_at) = (prefix.to_string(), until.map(time::to_sql));
    let change = Change::Allow { ip: ip.clone(), reason: asked.reason.clone(), expires_at };
    let (_, written) = write.commit(change, &author).await?;
    tracing::info!(by = %author.name, version = %written.version, "allowed");
    tracing::debug!(ip, "what was allowed");
    let until = until.map(time::rounded_up);
    Ok(Json(Allowed { ip, status: "allowed", reason: asked.reason, until, written }))
}

/// The answer of `DELETE`.
#[derive(Serialize, Debug, ToSchema)]
pub struct Disallowed {
    /// Rows that were removed: one address can be written in several ways.
    rows: u64,
    #[serde(flatten)]
    now: AddressStatus,
    #[serde(flatten)]
    written: WriteResult,
}

/// Removes the entry of exactly this address or block.
///
/// # Errors
/// When there is none; then nothing was changed.
pub async fn disallow(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(prefix): PathParam,
    uri: Uri,
) -> ApiResult<Json<Disallowed>> {
    let params = QueryParams::read(&uri, &[WAIT_APPLIED.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let prefix = read_prefix(&prefix)?;
    let listed = app.current().await.listed(&prefix, RowStatus::Allowed);
    let keys = listed.ok_or_else(|| not_on_the_list(&prefix))?.keys;
    let (committed, written) = write.commit(Change::Disallow { keys }, &author).await?;
    if committed.rows == 0 {
        // Another request has removed it meanwhile.
        return Err(not_on_the_list(&prefix));
    }
    tracing::info!(by = %author.name, version = %written.version, "removed from the allow list");
    tracing::debug!(ip = %prefix, "what was removed from the allow list");
    let now = AddressStatus::of(&*app.current().await, &prefix, time::now_seconds());
    Ok(Json(Disallowed { rows: committed.rows, now, written }))
}

fn read_prefix(text: &str) -> ApiResult<Prefix> {
    text.trim()
        .parse()
        .map_err(|error: PrefixError| Problem::parameter("prefix", "invalid_ip", error.to_string()))
}

fn not_on_the_list(prefix: &Prefix) -> Problem {
    Problem::new(
        ProblemCode::NotOnAllowList,
        format!("there is no entry of exactly {prefix} on the allow list"),
    )
}
