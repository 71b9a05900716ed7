//! Synchronous recording: a response waits until its event is stored. The event
//! is open then; the one that completes it has the same number and comes the
//! normal way, at the request's end.

use tidegate_policy::wire::event::{MAX_OPEN, TrafficEvent, open_bytes};

use crate::direct::RAN_OUT;
use crate::filter::Filter;
use crate::host::{CallToken, Host};
use crate::metrics::Count;

/// Where open events are posted.
const PATH: &str = "/api/data-plane/v1/events?sync=1";

/// A response that waits for its event to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// What the host will call the answer.
    pub token: CallToken,
    /// Since when, monotonic nanoseconds.
    pub since_ns: u64,
}

/// Numbers the event and posts it as it is so far; `None`, counted, when it could
/// not be posted: then there is nothing to wait for.
pub fn begin<H: Host>(filter: &Filter<H>, event: &mut TrafficEvent) -> Option<Wait> {
    let vm = &filter.vm;
    event.number = vm.reserve();
    let since_ns = vm.host.monotonic_ns();
    let worth_it = filter.line.recording.may_ask(since_ns);
    let sent = match open_bytes(vm.source, event) {
        Ok(body) if worth_it && body.len() <= MAX_OPEN => {
            filter.line.post(PATH, &body, filter.sync_timeout).ok()
        }
        _ => None,
    };
    let Some(token) = sent else {
        vm.metrics.count(Count::SyncFailed);
        return None;
    };
    Some(Wait { token, since_ns })
}

/// Takes what came, inside its callback. Whatever it is, the response goes on.
pub fn end<H: Host>(filter: &Filter<H>, num_headers: usize) {
    let status = if num_headers == 0 { None } else { filter.vm.host.call_status() };
    let patience = &filter.line.recording;
    match status {
        Some(RAN_OUT) => patience.note_ran_out(filter.vm.host.monotonic_ns()),
        Some(_) => patience.note_answered(),
        None => {}
    }
    let count = if matches!(status, Some(200..=299)) { Count::SyncStored } else { Count::SyncFailed };
    filter.vm.metrics.count(count);
}
