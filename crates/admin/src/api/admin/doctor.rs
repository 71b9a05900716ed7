//! `GET /api/admin/doctor`: what is wrong with the service and its gateways, what will be, and what
//! mends it. It has all that health says, and what costs more to find out.

mod examination;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tidegate_policy::tables::Table;
use utoipa::ToSchema;

use crate::api::admin::gateways::GatewayInfo;
use crate::api::admin::optimization::health;
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::finding::{Finding, Severity};
use crate::problem::ApiResult;
use crate::time;
use examination::Examination;

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Says what is wrong, what will be, and what mends it").answers::<Examined>();
    Endpoints::default().get(Role::Read, "/api/admin/doctor", examine).about(about)
}

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct Examined {
    /// `ok`: all findings are notes; else that of the worst, `warning` or `error`.
    status: &'static str,
    /// The worst first.
    findings: Vec<Finding>,
}

/// Answers what is found.
pub async fn examine(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<Examined>> {
    QueryParams::read(&uri, &[])?;
    let snapshot = app.current().await;
    // What cannot be read is among the findings, which are made after these.
    let (tokens, recording) = tokio::join!(app.store.tokens(), app.store.recording());
    let (store, gateways) = (app.store.health(), app.gateways.list());
    let shown: Vec<GatewayInfo> = gateways.iter().cloned().map(GatewayInfo::from).collect();
    let unknown = snapshot.unknown_backends(&app.clusters);
    let mut findings =
        health::findings(&app, &snapshot, &app.feed.health(), &store, &shown, unknown.len()).await;
    let examination = Examination {
        version: snapshot.version,
        flags: snapshot.tables.whole[Table::Flags].hash,
        gateways: &gateways,
        unenforced: app.gateways.unenforced(),
        store: &store,
        tokens: &tokens.unwrap_or_default(),
        recording: &recording.unwrap_or_default(),
        failed_handshakes: app.tls.gateways.as_ref().map_or(0, |tls| tls.state().failed_handshakes),
        now: time::now(),
    };
    findings.extend(examination.findings());
    findings.sort_by_key(|finding| finding.severity);
    let status = match findings.first().map(|worst| worst.severity) {
        None | Some(Severity::Note) => "ok",
        Some(Severity::Warning) => "warning",
        Some(Severity::Error) => "error",
    };
    Ok(Json(Examined { status, findings }))
}
