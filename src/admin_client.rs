//! Calls to the admin service, for all parts of the filter: headers and token, which call an
//! answer belongs to, when an answer will not come any more, and when to try again.
//!
//! Envoy makes the calls over the cluster of the configuration. A call belongs to the root
//! or HTTP context whose callback made it: its answer comes to that context, and is dropped
//! once the context is gone. proxy-wasm has no way to cancel a call, so after a client has
//! left its call stays open at the cluster until it is answered or times out.

mod backoff;
mod circuit_breaker;
mod failed_calls;

use std::cell::OnceCell;
use std::time::Duration;

use tidegate_policy::wire::sync::{GATEWAY_HEADER, Gateway, TIME_HEADER};

use crate::config::Admin;
use crate::host::{Call, CallToken, Host, HostError};
pub use backoff::{Backoff, nanos};
pub use circuit_breaker::{CircuitBreaker, Probes};
pub use failed_calls::{CallMaker, FailedCall, FailedCalls, has_failed};

/// A call without a callback this long after its time is over is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// The client of one admin service in one VM.
pub struct AdminClient<H> {
    host: H,
    cluster: String,
    authority: String,
    /// Value of the `authorization` header.
    bearer: String,
    /// For calls that the admin service answers at once.
    timeout: Duration,
    /// Envoy's node id, as [`Gateway`] has it.
    node: String,
    /// Value of the gateway header. It never changes once it is known.
    gateway: OnceCell<String>,
}

/// A call that has not been answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// Names the answer.
    pub token: CallToken,
    /// When it was made, monotonic nanoseconds.
    pub since_ns: u64,
    lost_ns: u64,
}

impl InFlight {
    /// Whether no answer will come any more.
    #[must_use]
    pub fn is_lost(&self, now_ns: u64) -> bool {
        now_ns > self.lost_ns
    }
}

impl<H: Host> AdminClient<H> {
    /// A client that does not know its process yet. `node`: Envoy's node id. Makes no host
    /// call.
    pub fn new(host: H, admin: Admin, node: &[u8]) -> Self {
        let Admin { cluster, authority, token, timeout } = admin;
        let bearer = ["Bearer ", &token].concat();
        let node = Gateway::new(node, 0).node;
        Self { host, cluster, authority, bearer, timeout, node, gateway: OnceCell::new() }
    }

    /// The name by which flags name this gateway: Envoy's node id.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The time limit of calls that the admin service answers at once.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Takes the id of the process, with which it is known who this gateway is. Before that
    /// no call can be made; after it nothing changes.
    pub fn identify(&self, process: u64) {
        self.gateway.get_or_init(|| Gateway { node: self.node.clone(), process }.to_string());
    }

    /// Whether it is known who this gateway is.
    pub fn is_identified(&self) -> bool {
        self.gateway.get().is_some()
    }

    /// Asks for a document, from the context whose callback runs.
    ///
    /// # Errors
    /// When the host refuses to make the call, or the gateway is not known yet: then no
    /// answer comes.
    pub fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<InFlight, HostError> {
        self.call("GET", path, headers, &[], timeout)
    }

    /// Posts a body, which may be empty, from the context whose callback runs.
    ///
    /// # Errors
    /// As of [`get`](Self::get).
    pub fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<InFlight, HostError> {
        self.call("POST", path, headers, body, timeout)
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        extra: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<InFlight, HostError> {
        let gateway = self.gateway.get().ok_or(HostError::NotFound)?;
        let mut headers = Vec::with_capacity(8);
        headers.extend([
            (":method", method),
            (":path", path),
            (":authority", &self.authority),
            ("authorization", &self.bearer),
            (GATEWAY_HEADER, gateway),
        ]);
        if !body.is_empty() {
            headers.push(("content-type", "application/octet-stream"));
        }
        headers.extend_from_slice(extra);
        let token = self.host.call(Call { cluster: &self.cluster, headers: &headers, body, timeout })?;
        let since_ns = self.host.monotonic_ns();
        let lost_ns = since_ns.saturating_add(nanos(timeout.saturating_add(LOST_AFTER)));
        Ok(InFlight { token, since_ns, lost_ns })
    }

    /// The status of the answer, inside its callback; `None` when the call failed: without an
    /// answer, or with one from 500 on that is not the admin service's. Envoy answers 503 and 504
    /// itself when a host cannot be reached or a call's time is over.
    pub fn status(&self) -> Option<u16> {
        self.host.call_status().filter(|status| *status < 500 || self.service_ms().is_some())
    }

    /// The admin service's clock when it gave this answer, inside its callback, milliseconds since
    /// the Unix epoch; `None` for an answer of Envoy's own or of something in between.
    pub fn service_ms(&self) -> Option<u64> {
        std::str::from_utf8(&self.host.call_header(TIME_HEADER)?).ok()?.parse().ok()
    }

    /// Whether the admin service itself refused the call, with this status; inside the call's
    /// callback for a status below 500.
    pub fn has_refused(&self, status: Option<u16>) -> bool {
        status.is_some_and(|status| status >= 500 || status >= 400 && self.service_ms().is_some())
    }
}
