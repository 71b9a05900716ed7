//! What was decided about a request, as its event records it.

use tidegate_policy::geo::Country;
use tidegate_policy::route::RouteMatch;
use tidegate_policy::wire::event::VerdictCode;

/// The decision and what led to it. The default is a request without a decision.
#[derive(Default)]
pub struct Outcome {
    /// What was decided.
    pub verdict: VerdictCode,
    /// Why, by its stable code: of a denial, or `redirect`, `cors_preflight`.
    pub reason: Option<&'static str>,
    /// The entry or rule that decided, by its prefix or name.
    pub rule: Option<String>,
    /// Name of the route that matched.
    pub route: Option<String>,
    /// The route's path template that matched.
    pub template: Option<String>,
    /// The client's country, if the decision needed it and it is known.
    pub country: Option<Country>,
    /// Name of the first limit in shadow that would have denied.
    pub shadow_limit: Option<String>,
    /// Reason and entry of the first ban or geo rule in shadow that would have denied.
    pub would_deny: Option<(&'static str, String)>,
}

impl Outcome {
    /// The outcome of a request that `route` matched.
    #[must_use]
    pub fn on_route(self, route: Option<&RouteMatch<'_>>) -> Self {
        Self {
            route: route.map(|found| found.route.to_owned()),
            template: route.and_then(|found| found.template.map(str::to_owned)),
            ..self
        }
    }
}
