//! Automatic bans: the rules and what each has done, and one of them with the bans that it made.

mod list;
mod one;
mod rule;

use axum::Router;
use axum::routing::get;

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::part::Part;
use crate::query::PageQuery;
use crate::visitor::Visitor;

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(rule::PATH, get(list::page).post(list::send_new))
        .route("/ui/auto-bans/{name}", get(one::page).post(one::send))
}

/// The parts of a page that are made anew: of one rule where the address names it, or else of all.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    match query.get("name") {
        "" => list::parts(visitor).await,
        name => one::parts(visitor, name).await,
    }
}
