//! `/api/admin/rollouts`: plans of rollouts, their runs, what people ask of a run, and its report.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_author::DocumentError;
use tidegate_rollout::figures::{Group, GroupFigures, PerGroup, StageFigures};
use tidegate_rollout::plan::Plan;
use tidegate_rollout::report::report;
use tidegate_rollout::run::{Command, Phase, Refusal, Run, waits_for};
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::conditions::Conditions;
use crate::api::endpoints::Endpoints;
use crate::api::named_documents::NamedDocument;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CURVE_STEP, REPORT_FORMAT, WAIT_APPLIED};
use crate::api::query::{PathParam, QueryParams};
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::auth::Role;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::rollouts::{Asked, CommandError, CurrentRun, Done};
use crate::store::{Author, DocumentKind, StoreTable};
use crate::time;

/// Rollouts, at most.
const MAX_ROLLOUTS: usize = 64;
/// The longest step of curves.
const MAX_CURVE_STEP: Duration = Duration::from_secs(7 * 86_400);

/// The plans of rollouts.
pub enum RolloutPlans {}

/// The paths here besides those of all documents.
pub fn routes() -> Endpoints {
    const ONE: &str = "/api/admin/rollouts/{name}";
    let asks = |says: &str| {
        About::new(says)
            .query(&[&WAIT_APPLIED])
            .takes::<RunPlace>(json!({"stage": 1}))
            .or_no_body()
            .answers::<RunAnswer>()
            .problems(&[
                ProblemCode::RolloutNotFound,
                ProblemCode::RolloutNotStarted,
                ProblemCode::WrongPhase,
                ProblemCode::RunMovedOn,
                ProblemCode::RunUnreadable,
                ProblemCode::PreconditionFailed,
            ])
    };
    let starts = About::new("Begins a run of a rollout")
        .query(&[&WAIT_APPLIED])
        .answers::<RunAnswer>()
        .problems(&[ProblemCode::RolloutNotFound, ProblemCode::RolloutActive]);
    let reports = About::new("Answers the report of a rollout's last run")
        .query(&[&REPORT_FORMAT])
        .answers_json(json!({"type": "object", "required": ["name", "run", "phase", "stages", "notes"]}))
        .answers_with(200, "done", Some(("text/markdown", json!({"type": "string"}))))
        .problems(&[ProblemCode::RolloutNotFound, ProblemCode::RolloutNotStarted]);
    let curves = About::new("Answers the plan that a rollout's last run goes by, and what its present stage has measured over time")
        .query(&[&CURVE_STEP])
        .answers::<Curves>()
        .problems(&[ProblemCode::RolloutNotFound, ProblemCode::RolloutNotStarted]);
    Endpoints::default()
        .post(Role::Operate, &format!("{ONE}/start"), start)
        .about(starts)
        .post(Role::Operate, &format!("{ONE}/pause"), pause)
        .about(asks("Pauses a run: flags stay, and nothing is decided"))
        .post(Role::Operate, &format!("{ONE}/resume"), resume)
        .about(asks("Goes on with the stage of a paused run, which begins anew"))
        .post(Role::Operate, &format!("{ONE}/approve"), approve)
        .about(
            asks("Lets a run go on that waits for approval")
                .problems(&[ProblemCode::GateDoesNotHold, ProblemCode::FlagsChanged]),
        )
        .post(Role::Operate, &format!("{ONE}/abort"), abort)
        .about(asks("Ends a run, and sets the flags back to what they were before it, but for those that people have set since"))
        .get(Role::Read, &format!("{ONE}/report"), read_report)
        .about(reports)
        .get(Role::Read, &format!("{ONE}/figures"), figures)
        .about(curves)
}

