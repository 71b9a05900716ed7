//! `GET /api/admin/geo-countries`: where addresses are, as `tidegate geo import`
//! said last.

use std::net::IpAddr;

use axum::extract::State;
use axum::http::Uri;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::api::app_state::Context;
use crate::api::query::{Params, PathText, shortened};
use crate::problem::{Answer, Problem};
use crate::time;

/// The paths here.
pub fn routes() -> Router<Context> {
    Router::new()
        .route("/api/admin/geo-countries", get(table))
        .route("/api/admin/geo-countries/{ip}", get(one))
}

/// The table that is in force; all but `ranges` is `null` while there is none.
#[derive(Serialize, Debug)]
pub struct Table {
    source: Option<String>,
    imported_at: Option<String>,
    ranges: Ranges,
    bytes: Option<u64>,
    hash: Option<String>,
}

/// Runs of addresses of one country.
#[derive(Serialize, Debug, Default)]
struct Ranges {
    v4: usize,
    v6: usize,
}

/// Answers what the table is.
///
/// # Errors
/// When the address has a parameter.
pub async fn table(State(context): State<Context>, uri: Uri) -> Answer<Json<Table>> {
    Params::read(&uri, &[])?;
    let snapshot = context.current().await;
    let info = snapshot.countries.as_deref();
    Ok(Json(Table {
        source: info.map(|info| info.source.clone()),
        imported_at: info.and_then(|info| info.imported().map(time::rfc3339)),
        ranges: info.map(|info| Ranges { v4: info.v4, v6: info.v6 }).unwrap_or_default(),
        bytes: info.map(|info| info.blob.len),
        hash: info.map(|info| info.blob.hash.to_string()),
    }))
}

/// Where an address is.
#[derive(Serialize, Debug)]
pub struct Located {
    ip: String,
    /// `null`: nobody knows.
    country: Option<String>,
}

/// Answers the country of one address.
///
/// # Errors
/// When it is no address.
pub async fn one(State(context): State<Context>, PathText(ip): PathText, uri: Uri) -> Answer<Json<Located>> {
    Params::read(&uri, &[])?;
    let ip: IpAddr = ip.trim().parse().map_err(|_| {
        let detail = format!("`{}` is no address: write 192.0.2.1 or 2001:db8::1", shortened(&ip));
        Problem::parameter("ip", "invalid_ip", detail)
    })?;
    let snapshot = context.current().await;
    let country = snapshot.countries.as_ref().and_then(|info| info.table().find(ip));
    let ip = tidegate_policy::address::canonical(ip).to_string();
    Ok(Json(Located { ip, country: country.map(|country| country.to_string()) }))
}
