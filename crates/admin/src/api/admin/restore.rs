//! `POST restore`: what people wrote, put back from a backup.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{DRY_RUN, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, WriteResult};
use crate::auth::Role;
use crate::gateways::Applied;
use crate::problem::{ApiResult, ProblemCode};
use crate::store::{Author, Committed, ImportCounts, Restored, RestoredTable};

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Puts what people wrote back from a backup, which the body is")
        .query(&[&WAIT_APPLIED, &DRY_RUN])
        .takes_binary()
        .answers::<RestoreAnswer>()
        .problems(&[ProblemCode::InvalidBackup]);
    Endpoints::default().post(Role::Admin, "/api/admin/restore", restore).about(about)
}

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct RestoreAnswer {
    /// Whether nothing was changed, as was asked for.
    dry_run: bool,
    tables: Vec<RestoredTable>,
    /// The version that includes the write.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// Puts bans, allow list, documents, flags and countries back from the backup that the body is, in one
/// transaction. Events, tokens and audit stay.
///
/// # Errors
/// When the body is no whole backup, breaks off or pauses for 15 s, or there is no room for it; then nothing was
/// changed.
pub async fn restore(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<RestoreAnswer>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let dry_run = write.is_dry_run();
    // Documents that are written meanwhile were checked against rows that this changes: they are checked again.
    let (pieces, received) = mpsc::channel(2);
    let (sent, restored) =
        tokio::join!(send(request.into_body(), pieces), app.store.restore(received, &author, dry_run));
    sent?;
    let Restored { seq, tables } = restored?;
    if dry_run {
        app.require_token(&author).await?;
        return Ok(Json(RestoreAnswer { dry_run, tables, version: None, applied: None }));
    }
    tracing::info!(by = %author.name, seq, "restored");
    let WriteResult { version, applied, .. } =
        write.written(Committed { seq, rows: 1, is_stale: false, import: ImportCounts::default() }).await;
    Ok(Json(RestoreAnswer { dry_run, tables, version: Some(version.to_string()), applied }))
}

/// Hands the body on, and at its end `None`. One that breaks off has no such end.
async fn send(mut body: Body, pieces: mpsc::Sender<Option<Bytes>>) -> ApiResult<()> {
    while let Some(data) = body::next_piece(&mut body).await? {
        // Where the store has given up, the rest is discarded: a client that writes before it reads would
        // not see the answer otherwise.
        let _ = pieces.send(Some(data)).await;
    }
    let _ = pieces.send(None).await;
    Ok(())
}
