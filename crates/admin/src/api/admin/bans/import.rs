//! `POST bans/import`: the bans of a list, all of them or none.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use serde::Serialize;
use tidegate_author::ban_list::{BanListReader, ListFormat, RefusedEntry};
use tidegate_author::read_scope_text;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::{SOURCE_FORM, is_source, list_body};
use crate::api::app_state::AppState;
use crate::api::entry_fields::{check_reason, too_many_scopes};
use crate::api::openapi::parameters::{DRY_RUN, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::PendingWrite;
use crate::ban_lists::check::{CheckedList, ImportRules, MAX_REFUSALS, seconds_after};
use crate::feed::{RowStatus, Snapshot};
use crate::gateways::Applied;
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::protected_networks::not_public;
use crate::store::{Author, BanImport, BanMode, Change, ImportCounts};
use crate::time;

/// What is asked for.
struct ImportParams {
    format: Option<ListFormat>,
    source: Option<String>,
    mode: ImportMode,
    shadow: BanMode,
    ttl: Option<Duration>,
    reason: Option<Arc<str>>,
    min_score: Option<f64>,
    strict: bool,
    force: bool,
}

/// What becomes of bans that the list does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ImportMode {
    /// They stay.
    Add,
    /// Those of the same source are removed.
    Replace,
}

impl FromStr for ImportMode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "add" => Ok(Self::Add),
            "replace" => Ok(Self::Replace),
            _ => Err(()),
        }
    }
}

