//! One request through the filter: facts, decision, and what Envoy is told.

#[cfg(test)]
mod tests;

use std::rc::Rc;

use tidegate_policy::decide::Reason;
use tidegate_policy::wire::event::TrafficEvent;

use crate::filter::Filter;
use crate::host::{CallToken, Host};
use crate::metrics::Count;
use crate::request::actions::ResponseEdits;
use crate::request::evaluation::Evaluation;
use crate::request::facts::RequestFacts;
use crate::request::performance::{self, Timing};
use crate::request::recording::{self, Wait};
pub use crate::request::verdict::Flow;
use crate::request::{access_log, event, reply, verdict};
use crate::worker::FLUSH_EVERY;

/// A request, from its headers to its log.
pub struct RequestContext<H: Host> {
    host: H,
    filter: Option<Rc<Filter<H>>>,
    /// Absent when Envoy refused the request before the filter.
    seen: Option<RequestState>,
    /// While it is not decided.
    evaluation: Option<Box<Evaluation>>,
    response: Response,
    /// There was a response before there was a decision: Envoy gave the request
    /// up. An answer that comes now must do nothing, for Envoy would take a
    /// verdict in the place of the answer that it has given. Nor is that held
    /// back: see [`event::broke_the_codec`].
    overtaken: bool,
    /// Its event is made: a request has one, however often Envoy says that it is over.
    is_recorded: bool,
}

/// What is kept of a request until its end. Nothing of the tables: an overlay may
/// be a megabyte and every change makes a new one, so tunnels that clients keep
/// open would hold as many of them as they like.
struct RequestState {
    began_ns: u64,
    event: TrafficEvent,
    timing: Option<Timing>,
    after: Option<Box<ResponseEdits>>,
}

/// How far a request's response is.
enum Response {
    /// It has none.
    None,
    /// It waits for its event to be stored.
    Waits(Wait),
    /// It is on its way.
    Gone,
}

impl<H: Host> RequestContext<H> {
    /// A request that has not begun.
    pub fn new(host: H, filter: Option<Rc<Filter<H>>>) -> Self {
        let response = Response::None;
        Self { host, filter, seen: None, evaluation: None, response, overtaken: false, is_recorded: false }
    }

    /// Decides the request, or asks what it takes to decide it.
    pub fn on_request_headers(&mut self, _end_of_stream: bool) -> Flow {
        let Some(filter) = self.filter.clone() else {
            // No configuration, no filter: nothing passes.
            reply::deny(&self.host, Reason::NotReady, Reason::NotReady.status());
            return Flow::Stop;
        };
        let (vm, began_ns) = (&filter.vm, self.host.monotonic_ns());
        vm.before_request(began_ns);
        let request = RequestFacts::read(&self.host, &vm.metrics, filter.country_header.as_deref());
        let tables = vm.sync.borrow().tables();
        let mut event = TrafficEvent { time_ms: self.host.wall_us() / 1_000, ..TrafficEvent::default() };
        event.tables_seq = tables.as_ref().map_or(0, |tables| tables.version.seq);
        let is_clean = request.strip_own_headers(&self.host);
        let is_measured = performance::is_wanted(filter.performance, request.wants_performance());
        let evaluation = Evaluation::new(request, tables, vm.dice(), is_measured.then(Timing::default));
        event.modes = Some(evaluation.modes());
        if !is_clean {
            // What a client wrote would pass for the filter's own word; so it might
            // where the headers could not be read.
            vm.metrics.count(Count::HostErrors);
            let flow = verdict::deny(&filter, Reason::NotReady, Reason::NotReady.status(), &mut event);
            let timing = evaluation.finish(&mut event, vm);
            self.seen = Some(RequestState { began_ns, event, timing, after: None });
            return flow;
        }
        self.advance(&filter, evaluation, RequestState { began_ns, event, timing: None, after: None })
    }

    /// Goes on deciding. A request that is not decided stops, and so does one that
    /// is denied.
    fn advance(&mut self, filter: &Filter<H>, mut evaluation: Evaluation, mut seen: RequestState) -> Flow {
        let (flow, after) = match evaluation.advance(filter) {
            Some(decided) => verdict::carry_out(filter, decided, &mut seen.event),
            None => {
                self.evaluation = Some(Box::new(evaluation));
                self.seen = Some(seen);
                return Flow::Stop;
            }
        };
        seen.after = after;
        seen.timing = evaluation.finish(&mut seen.event, &filter.vm);
        self.seen = Some(seen);
        flow
    }

