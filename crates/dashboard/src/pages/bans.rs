//! Bans: all entries, the search for those that cover an address, and what is done to them.

mod action;
mod actions;
mod address;
mod ban_form;
pub mod entries;
mod import;
mod list;
pub mod span_field;
pub mod urls;

use axum::Router;
use axum::routing::{get, post};

use crate::dashboard::Dashboard;
pub use address::parts as address_parts;
pub use import::parts as import_parts;

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(urls::BANS, get(list::page))
        .route(urls::ADDRESS, get(address::page))
        .route(urls::BAN, get(ban_form::page).post(ban_form::ban))
        .route(urls::ENTRY, post(actions::act))
        .merge(import::routes())
}
