//! `/api/admin/...`: for operators, on the people's listener.

mod allow_list;
mod apply;
mod audit;
mod auto_bans;
mod backends;
mod backup;
mod bans;
mod doctor;
pub mod events;
mod explain;
mod gateways;
mod geo;
mod geo_countries;
mod geo_rules;
mod ip_monitor;
mod limits;
mod listeners;
pub mod optimization;
mod pages;
mod protected_networks;
mod restore;
mod rollouts;
mod routes;
pub mod sources;
mod stats;
pub(crate) mod tokens;
mod whoami;

use super::endpoints::Endpoints;
use super::named_documents;

/// All paths below it.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .merge(optimization::routes())
        .merge(allow_list::routes())
        .merge(apply::routes())
        .merge(audit::routes())
        .merge(backup::routes())
        .merge(bans::routes())
        .merge(events::routes())
        .merge(doctor::routes())
        .merge(explain::routes())
        .merge(gateways::routes())
        .merge(geo::routes())
        .merge(geo_countries::routes())
        .merge(ip_monitor::routes())
        .merge(named_documents::routes::<auto_bans::AutoBanRules>())
        .merge(named_documents::routes::<backends::Backends>())
        .merge(named_documents::routes::<geo_rules::GeoRuleDocuments>())
        .merge(named_documents::routes::<limits::Limits>())
        .merge(named_documents::routes::<listeners::DeclaredListeners>())
        .merge(named_documents::routes::<pages::Pages>())
        .merge(named_documents::routes::<rollouts::RolloutPlans>())
        .merge(named_documents::routes::<routes::Routes>())
        .merge(named_documents::routes::<sources::BanSources>())
        .merge(sources::routes())
        .merge(protected_networks::routes())
        .merge(restore::routes())
        .merge(rollouts::routes())
        .merge(stats::routes())
        .merge(tokens::routes())
        .merge(whoami::routes())
}
