//! `POST ip/ban` and `POST ip/unban`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_policy::address::Prefix;
use utoipa::ToSchema;

use crate::api::admin::ip_monitor::AddressStatus;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{DRY_RUN, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::auth::Role;
use crate::feed::{ListedPrefix, RowStatus};
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
    #[serde(flatten)]
    written: WriteResult,
}

/// Bans an address or a block. If it is banned already, reason and expiry are replaced.
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
    let (prefix, until) = asked.check()?;
    if !asked.force {
        check_unprotected(&app, &prefix).await?;
    }
    let status = RowStatus::of_ban(asked.mode);
    if !app.feed.snapshot().has_room_for(status, &prefix) {
        return Err(no_room(&prefix));
    }
    let ip = prefix.to_string();
    let change = Change::Ban {
        ip: ip.clone(),
        reason: asked.reason.clone(),
        expires_at: until.map(time::to_sql),
        mode: asked.mode,
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
        "{entry} is on the allow list, which beats every ban, so {prefix} was not banned: remove that entry first; with `force` the ban is written, in the place of an entry of exactly this prefix"
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
    /// The prefix in canonical form, and when the ban expires. The error lists all that is wrong.
    fn check(&self) -> ApiResult<(Prefix, Option<Timestamp>)> {
        let mut errors = Vec::new();
        let prefix = parse_ip(&self.ip).map_err(|error| errors.push(error)).ok();
        let until = entry_fields::end(self.ttl, self.expires_at.as_ref());
        let until = until.map_err(|error| errors.push(error)).ok();
        errors.extend(entry_fields::check_reason(self.reason.as_deref()).err());
        match (prefix, until) {
            (Some(prefix), Some(until)) if errors.is_empty() => Ok((prefix, until)),
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

/// Removes the ban of exactly this address or block, also one in shadow.
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
    let prefix = parse_ip(&asked.ip).map_err(|error| Problem::fields(vec![error]))?;
    let snapshot = app.current().await;
    let bans: Vec<ListedPrefix> =
        BANS.into_iter().filter_map(|status| snapshot.listed(&prefix, status)).collect();
    let Some(first) = bans.first() else {
        return Err(not_banned(&AddressStatus::of(&snapshot, &prefix, time::now_seconds())));
    };
    let keys: Vec<String> = bans.iter().flat_map(|ban| ban.keys.clone()).collect();
    if keys.is_empty() {
        return Err(banned_by_source(first));
    }
    let (committed, written) = write.commit(Change::Unban { keys }, &author).await?;
    if committed.rows == 0 {
        // Another request has removed it meanwhile.
        return Err(not_banned(&AddressStatus::of(&*app.current().await, &prefix, time::now_seconds())));
    }
    if !written.dry_run {
        tracing::info!(by = %author.name, version = %written.version, "unbanned");
        tracing::debug!(ip = %prefix, "what was unbanned");
    }
    let now = AddressStatus::without(&*app.current().await, &prefix, &BANS, time::now_seconds());
    Ok(Json(Unbanned { rows: committed.rows, now, written }))
}

/// There is no row that could be removed.
fn banned_by_source(ban: &ListedPrefix) -> Problem {
    let (prefix, sources) = (&ban.prefix, ban.sources.join(", "));
    let detail = format!(
        "{prefix} is banned by {sources} alone, whose list has it: put it on the allow list, or change or remove the source"
    );
    Problem::new(ProblemCode::BannedBySource, detail)
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
