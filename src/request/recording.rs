//! Synchronous recording: a response is held until the admin service has stored its event,
//! or could not. The event is numbered when the response's headers come, and is *open*: how the
//! request ends is not known yet. The event that completes it at the end has the same number and
//! is recorded as all others are.
//!
//! Three kinds of requests are recorded without a wait, also while recording is synchronous: one
//! that Envoy refuses before the filter (it has no response phase), one that Envoy gave up while
//! it waited for its decision, and one that broke the protocol: Envoy is about to close its
//! connection, so a response that is held back would never be sent.

use tidegate_policy::wire::event::{MAX_OPEN, TrafficEvent, open_bytes};

use crate::admin_client::InFlight;
use crate::filter::Filter;
use crate::host::Host;
use crate::metrics::Count;

/// Where open events are posted.
const PATH: &str = "/api/data-plane/v1/events?sync=1";

/// Posts the event as it is so far, with the number that it was given; `None`, counted,
/// when it could not be posted: then there is nothing to wait for.
pub fn post<H: Host>(filter: &Filter<H>, event: &TrafficEvent) -> Option<InFlight> {
    let instance = &filter.instance;
    let is_worth_it = filter.recording.allows(instance.host.monotonic_ns());
    let sent = match open_bytes(instance.source, event) {
        Ok(body) if is_worth_it && body.len() <= MAX_OPEN => {
            instance.client.post(PATH, &[], &body, filter.sync_timeout).ok()
        }
        _ => None,
    };
    if sent.is_none() {
        instance.metrics.count(Count::SyncFailed);
    }
    sent
}

/// Counts the result of the post. The response is sent in any case.
pub fn finish<H: Host>(filter: &Filter<H>, post: &InFlight, status: Option<u16>) {
    let instance = &filter.instance;
    let is_stored = status == Some(204);
    let is_heard = is_stored || instance.client.has_refused(status);
    filter.recording.note(is_heard, post.since_ns, true, instance.host.monotonic_ns());
    let count = if is_stored { Count::SyncStored } else { Count::SyncFailed };
    instance.metrics.count(count);
}
