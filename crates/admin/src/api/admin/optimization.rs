//! `/api/admin/optimization/...`: the rollout and its state.

mod cache;
mod flags;
pub mod health;
pub mod ip;
pub mod recording;

use axum::Router;

use crate::api::app_state::AppState;

/// All paths below it.
pub fn routes() -> Router<AppState> {
    Router::new()
        .merge(cache::routes())
        .merge(flags::routes())
        .merge(health::routes())
        .merge(ip::routes())
        .merge(recording::routes())
}
