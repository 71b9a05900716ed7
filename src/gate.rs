//! One request through the gate: facts, decision, and what Envoy is told.

mod event;
mod reply;
mod request;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tidegate_policy::decide::{Decision, Denial, Given, Reason, Settings, Verdict, decide};
use tidegate_policy::decide::Tables;
use tidegate_policy::route::Backend;
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use crate::config::Config;
use crate::home::{FLUSH_EVERY, Vm};
use crate::host::{CallToken, Host};
use crate::metrics::Count;
use request::Request;

/// The header that Envoy's `cluster_header` follows.
pub const CLUSTER_HEADER: &str = "x-tidegate-cluster";
/// Headers with this prefix are the gate's to set: a client's are removed.
pub const OWN_PREFIX: &[u8] = b"x-tidegate-";

/// What Envoy does next with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It stops: an answer was given.
    Stop,
}

/// One plugin configuration at work in one VM: what all its requests share.
pub struct Gate<H: Host> {
    /// Tables and events.
    pub vm: Rc<Vm<H>>,
    settings: Settings,
    cluster_template: String,
    clusters: RefCell<HashMap<Backend, Rc<str>>>,
    tick: Cell<Duration>,
}

/// Backends whose clusters' names are kept; over that all are forgotten.
const MAX_CLUSTERS: usize = 10_000;

impl<H: Host> Gate<H> {
    /// A configuration at work; `tick` is the timer's period so far.
    pub fn new(vm: Rc<Vm<H>>, config: Config, tick: Duration) -> Self {
        Self {
            vm,
            settings: config.settings,
            cluster_template: config.cluster_template,
            clusters: RefCell::default(),
            tick: Cell::new(tick),
        }
    }

    /// Sets the root's timer, if it is not what it was.
    pub fn set_tick(&self, period: Duration) {
        if self.tick.replace(period) != period {
            let _ = self.vm.host.set_tick(period);
        }
    }

    /// The cluster of a backend.
    fn cluster(&self, backend: &Backend) -> Rc<str> {
        let mut clusters = self.clusters.borrow_mut();
        if let Some(name) = clusters.get(backend) {
            return name.clone();
        }
        if clusters.len() >= MAX_CLUSTERS {
            clusters.clear();
        }
        let name: Rc<str> = request::cluster_name(&self.cluster_template, backend).into();
        clusters.insert(backend.clone(), name.clone());
        name
    }
}

/// A request, from its headers to its log.
pub struct Stream<H: Host> {
    host: H,
    gate: Option<Rc<Gate<H>>>,
    /// Absent when Envoy refused the request before the gate.
    seen: Option<Seen>,
}

/// What is kept of a request until its end. Nothing of the tables: an overlay may
/// be a megabyte and every change makes a new one, so tunnels that clients keep
/// open would hold as many of them as they like.
struct Seen {
    began_ns: u64,
    event: TrafficEvent,
}

impl<H: Host> Stream<H> {
    /// A request that has not begun.
    pub fn new(host: H, gate: Option<Rc<Gate<H>>>) -> Self {
        Self { host, gate, seen: None }
    }

    /// Decides the request.
    pub fn on_request_headers(&mut self, _end_of_stream: bool) -> Flow {
        let Some(gate) = self.gate.clone() else {
            // No configuration, no gate: nothing passes.
            reply::deny(&self.host, Reason::NotReady);
            return Flow::Stop;
        };
        let began_ns = self.host.monotonic_ns();
        gate.vm.before_request();
        let request = Request::read(&self.host, &gate.vm.metrics);
        let tables = gate.vm.sync.borrow().tables();
        let mut event = TrafficEvent { time_ms: self.host.wall_us() / 1_000, ..TrafficEvent::default() };
        let flow = match &tables {
            Some(tables) => {
                event.tables_seq = tables.version.seq;
                self.decide(&gate, &request, tables, &mut event)
            }
            None => self.deny(&gate, Reason::NotReady, &mut event),
        };
        request.into_event(&mut event);
        self.seen = Some(Seen { began_ns, event });
        flow
    }

    fn decide(
        &self,
        gate: &Gate<H>,
        request: &Request,
        tables: &Rc<Tables>,
        event: &mut TrafficEvent,
    ) -> Flow {
        let vm = &gate.vm;
        if !request.strip_own_headers(&self.host) {
            // What a client wrote would pass for the gate's own word; so it might
            // where the headers could not be read.
            vm.metrics.count(Count::HostErrors);
            return self.deny(gate, Reason::NotReady, event);
        }
        let lines = request.lines();
        let facts = request.facts(&lines, vm.dice());
        let Decision { verdict, allowed_by, country } =
            decide(&facts, Given::Table, tables, &gate.settings, || vm.sync.borrow().now());
        event.country = country;
        match verdict {
            Verdict::Allow(found) => {
                event.verdict = VerdictCode::Allow;
                event.rule = allowed_by.map(|prefix| prefix.to_string());
                vm.metrics.count(Count::Allowed);
                if let Some(found) = found {
                    event.route = Some(found.route.to_owned());
                    let cluster = found.backend.map(|backend| gate.cluster(backend));
                    if let Some(cluster) = cluster
                        && self.host.set_request_header(CLUSTER_HEADER, cluster.as_bytes()).is_err()
                    {
                        vm.metrics.count(Count::HostErrors);
                    }
                }
                Flow::Continue
            }
            Verdict::Deny(Denial { reason, rule, route, .. }) => {
                event.rule = rule.map(|rule| rule.to_string());
                event.route = route.map(|found| found.route.to_owned());
                self.deny(gate, reason, event)
            }
        }
    }

    fn deny(&self, gate: &Gate<H>, reason: Reason, event: &mut TrafficEvent) -> Flow {
        event.verdict = VerdictCode::Deny;
        event.reason = Some(reason.code().to_owned());
        gate.vm.metrics.count(Count::denied(reason));
        if !reply::deny(&self.host, reason) {
            gate.vm.metrics.count(Count::HostErrors);
        }
        Flow::Stop
    }

    /// The response's headers are there, of the upstream, of Envoy or of the gate.
    pub fn on_response_headers(&mut self, _end_of_stream: bool) -> Flow {
        Flow::Continue
    }

    /// A call that this request made was answered, or failed (`num_headers` is
    /// zero).
    pub fn on_call_response(&mut self, _token: CallToken, _num_headers: usize) {}

    /// The request is over, whatever became of it: one event. This may be the
    /// first that the gate hears of it.
    pub fn on_log(&mut self) {
        let Some(gate) = &self.gate else { return };
        let mut event = match self.seen.take() {
            Some(Seen { began_ns, mut event }) => {
                let took = self.host.monotonic_ns().saturating_sub(began_ns);
                event.duration_us = Some(took / 1_000);
                event
            }
            None => {
                gate.vm.metrics.count(Count::Unseen);
                event::unseen(&self.host)
            }
        };
        event::complete(&self.host, &mut event);
        if gate.vm.record(&mut event) && gate.tick.get() > FLUSH_EVERY {
            gate.set_tick(FLUSH_EVERY);
        }
    }
}
