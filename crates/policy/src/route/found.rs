//! The rule that matches a request, and how the request is answered.

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
    /// The path template that matched, as written, if one did.
    pub template: Option<&'t str>,
    /// The backend chosen for the request; `None`: the rule has none that could answer (500).
    pub backend: Option<&'t Backend>,
    /// Names of the geo rules that the request must pass, in the rule's order.
    pub geo: &'t [String],
    /// The rule's action.
    pub action: Option<&'t Arc<Action>>,
    /// The action of the chosen backendRef.
    pub backend_action: Option<&'t Arc<Action>>,
}

/// A request's path or headers are so long, and there are so many regular expressions
/// for them, that the search for its rule was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("the request is too long for as many regular expressions")]
pub struct TooLong;

/// How a request that a rule matched is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResponseFrom<'t> {
    /// By the filter: a browser's preflight request, with these headers.
    Preflight(CorsHeaders),
    /// By the filter, with a redirect.
    Redirect(&'t Redirect),
    /// By this backend.
    Backend(&'t Backend),
    /// By the filter, with 500: the rule has no backend that could answer.
    NoBackend,
}

impl<'t> RouteMatch<'t> {
    /// The CORS filter: the backendRef's, else the rule's.
    #[must_use]
    pub fn cors(&self) -> Option<&'t Cors> {
        self.actions().filter_map(|action| action.cors.as_ref()).last()
    }

    /// The headers of the filter's answer, if the request is a browser's preflight request.
    #[must_use]
    pub fn preflight(&self, facts: &Facts<'_>) -> Option<CorsHeaders> {
        self.cors()?.preflight(facts)
    }

    /// How the request is answered.
    #[must_use]
    pub fn response_from(&self, facts: &Facts<'_>) -> ResponseFrom<'t> {
        // Before a redirect, and without a backend too: browsers accept no other response.
        if let Some(headers) = self.preflight(facts) {
            return ResponseFrom::Preflight(headers);
        }
        match (self.redirect(), self.backend) {
            (Some(redirect), _) => ResponseFrom::Redirect(redirect),
            (None, Some(backend)) => ResponseFrom::Backend(backend),
            (None, None) => ResponseFrom::NoBackend,
        }
    }

    /// The actions whose response edits stand on an answer; `from`: `None` for a denial. The rule's
    /// stand on every answer. The backendRef's are "executed if and only if the request is being
    /// forwarded to the backend" (Gateway API, `HTTPBackendRef.filters`), or one of them answers.
    pub fn response_actions(
        &self,
        from: Option<&ResponseFrom<'_>>,
    ) -> impl Iterator<Item = &'t Arc<Action>> + use<'t> {
        let has_cors = |action: &Arc<Action>| action.cors.is_some();
        let of_backend = match from {
            Some(ResponseFrom::Backend(_) | ResponseFrom::Redirect(_)) => true,
            Some(ResponseFrom::Preflight(_)) => self.backend_action.is_some_and(has_cors),
            Some(ResponseFrom::NoBackend) | None => false,
        };
        self.action.into_iter().chain(self.backend_action.filter(|_| of_backend))
    }

    /// Whether every request is answered with 500: no backend, redirect or CORS filter.
    #[must_use]
    pub fn is_dead_end(&self) -> bool {
        self.backend.is_none() && self.redirect().is_none() && self.cors().is_none()
    }

    /// The actions: the rule's, then the backendRef's.
    pub fn actions(&self) -> impl Iterator<Item = &'t Arc<Action>> + use<'t> {
        self.action.into_iter().chain(self.backend_action)
    }

    /// The redirect that answers the request, if any.
    #[must_use]
    pub fn redirect(&self) -> Option<&'t Redirect> {
        self.actions().find_map(|action| action.redirect.as_ref())
    }
}
