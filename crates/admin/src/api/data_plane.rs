//! `/api/data-plane/v1/...`: for gateways, on their listener.

mod check;
mod events;
mod sync;

use axum::Router;

use super::app_state::AppState;

/// All paths below it.
pub fn routes() -> Router<AppState> {
    Router::new().merge(sync::routes()).merge(events::routes()).merge(check::routes())
}
