//! `POST ip/ban` and `POST ip/unban`.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_author::write_scope;
use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;
use utoipa::ToSchema;

use crate::api::admin::ip_monitor::AddressStatus;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{self, Expiry, Ttl, scope_text, scope_warnings, too_many_scopes};
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{DRY_RUN, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::auth::Role;
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::store::{Author, BanMode, Change};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    let bans = About::new("Bans an address or a block")
        .query(&[&WAIT_APPLIED, &DRY_RUN])
        .takes::<BanRequest>(
            json!({"ip": "203.0.113.0/24", "reason": "scraper", "ttl": "4h", "mode": "shadow"}),
        )
        .answers::<Banned>()
        .once_per_key()
        .problems(&[ProblemCode::ProtectedNetwork, ProblemCode::AddressAllowed, ProblemCode::TableFull]);
    let unbans = About::new("Removes the ban of exactly this address or block")
        .query(&[&WAIT_APPLIED, &DRY_RUN])
        .takes::<UnbanRequest>(json!({"ip": "203.0.113.0/24"}))
        .answers::<Unbanned>()
        .once_per_key()
        .problems(&[ProblemCode::NotBanned, ProblemCode::BannedBySource]);
    ["/api/admin/optimization/ip", "/api/admin/ip"].iter().fold(Endpoints::default(), |all, path| {
        all.post(Role::Operate, &format!("{path}/ban"), ban)
            .about(bans.clone())
            .post(Role::Operate, &format!("{path}/unban"), unban)
            .about(unbans.clone())
    })
}

/// The body of `ip/ban`.
#[derive(Deserialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    ip: String,
    reason: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
    /// `shadow`: requests are not denied, and those that would be are recorded.
    #[serde(default)]
    mode: BanMode,
    /// Hostnames and routes: the ban applies to requests for one of the hostnames, if there are any, that take one of
    /// the routes, if there are any. By default it applies to all.
    applies_to: Option<Value>,
    /// Ban it although its network is protected, or it is on the allow list.
    #[serde(default)]
    force: bool,
}

/// The answer of `ip/ban`.
#[derive(Serialize, Debug, ToSchema)]
pub struct Banned {
    ip: String,
    status: &'static str,
    reason: Option<String>,
    until: Option<String>,
    /// Where it applies, if not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    applies_to: Option<Value>,
    /// What is not wrong, but may not be what is meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(flatten)]
    written: WriteResult,
}

/// Bans an address or a block. If it is banned by hand already, everywhere or at the same `applies_to`, reason and
/// expiry are replaced; other bans stay beside it.
///
/// # Errors
/// When the body is invalid, the address is protected or allowed and `force` is not given, or the
/// table of bans is full; then nothing was changed.
pub async fn ban(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<Banned>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let asked: BanRequest = body::json(request).await?;
    let (prefix, until, scope) = asked.check()?;
    if !asked.force {
        check_unprotected(&app, &prefix).await?;
    }
    let status = RowStatus::of_ban(asked.mode);
    let snapshot = app.feed.snapshot();
    match &scope {
        None if !snapshot.has_room_for(status, &prefix) => return Err(no_room(&prefix)),
        Some(scope) if !snapshot.may_have_scope(scope) => return Err(too_many_scopes()),
        _ => {}
    }
    let ip = prefix.to_string();
    let mut warnings = scope_warnings(scope.as_ref(), &snapshot);
    if scope.is_some() && asked.force {
        let now = AddressStatus::of(&snapshot, &prefix, time::now_seconds());
        let allowed = now.entry.filter(|_| now.status == RowStatus::Allowed.name());
        warnings.extend(allowed.map(|entry| {
            format!("{entry} is on the allow list, which beats every ban: this one denies nobody while it is")
        }));
    }
    let change = Change::Ban {
        ip: ip.clone(),
        reason: asked.reason.clone(),
        expires_at: until.map(time::to_sql),
        mode: asked.mode,
        applies_to: scope.as_ref().map(scope_text),
        unless_allowed: !asked.force,
    };
    let (committed, written) = write.commit(change, &author).await?;
    if committed.rows == 0 {
        // Another request has allowed it meanwhile.
        return Err(allowed(&prefix, &ip));
    }
    if !written.dry_run {
        tracing::info!(by = %author.name, version = %written.version, "banned");
        tracing::debug!(ip, "what was banned");
    }
    Ok(Json(Banned {
        ip,
        status: status.name(),
        reason: asked.reason,
        until: until.map(time::rounded_up),
        warnings,
        applies_to: scope.as_ref().map(write_scope),
        written,
    }))
}

