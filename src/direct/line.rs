//! Posts to the admin service that a request waits for.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::sync::{GATEWAY_HEADER, Gateway};

use super::circuit_breaker::CircuitBreaker;
use crate::config::{Admin, DirectLimits};
use crate::host::{Call, CallToken, Host, HostError};
use crate::worker::Instance;

/// The line of one plugin configuration in one VM.
pub struct AdminClient<H: Host> {
    /// The VM that asks.
    pub vm: Rc<Instance<H>>,
    /// How long a request may wait for its questions.
    pub limits: DirectLimits,
    /// Whether questions are worth asking, by check.
    pub patience: PerCheck<CircuitBreaker>,
    /// Whether events are worth sending ahead.
    pub recording: CircuitBreaker,
    cluster: String,
    authority: String,
    bearer: String,
    /// Who this gateway is, once it is known: that never changes.
    gateway: OnceCell<String>,
}

impl<H: Host> AdminClient<H> {
    /// A line to `admin`. Makes no host call.
    pub fn new(vm: Rc<Instance<H>>, admin: Admin, limits: DirectLimits) -> Self {
        let Admin { cluster, authority, token, .. } = admin;
        let bearer = ["Bearer ", &token].concat();
        let (patience, recording) = (PerCheck::default(), CircuitBreaker::default());
        Self { vm, limits, patience, recording, cluster, authority, bearer, gateway: OnceCell::new() }
    }

    /// Posts from the request at hand, to which the answer comes.
    ///
    /// # Errors
    /// When the host refuses to make the call: then no answer comes.
    pub fn post(&self, path: &str, body: &[u8], timeout: Duration) -> Result<CallToken, HostError> {
        let headers = [
            (":method", "POST"),
            (":path", path),
            (":authority", &self.authority),
            ("authorization", &self.bearer),
            ("content-type", "application/octet-stream"),
            (GATEWAY_HEADER, self.gateway()?),
        ];
        self.vm.host.call(Call { cluster: &self.cluster, headers: &headers, body, timeout })
    }

    fn gateway(&self) -> Result<&str, HostError> {
        if let Some(gateway) = self.gateway.get() {
            return Ok(gateway);
        }
        let known = self.vm.sync.borrow().gateway().as_ref().map(Gateway::to_string);
        let known = known.ok_or(HostError::NotFound)?;
        Ok(self.gateway.get_or_init(|| known))
    }
}