impl ImportParams {
    fn read(params: &QueryParams) -> ApiResult<Self> {
        let asked = Self {
            format: params.parsed("format", ListFormat::FORM)?,
            source: params.get("source").map(str::to_owned),
            mode: params.parsed("mode", "write add or replace")?.unwrap_or(ImportMode::Add),
            shadow: if params.boolean("shadow")? { BanMode::Shadow } else { BanMode::Enforce },
            ttl: params.duration("ttl", time::MAX_DURATION)?,
            reason: params.get("reason").filter(|text| !text.is_empty()).map(Into::into),
            min_score: params.parsed("min_score", "write a number")?,
            strict: params.boolean("strict")?,
            force: params.boolean("force")?,
        };
        if asked.source.as_deref().is_some_and(|name| !is_source(name)) {
            return Err(Problem::parameter("source", "invalid", SOURCE_FORM));
        }
        if asked.mode == ImportMode::Replace && asked.source.is_none() {
            let detail = "`mode=replace` replaces what a source has: name it with `source`";
            return Err(Problem::parameter("source", "required", detail));
        }
        if asked.min_score.is_some_and(|score| !score.is_finite()) {
            return Err(Problem::parameter("min_score", "invalid", "write a number"));
        }
        if asked.ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Err(Problem::parameter("ttl", "in_the_past", "the bans would be over already"));
        }
        check_reason(asked.reason.as_deref())
            .map_err(|error| Problem::parameter("reason", error.code, error.detail))?;
        Ok(asked)
    }
}

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct BanImportAnswer {
    /// How the list was read.
    format: &'static str,
    mode: ImportMode,
    /// Whether the bans deny nobody, and what they would deny is recorded.
    shadow: bool,
    source: Option<String>,
    /// Nothing was changed: these are the counts of what would be.
    dry_run: bool,
    #[serde(flatten)]
    counts: ImportCounts,
    /// Entries that others of the list repeat.
    duplicates: u64,
    /// Entries that are not wanted, by reason.
    skipped: BTreeMap<&'static str, u64>,
    /// Entries that were refused, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// The first of them.
    refusals: Vec<RefusalInfo>,
    /// The version that includes the bans.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// An entry that was refused.
#[derive(Serialize, Debug, ToSchema)]
struct RefusalInfo {
    line: u64,
    code: &'static str,
    text: String,
    detail: String,
}

impl From<RefusedEntry> for RefusalInfo {
    fn from(refused: RefusedEntry) -> Self {
        let RefusedEntry { line, code, text, why } = refused;
        Self { line, code: code.name(), text, detail: why }
    }
}

/// Bans what a list has: in one transaction, and audited as one change.
///
/// # Errors
/// When a parameter is wrong, the body is no list or too large, `strict` is given and an entry was
/// refused, or a list that is to replace another has no entry; then nothing was changed.
pub async fn import(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<BanImportAnswer>> {
    const KNOWN: &[&str] = &[
        "format",
        "source",
        "mode",
        "shadow",
        "ttl",
        "reason",
        "min_score",
        DRY_RUN.name,
        "strict",
        "force",
        WAIT_APPLIED.name,
    ];
    let params = QueryParams::read(request.uri(), KNOWN)?;
    let write = PendingWrite::prepare(&app, &params)?;
    let dry_run = write.is_dry_run();
    let asked = ImportParams::read(&params)?;
    // One after the other: each may take a hundred megabytes.
    let turn = app.imports.lock().await;
    let mut rules =
        if asked.force { ImportRules::none() } else { rules(&app, asked.source.is_some()).await? };
    rules.end = asked.ttl.and_then(|ttl| seconds_after(time::now(), ttl));
    rules.reason.clone_from(&asked.reason);
    rules.take_scopes = true;
    let reader = BanListReader::new(asked.format, asked.min_score);
    let (format, list) = list_body::read(request, reader, CheckedList::new(rules)).await?;
    let snapshot = app.feed.snapshot();
    let checked = spawn_blocking(move || check(&snapshot, &asked, &list).map(|()| (asked, list))).await;
    let (asked, mut list) = checked.map_err(|_| Problem::stopping())??;
    let import = Arc::new(BanImport {
        source: asked.source.clone(),
        replaces: asked.mode == ImportMode::Replace,
        mode: asked.shadow,
        bans: std::mem::take(&mut list.bans),
    });
    let (counts, written) = match dry_run {
        true => {
            app.require_token(&author).await?;
            (app.store.preview_import(&import).await?, None)
        }
        false => {
            let committed = app.store.commit(Change::ImportBans(import), &author).await?;
            drop(turn);
            (committed.import, Some(write.written(committed).await))
        }
    };
    tracing::info!(by = %author.name, source = asked.source, dry_run, ?counts, "import of bans");
    Ok(Json(BanImportAnswer {
        format: format.name(),
        mode: asked.mode,
        shadow: asked.shadow == BanMode::Shadow,
        source: asked.source,
        dry_run,
        counts,
        duplicates: list.duplicates,
        skipped: list.skipped.iter().map(|(why, count)| (why.name(), *count)).collect(),
        refused: list.refused.iter().map(|(code, count)| (code.name(), *count)).collect(),
        refusals: list.refusals.into_iter().map(Into::into).collect(),
        version: written.as_ref().map(|written| written.version.to_string()),
        applied: written.and_then(|written| written.applied),
    }))
}

/// What holds for the entries at this moment. `of_others`: it is a list of others, and not what a person bans,
/// who may have clients in a private network.
async fn rules(app: &AppState, of_others: bool) -> ApiResult<ImportRules> {
    let snapshot = app.current().await;
    let protected = app.protected.list(&app.gateways).into_iter().map(|network| network.block);
    let protected: Vec<_> = protected.chain(not_public().filter(|_| of_others)).collect();
    // The allow list may have a million entries.
    let rules = spawn_blocking(move || ImportRules::of(&snapshot, protected)).await;
    rules.map_err(|_| Problem::stopping())
}

/// Whether the list may be imported as it is. Not for the async threads: it may have two million entries.
fn check(snapshot: &Snapshot, asked: &ImportParams, list: &CheckedList) -> ApiResult<()> {
    let refused = list.refused_total();
    if refused > 0 && (asked.strict || list.bans.is_empty()) {
        let why = if asked.strict { "and `strict` was given" } else { "and there is no other" };
        let detail = format!("{refused} entries of the list were refused, {why}: nothing was changed");
        let errors = list.refusals.iter().take(MAX_REFUSALS).map(|one| FieldError {
            pointer: None,
            parameter: None,
            header: None,
            code: one.code.name(),
            detail: format!("line {}: {}", one.line, one.why),
        });
        return Err(Problem::new(ProblemCode::ListRefused, detail).with_errors(errors.collect()));
    }
    if list.bans.is_empty() && asked.mode == ImportMode::Replace && !asked.force {
        let detail = "the list has no entry, so it would remove all bans of its source: nothing was changed; \
                      with `force` it does";
        return Err(Problem::new(ProblemCode::ListRefused, detail));
    }
    if !snapshot.have_room(list.scopes().filter_map(|text| read_scope_text(text).ok())) {
        return Err(too_many_scopes());
    }
    let everywhere = list.bans.iter().filter(|ban| ban.applies_to.is_none()).map(|ban| ban.prefix);
    let everywhere: Vec<_> = everywhere.collect();
    if !snapshot.has_room_for_all(RowStatus::of_ban(asked.shadow), everywhere.into_iter()) {
        let detail = "the table of bans has no room for all of this list: nothing was changed; remove bans that are \
                      not needed, or import blocks instead of single addresses";
        return Err(Problem::new(ProblemCode::TableFull, detail));
    }
    Ok(())
}
