//! Sources of bans: all of them, what is held back, and one of them with its list.

mod list;
mod one;
mod refresh;
mod release;
mod source;

use axum::Router;
use axum::routing::{get, post};

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::part::Part;
use crate::query::PageQuery;
use crate::visitor::Visitor;

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(source::PATH, get(list::page).post(list::send_new))
        .route("/ui/sources/{name}", get(one::page).post(one::send))
        .route("/ui/sources/{name}/refresh", post(refresh::refresh))
}

/// The parts of a page that are made anew: of one source where the address names it, or else of all.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    match query.get("name") {
        "" => list::parts(visitor).await,
        name => one::parts(visitor, name).await,
    }
}