/// Refuses a ban of what nobody should ban by mistake, or of what is allowed, where it would have no
/// effect.
pub async fn check_unprotected(app: &AppState, prefix: &Prefix) -> ApiResult<()> {
    if let Some(protected) = app.protected.overlapping(prefix, &app.gateways) {
        let detail =
            format!("{prefix} has addresses of {protected}: ban smaller blocks, or all of it with `force`");
        return Err(Problem::new(ProblemCode::ProtectedNetwork, detail));
    }
    let now = AddressStatus::of(&*app.current().await, prefix, time::now_seconds());
    match now.entry {
        Some(entry) if now.status == "allowed" => Err(allowed(prefix, &entry)),
        _ => Ok(()),
    }
}

fn allowed(prefix: &Prefix, entry: &str) -> Problem {
    let detail = format!(
        "{entry} is on the allow list, which beats every ban, so {prefix} was not banned: remove that entry first; with `force` the ban is written: one that applies everywhere in the place of an entry of exactly this prefix, another beside it"
    );
    Problem::new(ProblemCode::AddressAllowed, detail)
}

/// There is no room for the ban of `prefix`.
pub fn no_room(prefix: &Prefix) -> Problem {
    let detail = format!(
        "the table of bans is full, so {prefix} was not banned: remove bans that are not needed, or ban blocks instead of single addresses"
    );
    Problem::new(ProblemCode::TableFull, detail)
}

impl BanRequest {
    /// The prefix in canonical form, when the ban expires, and where it applies. The error lists all that is wrong.
    fn check(&self) -> ApiResult<(Prefix, Option<Timestamp>, Option<Scope>)> {
        let mut errors = Vec::new();
        let prefix = parse_ip(&self.ip).map_err(|error| errors.push(error)).ok();
        let until = entry_fields::end(self.ttl, self.expires_at.as_ref());
        let until = until.map_err(|error| errors.push(error)).ok();
        errors.extend(entry_fields::check_reason(self.reason.as_deref()).err());
        let scope = entry_fields::applies_to(self.applies_to.as_ref());
        let scope = scope.map_err(|found| errors.extend(found)).ok();
        match (prefix, until, scope) {
            (Some(prefix), Some(until), Some(scope)) if errors.is_empty() => Ok((prefix, until, scope)),
            _ => Err(Problem::fields(errors)),
        }
    }
}

/// Reads the field `ip`.
///
/// # Errors
/// When it is neither an address nor a block.
pub fn parse_ip(text: &str) -> Result<Prefix, FieldError> {
    text.trim().parse::<Prefix>().map_err(|error| FieldError::field("/ip", "invalid_ip", error.to_string()))
}

/// The body of `ip/unban`.
#[derive(Deserialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnbanRequest {
    ip: String,
    /// Only the bans that apply exactly there; by default all of them, wherever they apply.
    applies_to: Option<Value>,
}

impl UnbanRequest {
    /// The prefix, and the only scope that is meant. The error lists all that is wrong.
    fn check(&self) -> ApiResult<(Prefix, Option<Scope>)> {
        match (parse_ip(&self.ip), entry_fields::applies_to(self.applies_to.as_ref())) {
            (Ok(prefix), Ok(scope)) => Ok((prefix, scope)),
            (ip, scope) => {
                Err(Problem::fields(ip.err().into_iter().chain(scope.err().unwrap_or_default()).collect()))
            }
        }
    }
}

