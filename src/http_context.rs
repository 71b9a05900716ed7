//! One request, from its headers to its event. From top to bottom this file is what
//! happens to it:
//!
//! 1. `on_request_headers` reads its facts: host, client address, headers.
//! 2. `evaluate` finds the decision: allow list, ban list, geo rules, route. Each check is
//!    looked up in the tables or asked of the admin service; while an answer is awaited,
//!    Envoy holds the request, and `on_call_response` goes on.
//! 3. `enforce` applies the limits and carries out the verdict.
//! 4. `on_response_headers` edits the response, and with synchronous recording holds it
//!    until the event is stored.
//! 5. The callbacks for bodies and trailers change nothing: they tell what went past, and that all of it did.
//! 6. `on_log` or `on_done`, whichever comes first, records one event.

#[cfg(test)]
mod tests;

use std::mem::replace;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use tidegate_policy::decide::{Decision, Denial, Reason, RuleId, Verdict};
use tidegate_policy::route::RouteMatch;
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use crate::admin_client::{CallMaker, InFlight};
use crate::filter::Filter;
use crate::host::live::{ContextKind, LiveContext};
use crate::host::{CallToken, Host, HostError};
use crate::metrics::Count;
use crate::request::actions::{self, Handled, ResponseEdits};
use crate::request::bodies::{Bodies, Body};
use crate::request::evaluation::{Evaluated, Evaluation};
use crate::request::facts::{Declared, RequestFacts};
use crate::request::outcome::Outcome;
use crate::request::performance::{self, Timing};
use crate::request::reply::Denied;
use crate::request::{access_log, descriptors, event, limits, recording, reply};

/// The HTTP context of one request.
pub struct RequestContext<H: Host> {
    host: H,
    /// Absent when the plugin has no configuration.
    filter: Option<Rc<Filter<H>>>,
    request: RequestState,
    response: ResponseState,
    bodies: Bodies,
    live: LiveContext,
}

/// How far the request is.
#[expect(clippy::large_enum_variant, reason = "almost every request is decided: no allocation for that")]
enum RequestState {
    /// The filter has not seen its headers. Envoy may have refused it before.
    Unseen,
    /// Envoy holds it until the admin service has answered.
    Evaluating {
        /// When its headers came.
        arrived: Arrival,
        /// The checks so far.
        evaluation: Box<Evaluation>,
    },
    /// It was decided, or Envoy or the client ended it before.
    Decided(DecidedRequest),
    /// Its event is recorded: a request has one, however often Envoy says that it is
    /// over.
    Recorded,
}

/// When the headers of a request reached the filter.
#[derive(Clone, Copy)]
struct Arrival {
    monotonic_ns: u64,
    /// Milliseconds since the Unix epoch.
    wall_ms: u64,
}

/// What is kept of a request from its decision to its end. Nothing of the tables: an
/// overlay of bans may be a megabyte, every change makes a new one, and a tunnel that
/// lasts for days would keep its own alive.
struct DecidedRequest {
    /// Monotonic clock, nanoseconds.
    arrived_ns: u64,
    event: TrafficEvent,
    /// When the gate let it go on, by the same clock, and what its response waited for the gate after that;
    /// `None`: it did not.
    sent_ns: Option<u64>,
    /// The length of its body, as it declares it.
    declared: Declared,
    /// `None` if the request is not measured.
    timing: Option<Timing>,
    edits: Option<Box<ResponseEdits>>,
}

/// How far the response is.
enum ResponseState {
    /// Its headers have not come.
    Awaited,
    /// It is held until the admin service has stored the event.
    Held(InFlight),
    /// It is on its way to the client. `undecided`: it came before the decision, so
    /// Envoy gave the request up (a timeout, for example).
    Sent { undecided: bool },
}

/// How a decision was carried out.
struct Enforced {
    action: Action,
    outcome: Outcome,
    edits: Option<Box<ResponseEdits>>,
}

impl<H: Host> HttpContext for RequestContext<H> {
    fn on_http_request_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        self.bodies.request.begin(end_of_stream);
        self.on_request_headers()
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.bodies.request.add(size, end_of_stream);
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        self.bodies.request.add(0, true);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        self.bodies.response.begin(end_of_stream);
        self.note_response_end(end_of_stream);
        self.on_response_headers()
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.on_response_part(size, end_of_stream);
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        self.on_response_part(0, true);
        Action::Continue
    }

    /// Envoy logs every request. For one that Envoy itself refused, this is the first
    /// callback.
    fn on_log(&mut self) {
        self.record();
    }
}

