//! `/api/admin/sources`: sources of bans, how their fetches go, and `refresh`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::Uri;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tidegate_author::{self as author, DocumentError, Place, Source};
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::entry_fields::{scope_warnings, too_many_scopes};
use crate::api::named_documents::NamedDocument;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{REFRESH_FORCE, WAIT_APPLIED};
use crate::api::query::{PathParam, QueryParams};
use crate::api::shadow_fields::with_mode_enforce;
use crate::api::wait_applied::PendingWrite;
use crate::auth::Role;
use crate::feed::{Documents, ParsedDocument, Snapshot};
use crate::gateways::Applied;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::sources::{FetchOutcome, RefreshError, Refreshed, is_stale};
use crate::store::{
    Author, Committed, DocumentKind, ImportCounts, SourceState, SourceStatus, StoreTable, time_text,
};
use crate::time;

/// Sources, at most: each is looked up for each changed ban.
const MAX_SOURCES: usize = 64;

/// The sources of bans.
pub enum BanSources {}

/// The path here besides those of all documents.
pub fn routes() -> Endpoints {
    let about = About::new("Fetches a source now")
        .query(&[&REFRESH_FORCE, &WAIT_APPLIED])
        .answers::<SourceRefreshed>()
        .problems(&[
            ProblemCode::SourceNotFound,
            ProblemCode::SourceFailed,
            ProblemCode::SourceChanged,
            ProblemCode::TableFull,
        ]);
    Endpoints::default().post(Role::Operate, "/api/admin/sources/{name}/refresh", refresh).about(about)
}

impl NamedDocument for BanSources {
    type Content = Source;
    const KIND: DocumentKind = DocumentKind::Source;
    const NOUN: &str = "source";
    const EXAMPLE: &str =
        r#"{"url": "https://lists.example.com/drop.txt", "interval": "12h", "reason": "on the drop list"}"#;
    const NOT_FOUND: ProblemCode = ProblemCode::SourceNotFound;
    const CONFLICTS: &'static [ProblemCode] = &[ProblemCode::TableFull];
    const CHECK_READS: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::Source)];
    const HAS_SHADOW: bool = true;

    fn of(snapshot: &Snapshot) -> &Documents<Source> {
        &snapshot.sources
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<Source> {
        &mut snapshot.sources
    }

    fn read(name: &str, mut document: Value) -> ApiResult<(String, Source)> {
        let content = author::read_source(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        // What a GET shows beside it.
        document.as_object_mut().map(|fields| fields.remove("status"));
        Ok((document.to_string(), content))
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, Source)> {
        let (text, source) = Self::read(name, document)?;
        let sources = &snapshot.sources.in_force;
        if sources.len() >= MAX_SOURCES && !sources.contains_key(name) {
            let detail =
                format!("with this one there are too many: up to {MAX_SOURCES}; remove others first");
            return Err(Problem::field("", "too_many", detail));
        }
        if source.applies_to.as_ref().is_some_and(|scope| !snapshot.may_have_scope(scope)) {
            return Err(too_many_scopes());
        }
        Ok((text, source))
    }

    fn problems_in(source: &Source, snapshot: &Snapshot) -> Vec<DocumentError> {
        let is_left_out = source.applies_to.as_ref().is_some_and(|scope| snapshot.is_scope_left_out(scope));
        let error = || DocumentError {
            pointer: "/applies_to".to_owned(),
            code: "too_many",
            message: too_many_scopes().detail().to_owned(),
        };
        is_left_out.then(error).into_iter().collect()
    }

    fn enforced(document: Value) -> Option<Value> {
        with_mode_enforce(document)
    }

    fn written(app: &AppState, snapshot: &Snapshot, _: &str, source: &Source) -> Vec<String> {
        let needs_files = matches!(source.place, Place::File(_))
            || source.credentials.is_some()
            || source.ca_file.is_some();
        let warning = "its file cannot be read: the service was started without --source-files";
        let warning = (needs_files && !app.sources.has_files()).then(|| warning.to_owned());
        warning.into_iter().chain(scope_warnings(source.applies_to.as_ref(), snapshot)).collect()
    }

    async fn states(app: &AppState) -> ApiResult<HashMap<String, Value>> {
        let snapshot = app.feed.snapshot();
        let states = app.store.source_states().await?;
        let shown = states.into_iter().map(|state| {
            let name = state.name.clone();
            (name, serde_json::to_value(SourceInfo::new(&snapshot, state)).unwrap_or_default())
        });
        Ok(shown.collect())
    }
}

/// How the fetches of a source go.
#[derive(Serialize, Debug, ToSchema)]
struct SourceInfo {
    /// `ok`, `failing`, `held_back` or `stale`.
    state: &'static str,
    /// Entries in force: they deny, or are in shadow, as the source's `mode` says.
    entries: usize,
    /// Entries that the source only simulates, which are always in shadow.
    simulated: usize,
    /// When the set was last known to be what the source has.
    fetched: Option<String>,
    /// How many seconds ago that was.
    age_s: Option<u64>,
    /// When it was last tried.
    tried: Option<String>,
    /// When it is tried again.
    next_try: Option<String>,
    /// Fetches that failed since the last that did not.
    failures: u64,
    /// Why the last one failed.
    error: Option<String>,
    /// Why a list that was fetched is not in force.
    held_back: Option<Value>,
    /// What became of the entries of the list that is in force.
    counts: Option<Value>,
}

impl SourceInfo {
    fn new(snapshot: &Snapshot, state: SourceState) -> Self {
        let SourceState { name, set, status } = state;
        let document = snapshot.sources.in_force.get(name.as_str());
        let stale = document.is_some_and(|document| {
            is_stale(&document.parsed, &status, document.created().map(Timestamp::as_millisecond))
        });
        let json = |text: &str| serde_json::from_str(text).ok();
        let checked_ms = status.checked_at.as_deref().and_then(time_text::to_ms);
        let age = checked_ms.map(|at| time_text::now_ms().saturating_sub(at).max(0).unsigned_abs() / 1_000);
        Self {
            state: state_name(&status, stale),
            entries: snapshot.source_set(&name).map_or(0, |set| set.listed.len()),
            simulated: snapshot.source_set(&name).map_or(0, |set| set.simulated.len()),
            fetched: status.checked_at.map(time::sql_to_rfc3339),
            age_s: age,
            tried: status.tried_at.map(time::sql_to_rfc3339),
            next_try: status.next_try_at.map(time::sql_to_rfc3339),
            failures: status.failures,
            error: status.error,
            held_back: status.held_back.as_deref().and_then(json),
            counts: set.and_then(|set| json(&set.counts)),
        }
    }
}

/// The states of sources.
const STATES: [&str; 4] = ["ok", "failing", "held_back", "stale"];

fn state_name(status: &SourceStatus, is_stale: bool) -> &'static str {
    let [ok, failing, held_back, stale] = STATES;
    match (&status.held_back, status.failures) {
        _ if is_stale => stale,
        (Some(_), _) => held_back,
        (None, 1..) => failing,
        (None, 0) => ok,
    }
}

