//! Outcome of a request: who answers it, and what is changed on the way.

use std::collections::BTreeSet;

use serde::Serialize;
use tidegate_policy::decide::{Decision, Denial, Reason, Verdict};
use tidegate_policy::request::Facts;
use tidegate_policy::route::action::{Action, HeaderEdit, HeaderEdits, RequestUrl};
use tidegate_policy::route::{Backend, ResponseFrom, RouteMatch};
use utoipa::ToSchema;

/// Outcome of a request.
#[derive(Serialize, Debug, Default, ToSchema)]
pub struct Outcome {
    /// `allow`, `deny` or `redirect`.
    verdict: &'static str,
    /// Status of the answer by the filter, or by Envoy in its place; `null`: the backend answers.
    status: Option<u16>,
    /// Why the backend does not answer.
    reason: Option<&'static str>,
    /// What decided: the entry of a ban or of the allow list, or a geo rule.
    rule: Option<String>,
    /// Why the first entry in shadow would have denied it, were it enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<&'static str>,
    /// That entry: a ban, or a geo rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny_rule: Option<String>,
    route: Option<String>,
    /// The path template that matched.
    template: Option<String>,
    backend: Option<ChosenBackend>,
    /// Changes of the request, if it reaches the backend, and of its response.
    #[serde(skip_serializing_if = "Effects::is_nothing")]
    effects: Effects,
}

/// A backend as its route names it; one of the API with its address.
#[derive(Serialize, Debug, ToSchema)]
struct ChosenBackend {
    name: String,
    namespace: Option<String>,
    port: Option<u16>,
    address: Option<String>,
    tls: Option<bool>,
    /// As [`is_known`].
    known: Option<bool>,
}

/// The combined effects of the filters of a rule, then of its backend.
#[derive(Serialize, Debug, Default, PartialEq, Eq, ToSchema)]
struct Effects {
    /// Where a redirect leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    /// The host that the backend sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// The path that the backend sees, with its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request_headers: Vec<HeaderChange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response_headers: Vec<HeaderChange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<Mirror>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryPolicy>,
    /// Whether pages of the origin that the request names may read the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<bool>,
}

/// A change of a header: `remove`, `set` or `add`.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
struct HeaderChange {
    action: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// A mirror: the backend that gets copies, and of what share of the requests.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
struct Mirror {
    name: String,
    numerator: u32,
    denominator: u32,
    /// As [`is_known`].
    known: Option<bool>,
}

#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
struct RetryPolicy {
    attempts: u32,
    codes: Vec<u16>,
}

/// Whether a backend exists: in the API, or in `clusters`, the clusters of Envoy. `None`: those
/// are not known.
fn is_known(backend: &Backend, clusters: &BTreeSet<String>) -> Option<bool> {
    match &backend.target {
        Some(_) => Some(true),
        None => (!clusters.is_empty()).then(|| clusters.contains(&backend.name)),
    }
}

impl Outcome {
    /// `clusters`: the clusters of Envoy; empty: not known.
    pub fn new(
        decision: &Decision<'_>,
        facts: &Facts<'_>,
        arrival: &RequestUrl<'_>,
        clusters: &BTreeSet<String>,
    ) -> Self {
        let (mut outcome, found) = match &decision.verdict {
            Verdict::Allow(found) => {
                let rule = decision.allowed_by.map(|prefix| prefix.to_string());
                (Self { verdict: "allow", rule, ..Self::default() }, *found)
            }
            Verdict::Deny(Denial { reason, status, rule, route }) => {
                let (status, reason) = (Some(*status), Some(reason.code()));
                let rule = rule.map(|rule| rule.to_string());
                (Self { verdict: "deny", status, reason, rule, ..Self::default() }, *route)
            }
        };
        outcome.would_deny = decision.would_deny.map(|by| by.reason.code());
        outcome.would_deny_rule = decision.would_deny.map(|by| by.rule.to_string());
        let Some(found) = found else { return outcome };
        outcome.route = Some(found.route.to_owned());
        outcome.template = found.template.map(str::to_owned);
        if outcome.verdict == "allow" {
            outcome.carry_out(&found, facts, arrival, clusters);
        } else {
            outcome.effects = Effects::of_response(&found, facts, None);
        }
        outcome
    }

