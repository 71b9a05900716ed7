//! `GET` and `PUT /api/admin/optimization/flags`: the rollout's switches.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::Uri;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Map, Value};
use tidegate_author as author;
use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::flags::{Flag, Flags, State as FlagState};
use tidegate_policy::wire::sync::Version;

use super::recording::Checked;
use crate::api::admin::audit;
use crate::api::admin::gateways::Gateway;
use crate::api::app_state::Context;
use crate::api::body;
use crate::api::query::Params;
use crate::api::wait_applied::{WAIT_APPLIED, Write, Written, as_text};
use crate::auth::Caller;
use crate::problem::{Answer, Code, Problem};
use crate::store::{AuditRow, Change, CheckCounts};
use crate::time;

/// The paths here.
pub fn routes() -> Router<Context> {
    Router::new().route("/api/admin/optimization/flags", axum::routing::get(get).put(put))
}

/// All flags, as a `PUT` takes them.
#[derive(Serialize, Debug)]
pub struct Answered {
    #[serde(flatten)]
    flags: Map<String, Value>,
    /// If it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    /// Of a write whose effect was waited for.
    #[serde(flatten)]
    written: Option<Written>,
}

/// What the flags do.
#[derive(Serialize, Debug)]
struct Status {
    #[serde(serialize_with = "as_text")]
    version: Version,
    checks: BTreeMap<&'static str, CheckStatus>,
    /// Who changed each flag last, by the audit; `null`: nobody, or longer ago than
    /// it goes back, or by SQL.
    changed: BTreeMap<&'static str, Option<LastChange>>,
    gateways: Vec<Gateway>,
}

#[derive(Serialize, Debug)]
struct CheckStatus {
    flag: &'static str,
    /// How many of a hundred clients are answered in each way.
    clients: Shares,
    #[serde(flatten)]
    counts: Checked,
}

/// Percent; 100 together.
#[derive(Serialize, Debug, PartialEq, Eq)]
struct Shares {
    cached: u8,
    shadow: u8,
    direct: u8,
}

impl From<FlagState> for Shares {
    fn from(state: FlagState) -> Self {
        let (cached, shadow) = match state {
            FlagState::Off => (0, 0),
            FlagState::Shadow => (0, 100),
            FlagState::Share(percent) => (percent.min(100), 0),
            FlagState::On => (100, 0),
        };
        Self { cached, shadow, direct: 100 - cached - shadow }
    }
}

#[derive(Serialize, Debug)]
struct LastChange {
    at: String,
    by: String,
    from: Option<Value>,
    to: Option<Value>,
}

impl From<AuditRow> for LastChange {
    fn from(row: AuditRow) -> Self {
        let (from, to) = (row.from.map(audit::value), row.to.map(audit::value));
        Self { at: time::shown(row.at), by: row.by, from, to }
    }
}

/// Answers all flags, and with `status=1` what they do.
///
/// # Errors
/// When a parameter is not right, or the store cannot be read.
pub async fn get(State(context): State<Context>, uri: Uri) -> Answer<Json<Answered>> {
    let params = Params::read(&uri, &["status"])?;
    let with_status = params.flag("status")?;
    let snapshot = context.current().await;
    let status = match with_status {
        true => Some(Status::of(&context, &snapshot.flags, snapshot.version).await?),
        false => None,
    };
    Ok(Json(Answered { flags: author::write_flags(&snapshot.flags), status, written: None }))
}

/// Sets the flags that the body names, and answers all of them.
///
/// # Errors
/// 400 when the body names a flag that there is not, or a state that is none;
/// then nothing was changed.
pub async fn put(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> Answer<Json<Answered>> {
    let params = Params::read(request.uri(), &[WAIT_APPLIED])?;
    let write = Write::announce(&context, &params)?;
    let document = body::document(request).await?;
    let set =
        author::read_flags(&document).map_err(|problems| Problem::document(Code::InvalidFlag, problems))?;
    let text =
        |(flag, state): (Flag, FlagState)| (flag.name().to_owned(), author::write_state(state).to_string());
    let flags: Vec<_> = set.into_iter().map(text).collect();
    let names: Vec<_> = flags.iter().map(|(name, state)| format!("{name}={state}")).collect();
    let (_, written) = write.commit(Change::SetFlags { flags }, &caller).await?;
    tracing::info!(by = %caller.name, version = %written.version, set = names.join(" "), "flags set");
    let snapshot = context.current().await;
    let written = written.applied.is_some().then_some(written);
    Ok(Json(Answered { flags: author::write_flags(&snapshot.flags), status: None, written }))
}

/// The flag that says how a check is answered.
pub fn of_check(check: Check) -> Flag {
    match check {
        Check::Ip => Flag::IpBlacklistCache,
        Check::Geo => Flag::GeoRulesCache,
        Check::Route => Flag::RouteCache,
    }
}

impl Status {
    async fn of(context: &Context, flags: &Flags, version: Version) -> Answer<Self> {
        let counts: PerCheck<CheckCounts> = context.store.checks().await?;
        let check = |check: Check| {
            let flag = of_check(check);
            let status = CheckStatus {
                flag: flag.name(),
                clients: flags.get(flag).into(),
                counts: Checked::new(counts.get(check)),
            };
            (check.name(), status)
        };
        Ok(Self {
            version,
            checks: Check::ALL.into_iter().map(check).collect(),
            changed: last_changes(context, flags).await?,
            gateways: context.gateways.list().into_iter().map(Gateway::from).collect(),
        })
    }
}

/// The newest entry of the audit for each flag, unless it was set by SQL since, as
/// its being another than that entry says.
async fn last_changes(
    context: &Context,
    flags: &Flags,
) -> Answer<BTreeMap<&'static str, Option<LastChange>>> {
    let mut changed = BTreeMap::new();
    for flag in Flag::ALL {
        let last = context.store.last_change("flag", flag.name()).await?;
        let now = Some(author::write_state(flags.get(flag)));
        let last = last.map(LastChange::from).filter(|last| last.to == now);
        changed.insert(flag.name(), last);
    }
    Ok(changed)
}
