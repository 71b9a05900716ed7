//! `POST /api/admin/apply`: many documents of all kinds at once, all of them or none.

mod addresses;
mod manifests;
mod plan;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{DRY_RUN, FORCE, PRUNE, WAIT_APPLIED};
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, TRIES, WriteResult};
use crate::auth::Role;
use crate::gateways::Applied;
use crate::manifest;
use crate::problem::{ApiResult, Problem};
use crate::store::{
    Author, Change, Committed, ImportCounts, StoreError, StoreTable, Unchanged, UnchangedRows,
};
use plan::{ApplyPlan, DocumentOutcome, Wishes};

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Applies many documents at once: all of them, or none")
        .query(&[&WAIT_APPLIED, &DRY_RUN, &PRUNE, &FORCE])
        .takes_document(
            "Documents",
            json!({"documents": [{
                "apiVersion": manifest::API_VERSION,
                "kind": "GeoRule",
                "metadata": {"name": "eu"},
                "spec": {"mode": "allow", "countries": ["DE", "FR"]},
            }], "kinds": ["GeoRule"]}),
        )
        .answers::<ApplyAnswer>()
        .once_per_key();
    Endpoints::default().post(Role::Admin, "/api/admin/apply", apply).about(about)
}

/// Bytes of a body, at most.
const MAX_BODY: usize = 32 << 20;

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct ApplyAnswer {
    /// Whether nothing was changed, as was asked for.
    dry_run: bool,
    /// What became of each document, then what was removed; or what would.
    results: Vec<DocumentOutcome>,
    /// The version that includes the write.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// Applies the documents of the body in one transaction. What is there already is not written.
/// `prune=true`: of the kinds that the body has, what it does not have is removed. `force=true`: bans
/// are made although a network is protected, or on the allow list.
///
/// # Errors
/// When anything is wrong with any document: all that is wrong is listed, and nothing was changed.
pub async fn apply(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    request: Request<Body>,
) -> ApiResult<Json<ApplyAnswer>> {
    let params =
        QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name, PRUNE.name, FORCE.name])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let dry_run = write.is_dry_run();
    let [prune, force] = [&PRUNE, &FORCE].map(|parameter| params.boolean(parameter.name));
    let wishes = Wishes { prune: prune?, force: force?, with_documents: dry_run };
    let body = body::document_up_to(request, MAX_BODY).await?;
    let wanted = spawn_blocking(move || manifests::read(body)).await.map_err(|_| Problem::stopping())??;
    let wanted = Arc::new(wanted);
    let alone = app.documents.lock().await;
    for _ in 0..TRIES {
        // By an older state what others wrote would not be pruned.
        let snapshot = app.in_force().await?;
        let since = snapshot.version.seq;
        let (of, asked) = (app.clone(), Arc::clone(&wanted));
        let plan = spawn_blocking(move || ApplyPlan::make(&of, &asked, &snapshot, wishes)).await;
        let ApplyPlan { changes, addresses, scoped, results } = plan.map_err(|_| Problem::stopping())??;
        if dry_run {
            app.require_token(&author).await?;
            return Ok(Json(ApplyAnswer { dry_run, results, version: None, applied: None }));
        }
        let committed = match changes.is_empty() {
            true => Committed { seq: since, rows: 0, is_stale: false, import: ImportCounts::default() },
            false => {
                // What somebody else has written since the plan was made is not overwritten: it is planned anew.
                let only_if = Some(Unchanged { tables: &StoreTable::DOCUMENTS, since });
                let entries = [(StoreTable::Ip, addresses), (StoreTable::ScopedBans, scoped)];
                let entries = entries.map(|(table, keys)| UnchangedRows { table, keys: Some(keys), since });
                let change = Change::All { changes, only_if };
                let committed = write.commit_if(change, &author, entries).await?;
                if committed.is_stale {
                    continue;
                }
                committed
            }
        };
        // Gateways may take half a minute.
        drop(alone);
        tracing::info!(by = %author.name, rows = committed.rows, seq = committed.seq, "documents applied");
        let WriteResult { version, applied, .. } = write.written(committed).await;
        return Ok(Json(ApplyAnswer { dry_run, results, version: Some(version.to_string()), applied }));
    }
    Err(StoreError::Busy.into())
}