impl<H: Host> Context for RequestContext<H> {
    fn on_http_call_response(
        &mut self,
        token: CallToken,
        _num_headers: usize,
        _body: usize,
        _trailers: usize,
    ) {
        if let Some(filter) = self.filter.clone()
            && let Some(status) = filter.answered(token, CallMaker::Request(self.live.number()))
        {
            self.on_call_response(&filter, token, Some(status));
        }
    }

    /// A call of this request failed some callbacks ago ([`Host::notify_request`]).
    fn on_foreign_function(&mut self, token: CallToken, status: usize) {
        if let Some(filter) = self.filter.clone() {
            let status = u16::try_from(status).ok().filter(|status| *status != 0);
            self.on_call_response(&filter, token, status);
        }
    }

    /// The context ends. Over HTTP/3 this may be the only callback at a request's end:
    /// since 1.40 Envoy logs such a request when its client has acknowledged the response,
    /// and without filters, which are gone by then. (Up to 1.39 it did with the runtime flag
    /// `envoy.reloadable_features.quic_defer_logging_to_ack_listener`, off by default; 1.40
    /// has no other way.) One that was reset is logged first, as over HTTP/1.1 and HTTP/2.
    /// What Envoy answers over HTTP/3 before any filter reaches no callback at all, and
    /// leaves no event.
    fn on_done(&mut self) -> bool {
        // Envoy may have freed the response's headers if it answered itself while they were held, so they are
        // not read any more: the attributes say what was sent.
        self.bodies.response = Body::default();
        self.record();
        true
    }
}

impl<H: Host> RequestContext<H> {
    /// The context of a request whose headers have not come; `number` is the context's.
    pub fn new(host: H, filter: Option<Rc<Filter<H>>>, number: u32) -> Self {
        let (request, response) = (RequestState::Unseen, ResponseState::Awaited);
        let live = LiveContext::new(number, ContextKind::Http);
        Self { host, filter, request, response, bodies: Bodies::default(), live }
    }

    /// Decides the request, or asks the admin service what the decision needs.
    fn on_request_headers(&mut self) -> Action {
        let Some(filter) = self.filter.clone() else {
            // Without a configuration nothing passes.
            let facts = RequestFacts::of(None, self.host.request_headers(), None);
            let (denied, reason) = (Denied { facts: &facts, pages: None }, Reason::NotReady);
            let _ = reply::deny(&self.host, denied, reason, reason.status(), &[]);
            return Action::Pause;
        };
        let (instance, monotonic_ns) = (&filter.instance, self.host.monotonic_ns());
        instance.before_request(monotonic_ns);
        let country_header = filter.country_header.as_deref();
        let hops = filter.forwarded_for.as_ref();
        let mut facts = RequestFacts::read(&self.host, &instance.metrics, country_header, hops);
        if filter.strip_path_parameters {
            facts.strip_path_parameters();
        }
        let arrived = Arrival { monotonic_ns, wall_ms: self.host.wall_us() / 1_000 };
        let own_headers_removed = facts.remove_own_headers(&self.host);
        let is_measured = performance::is_wanted(filter.performance, facts.wants_performance());
        let tables = instance.sync.borrow().tables();
        let reason = if !own_headers_removed {
            // Upstreams would take a client's values in them for the filter's.
            instance.metrics.count(Count::HostErrors);
            Some(Reason::NotReady)
        } else {
            facts.goes_in_circles().then_some(Reason::LoopDetected)
        };
        let denied = reason.map(|reason| {
            let denied = Denied { facts: &facts, pages: tables.as_deref().map(|tables| &*tables.pages) };
            deny(&filter, denied, reason, reason.status(), Outcome::default(), None)
        });
        let evaluation = Evaluation::new(
            &filter,
            facts,
            tables,
            instance.random_bits(),
            is_measured.then(Timing::default),
        );
        if let Some(Enforced { action, outcome, edits }) = denied {
            self.request = RequestState::Decided(decided(&filter, arrived, evaluation, outcome, edits));
            return action;
        }
        self.evaluate(&filter, arrived, evaluation, || monotonic_ns)
    }