    /// Whether the request passes the checks: limits count only such requests.
    pub fn passes(&self) -> bool {
        self.verdict != "deny"
    }

    fn carry_out(
        &mut self,
        found: &RouteMatch<'_>,
        facts: &Facts<'_>,
        arrival: &RequestUrl<'_>,
        clusters: &BTreeSet<String>,
    ) {
        let from = found.response_from(facts);
        self.effects = Effects::of_response(found, facts, Some(&from));
        match from {
            ResponseFrom::Preflight(_) => {
                (self.status, self.reason) = (Some(204), Some("cors_preflight"));
                return;
            }
            ResponseFrom::Redirect(redirect) => {
                (self.verdict, self.status, self.reason) =
                    ("redirect", Some(redirect.status), Some("redirect"));
                self.effects.location = Some(text(&redirect.location(arrival)));
                return;
            }
            ResponseFrom::NoBackend => {
                let reason = Reason::NoBackend;
                (self.verdict, self.status, self.reason) =
                    ("deny", Some(reason.status()), Some(reason.code()));
                return;
            }
            ResponseFrom::Backend(backend) => self.backend = Some(ChosenBackend::new(backend, clusters)),
        }
        for action in found.actions() {
            self.effects.add(action, arrival.target, clusters);
        }
        if self.backend.as_ref().is_some_and(|backend| backend.known == Some(false)) {
            // The filter lets it pass and Envoy finds no cluster; events show the same.
            (self.status, self.reason) = (Some(500), Some("unknown_backend"));
        }
    }
}

impl ChosenBackend {
    fn new(backend: &Backend, clusters: &BTreeSet<String>) -> Self {
        let target = backend.target.as_ref();
        Self {
            name: backend.name.clone(),
            namespace: backend.namespace.clone(),
            port: backend.port,
            address: target.map(|target| format!("{}:{}", target.host, target.port)),
            tls: target.map(|target| target.tls.is_some()),
            known: is_known(backend, clusters),
        }
    }
}

impl Effects {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Changes of the response; `from`: `None` for a denial.
    fn of_response(found: &RouteMatch<'_>, facts: &Facts<'_>, from: Option<&ResponseFrom<'_>>) -> Self {
        let origin = facts.headers.iter().find(|line| line.0 == b"origin").map(|line| line.1);
        let may_read = |origin| Some(!found.cors()?.simple(origin).is_empty());
        let actions = found.response_actions(from);
        Self {
            response_headers: actions.flat_map(|action| edits(&action.response)).collect(),
            cors: origin.and_then(may_read),
            ..Self::default()
        }
    }

    /// Adds the changes of the request by `action`; those of a backend come after those of its
    /// rule.
    fn add(&mut self, action: &Action, target: &[u8], clusters: &BTreeSet<String>) {
        self.request_headers.extend(edits(&action.request));
        if let Some(rewrite) = &action.rewrite {
            self.host = rewrite.hostname.clone().or(self.host.take());
            self.path = rewrite.path.as_ref().map(|path| text(&path.apply(target))).or(self.path.take());
        }
        let given = |ms: u32| (ms > 0).then_some(ms);
        self.request_timeout_ms = given(action.timeouts.request_ms).or(self.request_timeout_ms);
        self.backend_timeout_ms = given(action.timeouts.backend_ms).or(self.backend_timeout_ms);
        if let Some(retry) = &action.retry {
            self.retry = Some(RetryPolicy { attempts: retry.attempts, codes: retry.codes.clone() });
        }
        self.mirrors.extend(action.mirrors.iter().map(|mirror| Mirror {
            name: mirror.backend.name.clone(),
            numerator: mirror.numerator,
            denominator: mirror.denominator,
            known: is_known(&mirror.backend, clusters),
        }));
    }
}

fn edits(edits: &HeaderEdits) -> impl Iterator<Item = HeaderChange> {
    edits.iter().map(|edit| {
        let (action, name, value) = match edit {
            HeaderEdit::Remove(name) => ("remove", name, None),
            HeaderEdit::Set(name, value) => ("set", name, Some(value)),
            HeaderEdit::Add(name, value) => ("add", name, Some(value)),
        };
        HeaderChange { action, name: name.to_owned(), value: value.map(str::to_owned) }
    })
}

/// Bytes as text: here they come from a URL, so they are UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
