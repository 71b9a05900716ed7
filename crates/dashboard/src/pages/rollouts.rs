//! Rollouts that run by themselves: all of them, and one with its stages, groups, gates and decisions.

mod abort;
mod ask;
mod curves;
mod decisions;
mod gates;
mod groups;
mod list;
mod new;
mod next;
mod one;
mod phase;
mod plans;
mod report;
mod stages;
mod status;

use axum::Router;
use axum::routing::{get, post};

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::part::Part;
use crate::query::PageQuery;
use crate::visitor::Visitor;

pub use list::{Rollout, now_or_lately};

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(plans::PATH, get(list::page).post(new::send))
        .route("/ui/rollouts/{name}", get(one::page).post(one::send))
        .route("/ui/rollouts/{name}/ask", post(ask::ask))
        .route("/ui/rollouts/{name}/report", get(report::answer))
}

/// The parts of a page that are made anew: of one rollout where the address names it, or else of all.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    match query.get("name") {
        "" => list::parts(visitor).await,
        name => one::parts(visitor, name).await,
    }
}
