//! The calls of the holder of the lease to the admin service: poll, pages, ack.

use std::time::Duration;

use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::{self, FORMATS_HEADER};
use tidegate_policy::wire::sync::{ACK_HEADER, Ack, BlobRef, HELD_HEADER, Held, POLLER_HEADER, Poller};

use crate::admin_client::{AdminClient, InFlight};
use crate::host::{Host, HostError};

/// How long the admin service may hold a poll open. A poll that it will never answer holds tables
/// up for this long and [`GRACE`], and each answer corrects the clock; each costs the service some
/// 50 us.
const WAIT: Duration = Duration::from_secs(10);
/// What a poll's time limit adds to [`WAIT`].
const GRACE: Duration = Duration::from_secs(3);

/// A call that has not been answered. It ends with its root, without a callback.
#[derive(Clone, Copy, Debug)]
pub struct RootCall {
    /// The root that made it.
    pub root: u32,
    /// The call.
    pub call: InFlight,
}

/// Makes the calls, from the root whose callback runs.
pub struct SyncCalls<'a, H> {
    /// The host.
    pub host: &'a H,
    /// The client of the admin service.
    pub client: &'a AdminClient<H>,
    /// The root whose callback runs.
    pub root: u32,
}

impl<H: Host> SyncCalls<'_, H> {
    /// Asks for what changed after the version `since`; for all tables when that is
    /// `None`. `poller`: this VM.
    ///
    /// # Errors
    /// When the host refuses to make the call.
    pub fn poll(
        &self,
        since: Option<Version>,
        held: &Held,
        ack: &Ack,
        poller: Poller,
    ) -> Result<RootCall, HostError> {
        let wait = WAIT.as_secs();
        let path = match since {
            Some(since) => format!("/api/data-plane/v1/sync?since={since}&wait={wait}s"),
            None => format!("/api/data-plane/v1/sync?wait={wait}s"),
        };
        let (formats, held, ack) = (formats::formats(), held.to_string(), ack.to_string());
        let poller = poller.to_string();
        let headers = [
            (FORMATS_HEADER, formats.as_str()),
            (ACK_HEADER, ack.as_str()),
            (POLLER_HEADER, poller.as_str()),
            (HELD_HEADER, held.as_str()),
        ];
        let headers = if held.is_empty() { headers.get(..3) } else { headers.get(..) };
        let call = self.client.get(&path, headers.unwrap_or_default(), WAIT.saturating_add(GRACE))?;
        Ok(self.of_root(call))
    }

    /// Asks for a page of a table, from the byte `offset` on.
    ///
    /// # Errors
    /// When the host refuses to make the call.
    pub fn page(&self, blob: &BlobRef, offset: u64) -> Result<RootCall, HostError> {
        let path = format!("/api/data-plane/v1/sync/blob/{}?offset={offset}", blob.hash);
        Ok(self.of_root(self.client.get(&path, &[], self.client.timeout())?))
    }

    /// Posts an ack.
    ///
    /// # Errors
    /// When the host refuses to make the call.
    pub fn ack(&self, ack: &Ack) -> Result<RootCall, HostError> {
        let ack = ack.to_string();
        let headers = [(ACK_HEADER, ack.as_str())];
        let call = self.client.post("/api/data-plane/v1/sync/ack", &headers, &[], self.client.timeout())?;
        Ok(self.of_root(call))
    }

    fn of_root(&self, call: InFlight) -> RootCall {
        RootCall { root: self.root, call }
    }
}