    /// Evaluates the checks, as far as their answers have come. `now_ns`: the monotonic clock.
    fn evaluate(
        &mut self,
        filter: &Filter<H>,
        arrived: Arrival,
        mut evaluation: Evaluation,
        now_ns: impl FnOnce() -> u64,
    ) -> Action {
        let Some(evaluated) = evaluation.evaluate(filter) else {
            self.request = RequestState::Evaluating { arrived, evaluation: Box::new(evaluation) };
            return Action::Pause;
        };
        let Enforced { action, outcome, edits } = enforce(filter, evaluated);
        let sent_ns = (action == Action::Continue).then(now_ns);
        let decided = decided(filter, arrived, evaluation, outcome, edits);
        self.request = RequestState::Decided(DecidedRequest { sent_ns, ..decided });
        action
    }

    /// A call that this request made ended, with this status.
    fn on_call_response(&mut self, filter: &Filter<H>, token: CallToken, status: Option<u16>) {
        match self.response {
            ResponseState::Awaited => self.on_answer(filter, token, status),
            ResponseState::Held(post) if post.token == token => self.on_stored(filter, post, status),
            // A verdict now would replace the response that Envoy has sent.
            ResponseState::Sent { undecided: true } => filter.instance.metrics.count(Count::LateAnswers),
            // An answer that the decision no longer needed.
            ResponseState::Held(_) | ResponseState::Sent { .. } => {}
        }
    }

    /// An answer to a question about this request.
    fn on_answer(&mut self, filter: &Filter<H>, token: CallToken, status: Option<u16>) {
        // In any other state it was decided without this answer.
        let RequestState::Evaluating { evaluation, .. } = &mut self.request else { return };
        if !evaluation.take_answer(token, status, filter) {
            return;
        }
        let request = replace(&mut self.request, RequestState::Unseen);
        let RequestState::Evaluating { arrived, evaluation } = request else { return };
        let host = self.host.clone();
        if self.evaluate(filter, arrived, *evaluation, || host.monotonic_ns()) == Action::Continue {
            let _ = filter.count_error(self.host.resume_request());
        }
    }

    /// A part of the response goes past: bytes of its body, its trailers.
    fn on_response_part(&mut self, bytes: usize, ends: bool) {
        self.bodies.response.add(bytes, ends);
        self.note_response_end(ends);
    }

    /// Notes when the response ended, if it did.
    fn note_response_end(&mut self, ends: bool) {
        if ends && matches!(self.request, RequestState::Decided(DecidedRequest { sent_ns: Some(_), .. })) {
            self.bodies.ended_ns = Some(self.host.monotonic_ns());
        }
    }

    /// The response's headers came: from the upstream, Envoy or the filter.
    fn on_response_headers(&mut self) -> Action {
        let (Some(filter), ResponseState::Awaited) = (self.filter.clone(), &self.response) else {
            return Action::Continue;
        };
        let undecided = self.end_evaluation(&filter);
        let RequestState::Decided(request) = &mut self.request else { return Action::Continue };
        self.response = ResponseState::Sent { undecided };
        if let Some(edits) = request.edits.take() {
            let _ = filter.count_error(edits.apply(&self.host));
        }
        let is_sync = request.event.modes.is_some_and(|modes| !modes.async_recording);
        // Where Envoy is about to close the connection, a held response never leaves.
        if is_sync && !undecided && !event::is_codec_error(&self.host) {
            event::add_response_status(&self.host, &mut request.event);
            request.event.number = filter.instance.reserve();
            if let Some(post) = recording::post(&filter, &request.event) {
                self.response = ResponseState::Held(post);
                return Action::Pause;
            }
        }
        self.pass_response(&filter);
        Action::Continue
    }

    /// The event is stored, or could not be: the response is resumed either way.
    fn on_stored(&mut self, filter: &Filter<H>, post: InFlight, status: Option<u16>) {
        self.response = ResponseState::Sent { undecided: false };
        recording::finish(filter, &post, status);
        let waited_ns = self.host.monotonic_ns().saturating_sub(post.since_ns);
        if let RequestState::Decided(request) = &mut self.request {
            // The upstream is not what the rest of the response waited for, or all of it after its end.
            request.sent_ns = request.sent_ns.map(|sent| sent.saturating_add(waited_ns));
            if self.bodies.response.has_ended() {
                self.bodies.ended_ns = self.bodies.ended_ns.map(|ended| ended.saturating_add(waited_ns));
            }
            if let Some(timing) = &mut request.timing {
                timing.recording = waited_ns;
            }
        }
        self.pass_response(filter);
        let _ = filter.count_error(self.host.resume_response());
    }