impl NamedDocument for RolloutPlans {
    type Content = Plan;
    const KIND: DocumentKind = DocumentKind::Rollout;
    const NOUN: &str = "rollout";
    const EXAMPLE: &str = r#"{"stages": [{"name": "routes", "flags": {"enableRouteCache": {"percent": 10}}, "hold": "1h",
        "min_requests": 1000, "gates": [{"success": {"at_least": 0.999}}]}]}"#;
    const CONFLICTS: &'static [ProblemCode] = &[ProblemCode::RolloutActive];
    const NOT_FOUND: ProblemCode = ProblemCode::RolloutNotFound;
    const CHECK_READS: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::Rollout)];

    fn of(snapshot: &Snapshot) -> &Documents<Plan> {
        &snapshot.rollouts
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<Plan> {
        &mut snapshot.rollouts
    }

    fn read(name: &str, mut document: Value) -> ApiResult<(String, Plan)> {
        // What a GET shows beside it.
        for shown in ["status", "removed"] {
            document.as_object_mut().map(|fields| fields.remove(shown));
        }
        let content = Plan::read(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn problems_in(_: &Plan, snapshot: &Snapshot) -> Vec<DocumentError> {
        let is_too_many = snapshot.rollouts.in_force.len() > MAX_ROLLOUTS;
        let problem = || DocumentError {
            pointer: String::new(),
            code: "too_many",
            message: format!("there may be {MAX_ROLLOUTS}; remove others first"),
        };
        is_too_many.then(problem).into_iter().collect()
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, Plan)> {
        let (text, plan) = Self::read(name, document)?;
        let rollouts = &snapshot.rollouts.in_force;
        if rollouts.len() >= MAX_ROLLOUTS && !rollouts.contains_key(name) {
            let detail =
                format!("with this one there are too many: up to {MAX_ROLLOUTS}; remove others first");
            return Err(Problem::field("", "too_many", detail));
        }
        Ok((text, plan))
    }

    fn written(app: &AppState, _: &Snapshot, name: &str, plan: &Plan) -> Vec<String> {
        let mut warnings = Vec::new();
        if app.rollouts.active().is_some_and(|run| run.plan.name == name) {
            warnings
                .push("its run goes on by the plan that it began with: this one is for the next".to_owned());
        }
        if plan.webhooks.iter().any(|webhook| webhook.secret_file.is_some()) && !app.sources.has_files() {
            warnings.push(
                "its webhooks cannot be signed: the service was started without --source-files".to_owned(),
            );
            return warnings;
        }
        for file in plan.webhooks.iter().filter_map(|webhook| webhook.secret_file.as_deref()) {
            if let Err(why) = app.sources.secret(file) {
                warnings.push(format!("a webhook cannot be signed, and is told nothing until it can: {why}"));
            }
        }
        warnings
    }

    fn check_removal(app: &AppState, _: &Snapshot, name: &str) -> ApiResult<()> {
        match app.rollouts.active().filter(|run| run.plan.name == name) {
            Some(run) => Err(Problem::new(
                ProblemCode::RolloutActive,
                format!("its run is {}: abort it first", run.phase.name()),
            )),
            None => Ok(()),
        }
    }

    /// The run that goes on is shown whatever becomes of its document.
    async fn without_document(app: &AppState, snapshot: &Snapshot) -> ApiResult<Vec<(String, Value)>> {
        let has_none = |of: &CurrentRun| {
            of.run.phase.is_active() && !snapshot.rollouts.in_force.contains_key(of.row.name.as_str())
        };
        let runs = app.rollouts.runs().await?.into_iter().filter(has_none);
        let shown = |of: CurrentRun| {
            let mut document = of.run.plan.to_document();
            document["name"] = Value::from(of.row.name.as_str());
            document["removed"] = Value::from(true);
            (of.row.name, document)
        };
        Ok(runs.map(shown).collect())
    }

    async fn states(app: &AppState) -> ApiResult<HashMap<String, Value>> {
        let runs = app.rollouts.runs().await?;
        let shown = |of: CurrentRun| {
            (of.row.name.clone(), serde_json::to_value(RunInfo::of(&of.run)).unwrap_or_default())
        };
        Ok(runs.into_iter().map(shown).collect())
    }
}

/// How a run goes.
#[derive(Serialize, Debug, ToSchema)]
struct RunInfo {
    /// The run's number: it is the rollout's so-many-th.
    run: u64,
    /// `running`, `waiting_for_approval`, `paused`, `rolled_back`, `aborted` or `completed`.
    phase: &'static str,
    /// Why it is paused or was rolled back; `null`: neither.
    reason: Option<String>,
    /// What kind of reason: `asked`, `gate_failed`, `timed_out`, `flags_changed`, `restored` (the database was put back from a
    /// backup) or `unreadable` (what is stored of the run cannot be read).
    cause: Option<Value>,
    /// Who paused or aborted it; `null`: nobody, or the run itself.
    by: Option<String>,
    /// The stage that it is in or ended in,
    stage: String,
    /// which is its plan's so-many-th, from 1,
    stage_number: usize,
    /// of so many.
    stages: usize,
    /// Who started it.
    started_by: String,
    /// When.
    began: Option<String>,
    /// When it ended.
    ended: Option<String>,
    /// When the stage, or what is measured of it now, began.
    entered: Option<String>,
    /// For how long the stage has been held, milliseconds; while no requests come that does not count.
    held_ms: u64,
    /// For how long it is held at least.
    hold_ms: u64,
    /// Requests of both groups at the last look,
    requests: u64,
    /// and how many there must be.
    min_requests: u64,
    /// What the stage waits for, in words; empty: it does not go on.
    waits_for: Vec<String>,
    /// What the stage's gates said when they were last looked at.
    #[schema(value_type = Vec<Value>)]
    gates: Vec<Value>,
}

impl RunInfo {
    fn of(run: &Run) -> Self {
        let stage = run.stage();
        let (by, reason) = match &run.phase {
            Phase::Paused { by, reason } => (by.clone(), Some(reason)),
            Phase::RolledBack { reason } => (None, Some(reason)),
            Phase::Aborted { by } => (Some(by.clone()), None),
            Phase::Running | Phase::WaitingForApproval | Phase::Completed => (None, None),
        };
        let results = run.current.gates.iter().filter_map(|gate| gate.result.as_ref());
        Self {
            run: run.number,
            phase: run.phase.name(),
            reason: reason.map(|reason| reason.says.clone()),
            cause: reason.and_then(|reason| serde_json::to_value(reason.cause).ok()),
            by,
            stage: stage.map(|stage| stage.name.clone()).unwrap_or_default(),
            stage_number: run.stage.saturating_add(1),
            stages: run.plan.stages.len(),
            started_by: run.started_by.clone(),
            began: rfc3339(run.began_ms),
            ended: run.ended_ms.and_then(rfc3339),
            entered: rfc3339(run.current.entered_ms),
            held_ms: run.current.held_ms,
            hold_ms: stage.map_or(0, |stage| stage.hold_ms),
            requests: run.current.requests,
            min_requests: stage.map_or(0, |stage| stage.min_requests),
            waits_for: waits_for(run),
            gates: results.filter_map(|result| serde_json::to_value(result).ok()).collect(),
        }
    }
}

fn rfc3339(ms: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(time::rfc3339(at))
}

/// The answer of what people ask of a run.
#[derive(Serialize, Debug, ToSchema)]
struct RunAnswer {
    /// The rollout's name.
    name: String,
    status: RunInfo,
    #[serde(flatten)]
    written: WriteResult,
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let code = match &error {
            CommandError::Store(error) => return error.clone().into(),
            CommandError::NoRun => ProblemCode::RolloutNotStarted,
            CommandError::OtherActive(_) => ProblemCode::RolloutActive,
            CommandError::Refused(Refusal::Active(_)) => ProblemCode::RolloutActive,
            CommandError::Refused(Refusal::GateDoesNotHold(_)) => ProblemCode::GateDoesNotHold,
            CommandError::Refused(Refusal::FlagsDiffer) => ProblemCode::FlagsChanged,
            CommandError::Refused(Refusal::WrongPhase { .. }) => ProblemCode::WrongPhase,
            CommandError::Refused(Refusal::MovedOn { .. }) => ProblemCode::RunMovedOn,
            CommandError::Refused(Refusal::Unreadable) => ProblemCode::RunUnreadable,
        };
        Self::new(code, error.to_string())
    }
}

/// Begins a run.
///
/// # Errors
/// When there is no such rollout, or a run is active.
async fn start(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    uri: Uri,
) -> ApiResult<Json<RunAnswer>> {
    let params = QueryParams::read(&uri, &[WAIT_APPLIED.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let snapshot = app.in_force().await?;
    let plan = snapshot.rollouts.in_force.get(name.as_str()).ok_or_else(no_rollout)?;
    let done = app.rollouts.start(&plan.parsed, &author).await?;
    Ok(answer(write, name, done).await)
}

async fn pause(
    app: State<AppState>,
    by: Extension<Author>,
    name: PathParam,
    request: Request,
) -> ApiResult<Json<RunAnswer>> {
    ask(app, by, name, request, Command::Pause).await
}

async fn resume(
    app: State<AppState>,
    by: Extension<Author>,
    name: PathParam,
    request: Request,
) -> ApiResult<Json<RunAnswer>> {
    ask(app, by, name, request, Command::Resume).await
}

async fn approve(
    app: State<AppState>,
    by: Extension<Author>,
    name: PathParam,
    request: Request,
) -> ApiResult<Json<RunAnswer>> {
    ask(app, by, name, request, Command::Approve).await
}

async fn abort(
    app: State<AppState>,
    by: Extension<Author>,
    name: PathParam,
    request: Request,
) -> ApiResult<Json<RunAnswer>> {
    ask(app, by, name, request, Command::Abort).await
}

/// What a request is about, so that it is not carried out on what came later: all of it may be left out.
#[derive(Deserialize, Default, Debug, ToSchema)]
#[serde(deny_unknown_fields)]
struct RunPlace {
    /// The stage that the run must be in: `stage_number`, from 1.
    stage: Option<usize>,
    /// The number of the run.
    run: Option<u64>,
}

/// Carries out what a person asks of a run.
async fn ask(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    request: Request,
    command: Command,
) -> ApiResult<Json<RunAnswer>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name])?;
    if Conditions::read(request.headers())?.are_given() {
        let detail =
            "a run has no `ETag`: send {\"run\": 1, \"stage\": 2} as the body to say which one is meant";
        return Err(Problem::new(ProblemCode::PreconditionFailed, detail));
    }
    let write = PendingWrite::prepare(&app, &params)?;
    let RunPlace { stage, run } = body::json_if_any(request).await?;
    // What is refused before it is stored tells a revoked token nothing of rollouts.
    app.require_token(&author).await?;
    let done = match app.rollouts.command(&name, Asked { command, run, stage }, &author).await {
        Err(CommandError::NoRun) => return Err(no_run(&app, &name).await?),
        done => done?,
    };
    Ok(answer(write, name, done).await)
}

