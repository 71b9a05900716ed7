//! `POST bans/enforce`: bans in shadow deny from now on.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::{SOURCE_FORM, is_source};
use crate::api::admin::ip_monitor::LimitedBan;
use crate::api::admin::optimization::ip::{check_unprotected, no_room, parse_ip};
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::entry_fields;
use crate::api::openapi::parameters::{DRY_RUN, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::store::{Author, Change, ShadowBans};

/// The body: `ip` or `source`.
#[derive(Deserialize, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnforceRequest {
    /// The address or block of a ban in shadow.
    ip: Option<String>,
    /// Of an address: only the bans that apply exactly there; by default all of them, wherever they apply.
    applies_to: Option<Value>,
    /// All bans in shadow that this source has.
    source: Option<String>,
    /// Enforce the ban although its network is protected, or it is on the allow list. (The bans of a source were
    /// checked when they were imported.)
    #[serde(default)]
    force: bool,
}

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct Enforced {
    ip: Option<String>,
    source: Option<String>,
    status: &'static str,
    /// Bans that deny now: rows, for one address can be written in several ways.
    rows: u64,
    /// Of an address: the bans that deny now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bans: Vec<LimitedBan>,
    #[serde(flatten)]
    written: WriteResult,
}

/// What is to be enforced.
enum Which {
    Ip(Prefix, Option<Scope>),
    Source(String),
}

impl EnforceRequest {
    fn which(&self) -> ApiResult<Which> {
        match (&self.ip, &self.source) {
            (Some(ip), None) => match (parse_ip(ip), entry_fields::applies_to(self.applies_to.as_ref())) {
                (Ok(prefix), Ok(scope)) => return Ok(Which::Ip(prefix, scope)),
                (ip, scope) => {
                    let errors = ip.err().into_iter().chain(scope.err().unwrap_or_default());
                    return Err(Problem::fields(errors.collect()));
                }
            },
            (None, Some(_)) if self.applies_to.is_some() => {
                let detail = "it is of an address: leave it out, or `source`";
                Err(FieldError::field("/applies_to", "conflict", detail))
            }
            (None, Some(source)) if is_source(source) => Ok(Which::Source(source.clone())),
            (None, Some(_)) => Err(FieldError::field("/source", "invalid", SOURCE_FORM)),
            (None, None) => {
                Err(FieldError::field("/ip", "required", "say which ban with `ip`, or whose with `source`"))
            }
            (Some(_), Some(_)) => {
                Err(FieldError::field("/source", "conflict", "give `ip` or `source`, and not both"))
            }
        }
        .map_err(|error| Problem::fields(vec![error]))
    }
}

/// Makes a ban in shadow, or those of a source, deny.
///
/// # Errors
/// When the body is invalid, there is no such ban in shadow, the address is protected or allowed and `force` is not
/// given, or the table of bans is full; then nothing was changed.
pub async fn enforce(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<Enforced>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let asked: EnforceRequest = body::json(request).await?;
    let which = asked.which()?;
    let snapshot = app.current().await;
    let mut enforced = Vec::new();
    let bans = match &which {
        Which::Ip(prefix, scope) => {
            let watched = snapshot.all_listed(prefix).filter(|listed| {
                listed.status == RowStatus::Watched
                    && scope.as_ref().is_none_or(|scope| listed.scope.as_deref() == Some(scope))
            });
            let mut bans: Vec<ListedPrefix> = watched.collect();
            if bans.is_empty() {
                return Err(none(&which));
            }
            if bans.iter().all(|ban| ban.keys.is_empty()) {
                return Err(of_sources(prefix, &bans));
            }
            bans.retain(|ban| !ban.keys.is_empty());
            if !asked.force {
                check_unprotected(&app, prefix).await?;
            }
            let is_wide = bans.iter().any(|ban| ban.scope.is_none());
            if is_wide && !snapshot.has_room_for(RowStatus::Banned, prefix) {
                return Err(no_room(prefix));
            }
            enforced = bans.iter().map(LimitedBan::enforced).collect();
            ShadowBans::Keys(bans.into_iter().flat_map(|ban| ban.keys).collect())
        }
        Which::Source(name) => {
            // There may be a million.
            let (name, source) = (name.clone(), name.clone());
            let checked = spawn_blocking(move || {
                let prefixes = in_shadow(&snapshot, &source);
                snapshot.has_room_for_all(RowStatus::Banned, prefixes.into_iter())
            });
            if !checked.await.map_err(|_| Problem::stopping())? {
                let detail = "the table of bans has no room for all bans of this source: nothing was changed";
                return Err(Problem::new(ProblemCode::TableFull, detail));
            }
            ShadowBans::Source(name)
        }
    };
    let (committed, written) = write.commit(Change::EnforceBans(bans), &author).await?;
    if committed.rows == 0 {
        return Err(none(&which));
    }
    if !written.dry_run {
        tracing::info!(by = %author.name, version = %written.version, rows = committed.rows, "bans enforced");
    }
    let (ip, source) = match which {
        Which::Ip(prefix, _) => (Some(prefix.to_string()), None),
        Which::Source(name) => (None, Some(name)),
    };
    let status = RowStatus::Banned.name();
    Ok(Json(Enforced { ip, source, status, rows: committed.rows, bans: enforced, written }))
}

/// The prefixes that `source` has in shadow, and that apply everywhere: the others stay in their table.
fn in_shadow(snapshot: &Snapshot, source: &str) -> Vec<Prefix> {
    let is_of = |listed: &ListedPrefix| {
        listed.source.as_deref().is_some_and(|all| all.split(',').any(|held| held == source))
    };
    let watched = snapshot.list(Some(RowStatus::Watched), None);
    watched.filter(|listed| listed.scope.is_none() && is_of(listed)).map(|listed| listed.prefix).collect()
}

/// No row has it in shadow, which could be changed.
fn of_sources(prefix: &Prefix, bans: &[ListedPrefix]) -> Problem {
    let names: BTreeSet<&str> = bans.iter().flat_map(|ban| ban.sources.iter().map(|name| &**name)).collect();
    let sources = names.into_iter().collect::<Vec<_>>().join(", ");
    let detail = format!(
        "{prefix} is in shadow by {sources} alone, whose list has it: enforce the source, or ban the address"
    );
    Problem::new(ProblemCode::BannedBySource, detail)
}

fn none(which: &Which) -> Problem {
    let detail = match which {
        Which::Ip(prefix, None) => format!("there is no ban of exactly {prefix} in shadow"),
        Which::Ip(prefix, Some(scope)) => {
            let place = entry_fields::scope_text(scope);
            format!("there is no ban of exactly {prefix} in shadow that applies exactly at {place}")
        }
        Which::Source(name) => format!(
            "no list that was imported as {name} has a ban in shadow; `tidegate sources enforce {name}` is for a \
             source that is fetched"
        ),
    };
    Problem::new(ProblemCode::NotInShadow, detail)
}
