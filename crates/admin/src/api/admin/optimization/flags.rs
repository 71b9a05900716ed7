//! `GET` and `PUT /api/admin/optimization/flags`: the flags of the rollout.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidegate_author as author;
use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::version::Version;
use tidegate_rollout::run::{Phase, Run};
use utoipa::ToSchema;

use super::recording::CheckStats;
use crate::api::admin::audit;
use crate::api::admin::gateways::GatewayInfo;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::conditions::{Conditions, etag};
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{DRY_RUN, FLAG_STATUS, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, WriteResult, version_as_text};
use crate::auth::Role;
use crate::feed::Snapshot;
use crate::gateways::Applied;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{AuditRow, Author, Change, CheckCounts, StoreTable};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    const FLAGS: &str = "/api/admin/optimization/flags";
    let mut answers =
        About::new("Answers all flags").query(&[&FLAG_STATUS]).answers_named("FlagsAnswer").conditional_get();
    answers.reference::<FlagsStatus>();
    answers.reference::<Applied>();
    let sets = About::new("Sets the flags that the body names")
        .query(&[&WAIT_APPLIED, &DRY_RUN])
        .takes_document(
            "Flags",
            json!({"enableRouteCache": "shadow", "enableAsyncRecording": {"percent": 25}}),
        )
        .answers_named("FlagsAnswer")
        .problems(&[ProblemCode::InvalidFlag])
        .conditional();
    Endpoints::default().get(Role::Read, FLAGS, get).about(answers).put(Role::Operate, FLAGS, put).about(sets)
}

/// All flags, as a `PUT` takes them.
#[derive(Serialize, Debug)]
pub struct FlagsAnswer {
    #[serde(flatten)]
    flags: Map<String, Value>,
    /// Present if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<FlagsStatus>,
    /// What else the write does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// Result of a write that was waited for.
    #[serde(flatten)]
    written: Option<WriteResult>,
}

/// The effect of the flags.
#[derive(Serialize, Debug, ToSchema)]
struct FlagsStatus {
    #[serde(serialize_with = "version_as_text")]
    #[schema(value_type = String)]
    version: Version,
    checks: BTreeMap<&'static str, CheckStatus>,
    /// The last change of each flag, from the audit; `null`: none, longer ago than the audit goes
    /// back, or by SQL.
    #[schema(value_type = BTreeMap<String, Value>)]
    changed: BTreeMap<&'static str, Option<LastChange>>,
    gateways: Vec<GatewayInfo>,
}

#[derive(Serialize, Debug, ToSchema)]
struct CheckStatus {
    flag: &'static str,
    /// Share of the clients that are answered in each way, percent; where the flag is limited to gateways, hostnames or
    /// routes, of those within. Elsewhere all are answered directly.
    clients: ClientShares,
    #[serde(flatten)]
    counts: CheckStats,
}

/// Percentages; their sum is 100.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
struct ClientShares {
    cached: u8,
    shadow: u8,
    direct: u8,
}

impl From<&FlagState> for ClientShares {
    fn from(state: &FlagState) -> Self {
        let cached = state.percent().min(100);
        let shadow = if *state == FlagState::Shadow { 100 } else { 0 };
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
        let (from, to) = (row.before.map(audit::value), row.after.map(audit::value));
        Self { at: time::sql_to_rfc3339(row.at), by: row.actor, from, to }
    }
}

/// Answers all flags, and with `status=1` their effect, which changes by itself and has no `ETag`.
pub async fn get(State(app): State<AppState>, uri: Uri, headers: HeaderMap) -> ApiResult<Response> {
    let params = QueryParams::read(&uri, &["status"])?;
    let conditions = Conditions::read(&headers)?;
    let snapshot = app.in_force().await?;
    let flags = author::write_flags(&snapshot.flags);
    if !params.flag("status")? {
        return conditions.answer(&flags);
    }
    let status = Some(FlagsStatus::of(&app, &snapshot.flags, snapshot.version).await?);
    Ok(Json(FlagsAnswer { flags, status, warnings: Vec::new(), written: None }).into_response())
}

