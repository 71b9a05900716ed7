//! `GET /api/admin/gateways`: connected gateways, and what each enforces.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::gateways::GatewayStatus;
use crate::problem::ApiResult;

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Lists the connected gateways, and what each enforces").answers::<GatewayList>();
    Endpoints::default().get(Role::Read, "/api/admin/gateways", list).about(about)
}

/// A gateway, as health and the list show it.
#[derive(Serialize, Debug, ToSchema)]
pub struct GatewayInfo {
    /// Envoy's node id.
    pub node: String,
    process: String,
    /// Where its polls come from; `null`: it has not polled yet.
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// The version that every VM that serves requests enforces; `null`: no ack yet.
    enforces: Option<String>,
    /// The newest refresh that it has carried out.
    refresh: u64,
    vms: u32,
    /// VMs that were not heard of for 2 s.
    pub stale_vms: u32,
    /// Whether it was not heard of for over 3 s.
    pub lost: bool,
    known_for_ms: u64,
    /// Time since its last poll or ack; 0 while a poll is open.
    pub silent_for_ms: u64,
    /// Tables whose format it does not read in the version that this service writes.
    cannot_read: Vec<&'static str>,
    /// What it says of the VM that polls; `null`: nothing.
    poller: Option<PollerInfo>,
}

/// The VM that polls for a gateway.
#[derive(Serialize, Debug, ToSchema)]
struct PollerInfo {
    /// Whether it is the singleton recorder.
    recorder: bool,
    /// How far its clock is ahead of the service's; negative: behind.
    clock_ahead_ms: i64,
    /// How often another VM took the lease within the last minute, 16 at most.
    lease_changes: usize,
}

impl From<GatewayStatus> for GatewayInfo {
    fn from(status: GatewayStatus) -> Self {
        let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            node: status.gateway.node,
            process: format!("{:016x}", status.gateway.process),
            address: status.address,
            enforces: status.ack.map(|ack| ack.version.to_string()),
            refresh: status.ack.map_or(0, |ack| ack.refresh),
            vms: status.ack.map_or(0, |ack| ack.live),
            stale_vms: status.ack.map_or(0, |ack| ack.stale),
            lost: status.lost,
            known_for_ms: millis(status.known_for),
            silent_for_ms: millis(status.silent_for),
            cannot_read: status.unread,
            poller: status.poller.map(|poller| PollerInfo {
                recorder: poller.recorder,
                clock_ahead_ms: poller.clock_ahead_ms,
                lease_changes: poller.lease_changes,
            }),
        }
    }
}

/// All gateways.
#[derive(Serialize, Debug, ToSchema)]
pub struct GatewayList {
    items: Vec<GatewayInfo>,
}

/// Answers the list.
pub async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<GatewayList>> {
    QueryParams::read(&uri, &[])?;
    Ok(Json(GatewayList { items: app.gateways.list().into_iter().map(GatewayInfo::from).collect() }))
}
