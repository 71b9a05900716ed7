//! `/api/admin/optimization/...`: the rollout and its state.

mod cache;
mod flags;
pub mod health;
pub mod ip;
pub mod recording;
mod shadow;

use crate::api::endpoints::Endpoints;

/// All paths below it.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .merge(cache::routes())
        .merge(flags::routes())
        .merge(health::routes())
        .merge(ip::routes())
        .merge(recording::routes())
        .merge(shadow::routes())
}
