//! `GET /api/admin/gateways`: connected gateways, and what each enforces.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tidegate_policy::version::Version;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::VERSION;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::gateways::GatewayStatus;
use crate::problem::ApiResult;

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Lists the connected gateways, and what each enforces")
        .query(&[&VERSION])
        .answers::<GatewayList>();
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
    /// Whether it enforces the version that was asked about, or a later one, in all VMs that serve requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforces_asked: Option<bool>,
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
            enforces_asked: None,
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
    /// The newest version.
    version: String,
    items: Vec<GatewayInfo>,
}

/// Answers the list.
pub async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<GatewayList>> {
    let params = QueryParams::read(&uri, &["version"])?;
    let asked: Option<Version> =
        params.parsed("version", "write the `version` of a write's answer, <epoch>.<seq>")?;
    let info = |status: GatewayStatus| GatewayInfo {
        enforces_asked: asked.map(|version| status.enforces(version)),
        ..status.into()
    };
    let version = app.feed.version().to_string();
    Ok(Json(GatewayList { version, items: app.gateways.list().into_iter().map(info).collect() }))
}
