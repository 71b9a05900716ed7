//! Geo: which countries may enter, and where requests come from.

mod by_country;
mod country_table;
mod country_traffic;
mod import;
mod list;
mod map;
mod rules;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::dashboard::Dashboard;

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    let limit = DefaultBodyLimit::max(country_table::COUNTRIES.max_form());
    Router::new()
        .route(country_table::IMPORT, post(import::import))
        .layer(limit)
        .route(rules::PATH, get(list::page).post(rules::send_new))
        .route("/ui/geo/{name}", get(rules::one).post(rules::send))
}
