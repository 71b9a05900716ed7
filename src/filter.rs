//! One plugin configuration at work in one VM.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tidegate_policy::decide::{Reason, Settings};
use tidegate_policy::wire::event::TrafficEvent;

use crate::admin_client::{CallMaker, CircuitBreaker, FailedCall, has_failed};
use crate::config::{Config, Performance, TrustedHops};
use crate::direct::DirectChecks;
use crate::host::{CallToken, Host, HostError, QueueId};
use crate::metrics::Count;
use crate::request::cluster_names::ClusterNames;
use crate::worker::{AdminInstance, FLUSH_EVERY};

/// Time to a tick that stands in for a wake-up, or goes on with what one began.
const SOON: Duration = Duration::from_millis(1);

/// One plugin configuration at work in one VM: what all its requests share.
pub struct Filter<H: Host> {
    /// Tables and events.
    pub instance: Rc<AdminInstance<H>>,
    /// Settings of the decision.
    pub settings: Settings,
    /// Time limits and circuit breakers of questions to the admin service.
    pub direct: DirectChecks,
    /// Circuit breaker of synchronous recording.
    pub recording: CircuitBreaker,
    /// How long a response waits for its event to be stored.
    pub sync_timeout: Duration,
    /// Which responses get performance headers.
    pub performance: Performance,
    /// The header with the client's country, in lower case.
    pub country_header: Option<String>,
    /// Who may say in `X-Forwarded-For` who the client is, where Envoy passed over that.
    pub forwarded_for: Option<TrustedHops>,
    /// Whether paths are matched without parameters.
    pub strip_path_parameters: bool,
    /// Whether requests get the headers that Envoy's rate limit filter makes descriptors of.
    pub descriptor_headers: bool,
    /// Whether route and mismatches are set as filter state, for Envoy's access log.
    pub log_fields: bool,
    /// Whether clients use TLS, as configured.
    pub listener_https: Option<bool>,
    /// The port that clients know the listener by, as configured.
    pub listener_port: Option<u16>,
    /// The names of backends' clusters.
    pub clusters: ClusterNames,
    tick: Cell<Duration>,
}

impl<H: Host> Filter<H> {
    /// A configuration at work; `tick` is the timer's period so far.
    pub fn new(instance: Rc<AdminInstance<H>>, config: Config, tick: Duration) -> Self {
        let probes = Rc::default();
        Self {
            instance,
            direct: DirectChecks::new(config.direct, &probes),
            recording: CircuitBreaker::new(&probes),
            settings: config.settings,
            sync_timeout: config.sync_timeout,
            performance: config.performance,
            country_header: config.country_header,
            forwarded_for: config.forwarded_for,
            strip_path_parameters: config.strip_path_parameters,
            descriptor_headers: config.descriptor_headers,
            log_fields: config.log_fields,
            listener_https: config.listener_https,
            listener_port: config.listener_port,
            clusters: ClusterNames::new(config.cluster_template),
            tick: Cell::new(tick),
        }
    }

    /// Sets the period of the root context's tick, if it changes.
    pub fn set_tick(&self, period: Duration) {
        if self.tick.replace(period) != period {
            let _ = self.instance.host.set_tick(period);
        }
    }

    /// The status of a call's answer, in its callback. `None`: it failed. Who made it is told
    /// in a later callback ([`FailedCalls`] has the reason), and must do nothing in this one.
    pub fn answered(&self, token: CallToken, maker: CallMaker) -> Option<u16> {
        let status = self.instance.client.status();
        if !has_failed(status) {
            return status;
        }
        if self.instance.failed.push(FailedCall { maker, token, status }) {
            self.wake();
        }
        None
    }

    /// Tells the maker of the oldest call that failed. `root` is the root whose callback
    /// runs, which must do nothing after this: a request may have the host's attention then.
    pub fn tell_of_failure(&self, root: u32) {
        let Some((FailedCall { maker, token, status }, is_last)) = self.instance.failed.pop() else { return };
        if !is_last {
            // One in each callback, as Envoy does it: what one asks for is done after it.
            self.wake();
        }
        match maker {
            CallMaker::Root => self.on_call_response(root, token, status),
            CallMaker::Request(context) => {
                self.instance.host.notify_request(context, token, status.unwrap_or_default());
            }
        }
    }

    /// A message arrived in a queue that `root` registered.
    pub fn on_queue_ready(&self, root: u32, queue: QueueId) {
        self.instance.on_queue_ready(root, queue);
        self.go_on_at_tick();
    }

    /// A call of a root's ended, with this status; `root` is the root whose callback runs.
    pub fn on_call_response(&self, root: u32, token: CallToken, status: Option<u16>) {
        self.instance.on_call_response(root, token, status);
        self.go_on_at_tick();
    }

    /// Ticks soon if tables are loaded or published, and the rest of that was left for a tick.
    fn go_on_at_tick(&self) {
        if self.instance.sync.borrow().wants_tick() {
            self.tick_within(SOON);
        }
    }

    /// Has one of the instance's roots called back soon.
    fn wake(&self) {
        if !self.instance.sync.borrow().wake_itself() {
            self.tick_within(SOON);
        }
    }

    /// Numbers and buffers an event.
    pub fn record(&self, mut event: TrafficEvent) {
        if self.instance.record(&mut event) {
            self.tick_within(FLUSH_EVERY);
        }
    }

    /// Counts a host call that failed, and returns its result.
    pub fn count_error(&self, done: Result<(), HostError>) -> Result<(), HostError> {
        if done.is_err() {
            self.instance.metrics.count(Count::HostErrors);
        }
        done
    }

    /// As [`count_error`](Self::count_error), for a call without which the request must not pass.
    ///
    /// # Errors
    /// Why the request is to be denied.
    pub fn require(&self, done: Result<(), HostError>) -> Result<(), Reason> {
        self.count_error(done).map_err(|_| Reason::NotReady)
    }

    /// Shortens the tick's period to `period`, if it is longer.
    pub fn tick_within(&self, period: Duration) {
        if self.tick.get() > period {
            self.set_tick(period);
        }
    }
}