/// The problem of a rollout without a run: it has had none, or there is no such rollout.
async fn no_run(app: &AppState, name: &str) -> ApiResult<Problem> {
    Ok(match app.in_force().await?.rollouts.in_force.contains_key(name) {
        true => CommandError::NoRun.into(),
        false => no_rollout(),
    })
}

fn no_rollout() -> Problem {
    let detail = "there is no rollout of this name; GET /api/admin/rollouts lists them";
    Problem::new(ProblemCode::RolloutNotFound, detail)
}

async fn answer(write: PendingWrite<'_>, name: String, done: Done) -> Json<RunAnswer> {
    let status = RunInfo::of(&done.run);
    Json(RunAnswer { name, status, written: write.written(done.committed).await })
}

/// The last run of a rollout.
async fn last_run(app: &AppState, name: &str) -> ApiResult<CurrentRun> {
    match app.rollouts.run(name).await? {
        Some(run) => Ok(run),
        None => Err(no_run(app, name).await?),
    }
}

/// Answers the report, as JSON or as a page of Markdown.
async fn read_report(
    State(app): State<AppState>,
    PathParam(name): PathParam,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let params = QueryParams::read(&uri, &[REPORT_FORMAT.name])?;
    let asked = params.word(REPORT_FORMAT.name, &["json", "markdown"])?;
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_markdown = asked.map_or_else(|| accepts.starts_with("text/markdown"), |word| word == "markdown");
    let of = last_run(&app, &name).await?;
    let figures = app.rollouts.figures(&of).await?;
    let report = report(&of.run, figures.as_ref());
    Ok(match is_markdown {
        true => ([(CONTENT_TYPE, "text/markdown")], report.to_markdown()).into_response(),
        false => Json(report).into_response(),
    })
}