/// Sets the flags that the body names, and answers all flags.
///
/// # Errors
/// 400 when the body names an unknown flag or an invalid state, 412 when the flags are not as `If-Match`
/// says; then nothing was changed.
pub async fn put(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<FlagsAnswer>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let conditions = Conditions::read(request.headers())?;
    let write = PendingWrite::prepare(&app, &params)?;
    let document = body::document(request).await?;
    let set = author::read_flags(&document)
        .map_err(|problems| Problem::document(ProblemCode::InvalidFlag, problems))?;
    let text =
        |(flag, state): (Flag, FlagState)| (flag.name().to_owned(), author::write_state(&state).to_string());
    let flags: Vec<_> = set.iter().cloned().map(text).collect();
    let names: Vec<_> = flags.iter().map(|(name, state)| format!("{name}={state}")).collect();
    let change = Change::SetFlags { flags };
    let tag = |snapshot: &Snapshot| Some(etag(&author::write_flags(&snapshot.flags)));
    let committed = write.commit_on(change, &author, &conditions, (StoreTable::Flags, None), tag).await?;
    let warnings = pauses(&app, &set);
    let mut flags = app.current().await.flags.clone();
    if write.is_dry_run() {
        flags = set.into_iter().fold(flags, |flags, (flag, state)| flags.with(flag, state));
    } else {
        app.rollouts.flags_were_set();
        tracing::info!(by = %author.name, seq = committed.seq, set = names.join(" "), "flags set");
    }
    let written = write.written(committed).await;
    let written = (written.applied.is_some() || written.dry_run).then_some(written);
    Ok(Json(FlagsAnswer { flags: author::write_flags(&flags), status: None, warnings, written }))
}

/// What setting flags does to a run that goes on.
fn pauses(app: &AppState, set: &[(Flag, FlagState)]) -> Vec<String> {
    let active = app.rollouts.active().filter(|_| !set.is_empty());
    let says = |run: Arc<Run>| {
        let name = &run.plan.name;
        match run.phase {
            Phase::Paused { .. } => format!(
                "the rollout `{name}` is paused: an abort of it leaves these flags as they are now, and a resume sets its own again"
            ),
            _ => format!("the rollout `{name}` is active: it pauses, since its flags were set by hand"),
        }
    };
    active.map(says).into_iter().collect()
}

/// The flag that decides how a check is answered.
pub fn flag_of_check(check: Check) -> Flag {
    match check {
        Check::Ip => Flag::IpBlacklistCache,
        Check::Geo => Flag::GeoRulesCache,
        Check::Route => Flag::RouteCache,
    }
}

impl FlagsStatus {
    async fn of(app: &AppState, flags: &Flags, version: Version) -> ApiResult<Self> {
        let counts: PerCheck<CheckCounts> = app.store.checks().await?;
        let check = |check: Check| {
            let flag = flag_of_check(check);
            let status = CheckStatus {
                flag: flag.name(),
                clients: flags.get(flag).into(),
                counts: CheckStats::new(counts.get(check)),
            };
            (check.name(), status)
        };
        Ok(Self {
            version,
            checks: Check::ALL.into_iter().map(check).collect(),
            changed: last_changes(app, flags).await?,
            gateways: app.gateways.list().into_iter().map(GatewayInfo::from).collect(),
        })
    }
}

/// The newest entry of the audit for each flag; none if the flag's state differs from that entry,
/// because it was set by SQL since.
async fn last_changes(
    app: &AppState,
    flags: &Flags,
) -> ApiResult<BTreeMap<&'static str, Option<LastChange>>> {
    let mut changed = BTreeMap::new();
    for flag in Flag::ALL {
        let last = app.store.last_change("flag", flag.name()).await?;
        let now = Some(author::write_state(flags.get(flag)));
        let last = last.map(LastChange::from).filter(|last| last.to == now);
        changed.insert(flag.name(), last);
    }
    Ok(changed)
}
