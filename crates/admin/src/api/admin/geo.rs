//! `POST geo`: the country table, from an uploaded file.

use std::path::Path;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use clap::ValueEnum;
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{DRY_RUN, FILE_FORMAT, FILE_NAME, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::PendingWrite;
use crate::auth::Role;
use crate::gateways::Applied;
use crate::geo::{self, FileFormat};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{Author, Change};

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Replaces the country table by a file, which the body is")
        .query(&[&WAIT_APPLIED, &DRY_RUN, &FILE_NAME, &FILE_FORMAT])
        .takes_binary()
        .answers::<ImportAnswer>()
        .problems(&[ProblemCode::InvalidField]);
    Endpoints::default().post(Role::Admin, "/api/admin/geo", import).about(about)
}

/// Bytes of a file, at most: twice the largest country database that providers offer.
const MAX_FILE: usize = 128 << 20;

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct ImportAnswer {
    /// Whether nothing was changed, as was asked for.
    dry_run: bool,
    source: String,
    ranges: ImportedRanges,
    countries: usize,
    bytes: usize,
    /// Ranges that were left out, as of no known country.
    left_out: u64,
    /// The version that includes the write.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

#[derive(Serialize, Debug, ToSchema)]
struct ImportedRanges {
    v4: usize,
    v6: usize,
}

/// Replaces the country table by the file that the body is: mmdb, CSV, or a zip archive of these.
/// `name` is what the table's source is called.
///
/// # Errors
/// When the file is none of these, or not right; then nothing was changed.
pub async fn import(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<ImportAnswer>> {
    let params = QueryParams::read(
        request.uri(),
        &[WAIT_APPLIED.name, DRY_RUN.name, FILE_NAME.name, FILE_FORMAT.name],
    )?;
    let name = params.get(FILE_NAME.name).unwrap_or("upload").to_owned();
    let format = match params.get(FILE_FORMAT.name) {
        None => FileFormat::Auto,
        Some(text) => FileFormat::from_str(text, false)
            .map_err(|_| Problem::parameter("format", "invalid", "`format` may be auto, mmdb or csv"))?,
    };
    let write = PendingWrite::prepare(&app, &params)?;
    let dry_run = write.is_dry_run();
    let _place = app.places.country_file()?;
    let (_, bytes) = body::large_bytes(request, MAX_FILE).await?;
    let read = spawn_blocking(move || geo::read_bytes(Path::new(&name), bytes, format)).await;
    let imported = read
        .map_err(|_| Problem::stopping())?
        .map_err(|why| Problem::field("", "invalid", format!("{why:#}")))?;
    let mut answer = ImportAnswer {
        dry_run,
        source: imported.source.clone(),
        ranges: ImportedRanges { v4: imported.v4, v6: imported.v6 },
        countries: imported.countries,
        bytes: imported.table.len(),
        left_out: imported.skipped.values().sum(),
        version: None,
        applied: None,
    };
    if dry_run {
        app.require_token(&author).await?;
    } else {
        let change = Change::SetCountries { source: imported.source, table: imported.table };
        let (_, written) = write.commit(change, &author).await?;
        tracing::info!(by = %author.name, version = %written.version, source = answer.source, "countries imported");
        (answer.version, answer.applied) = (Some(written.version.to_string()), written.applied);
    }
    Ok(Json(answer))
}