/// What a stage has measured, over time.
#[derive(Serialize, Debug, ToSchema)]
struct Curves {
    /// The run's number.
    run: u64,
    /// The stage's name.
    stage: String,
    /// The plan that the run goes by, which is the document as it was when the run began.
    #[schema(value_type = Value)]
    plan: Plan,
    /// When the first slice began.
    began: Option<String>,
    /// Length of a slice, milliseconds: `step`, or the next longer multiple of how finely the stage is measured.
    slice_ms: u64,
    /// Slices with requests, oldest first. Old ones of a stage that goes on for longer than its timeout are put together.
    slices: Vec<CurvePoint>,
}

/// What was measured in a slice of time.
#[derive(Serialize, Debug, ToSchema)]
struct CurvePoint {
    /// Which slice it is, from 0, by when the service was told of the requests: time in which it was away has none.
    slice: u32,
    /// For whom the stage's flags are not on.
    control: CurveGroup,
    /// For whom they are.
    treated: CurveGroup,
}

/// What a group measured in a slice of time.
#[derive(Serialize, Debug, ToSchema)]
struct CurveGroup {
    requests: u64,
    succeeded: u64,
    server_errors: u64,
    denied: u64,
    gate_ms: CurvePercentiles,
    total_ms: CurvePercentiles,
}