/// How many sources of `snapshot` are in each state, by what is stored of them.
pub fn count_states(snapshot: &Snapshot, states: &[SourceState]) -> [(&'static str, usize); STATES.len()] {
    let of = |(name, document): (&Arc<str>, &Arc<ParsedDocument<Source>>)| {
        let found = states.iter().find(|state| state.name == **name);
        let status = found.map(|state| state.status.clone()).unwrap_or_default();
        let created = document.created().map(Timestamp::as_millisecond);
        state_name(&status, is_stale(&document.parsed, &status, created))
    };
    let all: Vec<&str> = snapshot.sources.in_force.iter().map(of).collect();
    STATES.map(|state| (state, all.iter().filter(|of| **of == state).count()))
}

/// Seconds since the source of `snapshot` was fetched that this was longest ago for, or made if it never was.
pub fn longest_age_s(snapshot: &Snapshot, states: &[SourceState]) -> f64 {
    let since_ms = |(name, document): (&Arc<str>, &Arc<ParsedDocument<Source>>)| {
        let found = states.iter().find(|state| state.name == **name);
        let checked = found.and_then(|state| state.status.checked_at.as_deref()).and_then(time_text::to_ms);
        checked.or_else(|| document.created().map(Timestamp::as_millisecond))
    };
    let now = time_text::now_ms();
    let oldest = snapshot.sources.in_force.iter().filter_map(since_ms).min().unwrap_or(now);
    Duration::from_millis(now.saturating_sub(oldest).max(0).unsigned_abs()).as_secs_f64()
}

/// The answer of `refresh`.
#[derive(Serialize, Debug, ToSchema)]
pub struct SourceRefreshed {
    name: String,
    /// `replaced`, `unchanged` or `held_back`.
    outcome: FetchOutcome,
    /// Entries in force now.
    entries: usize,
    /// Of these, such as there were not before.
    added: u64,
    /// Entries that are no longer there.
    removed: u64,
    /// What became of the list's entries; absent if the server said that it has not changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Value>,
    /// Why the list is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_back: Option<Value>,
    /// The version that includes it.
    version: String,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// Fetches a source now.
///
/// # Errors
/// When there is none, or it cannot be fetched or read: then the set before stays.
pub async fn refresh(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    uri: Uri,
) -> ApiResult<Json<SourceRefreshed>> {
    let params = QueryParams::read(&uri, &[REFRESH_FORCE.name, WAIT_APPLIED.name])?;
    let force = params.boolean(REFRESH_FORCE.name)?;
    let write = PendingWrite::prepare(&app, &params)?;
    let snapshot = app.current().await;
    let document = snapshot.sources.in_force.get(name.as_str());
    let scope = document.and_then(|document| document.parsed.applies_to.as_ref());
    if scope.is_some_and(|scope| snapshot.is_scope_left_out(scope)) {
        return Err(too_many_scopes());
    }
    let done = app.sources.refresh(&name, force, &author).await.map_err(|error| match error {
        RefreshError::NotFound => Problem::new(
            ProblemCode::SourceNotFound,
            "there is no source of this name; GET /api/admin/sources lists them",
        ),
        RefreshError::Changed => Problem::new(ProblemCode::SourceChanged, error.to_string()),
        RefreshError::Busy => Problem::new(ProblemCode::SourceFailed, error.to_string()),
        RefreshError::Failed(why) => {
            Problem::new(ProblemCode::SourceFailed, format!("{why}; what was fetched before stays in force"))
        }
        RefreshError::Store(error) => error.into(),
    })?;
    let Refreshed { outcome, entries, added, removed, counts, held_back, version, seq } = done;
    let committed = Committed { seq, rows: 1, is_stale: false, import: ImportCounts::default() };
    let applied = write.written(committed).await.applied;
    let version = version.to_string();
    Ok(Json(SourceRefreshed { name, outcome, entries, added, removed, counts, held_back, version, applied }))
}