    /// A call that this request made was answered, or failed (`num_headers` is
    /// zero).
    pub fn on_call_response(&mut self, token: CallToken, num_headers: usize) {
        let Some(filter) = self.filter.clone() else { return };
        match self.response {
            Response::None => self.on_answer(&filter, token, num_headers),
            Response::Waits(wait) if wait.token == token => self.on_recorded(&filter, wait, num_headers),
            _ if self.overtaken => filter.vm.metrics.count(Count::LateAnswers),
            // The decision did not need this one any more.
            Response::Waits(_) | Response::Gone => {}
        }
    }

    fn on_answer(&mut self, filter: &Filter<H>, token: CallToken, num_headers: usize) {
        // Without an evaluation it is decided, and did not need this answer.
        let Some(mut evaluation) = self.evaluation.take() else { return };
        if !evaluation.take(token, num_headers, filter) {
            self.evaluation = Some(evaluation);
            return;
        }
        let Some(seen) = self.seen.take() else { return };
        if self.advance(filter, *evaluation, seen) == Flow::Continue && self.host.resume_request().is_err() {
            filter.vm.metrics.count(Count::HostErrors);
        }
    }

    /// The response's headers are there, of the upstream, of Envoy or of the filter.
    pub fn on_response_headers(&mut self, _end_of_stream: bool) -> Flow {
        let (Some(filter), Some(seen), Response::None) =
            (self.filter.clone(), &mut self.seen, &self.response)
        else {
            return Flow::Continue;
        };
        self.response = Response::Gone;
        if seen.after.take().is_some_and(|after| after.finish(&self.host).is_err()) {
            filter.vm.metrics.count(Count::HostErrors);
        }
        if let Some(evaluation) = self.evaluation.take() {
            self.overtaken = true;
            filter.vm.metrics.count(Count::Undecided);
            seen.timing = evaluation.finish(&mut seen.event, &filter.vm);
        }
        let sync = seen.event.modes.is_some_and(|modes| !modes.async_recording);
        if sync && !self.overtaken && !event::broke_the_codec(&self.host) {
            event::respond(&self.host, &mut seen.event);
            if let Some(wait) = recording::begin(&filter, &mut seen.event) {
                self.response = Response::Waits(wait);
                return Flow::Stop;
            }
        }
        self.tell(&filter);
        Flow::Continue
    }

    /// The event is stored, or not: either way its response goes on.
    fn on_recorded(&mut self, filter: &Filter<H>, wait: Wait, num_headers: usize) {
        self.response = Response::Gone;
        recording::end(filter, num_headers);
        if let Some(timing) = self.seen.as_mut().and_then(|seen| seen.timing.as_mut()) {
            timing.recording = self.host.monotonic_ns().saturating_sub(wait.since_ns);
        }
        self.tell(filter);
        if self.host.resume_response().is_err() {
            filter.vm.metrics.count(Count::HostErrors);
        }
    }

    /// Tells in the response what the request cost, if somebody wants to know.
    fn tell(&self, filter: &Filter<H>) {
        let Some(RequestState { began_ns, event, timing: Some(timing), .. }) = &self.seen else { return };
        let total_ns = self.host.monotonic_ns().saturating_sub(*began_ns);
        if performance::tell(&self.host, timing, &event.answered, total_ns).is_err() {
            filter.vm.metrics.count(Count::HostErrors);
        }
    }

    /// Envoy logs the request, whatever became of it. This may be the first that the
    /// filter hears of it.
    pub fn on_log(&mut self) {
        self.record();
    }

    /// The context ends. Over HTTP/3 this may be all that a filter hears of a request's
    /// end: since 1.40 Envoy logs such a request when its client has acknowledged the
    /// response, and without filters, for they are gone by then. One that was reset is
    /// logged first, as over HTTP/1.1 and HTTP/2.
    pub fn on_done(&mut self) {
        self.record();
    }

    /// The request's one event.
    fn record(&mut self) {
        let Some(filter) = &self.filter else { return };
        if std::mem::replace(&mut self.is_recorded, true) {
            return;
        }
        let mut event = match self.seen.take() {
            Some(RequestState { began_ns, mut event, .. }) => {
                if let Some(evaluation) = self.evaluation.take() {
                    // The client left before it was decided.
                    filter.vm.metrics.count(Count::Undecided);
                    evaluation.finish(&mut event, &filter.vm);
                }
                let took = self.host.monotonic_ns().saturating_sub(began_ns);
                event.duration_us = Some(took / 1_000);
                event
            }
            None => {
                filter.vm.metrics.count(Count::Unseen);
                event::unseen(&self.host)
            }
        };
        event::complete(&self.host, &mut event);
        if event.reason.as_deref() == Some(event::UNKNOWN_BACKEND) {
            filter.vm.metrics.count(Count::UnknownBackend);
        }
        if filter.log_fields && access_log::tell(&self.host, &event).is_err() {
            filter.vm.metrics.count(Count::HostErrors);
        }
        if filter.vm.record(&mut event) {
            filter.tick_within(FLUSH_EVERY);
        }
    }
}
