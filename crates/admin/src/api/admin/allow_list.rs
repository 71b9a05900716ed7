//! `allow-list`: addresses and blocks that skip bans and geo rules.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_policy::address::{Prefix, PrefixError};
use utoipa::ToSchema;

use crate::api::admin::ip_monitor::{self, AddressStatus, Entry, IpMonitorPage};
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::conditions::{Conditions, etag};
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CURSOR, DRY_RUN, LIMIT, WAIT_APPLIED};
use crate::api::query::{PathParam, QueryParams};
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::auth::Role;
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Author, Change, StoreTable};
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
        .about(
            About::new("Answers an entry of the allow list")
                .answers::<Entry>()
                .problems(&NOT_FOUND)
                .conditional_get(),
        )
        .put(Role::Operate, ENTRY, allow)
        .about(
            About::new("Puts an address or a block on the allow list")
                .query(&[&WAIT_APPLIED, &DRY_RUN])
                .conditional()
                .takes::<AllowRequest>(json!({"reason": "our office"}))
                .answers::<Allowed>()
                .problems(&[ProblemCode::BlockTooWide, ProblemCode::TableFull]),
        )
        .delete(Role::Operate, ENTRY, disallow)
        .about(
            About::new("Removes an entry of the allow list")
                .query(&[&WAIT_APPLIED, &DRY_RUN])
                .conditional()
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
    headers: HeaderMap,
) -> ApiResult<Response> {
    QueryParams::read(&uri, &[])?;
    let conditions = Conditions::read(&headers)?;
    let prefix = read_prefix(&prefix)?;
    let entry = entry(&*app.in_force().await?, &prefix).ok_or_else(|| not_on_the_list(&prefix))?;
    conditions.answer(&entry)
}

/// The entry of exactly this prefix, as it is answered.
fn entry(snapshot: &Snapshot, prefix: &Prefix) -> Option<Entry> {
    Some(Entry::new(snapshot.listed(prefix, RowStatus::Allowed)?, time::now_seconds()))
}

/// Keys of the rows that mean this prefix, as far as they are known.
fn keys(snapshot: &Snapshot, prefix: &Prefix) -> Vec<String> {
    let listed = snapshot.listed(prefix, RowStatus::Allowed);
    listed.into_iter().flat_map(|listed| listed.keys).chain([prefix.to_string()]).collect()
}

/// The body of `PUT`.
#[derive(Deserialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    reason: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
    /// Allow it although it is a very wide block.
    #[serde(default)]
    force: bool,
}

/// The answer of `PUT`.
#[derive(Serialize, Debug, ToSchema)]
pub struct Allowed {
    ip: String,
    status: &'static str,
    reason: Option<String>,
    until: Option<String>,
    /// What is not wrong, but may not be what is meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(flatten)]
    written: WriteResult,
}

/// Puts an address or a block on the allow list. An entry of exactly this prefix is replaced, be it
/// one of this list or a ban that applies everywhere. Other bans stay beside it, and deny nobody for as long.
///
/// # Errors
/// When the prefix or the body is invalid, the block is very wide and `force` is not given, or the table is full;
/// then nothing was changed.
pub async fn allow(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(prefix): PathParam,
    request: Request<Body>,
) -> ApiResult<Json<Allowed>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let conditions = Conditions::read(request.headers())?;
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
    if let Some(wide) = entry_fields::too_wide_to_allow(&prefix).filter(|_| !asked.force) {
        let detail = format!("{wide}: allow smaller blocks, or send \"force\": true");
        return Err(Problem::new(ProblemCode::BlockTooWide, detail));
    }
    if !app.feed.snapshot().has_room_for(RowStatus::Allowed, &prefix) {
        let detail =
            format!("the allow list is full, so {prefix} was not added: remove entries that are not needed");
        return Err(Problem::new(ProblemCode::TableFull, detail));
    }
    let (ip, expires_at) = (prefix.to_string(), until.map(time::to_sql));
    let change = Change::Allow { ip: ip.clone(), reason: asked.reason.clone(), expires_at };
    let reads = (StoreTable::Ip, Some(keys(&app.feed.snapshot(), &prefix)));
    let tag = |snapshot: &Snapshot| entry(snapshot, &prefix).map(|entry| etag(&entry));
    let committed = write.commit_on(change, &author, &conditions, reads, tag).await?;
    let written = write.written(committed).await;
    if !written.dry_run {
        tracing::info!(by = %author.name, version = %written.version, "allowed");
        tracing::debug!(ip, "what was allowed");
    }
    let until = until.map(time::rounded_up);
    let warnings = scoped_bans_that_stay(&app.feed.snapshot(), &prefix).into_iter().collect();
    Ok(Json(Allowed { ip, status: "allowed", reason: asked.reason, until, warnings, written }))
}

/// What there is to say of the bans of exactly this prefix that apply at some hostnames or routes only.
fn scoped_bans_that_stay(snapshot: &Snapshot, prefix: &Prefix) -> Option<String> {
    let count = snapshot.all_listed(prefix).filter(|listed| listed.scope.is_some()).count();
    (count > 0).then(|| {
        format!(
            "bans of {prefix} at some hostnames or routes: {count}; they stay, and deny nobody while it is on the allow \
             list"
        )
    })
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
    headers: HeaderMap,
) -> ApiResult<Json<Disallowed>> {
    let params = QueryParams::read(&uri, &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let conditions = Conditions::read(&headers)?;
    let write = PendingWrite::prepare(&app, &params)?;
    let prefix = read_prefix(&prefix)?;
    let snapshot = app.current().await;
    let listed = snapshot.listed(&prefix, RowStatus::Allowed);
    let change = Change::Disallow { keys: listed.ok_or_else(|| not_on_the_list(&prefix))?.keys };
    let reads = (StoreTable::Ip, Some(keys(&snapshot, &prefix)));
    let tag = |snapshot: &Snapshot| entry(snapshot, &prefix).map(|entry| etag(&entry));
    let committed = write.commit_on(change, &author, &conditions, reads, tag).await?;
    let written = write.written(committed).await;
    if committed.rows == 0 {
        // Another request has removed it meanwhile.
        return Err(not_on_the_list(&prefix));
    }
    if !written.dry_run {
        tracing::info!(by = %author.name, version = %written.version, "removed from the allow list");
        tracing::debug!(ip = %prefix, "what was removed from the allow list");
    }
    let is_gone = |listed: &ListedPrefix| listed.status == RowStatus::Allowed;
    let now = AddressStatus::without(&*app.current().await, &prefix, time::now_seconds(), is_gone);
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
