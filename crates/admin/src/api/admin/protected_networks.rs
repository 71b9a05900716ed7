//! `GET /api/admin/protected-networks`: what a ban needs `force` for.

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
use crate::problem::ApiResult;
use crate::protected_networks::{ProtectedNetwork, Protection};

/// The paths here.
pub fn routes() -> Endpoints {
    let about =
        About::new("Lists the networks that a ban needs `force` for").answers::<ProtectedNetworkList>();
    Endpoints::default().get(Role::Read, "/api/admin/protected-networks", list).about(about)
}

/// A protected network.
#[derive(Serialize, Debug, ToSchema)]
pub struct ProtectedNetworkInfo {
    block: String,
    /// `loopback`, `gateway` or `added`.
    why: &'static str,
    /// The node of the gateway that connects from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

impl From<ProtectedNetwork> for ProtectedNetworkInfo {
    fn from(network: ProtectedNetwork) -> Self {
        let (why, node) = match network.why {
            Protection::Loopback => ("loopback", None),
            Protection::Gateway(node) => ("gateway", Some(node)),
            Protection::Added => ("added", None),
        };
        Self { block: network.block.to_string(), why, node }
    }
}

/// All protected networks.
#[derive(Serialize, Debug, ToSchema)]
pub struct ProtectedNetworkList {
    items: Vec<ProtectedNetworkInfo>,
}

/// Answers the list.
pub async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<ProtectedNetworkList>> {
    QueryParams::read(&uri, &[])?;
    let items = app.protected.list(&app.gateways).into_iter().map(Into::into).collect();
    Ok(Json(ProtectedNetworkList { items }))
}
