//! The line to the admin service: the requests, who made them, and when to try
//! again.

use std::time::Duration;

use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::{FORMATS, FORMATS_HEADER};
use tidegate_policy::wire::sync::{ACK_HEADER, Ack, BlobRef, GATEWAY_HEADER, Gateway, HELD_HEADER, Held};

use crate::host::{Call, CallToken, Host, HostError};
use crate::sync::shared::lease::Role;

/// How long the admin service may hold a poll open.
const WAIT: Duration = Duration::from_secs(25);
/// Beyond [`WAIT`] the poll is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Beyond its timeout a callout without a callback is taken for lost.
const NEVER: Duration = Duration::from_secs(5);
/// Waits after failures: doubled each time between these, shortened by up to
/// half by chance so that a thousand gateways do not return in step. A service
/// that came back does not know of a gateway before its next try, and would call
/// a ban applied that this one has not heard of: the last wait is short.
const FIRST_WAIT_NS: u64 = 100_000_000;
const LAST_WAIT_NS: u64 = 1_000_000_000;

/// What an operator and the host say.
#[derive(Clone, Debug)]
pub struct SyncSettings {
    /// Envoy cluster of the admin service's gateways' listener.
    pub cluster: String,
    /// `:authority` of the calls.
    pub authority: String,
    /// Bearer token of scope `gateway`.
    pub token: String,
    /// For a call that is not held open by the other side.
    pub timeout: Duration,
    /// Envoy's node id.
    pub node: Vec<u8>,
    /// What this VM is for.
    pub role: Role,
    /// The admin service's part of all names in shared data.
    pub instance: u64,
}

/// A callout that has not been answered.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// What the answer will name.
    pub token: CallToken,
    /// The root that made it; the callout dies with it, without a callback.
    pub root: u32,
    /// When it was made, monotonic nanoseconds.
    pub since_ns: u64,
    /// When it is taken for lost.
    lost_ns: u64,
}

impl Flight {
    /// Whether no answer will come any more.
    #[must_use]
    pub fn is_lost(&self, now_ns: u64) -> bool {
        now_ns > self.lost_ns
    }
}

/// When to try again after failures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
    not_before_ns: u64,
}

impl Backoff {
    /// It worked.
    pub fn worked(&mut self) {
        *self = Self::default();
    }

    /// It did not; `dice` are random bits.
    pub fn failed(&mut self, now_ns: u64, dice: u64) {
        let wait = FIRST_WAIT_NS.checked_shl(self.failures.min(10)).unwrap_or(LAST_WAIT_NS).min(LAST_WAIT_NS);
        let half = wait.checked_div(2).unwrap_or_default();
        let jittered = half.saturating_add(dice.checked_rem(half.max(1)).unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.not_before_ns = now_ns.saturating_add(jittered);
    }

    /// It worked, and must not be repeated before then.
    pub fn worked_but_wait(&mut self, until_ns: u64) {
        *self = Self { failures: 0, not_before_ns: until_ns };
    }

    /// Nanoseconds until the next try.
    #[must_use]
    pub fn remaining_ns(&self, now_ns: u64) -> u64 {
        self.not_before_ns.saturating_sub(now_ns)
    }
}

/// Makes the requests of the holder of the lease, from the root that is running.
pub struct Line<'a, H> {
    /// The host.
    pub host: &'a H,
    /// Where the admin service is, and who asks.
    pub settings: &'a SyncSettings,
    /// Who this gateway is.
    pub gateway: &'a Gateway,
    /// The root that is running.
    pub root: u32,
}

impl<H: Host> Line<'_, H> {
    /// Asks for what changed since `since`; all of it when that is `None`.
    ///
    /// # Errors
    /// When the host refuses to make the call.
    pub fn poll(&self, since: Option<Version>, held: &Held, ack: &Ack) -> Result<Flight, HostError> {
        let wait = WAIT.as_secs();
        let path = match since {
            Some(since) => format!("/api/data-plane/v1/sync?since={since}&wait={wait}s"),
            None => format!("/api/data-plane/v1/sync?wait={wait}s"),
        };
        let (held, ack) = (held.to_string(), ack.to_string());
        let headers = [(FORMATS_HEADER, FORMATS), (ACK_HEADER, ack.as_str()), (HELD_HEADER, held.as_str())];
        let headers = if held.is_empty() { headers.get(..2) } else { headers.get(..) };
        self.call("GET", &path, headers.unwrap_or_default(), WAIT.saturating_add(PATIENCE))
    }

    /// Asks for a page of a table.
    ///
    /// # Errors
    /// When the host refuses to make the call.
    pub fn page(&self, blob: &BlobRef, offset: u64) -> Result<Flight, HostError> {
        let path = format!("/api/data-plane/v1/sync/blob/{}?offset={offset}", blob.hash);
        self.call("GET", &path, &[], self.settings.timeout)
    }

    /// Says what is enforced.
    ///
    /// # Errors
    /// When the host refuses to make the call.
    pub fn ack(&self, ack: &Ack) -> Result<Flight, HostError> {
        let ack = ack.to_string();
        self.call("POST", "/api/data-plane/v1/sync/ack", &[(ACK_HEADER, ack.as_str())], self.settings.timeout)
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        extra: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Flight, HostError> {
        let gateway = self.gateway.to_string();
        let bearer = ["Bearer ", &self.settings.token].concat();
        let mut headers = vec![
            (":method", method),
            (":path", path),
            (":authority", self.settings.authority.as_str()),
            ("authorization", bearer.as_str()),
            (GATEWAY_HEADER, gateway.as_str()),
        ];
        headers.extend_from_slice(extra);
        let call = Call { cluster: &self.settings.cluster, headers: &headers, body: &[], timeout };
        let token = self.host.call(call)?;
        let since_ns = self.host.monotonic_ns();
        let patience = timeout.saturating_add(NEVER).as_nanos();
        let lost_ns = since_ns.saturating_add(u64::try_from(patience).unwrap_or(u64::MAX));
        Ok(Flight { token, root: self.root, since_ns, lost_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second_and_are_forgotten_by_success() {
        for dice in [0, 1, u64::MAX] {
            let mut backoff = Backoff::default();
            let mut waits = Vec::new();
            for _ in 0..40 {
                backoff.failed(7, dice);
                waits.push(backoff.remaining_ns(7));
            }
            assert!(
                waits.windows(2).all(|pair| pair[0] <= LAST_WAIT_NS && pair[1] >= pair[0] / 2),
                "{waits:?}"
            );
            assert!((50_000_000..=100_000_000).contains(&waits[0]), "{waits:?}");
            assert!((LAST_WAIT_NS / 2..=LAST_WAIT_NS).contains(waits.last().unwrap()), "{waits:?}");
            backoff.worked();
            assert_eq!(backoff.remaining_ns(7), 0);
        }
    }
}
