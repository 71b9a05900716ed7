//! `POST bans/enforce`: bans in shadow deny from now on.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use serde::{Deserialize, Serialize};
use tidegate_policy::address::Prefix;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::{SOURCE_FORM, is_source};
use crate::api::admin::optimization::ip::{check_unprotected, no_room, parse_ip};
use crate::api::app_state::AppState;
use crate::api::body;
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
    #[serde(flatten)]
    written: WriteResult,
}

/// What is to be enforced.
enum Which {
    Ip(Prefix),
    Source(String),
}

impl EnforceRequest {
    fn which(&self) -> ApiResult<Which> {
        match (&self.ip, &self.source) {
            (Some(ip), None) => parse_ip(ip).map(Which::Ip),
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
    let bans = match &which {
        Which::Ip(prefix) => {
            let Some(ban) = snapshot.listed(prefix, RowStatus::Watched) else { return Err(none(&which)) };
            if !asked.force {
                check_unprotected(&app, prefix).await?;
            }
            if !snapshot.has_room_for(RowStatus::Banned, prefix) {
                return Err(no_room(prefix));
            }
            ShadowBans::Keys(ban.keys)
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
        Which::Ip(prefix) => (Some(prefix.to_string()), None),
        Which::Source(name) => (None, Some(name)),
    };
    Ok(Json(Enforced { ip, source, status: RowStatus::Banned.name(), rows: committed.rows, written }))
}

/// The prefixes that `source` has in shadow.
fn in_shadow(snapshot: &Snapshot, source: &str) -> Vec<Prefix> {
    let is_of = |listed: &ListedPrefix| {
        listed.source.as_deref().is_some_and(|all| all.split(',').any(|held| held == source))
    };
    let watched = snapshot.list(Some(RowStatus::Watched), None);
    watched.filter(is_of).map(|listed| listed.prefix).collect()
}

fn none(which: &Which) -> Problem {
    let detail = match which {
        Which::Ip(prefix) => format!("there is no ban of exactly {prefix} in shadow"),
        Which::Source(name) => format!("the source {name} has no ban in shadow"),
    };
    Problem::new(ProblemCode::NotInShadow, detail)
}
