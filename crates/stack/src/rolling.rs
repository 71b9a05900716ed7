//! Another Envoy beside the one that runs, and one in the other's place: how Envoys are
//! replaced without a pause.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::http::{self, Method, Request};
use crate::ports::{Ports, ReservedPorts, local};
use crate::process::Process;
use crate::stack::Stack;
use crate::stats::Stats;

/// An Envoy of a stack, when there are two. Dropped, it is ended by SIGTERM.
#[derive(Debug)]
pub struct OneEnvoy {
    pub(crate) process: Process,
    pub(crate) ports: Ports,
}

impl OneEnvoy {
    /// Where its clients go.
    #[must_use]
    pub fn gate(&self) -> SocketAddr {
        local(self.ports.gate)
    }

    /// Its counters and gauges.
    ///
    /// # Errors
    /// It does not answer.
    pub fn stats(&self) -> Result<Stats> {
        Stats::read(local(self.ports.envoy_admin))
    }

    /// From now on it fails health checks, and says in every answer that the
    /// connection ends.
    ///
    /// # Errors
    /// It does not answer, or goes on saying that it is ready.
    pub fn fail_health_checks(&self) -> Result<()> {
        let admin = local(self.ports.envoy_admin);
        let answer = http::send(admin, &Request::new(Method::POST, "/healthcheck/fail"))?;
        ensure!(answer.status == 200, "/healthcheck/fail answered {}", answer.status);
        let ready = http::send(admin, &Request::get("/ready"))?;
        ensure!(ready.status == 503, "/ready answers {} all the same", ready.status);
        Ok(())
    }

    /// Whether the admin service has the events of all requests that it had, as its
    /// metrics tell: those say it up to a quarter of a second late, never early.
    ///
    /// # Errors
    /// It does not answer.
    pub fn has_sent_all(&self) -> Result<bool> {
        let stats = self.stats()?;
        let get = |name: &str| stats.get(name).unwrap_or(0);
        let requests = get("http.gate.downstream_rq_total");
        let enqueued = get("wasmcustom.tidegate.events.enqueued");
        let waiting = |name: &str| {
            name.starts_with("wasmcustom.tidegate.queue.bytes")
                || name == "wasmcustom.tidegate.recorder.bytes"
        };
        Ok(enqueued >= requests && stats.sum(waiting) == 0)
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(self) {
        self.process.terminate();
    }
}

impl Stack {
    /// Starts one more Envoy, of the same configuration on other ports, and makes it
    /// the stack's own: what is asked of the stack from now on is asked of that one. The
    /// one before comes back. See [`Stack::wait_gate_ready`].
    ///
    /// # Errors
    /// No Envoy runs, or none can be started.
    pub fn start_successor(&mut self) -> Result<OneEnvoy> {
        let process = self.envoy.take().context("Envoy does not run")?;
        let before = OneEnvoy { process, ports: self.ports };
        let reserved = ReservedPorts::take()?;
        let free = reserved.ports();
        self.reserved.push(reserved);
        self.ports.gate = free.gate;
        self.ports.envoy_admin = free.envoy_admin;
        self.ports.admin_api = free.admin_api;
        self.start_envoy()?;
        Ok(before)
    }
}
