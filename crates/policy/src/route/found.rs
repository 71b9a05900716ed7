//! The rule that a request found, and who answers the request then.

use std::sync::Arc;

use super::action::{Action, Cors, CorsHeaders, Redirect};
use super::backend::Backend;
use crate::request::Facts;

/// The rule that wins for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteMatch<'t> {
    /// Name of the HTTPRoute.
    pub route: &'t str,
    /// Index of the rule within it.
    pub rule: usize,
    /// The template that took the path, as written, if one did: a name for all the
    /// paths that it takes.
    pub template: Option<&'t str>,
    /// Which backend takes the request; `None`: the rule has none that could (500).
    pub backend: Option<&'t Backend>,
    /// Names of the geo rules that it must pass, in the rule's order.
    pub geo: &'t [String],
    /// What else the rule does with it.
    pub action: Option<&'t Arc<Action>>,
    /// What the backend that was chosen has done with it besides.
    pub backend_action: Option<&'t Arc<Action>>,
}

/// A request's path or headers are so long, and there are so many regular
/// expressions for them, that the rule which wins was not found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("the request is too long for as many regular expressions")]
pub struct TooLong;

/// Who answers a request that a rule took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answerer<'t> {
    /// The gate: a browser's preflight request, with these headers.
    Preflight(CorsHeaders),
    /// The gate, which sends the client elsewhere.
    Redirect(&'t Redirect),
    /// This backend.
    Backend(&'t Backend),
    /// Nobody could: 500.
    Nobody,
}

impl<'t> RouteMatch<'t> {
    /// Which pages may read the answer; a backend's word counts before its rule's.
    #[must_use]
    pub fn cors(&self) -> Option<&'t Cors> {
        self.actions().filter_map(|action| action.cors.as_ref()).last()
    }

    /// Who answers the request.
    #[must_use]
    pub fn answerer(&self, facts: &Facts<'_>) -> Answerer<'t> {
        // Before a redirect, and without a backend too: browsers take nothing else
        // for an answer.
        if let Some(headers) = self.cors().and_then(|cors| cors.preflight(facts)) {
            return Answerer::Preflight(headers);
        }
        match (self.redirect(), self.backend) {
            (Some(redirect), _) => Answerer::Redirect(redirect),
            (None, Some(backend)) => Answerer::Backend(backend),
            (None, None) => Answerer::Nobody,
        }
    }

    /// Whether nobody answers it, whatever it asks for.
    #[must_use]
    pub fn is_dead_end(&self) -> bool {
        self.backend.is_none() && self.redirect().is_none() && self.cors().is_none()
    }

    /// What is done with the request: of the rule, then of the backend.
    pub fn actions(&self) -> impl Iterator<Item = &'t Arc<Action>> + use<'t> {
        self.action.into_iter().chain(self.backend_action)
    }

    /// Where the request is sent instead of to a backend.
    #[must_use]
    pub fn redirect(&self) -> Option<&'t Redirect> {
        self.actions().find_map(|action| action.redirect.as_ref())
    }
}
