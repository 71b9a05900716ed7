//! Settings of the decision, from the plugin's configuration.

use crate::check::PerCheck;

/// Settings of the decision, from the plugin's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether Tidegate's routes or Envoy's own route table choose the upstream.
    pub routing: Routing,
    /// What becomes of a request that no route matches.
    pub on_no_route: OnNoRoute,
    /// What becomes of a request, by the check that cannot be answered.
    pub on_unavailable: PerCheck<Unavailable>,
}

/// What becomes of a request with a check that cannot be answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Unavailable {
    /// As if it had found nothing: no ban, no rule, Envoy's own route table.
    Allow,
    /// 503 `check_unavailable`.
    #[default]
    Deny,
}

/// Who chooses the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routing {
    /// Tidegate's routes.
    Tidegate,
    /// Envoy's route table: the filter only denies or lets pass.
    Envoy,
}

/// What becomes of a request that no route matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnNoRoute {
    /// 404 `no_route`.
    Deny,
    /// Envoy's route table takes it.
    Pass,
}