/// The answer of `ip/unban`.
#[derive(Serialize, Debug, ToSchema)]
pub struct Unbanned {
    /// Rows that were removed: one address can be written in several ways.
    rows: u64,
    #[serde(flatten)]
    now: AddressStatus,
    #[serde(flatten)]
    written: WriteResult,
}

/// The statuses of bans, of those in shadow too.
const BANS: [RowStatus; 2] = [RowStatus::Banned, RowStatus::Watched];

/// Removes the bans of exactly this address or block, also those in shadow, wherever they apply, or at one `applies_to`.
///
/// # Errors
/// When the body is invalid, or there is no such ban; then nothing was changed.
pub async fn unban(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<Unbanned>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let asked: UnbanRequest = body::json(request).await?;
    let (prefix, scope) = asked.check()?;
    let is_meant = |listed: &ListedPrefix| {
        BANS.contains(&listed.status)
            && scope.as_ref().is_none_or(|scope| listed.scope.as_deref() == Some(scope))
    };
    let snapshot = app.current().await;
    let bans: Vec<ListedPrefix> = snapshot.all_listed(&prefix).filter(is_meant).collect();
    let not_banned = |snapshot: &Snapshot| match &scope {
        None => not_banned(&AddressStatus::of(snapshot, &prefix, time::now_seconds())),
        Some(scope) => not_banned_there(snapshot, &prefix, scope),
    };
    if bans.is_empty() {
        return Err(not_banned(&snapshot));
    }
    let keys: Vec<String> = bans.iter().flat_map(|ban| ban.keys.clone()).collect();
    if keys.is_empty() {
        return Err(banned_by_source(&prefix, &bans));
    }
    let (committed, written) = write.commit(Change::Unban { keys }, &author).await?;
    if committed.rows == 0 {
        // Another request has removed it meanwhile.
        return Err(not_banned(&*app.current().await));
    }
    if !written.dry_run {
        tracing::info!(by = %author.name, version = %written.version, "unbanned");
        tracing::debug!(ip = %prefix, "what was unbanned");
    }
    let now = AddressStatus::without(&*app.current().await, &prefix, time::now_seconds(), is_meant);
    Ok(Json(Unbanned { rows: committed.rows, now, written }))
}

/// There is no row that could be removed.
fn banned_by_source(prefix: &Prefix, bans: &[ListedPrefix]) -> Problem {
    let names: BTreeSet<&str> = bans.iter().flat_map(|ban| ban.sources.iter().map(|name| &**name)).collect();
    let lists = if names.len() == 1 { "whose list has" } else { "whose lists have" };
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let detail = format!(
        "{prefix} is banned by {names} alone, {lists} it: put it on the allow list, or change or remove the source"
    );
    Problem::new(ProblemCode::BannedBySource, detail)
}

/// There is no ban of `prefix` that applies exactly at `scope`.
fn not_banned_there(snapshot: &Snapshot, prefix: &Prefix, scope: &Scope) -> Problem {
    let bans = snapshot.all_listed(prefix).filter(|listed| BANS.contains(&listed.status));
    let places: BTreeSet<String> =
        bans.map(|listed| listed.scope.as_deref().map_or("everywhere".to_owned(), scope_text)).collect();
    let others = match places.is_empty() {
        true => String::new(),
        false => format!("; it is banned at {}", places.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let detail = format!("there is no ban of {prefix} that applies exactly at {}{others}", scope_text(scope));
    Problem::new(ProblemCode::NotBanned, detail)
}

fn not_banned(now: &AddressStatus) -> Problem {
    let ip = &now.ip;
    let detail = match &now.entry {
        Some(entry) if BANS.iter().any(|ban| ban.name() == now.status) && entry != ip => {
            format!("there is no ban of {ip} itself; {entry} covers it: unban that")
        }
        _ => format!("there is no ban of {ip}"),
    };
    Problem::new(ProblemCode::NotBanned, detail)
}
