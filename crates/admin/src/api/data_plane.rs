//! `/api/data-plane/v1/...`: for gateways, on their listener.

mod ban_sources;
mod check;
mod events;
mod sync;

use super::endpoints::Endpoints;

/// All paths below it.
pub fn routes() -> Endpoints {
    Endpoints::default().merge(sync::routes()).merge(events::routes()).merge(check::routes())
}
