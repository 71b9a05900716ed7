//! What the plugin's configuration says of decisions.

use crate::check::PerCheck;

/// What the operator chose in the plugin's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether routes choose the upstream at all, or Envoy's own route table does.
    pub routing: Routing,
    /// What becomes of a request that no route matches.
    pub on_no_route: OnNoRoute,
    /// What becomes of a request of which a check cannot be answered.
    pub on_unavailable: PerCheck<Unavailable>,
}

/// What a check that nobody can answer comes to.
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
    /// Envoy's route table: the gate only guards.
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