/// Percentiles, milliseconds; `null`: there was no time.
#[derive(Serialize, Debug, ToSchema)]
struct CurvePercentiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

impl CurveGroup {
    fn of(figures: &GroupFigures) -> Self {
        let percentiles = |of: &tidegate_statistics::histogram::Histogram| {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
            let [p50, p95, p99] =
                [0.5, 0.95, 0.99].map(|share| of.quantile(share).map(|us| us as f64 / 1_000.0));
            CurvePercentiles { p50, p95, p99 }
        };
        Self {
            requests: figures.requests,
            succeeded: figures.succeeded,
            server_errors: figures.server_errors,
            denied: figures.denied,
            gate_ms: percentiles(&figures.gate),
            total_ms: percentiles(&figures.total),
        }
    }
}

/// Answers what the present measurement of the last run has.
async fn figures(
    State(app): State<AppState>,
    PathParam(name): PathParam,
    uri: Uri,
) -> ApiResult<Json<Curves>> {
    let params = QueryParams::read(&uri, &[CURVE_STEP.name])?;
    let step = params.duration(CURVE_STEP.name, MAX_CURVE_STEP)?.unwrap_or_default();
    let of = last_run(&app, &name).await?;
    let stage = of.run.stage();
    let slice_ms = stage.map_or(1, tidegate_rollout::plan::Stage::slice_ms);
    let times = u64::try_from(step.as_millis()).unwrap_or(u64::MAX).div_ceil(slice_ms).max(1);
    let slices = merged(app.rollouts.counted(&of).await?, times);
    let point = |(slice, groups): (u32, PerGroup<GroupFigures>)| CurvePoint {
        slice,
        control: CurveGroup::of(groups.get(Group::Control)),
        treated: CurveGroup::of(groups.get(Group::Treated)),
    };
    Ok(Json(Curves {
        run: of.run.number,
        stage: stage.map(|stage| stage.name.clone()).unwrap_or_default(),
        plan: of.run.plan.clone(),
        began: rfc3339(of.run.current.entered_ms),
        slice_ms: slice_ms.saturating_mul(times),
        slices: slices.into_iter().map(point).collect(),
    }))
}

/// Slices that are `times` as long, by their number.
fn merged(figures: StageFigures, times: u64) -> BTreeMap<u32, PerGroup<GroupFigures>> {
    let mut merged = BTreeMap::<u32, PerGroup<GroupFigures>>::new();
    let times = u32::try_from(times).unwrap_or(u32::MAX).max(1);
    for (slice, groups) in figures.slices {
        let into = merged.entry(slice / times).or_default();
        for group in Group::ALL {
            into.get_mut(group).add(groups.get(group));
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use tidegate_rollout::figures::Block;

    use super::*;

    #[test]
    fn slices_are_put_together_and_lose_nothing() {
        let of = |requests| GroupFigures { requests, ..GroupFigures::default() };
        let mut figures = StageFigures::default();
        for (slice, requests) in [(0, 1), (2, 2), (3, 4), (7, 8)] {
            figures.add(Block::Slice(slice), Group::Treated, &of(requests));
            figures.add(Block::Slice(slice), Group::Control, &of(1));
        }
        let of_each = |times| -> Vec<(u32, u64, u64)> {
            let slices = merged(figures.clone(), times).into_iter();
            slices.map(|(at, groups)| (at, groups.treated.requests, groups.control.requests)).collect()
        };
        assert_eq!(of_each(1), [(0, 1, 1), (2, 2, 1), (3, 4, 1), (7, 8, 1)]);
        assert_eq!(of_each(3), [(0, 3, 2), (1, 4, 1), (2, 8, 1)]);
        assert_eq!(of_each(u64::MAX), [(0, 15, 4)]);
    }
}
