//! `GET /api/admin/geo-countries`: the country table that `tidegate geo import` imported last.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::{PathParam, QueryParams, shortened};
use crate::auth::Role;
use crate::problem::{ApiResult, Problem};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .get(Role::Read, "/api/admin/geo-countries", table)
        .about(About::new("Describes the country table").answers::<CountryTableInfo>())
        .get(Role::Read, "/api/admin/geo-countries/{ip}", one)
        .about(About::new("Answers the country of an address").answers::<AddressCountry>())
}

/// The table that is in force; all but `ranges` is `null` while there is none.
#[derive(Serialize, Debug, ToSchema)]
pub struct CountryTableInfo {
    source: Option<String>,
    imported_at: Option<String>,
    ranges: RangeCounts,
    bytes: Option<u64>,
    hash: Option<String>,
}

/// Numbers of address ranges.
#[derive(Serialize, Debug, Default, ToSchema)]
struct RangeCounts {
    v4: usize,
    v6: usize,
}

/// Answers the description of the table.
pub async fn table(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<CountryTableInfo>> {
    QueryParams::read(&uri, &[])?;
    let snapshot = app.current().await;
    let info = snapshot.countries.as_deref();
    Ok(Json(CountryTableInfo {
        source: info.map(|info| info.source.clone()),
        imported_at: info.and_then(|info| info.imported().map(time::rfc3339)),
        ranges: info.map(|info| RangeCounts { v4: info.v4, v6: info.v6 }).unwrap_or_default(),
        bytes: info.map(|info| info.blob.len),
        hash: info.map(|info| info.blob.hash.to_string()),
    }))
}

/// The country of an address.
#[derive(Serialize, Debug, ToSchema)]
pub struct AddressCountry {
    ip: String,
    /// `null`: not in the table.
    country: Option<String>,
}

/// Answers the country of one address.
pub async fn one(
    State(app): State<AppState>,
    PathParam(ip): PathParam,
    uri: Uri,
) -> ApiResult<Json<AddressCountry>> {
    QueryParams::read(&uri, &[])?;
    let ip: IpAddr = ip.trim().parse().map_err(|_| {
        let detail = format!("`{}` is no address: write 192.0.2.1 or 2001:db8::1", shortened(&ip));
        Problem::parameter("ip", "invalid_ip", detail)
    })?;
    let snapshot = app.current().await;
    let country = snapshot.countries.as_ref().and_then(|info| info.table().find(ip));
    let ip = tidegate_policy::address::canonical(ip).to_string();
    Ok(Json(AddressCountry { ip, country: country.map(|country| country.to_string()) }))
}
