//! The pages, one file each.

mod allow_list;
mod audit;
mod auto_bans;
mod backends;
mod bans;
mod events;
mod explain;
mod gateways;
mod geo;
mod health;
mod limits;
mod overview;
mod paths;
mod rollout;
mod rollouts;
mod routes;
mod sources;
mod tokens;

use axum::Router;
use axum::routing::get;

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::part::Part;
use crate::query::PageQuery;
use crate::visitor::Visitor;

/// The paths of all pages.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/ui/", get(overview::page))
        .merge(allow_list::routes())
        .merge(audit::routes())
        .merge(auto_bans::routes())
        .merge(backends::routes())
        .merge(bans::routes())
        .merge(events::routes())
        .merge(explain::routes())
        .merge(gateways::routes())
        .merge(geo::routes())
        .merge(health::routes())
        .merge(limits::routes())
        .merge(paths::routes())
        .merge(rollout::routes())
        .merge(rollouts::routes())
        .merge(routes::routes())
        .merge(sources::routes())
        .merge(tokens::routes())
}

/// The parts of a page that are made anew while it is open; `page`: the last part of its `/ui/live/` path.
///
/// # Errors
/// When there is no such page, or the API does not answer.
pub async fn live_parts(page: &str, visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    match page {
        "address" => bans::address_parts(visitor, query).await,
        "allow-list" => allow_list::parts(visitor, query).await,
        "auto-bans" => auto_bans::parts(visitor, query).await,
        "gateways" => gateways::parts(visitor, query).await,
        "health" => health::parts(visitor, query).await,
        "import" => bans::import_parts(visitor, query).await,
        "rollout" => rollout::parts(visitor, query).await,
        "rollouts" => rollouts::parts(visitor, query).await,
        "overview" => overview::parts(visitor, query).await,
        "sources" => sources::parts(visitor, query).await,
        _ => Err(PageError::not_found()),
    }
}
