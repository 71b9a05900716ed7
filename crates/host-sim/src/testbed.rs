//! A process with gates and an admin service, with which most scenarios begin.

use std::time::Duration;

use tidegate_policy::flags::Flags;
use tidegate_policy::wire::event::TrafficEvent;

use crate::feed::Feed;
use crate::process::{Module, Root, Sim, Worker};
use crate::stream::{Request, Response, StreamId, Waits};

/// The smallest valid configuration.
pub const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;

/// A process, its gates, and its admin service.
pub struct Testbed {
    /// The process.
    pub sim: Sim,
    /// The service.
    pub feed: Feed,
    /// A gate on each worker.
    pub gates: Vec<(Worker, Root)>,
}

impl Testbed {
    /// A process of so many workers and a service, with tables loaded.
    ///
    /// # Panics
    /// When the configuration is refused.
    #[must_use]
    pub fn new(module: Module, workers: usize, config: &str, feed: Feed) -> Self {
        let mut testbed = Self::cold(module, workers, config, feed);
        testbed.run(Duration::from_secs(1));
        testbed
    }

    /// As [`new`](Self::new), with these flags.
    #[must_use]
    pub fn with_flags(module: Module, workers: usize, config: &str, flags: Flags) -> Self {
        let mut feed = Feed::new();
        feed.set_flags(flags);
        Self::new(module, workers, config, feed)
    }

    /// A process that was just configured: no root context has ticked, and there was no
    /// callout.
    ///
    /// # Panics
    /// When the configuration is refused.
    #[must_use]
    pub fn cold(module: Module, workers: usize, config: &str, feed: Feed) -> Self {
        let mut sim = Sim::new(module);
        let mut gates = Vec::new();
        for _ in 0..workers {
            let worker = sim.worker();
            let (root, accepted) = sim.root(worker, "tidegate", config);
            assert!(accepted, "{:?}", sim.errors());
            gates.push((worker, root));
        }
        Self { sim, feed, gates }
    }

    /// Lets time pass, and answers callouts.
    pub fn run(&mut self, time: Duration) {
        self.feed.run(&mut self.sim, time);
    }

    /// A request's headers reach a gate.
    pub fn begin(&mut self, gate: usize, request: Request) -> StreamId {
        let (worker, root) = self.gates[gate];
        self.sim.begin(worker, root, request)
    }

    /// Runs a request from its headers to its log, with its questions answered.
    pub fn request(&mut self, gate: usize, request: Request) -> Response {
        let (worker, root) = self.gates[gate];
        self.feed.request(&mut self.sim, worker, root, request)
    }

    /// Serves a request to its end.
    pub fn finish(&mut self, stream: StreamId) -> Response {
        self.feed.carry(&mut self.sim, stream);
        self.sim.finish(stream)
    }

    /// `GET /x` from this address.
    pub fn get(&mut self, gate: usize, client: &str) -> Response {
        self.request(gate, Request::get("/x", client))
    }

    /// `GET /x` from this address, without anything else happening: it must be decided
    /// without a callout.
    ///
    /// # Panics
    /// When it is held.
    pub fn get_now(&mut self, gate: usize, client: &str) -> Response {
        let stream = self.begin(gate, Request::get("/x", client));
        assert!(matches!(self.sim.waits(stream), Some(Waits::Upstream | Waits::Nobody)), "held");
        self.sim.finish(stream)
    }

    /// All events in the order of their numbers, once all are stored; for one gate only, as
    /// each gate has numbers of its own.
    ///
    /// # Panics
    /// When there are several gates.
    pub fn events(&mut self) -> Vec<TrafficEvent> {
        assert_eq!(self.gates.len(), 1, "numbers of several gates have no order");
        self.run(Duration::from_secs(1));
        let mut events: Vec<_> = self.feed.events.iter().map(|(_, event)| event.clone()).collect();
        events.sort_by_key(|event| event.number);
        events
    }

    /// A metric's value.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        self.sim.metric(name)
    }

    /// Checks what must hold in any case: nothing was done that Envoy does not tolerate, and
    /// no request is held forever.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check(&self) {
        assert!(self.sim.violations().is_empty(), "{:?}", self.sim.violations());
        assert!(self.sim.stuck().is_empty(), "held, and nothing will wake them");
    }
}