    /// The response's headers are about to go on: writes what the request cost into them,
    /// where it is measured.
    fn pass_response(&mut self, filter: &Filter<H>) {
        let RequestState::Decided(request) = &mut self.request else { return };
        if let Some(timing) = &request.timing {
            let total_ns = self.host.monotonic_ns().saturating_sub(request.arrived_ns);
            let answered = &request.event.answered;
            let _ = filter.count_error(performance::add_headers(&self.host, timing, answered, total_ns));
        }
    }

    /// Records the request's one event.
    fn record(&mut self) {
        let Some(filter) = self.filter.clone() else { return };
        // If it is not decided yet, the client has left.
        self.end_evaluation(&filter);
        let metrics = &filter.instance.metrics;
        let (mut event, declared) = match replace(&mut self.request, RequestState::Recorded) {
            RequestState::Decided(DecidedRequest { arrived_ns, sent_ns, mut event, declared, .. }) => {
                let now_ns = self.host.monotonic_ns();
                event.duration_us = Some(now_ns.saturating_sub(arrived_ns) / 1_000);
                event.gate_us = Some(sent_ns.unwrap_or(now_ns).saturating_sub(arrived_ns) / 1_000);
                event.upstream_us = self.bodies.ended_after(sent_ns).map(|ns| ns / 1_000);
                (event, declared)
            }
            RequestState::Unseen => {
                metrics.count(Count::Unseen);
                (event::of_unseen(&self.host), Declared::Unreadable)
            }
            RequestState::Evaluating { .. } | RequestState::Recorded => return,
        };
        event::complete(&self.host, &mut event, &self.bodies, declared);
        if event.reason.as_deref() == Some(event::UNKNOWN_BACKEND) {
            metrics.count(Count::UnknownBackend);
        }
        if filter.log_fields {
            let _ = filter.count_error(access_log::set_fields(&self.host, &event));
        }
        filter.record(event);
    }

    /// Ends the evaluation without a decision, if it is under way: there is a response
    /// already, or the client is gone. True when it was.
    fn end_evaluation(&mut self, filter: &Filter<H>) -> bool {
        if !matches!(self.request, RequestState::Evaluating { .. }) {
            return false;
        }
        let request = replace(&mut self.request, RequestState::Unseen);
        let RequestState::Evaluating { arrived, evaluation } = request else { return false };
        filter.instance.metrics.count(Count::Undecided);
        self.request = RequestState::Decided(decided(filter, arrived, *evaluation, Outcome::default(), None));
        true
    }
}

/// What is kept of a request whose evaluation has ended.
fn decided<H: Host>(
    filter: &Filter<H>,
    arrived: Arrival,
    evaluation: Evaluation,
    outcome: Outcome,
    edits: Option<Box<ResponseEdits>>,
) -> DecidedRequest {
    let found = evaluation.finish(&filter.instance.metrics);
    let (timing, declared) = (found.timing, found.facts.declared());
    let event = event::of_decided(arrived.wall_ms, found, outcome);
    DecidedRequest { arrived_ns: arrived.monotonic_ns, sent_ns: None, event, declared, timing, edits }
}

/// Carries out a decision, in the phase of the request's headers.
fn enforce<H: Host>(filter: &Filter<H>, evaluated: Evaluated<'_>) -> Enforced {
    let Decision { country, would_deny, .. } = &evaluated.decision;
    if let Some(count) = would_deny.and_then(|by| Count::would_deny(by.reason)) {
        filter.instance.metrics.count(count);
    }
    let would_deny = would_deny.map(|by| (by.reason.code(), by.rule.to_string()));
    let outcome = Outcome { country: *country, would_deny, ..Outcome::default() };
    match &evaluated.decision.verdict {
        Verdict::Allow(route) => pass(filter, &evaluated, route.as_ref(), outcome),
        Verdict::Deny(Denial { reason, status, rule, route }) => {
            let outcome = Outcome { rule: rule.map(|rule| rule.to_string()), ..outcome };
            let outcome = outcome.on_route(route.as_ref());
            let edits = route.as_ref().and_then(|route| ResponseEdits::of(route, evaluated.facts, None));
            deny(filter, denied_by(&evaluated), *reason, *status, outcome, edits)
        }
    }
}

