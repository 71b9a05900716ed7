//! A process with gates and the service that they ask: what most scenarios begin
//! with.

use std::time::Duration;

use tidegate_policy::flags::Flags;
use tidegate_policy::wire::event::TrafficEvent;

use crate::feed::Feed;
use crate::process::{Module, Root, Sim, Worker};
use crate::stream::{Request, Response, StreamId, Waits};

/// The least configuration that is enough.
pub const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;

/// A process, its gates, and its admin service.
pub struct Stage {
    /// The process.
    pub sim: Sim,
    /// The service.
    pub feed: Feed,
    /// A gate on each worker.
    pub gates: Vec<(Worker, Root)>,
}

impl Stage {
    /// A process of so many workers and a service, at rest: tables are there.
    ///
    /// # Panics
    /// When the configuration is refused.
    #[must_use]
    pub fn new(module: Module, workers: usize, config: &str, feed: Feed) -> Self {
        let mut stage = Self::cold(module, workers, config, feed);
        stage.run(Duration::from_secs(1));
        stage
    }

    /// As [`new`](Self::new), with these flags.
    #[must_use]
    pub fn with_flags(module: Module, workers: usize, config: &str, flags: Flags) -> Self {
        let mut feed = Feed::new();
        feed.set_flags(flags);
        Self::new(module, workers, config, feed)
    }

    /// A process that was configured at this moment: nothing has ticked, nobody
    /// was asked.
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

    /// Lets time pass, serving whatever is asked.
    pub fn run(&mut self, time: Duration) {
        self.feed.run(&mut self.sim, time);
    }

    /// A request's headers reach a gate.
    pub fn begin(&mut self, gate: usize, request: Request) -> StreamId {
        let (worker, root) = self.gates[gate];
        self.sim.begin(worker, root, request)
    }

    /// A request from its headers to its log, served in all that it asks.
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

    /// `GET /x` from this address without that anything else happens: it must not
    /// ask.
    ///
    /// # Panics
    /// When it is held.
    pub fn get_now(&mut self, gate: usize, client: &str) -> Response {
        let stream = self.begin(gate, Request::get("/x", client));
        assert!(matches!(self.sim.waits(stream), Some(Waits::Upstream | Waits::Nobody)), "held");
        self.sim.finish(stream)
    }

    /// The events that were stored so far, once all of them are, in the order of
    /// their numbers; of one gate only, as each has its own.
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

    /// What must hold whatever happened: nothing that Envoy does not forgive was
    /// done, and nobody is held for ever.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check(&self) {
        assert!(self.sim.offences().is_empty(), "{:?}", self.sim.offences());
        assert!(self.sim.stuck().is_empty(), "held, and nothing will wake them");
    }
}