/// Lets a request pass that no check denied, unless a limit does. `route`: `None` where
/// Envoy's own route table chooses.
fn pass<H: Host>(
    filter: &Filter<H>,
    evaluated: &Evaluated<'_>,
    route: Option<&RouteMatch<'_>>,
    outcome: Outcome,
) -> Enforced {
    let Evaluated { decision, facts, lines, tables, random_bits } = evaluated;
    let rule = decision.allowed_by.map(|prefix| prefix.to_string());
    let mut outcome = Outcome { rule, ..outcome }.on_route(route);
    let route_name = route.map(|route| route.route);
    let edits_of_denied = || route.and_then(|route| ResponseEdits::of(route, facts, None));
    // A client on the allow list skips limits too.
    let tables = tables.filter(|_| decision.allowed_by.is_none());
    let limits = tables.map(|tables| limits::check(&filter.instance, tables, route, facts, lines));
    let limits = limits.unwrap_or_default();
    outcome.shadow_limit = limits.shadow_denied;
    if let Some(limited) = limits.denied {
        outcome.rule = Some(RuleId::Limit(limited.limit).to_string());
        let (reason, status) = (Reason::RateLimited, Reason::RateLimited.status());
        let headers = [("retry-after", limited.retry_after_s.to_string().into_bytes())];
        let replied = reply::deny(&filter.instance.host, denied_by(evaluated), reason, status, &headers);
        let edits = ResponseEdits::with_limits(edits_of_denied(), limits.usages);
        return count_denial(filter, reason, replied, outcome, edits);
    }
    let described = descriptors::set(filter, route_name, facts.client());
    let handled = described.and_then(|()| match route {
        Some(route) => actions::carry_out(filter, route, facts, *random_bits),
        None => Ok((Handled::Forwarded, None)),
    });
    let (handled, edits) = match handled {
        Ok(handled) => handled,
        Err(reason) => {
            return deny(filter, denied_by(evaluated), reason, reason.status(), outcome, edits_of_denied());
        }
    };
    let (verdict, reason, count, action) = match handled {
        Handled::Forwarded => (VerdictCode::Allow, None, Count::Allowed, Action::Continue),
        Handled::Redirected => (VerdictCode::Redirect, Some("redirect"), Count::Redirected, Action::Pause),
        Handled::Preflight => (VerdictCode::Allow, Some("cors_preflight"), Count::Preflights, Action::Pause),
    };
    filter.instance.metrics.count(count);
    let outcome = Outcome { verdict, reason, ..outcome };
    Enforced { action, outcome, edits: ResponseEdits::with_limits(edits, limits.usages) }
}

/// The request, and the pages for its denial.
fn denied_by<'e>(evaluated: &Evaluated<'e>) -> Denied<'e> {
    Denied { facts: evaluated.facts, pages: evaluated.tables.map(|tables| &*tables.pages) }
}

/// Answers the request with a denial.
fn deny<H: Host>(
    filter: &Filter<H>,
    denied: Denied<'_>,
    reason: Reason,
    status: u16,
    outcome: Outcome,
    edits: Option<Box<ResponseEdits>>,
) -> Enforced {
    let replied = reply::deny(&filter.instance.host, denied, reason, status, &[]);
    count_denial(filter, reason, replied, outcome, edits)
}

/// Counts a denial. `replied`: the host's result for the local reply.
fn count_denial<H: Host>(
    filter: &Filter<H>,
    reason: Reason,
    replied: Result<(), HostError>,
    outcome: Outcome,
    edits: Option<Box<ResponseEdits>>,
) -> Enforced {
    filter.instance.metrics.count(Count::denied(reason));
    let _ = filter.count_error(replied);
    let outcome = Outcome { verdict: VerdictCode::Deny, reason: Some(reason.code()), ..outcome };
    Enforced { action: Action::Pause, outcome, edits }
}
